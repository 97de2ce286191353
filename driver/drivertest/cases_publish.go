package drivertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
)

var publishCases = []Case{
	{Name: "publish/arrives-whole", Promise: "P1 P2", Doc: "what is published arrives with its id, type, key, time, source, headers and data", run: arrivesWhole},
	{Name: "publish/confirmed-is-kept", Promise: "P1", Doc: "a process that is killed the moment its publish returns has lost nothing", run: confirmedIsKept},
	{Name: "publish/batch-is-pipelined", Promise: "peer 2", Doc: "PublishAll does not wait for each message of a batch in turn", run: batchIsPipelined},
	{Name: "publish/mixed-batch", Promise: "P1", Doc: "one batch holds several types and topics, and says of each event what became of it", run: mixedBatch},
	{Name: "publish/unknown", Promise: "P1 U", Doc: "a deadline that passes before the confirmation is an unknown outcome, and the same id again is safe", run: unknownOutcome},
	{Name: "publish/same-id", Promise: "P7 U", Doc: "an id that is published twice is stored once, within the window that the driver declares", run: sameID},
	{Name: "publish/refused", Promise: "P1", Doc: "what the broker refuses is not stored, says so, and is never handled", run: refused},
	{Name: "publish/many-callers", Promise: "P1 P5", Doc: "concurrent callers share batches, and each keeps the order of its own key", run: manyCallers},
}

func arrivesWhole(r *rig) {
	topic := r.topic("whole", 2)
	made := r.kind(topic, "made", posthorn.Version(3), posthorn.Schema("https://example.com/made"))
	n := r.open()
	got := make(chan posthorn.Event[item], 1)
	n.listen("g", quick(), func(_ context.Context, e *posthorn.Event[item]) error {
		got <- *e
		return nil
	}, made)
	before := time.Now().Add(-time.Second)
	sent := item{K: "käy/%20 &=", N: 1, Pad: strings.Repeat("ü\x01\"", 50)}
	out := made.New(sent, posthorn.WithHeader("X-One", "1"), posthorn.WithHeader("x_two.b", "zwei %41 \"ü\" 100%"),
		posthorn.ExpiresAt(time.Now().Add(time.Hour)), posthorn.WithCorrelationID("corr-1"))
	if err := n.bus.PublishAll(r.ctx, out); err != nil {
		r.Fatalf("publish: %v", err)
	}
	var e posthorn.Event[item]
	select {
	case e = <-got:
	case <-time.After(r.patience):
		r.Fatalf("it does not arrive")
	}
	check := func(what string, got, want any) {
		r.Helper()
		if got != want {
			r.Errorf("%s is %q, want %q", what, got, want)
		}
	}
	check("data", e.Data, sent)
	check("id", e.ID, out.ID())
	check("type", e.Type, made.Name())
	check("source", e.Source, "suite")
	check("key", e.Key, sent.K)
	check("topic", e.Topic, topic.Name())
	check("group", e.Group, r.name("g"))
	check("attempt", e.Attempt, 1)
	check("schema version", e.SchemaVersion, 3)
	check("schema", e.Schema, "https://example.com/made")
	check("correlation id", e.CorrelationID, "corr-1")
	check("causation id", e.CausationID, "")
	check("content type", e.ContentType, "application/json")
	check("number of headers", len(e.Headers), 2)
	check("header X-One", header(e.Headers, "X-One"), "1")
	check("header x_two.b", header(e.Headers, "x_two.b"), "zwei %41 \"ü\" 100%")
	check("partition", e.Partition, driver.PartitionOf(sent.K, 2))
	if e.Time.Before(before) || e.Time.After(time.Now().Add(time.Second)) {
		r.Errorf("time is %v", e.Time)
	}
	if e.Expires.IsZero() {
		r.Errorf("the expiry is lost")
	}
}

func header(h map[string]string, name string) string {
	for n, v := range h {
		if strings.EqualFold(n, name) {
			return v
		}
	}
	return "(none)"
}

func confirmedIsKept(r *rig) {
	made := r.kind(r.topic("kept", 2), "made")
	for range 3 {
		n := r.open()
		n.publish(made, r.items(20, keys(5)...)...)
		n.publish(made, r.items(1, keys(5)...)...)
		n.cutOff()
		n.bury()
	}
	n := r.open()
	n.listen("g", quick(), ok, made)
	n.ended("g")
	r.onceEach("g", 63)
}

func batchIsPipelined(r *rig) {
	const events = 1000
	made := r.kind(r.topic("batch", 4), "made")
	n := r.open()
	n.publish(made, r.items(1, "warm")...)
	before := n.cut.appends.Load()
	n.publish(made, r.items(events, keys(100)...)...)
	if calls := n.cut.appends.Load() - before; calls > events/10 {
		r.Errorf("a batch of %d events in 4 partitions took %d Appends: each waits for the one before", events, calls)
	}
	n.listen("g", quick(), ok, made)
	n.ended("g")
}

func mixedBatch(r *rig) {
	a, b := r.topic("mix-a", 1), r.topic("mix-b", 3)
	t1, t2, t3 := r.kind(a, "one"), r.kind(a, "two"), r.kind(b, "three")
	n := r.open(posthorn.MaxPayload(4096))
	n.listen("g", quick(), ok, t1, t2, t3)
	var items []item
	var out []*posthorn.Outgoing
	for i, t := range []itemType{t1, t2, t3, t1, t3, t2, t2, t1} {
		it := r.items(1, "k-"+t.Topic().Name())[0] // the order is one of a topic
		if i == 4 {
			it.Pad = strings.Repeat("x", 5000)
		}
		items, out = append(items, it), append(out, t.New(it))
	}
	err := n.bus.PublishAll(r.ctx, out...)
	n.published(items, out, err)
	var pe *posthorn.PublishError
	if !errors.As(err, &pe) {
		r.Fatalf("a batch with an event over the limit returns %v", err)
	}
	if len(pe.Results) != len(out) {
		r.Fatalf("%d results for %d events", len(pe.Results), len(out))
	}
	for i, res := range pe.Results {
		if res.Type == "" || res.ID != out[i].ID() && res.State == posthorn.Stored {
			r.Errorf("result %d is of %s %s, the event is %s", i, res.Type, res.ID, out[i].ID())
		}
		if (res.Err == nil) != (res.State == posthorn.Stored) {
			r.Errorf("result %d: %s with error %v", i, res.State, res.Err)
		}
	}
	if res := pe.Results[4]; res.State != posthorn.NotStored || posthorn.CodeOf(res.Err) != posthorn.CodeTooLarge {
		r.Errorf("the event over the limit: %s, code %s (%v)", res.State, posthorn.CodeOf(res.Err), res.Err)
	}
	n.ended("g")
}

func unknownOutcome(r *rig) {
	made := r.kind(r.topic("unknown", 1), "made")
	n := r.open()
	n.publish(made, r.items(1, "k")...)
	hold := func(driver.Partition, []driver.Message) appendFault { return appendFault{hold: true} }
	n.cut.onAppend.Store(&hold)
	it := r.items(1, "k")[0]
	out := made.New(it)
	ctx, cancel := context.WithTimeout(r.ctx, 50*time.Millisecond)
	err := n.bus.PublishAll(ctx, out)
	cancel()
	n.published([]item{it}, []*posthorn.Outgoing{out}, err)
	if posthorn.CodeOf(err) != posthorn.CodeUnknown {
		r.Errorf("a publish that was not confirmed in time: code %q, want %q (%v)", posthorn.CodeOf(err), posthorn.CodeUnknown, err)
	}
	r.eventually("the broker has stored it", func() bool { return n.cut.holding() > 0 })
	n.cut.onAppend.Store(nil)
	n.cut.letGo()
	if err := n.bus.PublishAll(r.ctx, out); err != nil {
		r.Errorf("publish again: %v", err)
	}
	n.published([]item{it}, []*posthorn.Outgoing{out}, nil)
	n.listen("g", quick(), ok, made)
	n.ended("g")
	n.settled("g")
	if r.caps.DedupWindow > 0 {
		r.onceEach("g", 2)
	}
}

func sameID(r *rig) {
	made := r.kind(r.topic("same", 2), "made")
	n := r.open()
	n.listen("g", quick(), ok, made)
	it := r.items(1, "k")[0]
	id := r.name("id")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				out := made.New(it, posthorn.WithID(id))
				if err := n.bus.PublishAll(r.ctx, out); err != nil {
					r.Errorf("publish: %v", err)
				}
			}
		})
	}
	wg.Wait()
	r.log.add(op{what: opConfirmed, id: id, key: it.K, n: it.N})
	n.publish(made, r.items(1, "k")...)
	r.effects("g", 2)
	n.settled("g")
	for _, o := range r.log.of(opEffect, "g") {
		if o.n == it.N && o.id != id {
			r.Errorf("a copy came with id %s, published with %s", o.id, id)
		}
	}
	if got := r.log.items(opEffect, "g")[it.N]; r.caps.DedupWindow > 0 && got != 1 {
		r.Errorf("an id that was published 40 times within the window was handled %d times", got)
	}
}

func refused(r *rig) {
	made := r.kind(r.topic("refused", 1), "made")
	n := r.open()
	n.listen("g", quick(), ok, made)
	n.publish(made, r.items(3, "k")...)
	full := func(driver.Partition, []driver.Message) appendFault {
		return appendFault{refuse: fmt.Errorf("disk is full: %w", driver.ErrNoSpace)}
	}
	n.cut.onAppend.Store(&full)
	ctx, cancel := context.WithTimeout(r.ctx, 500*time.Millisecond)
	defer cancel()
	err := n.publishUnder(ctx, made, r.items(3, "k")...)
	var pe *posthorn.PublishError
	if !errors.As(err, &pe) || pe.Count(posthorn.NotStored) != 3 {
		r.Errorf("publishing to a full broker: %v, want 3 events not stored", err)
	}
	n.cut.onAppend.Store(nil)
	n.publish(made, r.items(3, "k")...)
	n.ended("g")
	r.onceEach("g", 6)
}

func manyCallers(r *rig) {
	const callers, each = 32, 20
	made := r.kind(r.topic("callers", 2), "made")
	n := r.open()
	n.listen("g", quick(), ok, made)
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for range each {
				if err := n.tryPublish(made, r.items(1, fmt.Sprint("caller-", c))...); err != nil {
					r.Errorf("publish: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	n.ended("g")
	r.onceEach("g", callers*each)
}

// raw stores a message by the driver, as somebody who does not use Posthorn would.
func (n *node) raw(topic string, partition int, msgs ...driver.Message) {
	n.r.Helper()
	for i, o := range appendTo(n.r, n.cut.Driver, driver.Partition{Topic: topic, N: partition}, msgs...) {
		if o.State != driver.Stored {
			n.r.Fatalf("raw message %d: state %d, %v", i, o.State, o.Err)
		}
	}
}

// appendTo appends and waits for the outcomes.
func appendTo(r *rig, d driver.Driver, p driver.Partition, msgs ...driver.Message) []driver.Outcome {
	r.Helper()
	got := make(chan []driver.Outcome, 1)
	// The message is the driver's until done is called: it gets a copy.
	own := make([]driver.Message, len(msgs))
	for i, m := range msgs {
		m.Body = bytes.Clone(m.Body)
		own[i] = m
	}
	d.Append(p, own, time.Now().Add(r.patience), func(o []driver.Outcome) { got <- o })
	select {
	case o := <-got:
		if len(o) != len(msgs) {
			r.Fatalf("Append of %d messages has %d outcomes", len(msgs), len(o))
		}
		return o
	case <-time.After(r.patience + time.Second):
		r.Fatalf("Append does not call done")
		return nil
	}
}
