package jetstream

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
)

// How a watch asks for entries, and when it takes silence for a loss.
const (
	watchBatch     = 500
	watchExpires   = 25 * time.Second
	watchHeartbeat = 5 * time.Second
	watchSilence   = 13 * time.Second
	watchRetryMin  = 50 * time.Millisecond
	watchRetryMax  = 5 * time.Second
)

// A watch reads a lane through a consumer that it makes, and makes again whenever
// something is amiss: all that matters is the last revision that has arrived.
type watch struct {
	l      *lane
	f      func(driver.Entry)
	last   uint64 // revision
	marked bool   // all that stood has been told
}

// Watch fails only with what does not pass.
func (l *lane) Watch(ctx context.Context, f func(driver.Entry)) error {
	w := &watch{l: l, f: f}
	for wait := watchRetryMin; ; wait = min(2*wait, watchRetryMax) {
		before := w.last
		err := w.run(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, driver.ErrLost), errors.Is(err, driver.ErrNotFound), errors.Is(err, driver.ErrClosed), errors.Is(err, driver.ErrMismatch), errors.Is(err, driver.ErrDenied):
			return err
		case w.last > before:
			wait = watchRetryMin
		}
		l.d.env.Log.Warn("jetstream: watching a lane anew", "lane", l.name, "behind", w.last, "why", err)
		select {
		case <-time.After(wait):
		case <-l.ended:
		case <-ctx.Done():
		}
	}
}

// run watches through one consumer.
func (w *watch) run(ctx context.Context) error {
	if err := w.l.usable(); err != nil {
		return err
	}
	config, err := w.config(ctx)
	if err != nil {
		return err
	}
	d, stream := w.l.d, w.l.stream
	if _, err := d.createConsumer(ctx, stream, config); err != nil {
		return err
	}
	defer func() { // if it fails, the server does it by itself in a while
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = d.deleteConsumer(ctx, stream, config.Name)
	}()
	arrivals := make(chan *nats.Msg, 2*watchBatch)
	sub, err := d.nc.ChanSubscribe(nats.NewInbox(), arrivals)
	if err != nil {
		return d.unavailable("subscribe", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	var count uint64
	for {
		if err := w.pull(ctx, "$JS.API.CONSUMER.MSG.NEXT."+stream+"."+config.Name, sub.Subject, arrivals, &count); err != nil {
			return err
		}
	}
}

// config begins behind what has arrived, or with all that stands: it does not ask
// for the last of each subject, for the reason that readAll has. A stream that ends before that is an
// older copy, or has lost what was not on the disk yet: its revisions come again,
// so that all entries are told again.
func (w *watch) config(ctx context.Context) (consumerConfig, error) {
	c := consumerConfig{
		Name: "watch-" + rand.Text()[:12], Description: "Posthorn: who waits for what is put into a lane", Deliver: "all", Ack: "none", Filter: w.l.prefix + ">",
		Replay: "instant", HeadersOnly: true, Inactive: time.Minute, Replicas: 1, Memory: true,
	}
	if w.last == 0 {
		return c, nil
	}
	info, err := w.l.d.streamInfo(ctx, w.l.stream)
	if err != nil {
		return c, err
	}
	if info.State.Last < w.last {
		w.last = 0
		return c, nil
	}
	c.Deliver, c.Start = "by_start_sequence", w.last+1
	return c, nil
}

// pull asks once. Until the server has said that there is no more, it does so at
// once; from then on it waits for what is put.
func (w *watch) pull(ctx context.Context, next, inbox string, arrivals <-chan *nats.Msg, count *uint64) error {
	ask := map[string]any{"batch": watchBatch, "expires": watchExpires, "idle_heartbeat": watchHeartbeat}
	if !w.marked {
		ask = map[string]any{"batch": watchBatch, "no_wait": true}
	}
	req, _ := json.Marshal(ask)
	if err := w.l.d.nc.PublishRequest(next, inbox, req); err != nil {
		return w.l.d.unavailable(next, err)
	}
	ctx, cancel := w.l.d.waiting(ctx, next)
	defer cancel()
	silence := time.NewTimer(watchSilence)
	defer silence.Stop()
	for left := watchBatch; left > 0; {
		select {
		case m := <-arrivals:
			silence.Reset(watchSilence)
			if strings.HasPrefix(m.Reply, "$JS.ACK.") {
				left--
				if err := w.arrive(m, count); err != nil {
					return err
				}
				continue
			}
			if over, err := w.control(m); over || err != nil {
				return err
			}
		case <-silence.C:
			return fmt.Errorf("jetstream: %s: not even a heartbeat came: %w", w.l.name, driver.ErrUnavailable)
		case <-w.l.ended:
			return w.l.usable()
		case <-ctx.Done():
			return w.l.d.unavailable(w.l.name, context.Cause(ctx))
		}
	}
	return nil
}

func (w *watch) arrive(m *nats.Msg, count *uint64) error {
	r, ok := parseReply(m.Reply)
	if !ok {
		return fmt.Errorf("jetstream: %s: reply subject %q is not of a known form", w.l.name, m.Reply)
	}
	if *count++; r.consumer != *count {
		return fmt.Errorf("jetstream: %s: the consumer's delivery %d came in place of %d: %w", w.l.name, r.consumer, *count, driver.ErrUnavailable)
	}
	w.last = r.stream
	w.l.sawPut(r.stream) // a replica that lacks it has no say in what Get finds
	if e := w.l.entry(m.Subject, r.stream, m); e.State != gone {
		w.f(e)
	}
	return nil
}

// control handles a status. over: the pull has ended.
func (w *watch) control(m *nats.Msg) (over bool, err error) {
	switch s, text := status(m), m.Header.Get("Description"); {
	case s == "100":
		return false, nil
	case s == "404" || s == "408":
		if !w.marked {
			w.marked = true
			w.f(driver.Entry{})
		}
		return true, nil
	case s == "409" && strings.Contains(text, "Batch Completed"):
		return true, nil
	default:
		return true, fmt.Errorf("jetstream: %s: status %s %s: %w", w.l.name, s, text, driver.ErrUnavailable)
	}
}
