package jetstream

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
)

// readPage is how many messages are asked for at a time.
const readPage = 2000

// readAll calls each for every message of a stream that matches the filter and
// stood there at the call, in the order of their sequences, which m.Reply tells.
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
	for left := int(info.Pending); left > 0; {
		n := min(left, readPage)
		got, err := d.readSome(ctx, sub, "$JS.API.CONSUMER.MSG.NEXT."+stream+"."+name, n, each)
		if err != nil {
			return err
		}
		if left -= got; got < n {
			return nil // some have been deleted meanwhile
		}
	}
	return nil
}

// readSome asks a consumer for n messages and returns how many there were.
func (d *jsDriver) readSome(ctx context.Context, sub *nats.Subscription, next string, n int, each func(m *nats.Msg) error) (int, error) {
	req, _ := json.Marshal(map[string]any{"batch": n, "no_wait": true})
	if err := d.nc.PublishRequest(next, sub.Subject, req); err != nil {
		return 0, d.unavailable(next, err)
	}
	ctx, cancel := d.waiting(ctx)
	defer cancel()
	for i := range n {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return i, d.unavailable(next, err)
		}
		switch s := status(m); s {
		case "":
			if err := each(m); err != nil {
				return i, err
			}
		case "404", "408":
			return i, nil
		default:
			return i, fmt.Errorf("jetstream: %s: status %s %s: %w", next, s, m.Header.Get("Description"), driver.ErrUnavailable)
		}
	}
	return n, nil
}

// getLast calls each for the last message of each subject, up to 1,024 of them.
// The messages know their subjects and sequences by their headers.
func (d *jsDriver) getLast(ctx context.Context, stream string, subjects []string, each func(m *nats.Msg)) error {
	left := make(map[string]struct{}, len(subjects))
	for _, s := range subjects {
		left[s] = struct{}{}
	}
	for len(left) > 0 {
		ask := make([]string, 0, len(left))
		for s := range left {
			ask = append(ask, s)
		}
		more, err := d.getLastOnce(ctx, stream, ask, func(m *nats.Msg) {
			delete(left, first(m.Header["Nats-Subject"]))
			each(m)
		})
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// getLastOnce tells whether there is more than one answer can hold.
func (d *jsDriver) getLastOnce(ctx context.Context, stream string, subjects []string, each func(m *nats.Msg)) (bool, error) {
	answers := make(chan *nats.Msg, len(subjects)+1)
	token := d.mux.add(func(m *nats.Msg) {
		select {
		case answers <- m:
		default: // more than was asked for
		}
	})
	defer d.mux.remove(token)
	req, _ := json.Marshal(map[string]any{"multi_last": subjects})
	if err := d.nc.PublishRequest("$JS.API.DIRECT.GET."+stream, d.mux.prefix+token, req); err != nil {
		return false, d.unavailable(stream, err)
	}
	ctx, cancel := d.waiting(ctx)
	defer cancel()
	for {
		select {
		case m := <-answers:
			switch s := status(m); s {
			case "":
				each(m)
			case "204":
				return first(m.Header["Nats-Num-Pending"]) != "0", nil
			case "404":
				return false, nil
			default:
				return false, fmt.Errorf("jetstream: reading from %s: status %s: %w", stream, s, driver.ErrUnavailable)
			}
		case <-ctx.Done():
			return false, d.unavailable(stream, ctx.Err())
		}
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
