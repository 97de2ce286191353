package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	wm "github.com/ThreeDotsLabs/watermill"
	wmjetstream "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/jetstream"
	wmnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// quiet is Watermill's logger; the default one writes a line for each message.
var quiet = wm.NopLogger{}

// watermillMessage has the data, the headers and the id of a raw message; Watermill
// adds a header with its own id.
func watermillMessage(t *task, make *maker, i int) (*message.Message, error) {
	p := make.payload(i)
	body, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	id := eventID(i)
	m := message.NewMessage(id, body)
	m.Metadata = message.Metadata{
		"Nats-Msg-Id":        id[len(id)-22:],
		"ce-specversion":     "1.0",
		"ce-id":              id,
		"ce-source":          "bench",
		"ce-type":            "bench.made",
		"ce-subject":         p.Key,
		"ce-time":            time.Now().UTC().Format(time.RFC3339Nano),
		"ce-datacontenttype": "application/json",
	}
	return m, nil
}

func watermillPublish(ctx context.Context, t *task, m *meter) error {
	r, err := t.raw()
	if err != nil {
		return err
	}
	defer r.nc.Close()
	if err := r.stream(ctx); err != nil {
		return err
	}
	pub, err := wmjetstream.NewPublisher(wmjetstream.PublisherConfig{URL: t.URL, Logger: quiet})
	if err != nil {
		return err
	}
	make := t.maker()
	work := func() error {
		return m.callers(func(i int) error {
			msg, err := watermillMessage(t, make, i)
			if err != nil {
				return err
			}
			return pub.Publish(t.Topic, msg)
		})
	}
	if t.How == howBatch {
		work = func() error {
			var batch []*message.Message
			for i := 0; !m.over.Load(); i += len(batch) {
				batch = batch[:0]
				for k := range watermillBatch {
					msg, err := watermillMessage(t, make, i+k)
					if err != nil {
						return err
					}
					batch = append(batch, msg)
				}
				if err := pub.Publish(t.Topic, batch...); err != nil {
					return err
				}
				m.done.Add(int64(len(batch)))
			}
			return nil
		}
	}
	if err := errors.Join(m.publishing(ctx, work), pub.Close()); err != nil {
		return err
	}
	m.m.Stored, err = t.stored(ctx, r.nc)
	return err
}

// watermillBatch is smaller than batchSize: Watermill waits for each message, and
// a batch that takes longer than the window could not be measured.
const watermillBatch = 100

// watermillSubscriber makes what a task consumes by, as it comes or tuned.
func watermillSubscriber(t *task, r *raw, name string) (message.Subscriber, error) {
	cfg := wmjetstream.SubscriberConfig{URL: t.URL, Logger: quiet}
	switch t.How {
	case howPush:
		return wmnats.NewSubscriber(wmnats.SubscriberConfig{
			URL: t.URL, CloseTimeout: closeWait, SubscribersCount: t.Subscriptions, QueueGroupPrefix: name,
			JetStream: wmnats.JetStreamConfig{AckAsync: true, DurablePrefix: name,
				SubscribeOptions: []nats.SubOpt{nats.DeliverAll(), nats.AckExplicit(), nats.MaxAckPending(t.MaxAckPending)}},
		}, quiet)
	case howTuned:
		cfg.AckAsync = true
		cfg.ConsumeOptions = []jetstream.PullConsumeOpt{jetstream.PullMaxMessages(t.PullMax)}
		cfg.ResourceInitializer = func(ctx context.Context, _ jetstream.JetStream, _ string) (jetstream.Consumer, func(context.Context, wm.LoggerAdapter), error) {
			c, err := r.js.Consumer(ctx, t.Topic, name) // of an earlier subscription
			if err != nil {
				c, err = r.consumer(ctx, name)
			}
			return c, nil, err
		}
	}
	return wmjetstream.NewSubscriber(cfg)
}

// watermillRouter makes a router with the retry middleware, and a handler behind it
// for each subscription.
func watermillRouter(t *task, sub message.Subscriber, m *meter) (*message.Router, error) {
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: closeWait}, quiet)
	if err != nil {
		return nil, err
	}
	router.AddMiddleware(middleware.Retry{MaxRetries: 2, InitialInterval: 100 * time.Millisecond, MaxInterval: 2 * time.Second, Multiplier: 2, Logger: quiet}.Middleware)
	subscriptions := t.Subscriptions
	if t.How == howPush {
		subscriptions = 1 // the subscriber makes the others
	}
	for i := range subscriptions {
		router.AddConsumerHandler(fmt.Sprint("handler-", i), t.Topic, sub, func(msg *message.Message) error {
			for _, name := range attributes {
				if msg.Metadata.Get(name) == "" {
					return fmt.Errorf("there is no header %s", name)
				}
			}
			if t.Delay > 0 {
				time.Sleep(t.Delay)
			}
			m.handled(msg.Metadata.Get("ce-id"))
			return nil
		})
	}
	return router, nil
}

func watermillConsume(ctx context.Context, t *task, m *meter) error {
	r, err := t.raw()
	if err != nil {
		return err
	}
	defer r.nc.Close()
	sub, err := watermillSubscriber(t, r, t.Group)
	if err != nil {
		return err
	}
	router, err := watermillRouter(t, sub, m)
	if err != nil {
		return err
	}
	ran := make(chan error, 1)
	return m.consuming(ctx,
		func() error {
			go func() { ran <- router.Run(ctx) }()
			return nil
		},
		func() error { return errors.Join(router.Close(), <-ran) })
}

// watermillLocal is the peer of a bus in memory.
func watermillLocal(ctx context.Context, t *task, m *meter) error {
	ch := gochannel.NewGoChannel(gochannel.Config{Persistent: t.How == howPersistent}, quiet)
	router, err := watermillRouter(t, ch, m)
	if err != nil {
		return err
	}
	ran := make(chan error, 1)
	go func() { ran <- router.Run(ctx) }()
	select {
	case <-router.Running():
	case err := <-ran:
		return err
	}
	make := t.maker()
	err = m.local(ctx, func(i int) error {
		msg, err := watermillMessage(t, make, i)
		if err != nil {
			return err
		}
		return ch.Publish(t.Topic, msg)
	})
	return errors.Join(err, router.Close(), <-ran)
}
