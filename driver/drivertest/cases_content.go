package drivertest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
)

var contentCases = []Case{
	{Name: "content/undecodable", Promise: "P3 P6", Doc: "data that cannot be decoded is a dead letter with its reason, and its neighbours are handled", run: undecodable},
	{Name: "content/foreign", Promise: "P3 P6 peer 8", Doc: "a message without CloudEvents attributes is a dead letter and does not end the subscription", run: foreign},
	{Name: "content/foreign-flood", Promise: "P6", Doc: "a flood of foreign messages pauses the group with an alarm instead of filling the dead letters; a restart resumes it", run: foreignFlood},
	{Name: "content/bad-attributes", Promise: "P3 P6 peer 8", Doc: "attributes that make no sense do not end the subscription, and the message does not vanish", run: badAttributes},
	{Name: "content/size-limit", Promise: "P3", Doc: "data of exactly the limit arrives, one byte more is refused before it is sent", run: sizeLimit},
	{Name: "content/too-large-received", Promise: "P3", Doc: "a message above the receiver's limit is a dead letter with its reason", run: tooLargeReceived},
	{Name: "content/empty", Promise: "P3", Doc: "an event without data arrives without data", run: emptyData},
	{Name: "content/many-headers", Promise: "P3", Doc: "many headers arrive, more than the limit are refused", run: manyHeaders},
	{Name: "content/dead-letter-is-whole", Promise: "P3", Doc: "a dead letter has all that the event had, the errors of its attempts and their times", run: deadLetterIsWhole},
}

// event is a message as Posthorn would store it.
func event(r *rig, t itemType, id, key, body string) driver.Message {
	return driver.Message{ID: r.name(id), Source: "elsewhere", Type: t.Name(), Key: key,
		Time: time.Now().UTC().Format(time.RFC3339Nano), ContentType: "application/json", Body: []byte(body)}
}

func reasons(dead []posthorn.DeadLetter) map[posthorn.Code]int {
	m := map[posthorn.Code]int{}
	for _, d := range dead {
		m[d.Reason]++
	}
	return m
}

func undecodable(r *rig) {
	topic := r.topic("undecodable", 1)
	made := r.kind(topic, "made")
	n := r.open()
	n.listen("g", quick(), ok, made)
	n.publish(made, r.items(5, "a", "b")...)
	n.raw(topic.Name(), 0, event(r, made, "bad-1", "a", "{not json"), event(r, made, "bad-2", "c", "[1,2]"))
	deep := event(r, made, "bad-3", "a", strings.Repeat("[", 200)+strings.Repeat("]", 200))
	media := event(r, made, "bad-4", "b", `{"k":"b"}`)
	media.ContentType = "text/csv"
	n.raw(topic.Name(), 0, deep, media)
	n.publish(made, r.items(5, "a", "b")...)
	dead := n.hasDead("g", 4)
	if got := reasons(dead); got[posthorn.CodeUndecodable] != 4 || len(dead) != 4 {
		r.Errorf("four undecodable messages are dead letters for %v", got)
	}
	for _, d := range dead {
		if d.Attempts > 1 {
			r.Errorf("undecodable data was tried %d times", d.Attempts)
		}
	}
	n.ended("g")
	r.onceEach("g", 10)
	n.settled("g")
}

func foreign(r *rig) {
	topic := r.topic("foreign", 1)
	made := r.kind(topic, "made")
	n := r.open()
	n.listen("g", quick(), ok, made)
	n.publish(made, r.items(5, "a", "b")...)
	n.raw(topic.Name(), 0, driver.Message{Body: []byte("who am I")}, driver.Message{Headers: []driver.Attr{{Name: "x-some", Value: "thing"}}, Body: []byte{0, 1, 2}})
	n.publish(made, r.items(5, "a", "b")...)
	dead := n.hasDead("g", 2)
	if got := reasons(dead); got[posthorn.CodeForeign] != 2 || len(dead) != 2 {
		r.Errorf("two foreign messages are dead letters for %v", got)
	}
	for _, d := range dead {
		if s := string(d.Data); s != "who am I" && s != "\x00\x01\x02" {
			r.Errorf("the data of a foreign message is %q", s)
		}
	}
	n.ended("g")
	r.onceEach("g", 10)
	n.settled("g")
}

func foreignFlood(r *rig) {
	const flood = 50
	topic := r.topic("flood", 1)
	made := r.kind(topic, "made")
	n := r.open()
	n.listen("g", quick(), ok, made)
	n.publish(made, r.items(3, "a")...)
	n.ended("g")
	msgs := make([]driver.Message, flood)
	for i := range msgs {
		msgs[i].Body = fmt.Append(nil, "foreign ", i)
	}
	n.raw(topic.Name(), 0, msgs...)
	n.publish(made, r.items(3, "a")...)
	r.eventually("an alarm", func() bool { return len(n.alarmed("g")) > 0 })
	r.never("the group went on, or filled its dead letters", func() bool {
		return len(n.deadLetters("g")) > 25 || r.log.count(opEffect, "g") > 3
	})
	for range 6 {
		n.close()
		n = r.open()
		before := len(n.deadLetters("g"))
		n.listen("g", quick(), ok, made)
		r.eventually("a restart resumes the group", func() bool {
			return len(n.deadLetters("g")) > before || len(r.log.items(opEffect, "g")) == 6
		})
		r.eventually("an alarm, or the end of the flood", func() bool {
			return len(n.alarmed("g")) > 0 || len(r.log.items(opEffect, "g")) == 6
		})
		if len(r.log.items(opEffect, "g")) == 6 {
			break
		}
	}
	n.ended("g")
	r.onceEach("g", 6)
	if dead := n.hasDead("g", flood); len(dead) != flood {
		r.Errorf("%d dead letters of %d foreign messages", len(dead), flood)
	}
}

func badAttributes(r *rig) {
	topic := r.topic("attributes", 1)
	made := r.kind(topic, "made")
	n := r.open()
	n.listen("g", quick(), ok, made)
	n.publish(made, r.items(5, "a", "b")...)
	var msgs []driver.Message
	for i, spoil := range []func(m *driver.Message){
		func(m *driver.Message) { m.Time = "yesterday" },
		func(m *driver.Message) { m.Attrs = []driver.Attr{{Name: "expirytime", Value: "soon"}} },
		func(m *driver.Message) { m.Attrs = []driver.Attr{{Name: "schemaversion", Value: "-7x"}} },
		func(m *driver.Message) { m.Attrs = []driver.Attr{{Name: "traceparent", Value: "00-zz"}} },
		func(m *driver.Message) { m.ID = "" },
		func(m *driver.Message) { m.Source = "" },
		func(m *driver.Message) { m.ContentType = ";;;" },
	} {
		n := int(r.next.Add(1))
		m := event(r, made, fmt.Sprint("spoilt-", i), "a", fmt.Sprintf(`{"k":"a","n":%d}`, n))
		spoil(&m)
		msgs = append(msgs, m)
		r.log.add(op{what: opUnknown, id: m.ID, key: "a", n: n})
	}
	n.raw(topic.Name(), 0, msgs...)
	n.publish(made, r.items(5, "a", "b")...)
	n.ended("g")
	n.settled("g")
	ended := len(n.deadLetters("g")) + len(r.log.items(opEffect, "g"))
	if ended != 10+len(msgs) {
		r.Errorf("%d messages have an effect or a dead letter, %d were stored", ended, 10+len(msgs))
	}
}

func sizeLimit(r *rig) {
	const limit = 8192
	name := r.name("size") + ".raw"
	n := r.open(posthorn.MaxPayload(limit))
	got := make(chan int, 4)
	n.group("g", quick(), func(g *posthorn.Group) {
		g.HandleRaw(name, func(_ context.Context, d *posthorn.Delivery) error { got <- len(d.Data); return nil })
	})
	if err := n.bus.Publish(r.ctx, name, make([]byte, limit)); err != nil {
		r.Errorf("data of exactly the limit: %v", err)
	}
	err := n.bus.Publish(r.ctx, name, make([]byte, limit+1))
	var pe *posthorn.PublishError
	if !errors.As(err, &pe) || pe.Results[0].State != posthorn.NotStored || posthorn.CodeOf(err) != posthorn.CodeTooLarge {
		r.Errorf("one byte more: code %q (%v)", posthorn.CodeOf(err), err)
	}
	if err := n.bus.Publish(r.ctx, name, []byte("end")); err != nil {
		r.Errorf("publish: %v", err)
	}
	sum := 0
	for range 2 {
		select {
		case size := <-got:
			sum += size
		case <-time.After(r.patience):
			r.Fatalf("not all have arrived")
		}
	}
	if sum != limit+len("end") {
		r.Errorf("%d bytes arrived, want %d", sum, limit+len("end"))
	}
}

func tooLargeReceived(r *rig) {
	topic := r.topic("large", 1)
	made := r.kind(topic, "made")
	sender := r.open()
	big := r.items(1, "a")[0]
	big.Pad = strings.Repeat("x", 5000)
	sender.publish(made, r.items(3, "a")...)
	sender.publish(made, big)
	sender.publish(made, r.items(3, "a")...)
	n := r.open(posthorn.MaxPayload(2048))
	n.listen("g", quick(), ok, made)
	dead := n.hasDead("g", 1)
	if dead[0].Reason != posthorn.CodeTooLarge {
		r.Errorf("a message above the limit is a dead letter for %q", dead[0].Reason)
	}
	n.ended("g")
	r.onceEach("g", 6)
}

func emptyData(r *rig) {
	name := r.name("empty") + ".raw"
	n := r.open()
	got := make(chan []byte, 3)
	n.group("g", quick(), func(g *posthorn.Group) {
		g.HandleRaw(name, func(_ context.Context, d *posthorn.Delivery) error { got <- d.Data; return nil })
	})
	for _, data := range [][]byte{{}, nil} {
		if err := n.bus.Publish(r.ctx, name, data); err != nil {
			r.Fatalf("publish no data: %v", err)
		}
		select {
		case d := <-got:
			if len(d) != 0 {
				r.Errorf("no data arrived as %q", d)
			}
		case <-time.After(r.patience):
			r.Fatalf("an event without data does not arrive")
		}
	}
}

func manyHeaders(r *rig) {
	topic := r.topic("headers", 1)
	made := r.kind(topic, "made")
	n := r.open()
	got := make(chan map[string]string, 1)
	n.listen("g", quick(), func(_ context.Context, e *posthorn.Event[item]) error { got <- e.Headers; return nil }, made)
	var opts []posthorn.PublishOption
	for i := range 200 {
		opts = append(opts, posthorn.WithHeader(fmt.Sprint("x-h-", i), fmt.Sprint("value ", i)))
	}
	if err := made.Publish(r.ctx, n.bus, r.items(1, "a")[0], opts...); err != nil {
		r.Fatalf("200 headers: %v", err)
	}
	select {
	case h := <-got:
		for i := range 200 {
			if v := header(h, fmt.Sprint("x-h-", i)); v != fmt.Sprint("value ", i) {
				r.Errorf("header %d arrived as %q", i, v)
				break
			}
		}
	case <-time.After(r.patience):
		r.Fatalf("an event with 200 headers does not arrive")
	}
	for i := range 10_000 {
		opts = append(opts, posthorn.WithHeader(fmt.Sprint("x-i-", i), "v"))
	}
	if err := made.Publish(r.ctx, n.bus, r.items(1, "a")[0], opts...); posthorn.CodeOf(err) != posthorn.CodeTooLarge {
		r.Errorf("10,000 headers: code %q (%v)", posthorn.CodeOf(err), err)
	}
}

func deadLetterIsWhole(r *rig) {
	topic := r.topic("dead", 1)
	made := r.kind(topic, "made")
	n := r.open()
	cfg := quick()
	cfg.Retry.Late = 1
	n.listen("g", cfg, func(_ context.Context, e *posthorn.Event[item]) error { return fmt.Errorf("failure %d", e.Attempt) }, made)
	began := time.Now().Add(-time.Second)
	it := item{K: "käy %", N: int(r.next.Add(1)), Pad: "pad"}
	out := made.New(it, posthorn.WithHeader("x-some", "thing"), posthorn.WithCorrelationID("corr-7"))
	if err := n.bus.PublishAll(r.ctx, out); err != nil {
		r.Fatalf("publish: %v", err)
	}
	for round := range 2 {
		d := n.hasDead("g", 1)[0]
		check := func(what string, got, want any) {
			r.Helper()
			if got != want {
				r.Errorf("%s of the dead letter is %v, want %v", what, got, want)
			}
		}
		check("id", d.ID, out.ID())
		check("type", d.Type, made.Name())
		check("source", d.Source, "suite")
		check("key", d.Key, it.K)
		check("topic", d.Topic, topic.Name())
		check("group", d.Group, r.name("g"))
		check("correlation id", d.CorrelationID, "corr-7")
		check("header", header(d.Headers, "x-some"), "thing")
		check("reason", d.Reason, posthorn.CodeHandler)
		check("attempts", d.Attempts, 4)
		check("number of errors", len(d.Errors), 4)
		if got := strings.Join(d.Errors, "|"); !strings.Contains(got, "failure 1") || !strings.Contains(got, "failure 4") {
			r.Errorf("the errors of the dead letter are %q", got)
		}
		if !strings.Contains(string(d.Data), `"pad":"pad"`) {
			r.Errorf("the data of the dead letter is %q", d.Data)
		}
		if d.First.Before(began) || d.Died.Before(d.First) || d.Died.After(time.Now().Add(time.Second)) {
			r.Errorf("first attempt at %v, died at %v", d.First, d.Died)
		}
		if d.Member == "" {
			r.Errorf("the dead letter does not say which member saw it")
		}
		if round == 0 { // and it still has after a restart
			n.close()
			n = r.open()
		}
	}
}
