package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A raw is the raw client, connected.
type raw struct {
	t    *task
	make *maker
	nc   *nats.Conn
	js   jetstream.JetStream
	lost atomic.Pointer[error] // the first asynchronous publish that failed
}

func (t *task) raw() (*raw, error) {
	nc, err := nats.Connect(t.URL)
	if err != nil {
		return nil, err
	}
	r := &raw{t: t, nc: nc, make: t.maker()}
	r.js, err = jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(t.MaxPending),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, _ *nats.Msg, err error) { r.lost.CompareAndSwap(nil, &err) }))
	if err != nil {
		nc.Close()
		return nil, err
	}
	return r, nil
}

// stream makes the stream of the task, unless it is there.
func (r *raw) stream(ctx context.Context) error {
	_, err := r.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: r.t.Topic, Subjects: []string{r.t.Topic}})
	return err
}

// published says whether all asynchronous publishes are confirmed, when they are.
func (r *raw) published(ctx context.Context) error {
	select {
	case <-r.js.PublishAsyncComplete():
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := r.lost.Load(); err != nil {
		return *err
	}
	return nil
}

// message has the data and the headers that a bus would give it.
func (r *raw) message(i int) (*nats.Msg, error) {
	p := r.make.payload(i)
	body, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	id := eventID(i)
	return &nats.Msg{Subject: r.t.Topic, Data: body, Header: nats.Header{
		"Nats-Msg-Id":        {id[len(id)-22:]},
		"ce-specversion":     {"1.0"},
		"ce-id":              {id},
		"ce-source":          {"bench"},
		"ce-type":            {"bench.made"},
		"ce-subject":         {p.Key},
		"ce-time":            {time.Now().UTC().Format(time.RFC3339Nano)},
		"ce-datacontenttype": {"application/json"},
	}}, nil
}

// attributes are the headers that consumers read.
var attributes = []string{"ce-id", "ce-source", "ce-type", "ce-subject", "ce-time", "ce-datacontenttype"}

func rawPublish(ctx context.Context, t *task, m *meter) error {
	r, err := t.raw()
	if err != nil {
		return err
	}
	defer r.nc.Close()
	if err := r.stream(ctx); err != nil {
		return err
	}
	var work func() error
	switch t.How {
	case howAsync:
		m.confirmed = func() int64 { return m.done.Load() - int64(r.js.PublishAsyncPending()) }
		work = func() error {
			for i := 0; !m.over.Load(); i++ {
				if err := r.send(i); err != nil {
					return err
				}
				m.done.Add(1)
			}
			return r.published(ctx)
		}
	default:
		work = func() error {
			return m.callers(func(i int) error {
				msg, err := r.message(i)
				if err != nil {
					return err
				}
				_, err = r.js.PublishMsg(ctx, msg)
				return err
			})
		}
	}
	if err := m.publishing(ctx, work); err != nil {
		return err
	}
	m.m.Stored, err = t.stored(ctx, r.nc)
	return err
}

// send publishes and does not wait.
func (r *raw) send(i int) error {
	msg, err := r.message(i)
	if err != nil {
		return err
	}
	_, err = r.js.PublishMsgAsync(msg)
	return err
}

func rawFill(ctx context.Context, t *task, m *meter) error {
	r, err := t.raw()
	if err != nil {
		return err
	}
	defer r.nc.Close()
	if err := r.stream(ctx); err != nil {
		return err
	}
	for i := range t.Count {
		if err := r.send(i); err != nil {
			return err
		}
	}
	if err := r.published(ctx); err != nil {
		return err
	}
	m.m.Total, m.m.Count = t.Count, t.Count
	m.m.Stored, err = t.stored(ctx, r.nc)
	return err
}

// consumer makes the consumer of the task, whose position survives a restart of the
// server, as a group's does.
func (r *raw) consumer(ctx context.Context, name string) (jetstream.Consumer, error) {
	return r.js.CreateConsumer(ctx, r.t.Topic, jetstream.ConsumerConfig{
		Durable: name, AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: r.t.MaxAckPending, MemoryStorage: r.t.InMemory,
	})
}

// read reads what a handler is given, and tells the id.
func (r *raw) read(msg jetstream.Msg) (string, error) {
	h := msg.Headers()
	for _, name := range attributes {
		if h.Get(name) == "" {
			return "", fmt.Errorf("there is no header %s", name)
		}
	}
	if r.t.How == howTyped {
		var p payload
		if err := json.Unmarshal(msg.Data(), &p); err != nil {
			return "", err
		}
		if p.Key != h.Get("ce-subject") {
			return "", errors.New("the data is not what it was")
		}
	}
	return h.Get("ce-id"), nil
}

// consume handles what waits, and what comes, until stop is called, which has
// the acknowledgements arrive.
func (r *raw) consume(ctx context.Context, name string, tell func(id string)) (stop func() error, err error) {
	c, err := r.consumer(ctx, name)
	if err != nil {
		return nil, err
	}
	var failed atomic.Pointer[error]
	handle := func(msg jetstream.Msg) {
		id, err := r.read(msg)
		if err == nil {
			if r.t.Delay > 0 {
				time.Sleep(r.t.Delay)
			}
			tell(id)
			err = msg.Ack()
		}
		if err != nil {
			failed.CompareAndSwap(nil, &err)
		}
	}
	callback := handle
	if r.t.At > 1 {
		slots := make(chan struct{}, r.t.At)
		callback = func(msg jetstream.Msg) {
			slots <- struct{}{}
			go func() {
				handle(msg)
				<-slots
			}()
		}
	}
	cc, err := c.Consume(callback, jetstream.PullMaxMessages(r.t.PullMax))
	if err != nil {
		return nil, err
	}
	return func() error {
		cc.Stop()
		<-cc.Closed()
		if err := failed.Load(); err != nil {
			return *err
		}
		return r.nc.Flush()
	}, nil
}

func rawConsume(ctx context.Context, t *task, m *meter) error {
	r, err := t.raw()
	if err != nil {
		return err
	}
	defer r.nc.Close()
	for i := range t.Times {
		var stop func() error
		err := m.consuming(ctx,
			func() (err error) {
				stop, err = r.consume(ctx, fmt.Sprintf("%s-%d", t.Group, i), m.handled)
				return err
			},
			func() error { return stop() })
		if err != nil {
			return err
		}
	}
	return nil
}

func rawPace(ctx context.Context, t *task, m *meter) error {
	r, err := t.raw()
	if err != nil {
		return err
	}
	defer r.nc.Close()
	if err := r.stream(ctx); err != nil {
		return err
	}
	stop, err := r.consume(ctx, t.Group, m.arrived)
	if err != nil {
		return err
	}
	err = m.pace(ctx, func(i int) {
		if err := r.send(i); err != nil {
			m.unknown.Add(1)
		}
	})
	return errors.Join(err, stop(), r.published(ctx))
}

func rawHold(ctx context.Context, t *task, m *meter) error {
	r, err := t.raw()
	if err != nil {
		return err
	}
	defer r.nc.Close()
	let := make(chan struct{})
	stop, err := r.consume(ctx, t.Group, func(string) { <-let })
	if err != nil {
		return err
	}
	err = m.holding(ctx)
	close(let)
	return errors.Join(err, stop())
}

func rawStart(ctx context.Context, t *task, m *meter) error {
	m.expect(t.Backlog)
	opened := time.Now()
	r, err := t.raw()
	if err != nil {
		return err
	}
	defer r.nc.Close()
	stop, err := r.consume(ctx, t.Group, m.handled)
	if err != nil {
		return err
	}
	return errors.Join(m.starting(ctx, opened), stop())
}
