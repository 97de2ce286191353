package jetstream

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
)

// interestWait is how long a consumer that was just made may take to be known to
// all servers of a cluster.
const interestWait = 5 * time.Second

// readPage is how many messages are asked for at a time.
const readPage = 2000

// readAll calls each for the last message of every subject of a stream that
// matches the filter, in the order of their sequences, which m.Reply tells. It has
// each subject that has a message all the while, also when that is put anew and
// others are deleted meanwhile.
//
// For that it reads all messages to the end, wherever that is by then. A consumer of
// the last ones keeps a list of them instead, says that it is at its end when it
// comes to one that has been deleted since, and does not have what took its place.
func (d *jsDriver) readAll(ctx context.Context, stream, filter string, headersOnly bool, each func(m *nats.Msg) error) error {
	name := "read-" + rand.Text()[:12]
	info, err := d.createConsumer(ctx, stream, consumerConfig{
		Name: name, Deliver: "all", Ack: "none", Filter: filter, Replay: "instant",
		HeadersOnly: headersOnly, Inactive: time.Minute, Replicas: 1, Memory: true,
	})
	if err != nil {
		return err
	}
	defer func() { _ = d.deleteConsumer(context.WithoutCancel(ctx), stream, name) }()
	if info.Pending == 0 {
		return nil
	}
	inbox := nats.NewInbox()
	sub, err := d.nc.SubscribeSync(inbox)
	if err != nil {
		return d.unavailable("subscribe", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	var all []*nats.Msg
	last := map[string]int{} // by subject, its place in all
	for got := readPage; got == readPage; {
		read := func() (int, error) {
			return d.readSome(ctx, sub, "$JS.API.CONSUMER.MSG.NEXT."+stream+"."+name, readPage, func(m *nats.Msg) {
				if i, ok := last[m.Subject]; ok {
					all[i] = nil
				}
				last[m.Subject] = len(all)
				all = append(all, m)
			})
		}
		got, err = read()
		for end := time.Now().Add(interestWait); got == 0 && errors.Is(err, nats.ErrNoResponders) && time.Now().Before(end); { // monotonic
			time.Sleep(10 * time.Millisecond)
			got, err = read()
		}
		if err != nil {
			return err
		}
	}
	for _, m := range all {
		if m == nil {
			continue
		}
		if err := each(m); err != nil {
			return err
		}
	}
	return nil
}

// readSome asks a consumer for n messages and returns how many there were.
func (d *jsDriver) readSome(ctx context.Context, sub *nats.Subscription, next string, n int, each func(m *nats.Msg)) (int, error) {
	req, _ := json.Marshal(map[string]any{"batch": n, "no_wait": true})
	if err := d.nc.PublishRequest(next, sub.Subject, req); err != nil {
		return 0, d.unavailable(next, err)
	}
	ctx, cancel := d.waiting(ctx, next)
	defer cancel()
	for i := range n {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return i, d.unavailable(next, why(ctx, err))
		}
		switch s := status(m); s {
		case "":
			each(m)
		case "404", "408":
			return i, nil
		default:
			return i, fmt.Errorf("jetstream: %s: status %s %s: %w", next, s, m.Header.Get("Description"), driver.ErrUnavailable)
		}
	}
	return n, nil
}

// Read asks the server for a batch at a time. It can leave out headers, and not
// bodies.
func (d *jsDriver) Read(ctx context.Context, p driver.Partition, above uint64, limit int, _ bool) ([]driver.Delivery, error) {
	if err := d.stands(ctx, p); err != nil {
		return nil, err
	}
	var all []driver.Delivery
	for more := true; more && len(all) < limit; {
		got := 0
		var err error
		more, err = d.getBatch(ctx, d.names.partition(p), above+1, min(limit-len(all), readPage), func(m *nats.Msg) {
			got++
			e := driver.Delivery{Pos: sequence(m)}
			e.Stored, _ = time.Parse(time.RFC3339Nano, first(m.Header["Nats-Time-Stamp"]))
			e.Bad = decode(m.Header, &e.Msg)
			if len(m.Data) > 0 {
				e.Msg.Body = m.Data
			}
			above = e.Pos
			all = append(all, e)
		})
		if err != nil {
			return nil, err
		}
		more = more && got > 0
	}
	return all, nil
}

// readBytes is about how much the server answers to one question.
const readBytes = 4 << 20

// getBatch calls each for the messages from a sequence on, up to n and about
// readBytes of them, and tells whether there are more.
func (d *jsDriver) getBatch(ctx context.Context, stream string, from uint64, n int, each func(m *nats.Msg)) (bool, error) {
	page, end, err := d.getPage(ctx, stream, map[string]any{"seq": from, "batch": n, "max_bytes": readBytes})
	for _, m := range page {
		each(m)
	}
	return end.more, err
}

// stands returns an error unless the partition exists.
func (d *jsDriver) stands(ctx context.Context, p driver.Partition) error {
	if err := d.usable(); err != nil {
		return err
	}
	spec, err := d.topicRecord(ctx, p.Topic)
	if err == nil && (p.N < 0 || p.N >= spec.Partitions) {
		err = fmt.Errorf("jetstream: topic %q has %d partitions, and no partition %d: %w", p.Topic, spec.Partitions, p.N, driver.ErrNotFound)
	}
	return err
}

func (d *jsDriver) ReadFrom(ctx context.Context, p driver.Partition, t time.Time) (uint64, error) {
	if err := d.stands(ctx, p); err != nil {
		return 0, err
	}
	return d.startFloor(ctx, p, driver.StartAt{Time: t})
}

// lastBehind is how long a read waits before it asks again because the replica
// that answered was behind.
const lastBehind = 5 * time.Millisecond

// getLast calls each for the last message of each subject; subjects may have
// wildcards. The messages know their subjects and sequences by their headers. Any
// replica may answer: one that has not come as far as least is asked again, and
// upTo is how far the one came that did. It is 0, and least is not regarded, when
// there is no message at all.
func (d *jsDriver) getLast(ctx context.Context, stream string, subjects []string, least uint64, each func(m *nats.Msg) error) (upTo uint64, err error) {
	req := lastRequest{Subjects: subjects}
	for {
		page, end, err := d.getPage(ctx, stream, req)
		if err != nil {
			return 0, err
		}
		if end.upTo < least && len(page) > 0 {
			select {
			case <-time.After(lastBehind):
				continue
			case <-ctx.Done():
				return 0, d.unavailable("reading from "+stream, ctx.Err())
			}
		}
		for _, m := range page {
			if err := each(m); err != nil {
				return 0, err
			}
			req.From = sequence(m) + 1
		}
		if !end.more || len(page) == 0 {
			return end.upTo, nil
		}
	}
}

type lastRequest struct {
	Subjects []string `json:"multi_last"`
	From     uint64   `json:"seq,omitempty"`
}

// A pageEnd is what the server says behind the messages of an answer.
type pageEnd struct {
	upTo uint64 // the end of the stream as it knows it, where last messages were asked for
	more bool
}

// getPage asks once for several messages, which come in the order of their
// sequences.
func (d *jsDriver) getPage(ctx context.Context, stream string, r any) ([]*nats.Msg, pageEnd, error) {
	var mu sync.Mutex
	var page []*nats.Msg
	ended := make(chan *nats.Msg, 1)
	token := d.mux.add(func(m *nats.Msg) {
		if status(m) == "" {
			mu.Lock()
			page = append(page, m)
			mu.Unlock()
			return
		}
		select {
		case ended <- m:
		default:
		}
	})
	defer d.mux.remove(token)
	req, err := json.Marshal(r)
	if err != nil {
		return nil, pageEnd{}, err
	}
	subject := "$JS.API.DIRECT.GET." + stream
	if err := d.gone(); err != nil {
		return nil, pageEnd{}, err
	}
	if err := d.nc.PublishRequest(subject, d.mux.prefix+token, req); err != nil {
		return nil, pageEnd{}, d.unavailable("reading from "+stream, err)
	}
	ctx, cancel := d.waiting(ctx, subject)
	defer cancel()
	select {
	case m := <-ended:
		mu.Lock()
		defer mu.Unlock()
		switch s := status(m); s {
		case "204":
			upTo, _ := strconv.ParseUint(first(m.Header["Nats-UpTo-Sequence"]), 10, 64)
			return page, pageEnd{upTo: upTo, more: first(m.Header["Nats-Num-Pending"]) != "0"}, nil
		case "404":
			if _, last := r.(lastRequest); last && m.Header.Get("Description") != "No Results" {
				// One of them is there and could not be loaded.
				return nil, pageEnd{}, fmt.Errorf("jetstream: reading from %s: the server cannot load a message that it has: %s: %w", stream, m.Header.Get("Description"), driver.ErrUnavailable)
			}
			return nil, pageEnd{}, nil
		default:
			return nil, pageEnd{}, fmt.Errorf("jetstream: reading from %s: status %s %s: %w", stream, s, m.Header.Get("Description"), driver.ErrUnavailable)
		}
	case <-ctx.Done():
		return nil, pageEnd{}, d.unavailable("reading from "+stream, why(ctx, ctx.Err()))
	}
}

// firstSince returns the first position that was stored at or after a time.
func (d *jsDriver) firstSince(ctx context.Context, p driver.Partition, t time.Time) (seq uint64, ok bool, err error) {
	req, _ := json.Marshal(map[string]any{"start_time": t.UTC(), "next_by_subj": d.names.partitionSubject(p)})
	m, err := d.call(ctx, &nats.Msg{Subject: "$JS.API.DIRECT.GET." + d.names.partition(p), Data: req})
	if err != nil {
		return 0, false, err
	}
	switch s := status(m); s {
	case "":
		return sequence(m), true, nil
	case "404":
		return 0, false, nil
	default:
		return 0, false, fmt.Errorf("jetstream: reading from %s: status %s: %w", d.names.partition(p), s, driver.ErrUnavailable)
	}
}

// storedAt tells when the message at a position was stored, as the leader has it.
// ErrNotFound: there is none.
func (d *jsDriver) storedAt(ctx context.Context, stream string, seq uint64) (time.Time, error) {
	var resp struct {
		Message struct {
			Time time.Time `json:"time"`
		} `json:"message"`
	}
	err := d.request(ctx, "$JS.API.STREAM.MSG.GET."+stream, map[string]uint64{"seq": seq}, &resp)
	return resp.Message.Time, err
}
