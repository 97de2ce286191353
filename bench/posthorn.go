package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver/embedded"
	_ "github.com/posthorn/posthorn/driver/memory"
)

// open opens the bus of a task.
func (t *task) open(ctx context.Context) (*posthorn.Bus, error) {
	url := t.URL
	switch t.Broker {
	case brokerNATS, brokerAlways:
		url += "?durability=server"
	case brokerEmbedded:
		url = "embedded:" + t.Dir
	case brokerNone:
		url = "memory:"
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return posthorn.Open(ctx, url, posthorn.Service("bench"), posthorn.Logger(log))
}

// eventType is the task's, in a topic with the defaults.
func (t *task) eventType() *posthorn.EventType[payload] {
	return posthorn.Define[payload](t.Topic+".made",
		posthorn.In(posthorn.DefineTopic(t.Topic, posthorn.TopicConfig{})),
		posthorn.Key(func(p payload) string { return p.Key }))
}

func closeBus(bus *posthorn.Bus) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	return bus.Close(ctx)
}

func posthornPublish(ctx context.Context, t *task, m *meter) (err error) {
	bus, err := t.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeBus(bus)) }()
	made, make := t.eventType(), t.maker()
	// The first one opens the topic, as others have made their stream by now.
	if err := made.Publish(ctx, bus, make.payload(0)); err != nil {
		return err
	}
	m.done.Add(1)
	var work func() error
	switch t.How {
	case howAsync:
		m.confirmed = func() int64 { return bus.Stats().Published }
		work = func() error {
			for i := 1; !m.over.Load(); i++ {
				made.PublishAsync(ctx, bus, make.payload(i))
				m.done.Add(1)
			}
			return confirmed(ctx, bus, m.done.Load())
		}
	case howBatch:
		work = func() error { return publishBatches(ctx, bus, made, make, m) }
	default:
		work = func() error {
			return m.callers(func(i int) error { return made.Publish(ctx, bus, make.payload(i)) })
		}
	}
	if err := m.publishing(ctx, work); err != nil {
		return err
	}
	m.m.Stored, err = t.storedByBus(ctx)
	return err
}

// storedByBus counts while the bus is open: an embedded server ends with it.
func (t *task) storedByBus(ctx context.Context) (int, error) {
	connect := func() (*nats.Conn, error) { return nats.Connect(t.URL) }
	if t.Broker == brokerEmbedded {
		connect = func() (*nats.Conn, error) { return embedded.Connect(ctx, t.Dir) }
	}
	nc, err := connect()
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	return t.stored(ctx, nc)
}

// confirmed waits until it is known what became of n events, and says what went wrong
// with them: nobody waits for each.
func confirmed(ctx context.Context, bus *posthorn.Bus, n int64) error {
	for {
		s := bus.Stats()
		if s.NotStored+s.Unknown > 0 {
			return fmt.Errorf("%d events are not stored, of %d it is not known", s.NotStored, s.Unknown)
		}
		if s.Published >= n {
			return nil
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func publishBatches(ctx context.Context, bus *posthorn.Bus, made *posthorn.EventType[payload], make *maker, m *meter) error {
	batch := []*posthorn.Outgoing{}
	for i := 0; !m.over.Load(); i += batchSize {
		batch = batch[:0]
		for k := range batchSize {
			batch = append(batch, made.New(make.payload(i+k)))
		}
		if err := bus.PublishAll(ctx, batch...); err != nil {
			return err
		}
		m.done.Add(batchSize)
	}
	return nil
}

func posthornFill(ctx context.Context, t *task, m *meter) (err error) {
	bus, err := t.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeBus(bus)) }()
	made, make := t.eventType(), t.maker()
	for i := 0; i < t.Count; {
		var batch []*posthorn.Outgoing
		for ; len(batch) < batchSize && i < t.Count; i++ {
			batch = append(batch, made.New(make.payload(i), posthorn.WithID(eventID(i))))
		}
		if err := bus.PublishAll(ctx, batch...); err != nil {
			return err
		}
	}
	m.m.Total, m.m.Count = t.Count, t.Count
	m.m.Stored, err = t.storedByBus(ctx)
	return err
}

// group makes a group with a handler that tells what it is handed.
func (t *task) group(bus *posthorn.Bus, name string, cfg posthorn.GroupConfig, tell func(id string)) *posthorn.Group {
	cfg.Concurrency = t.At
	group := bus.Group(name, cfg)
	made := t.eventType()
	if t.How == howTyped {
		made.Handle(group, func(ctx context.Context, e *posthorn.Event[payload]) error {
			if e.Data.Key != e.Key {
				return posthorn.Permanent(errors.New("the data is not what it was"))
			}
			tell(e.ID)
			return nil
		})
		return group
	}
	group.HandleRaw(made.Name(), func(ctx context.Context, d *posthorn.Delivery) error {
		if t.Delay > 0 {
			time.Sleep(t.Delay)
		}
		tell(d.ID)
		return nil
	})
	return group
}

func posthornConsume(ctx context.Context, t *task, m *meter) error {
	for i := range t.Times {
		if err := consumeOnce(ctx, t, m, fmt.Sprintf("%s-%d", t.Group, i)); err != nil {
			return err
		}
	}
	return nil
}

// consumeOnce has a bus of its own, since a group is one bus's once.
func consumeOnce(ctx context.Context, t *task, m *meter, name string) (err error) {
	bus, err := t.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeBus(bus)) }()
	group := t.group(bus, name, posthorn.GroupConfig{}, m.handled)
	return m.consuming(ctx,
		func() error { return group.Start(ctx) },
		func() error {
			ctx, cancel := context.WithTimeout(context.Background(), closeWait)
			defer cancel()
			return group.Stop(ctx)
		})
}

func posthornPace(ctx context.Context, t *task, m *meter) (err error) {
	bus, err := t.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeBus(bus)) }()
	made, make := t.eventType(), t.maker()
	group := t.group(bus, t.Group, posthorn.GroupConfig{}, m.arrived)
	if err := group.Start(ctx); err != nil {
		return err
	}
	err = m.pace(ctx, func(i int) { made.PublishAsync(ctx, bus, make.payload(i), posthorn.WithID(eventID(i))) })
	return errors.Join(err, confirmed(ctx, bus, int64(m.t.Count)))
}

func posthornHold(ctx context.Context, t *task, m *meter) error {
	bus, err := t.open(ctx)
	if err != nil {
		return err
	}
	let := make(chan struct{})
	group := t.group(bus, t.Group, posthorn.GroupConfig{}, func(string) { <-let })
	if err := group.Start(ctx); err != nil {
		return err
	}
	err = m.holding(ctx)
	close(let)
	return errors.Join(err, closeBus(bus))
}

func posthornStart(ctx context.Context, t *task, m *meter) error {
	m.expect(t.Backlog)
	opened := time.Now()
	bus, err := t.open(ctx)
	if err != nil {
		return err
	}
	group := t.group(bus, t.Group, posthorn.GroupConfig{}, m.handled)
	if err := group.Start(ctx); err != nil {
		return err
	}
	return errors.Join(m.starting(ctx, opened), closeBus(bus))
}

// posthornLocal publishes to a bus in memory and handles what it publishes.
func posthornLocal(ctx context.Context, t *task, m *meter) (err error) {
	bus, err := t.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeBus(bus)) }()
	made, make := t.eventType(), t.maker()
	group := t.group(bus, t.Group, posthorn.GroupConfig{}, m.handled)
	if err := group.Start(ctx); err != nil {
		return err
	}
	return m.local(ctx, func(i int) error {
		return made.Publish(ctx, bus, make.payload(i), posthorn.WithID(eventID(i)))
	})
}
