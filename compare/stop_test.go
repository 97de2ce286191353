//go:build unix

package compare

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	wm "github.com/ThreeDotsLabs/watermill"
	wmjetstream "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/jetstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthorn/posthorn"
)

// The text of the router's error when what a handler returned could not be sent.
const notSent = "Publishing produced messages failed"

// A clean stop takes the context and the publisher away from a handler that runs, and
// hands out again what that handler has done.
func TestShutdown(t *testing.T) {
	s := start(t)

	s.topic("work", jetstream.ConsumerConfig{AckWait: 2 * time.Second})
	s.topic("answer", jetstream.ConsumerConfig{})
	s.send("work", "a")
	nc, err := nats.Connect(s.URL())
	must(t, err)
	pub, err := wmjetstream.NewPublisher(wmjetstream.PublisherConfig{Conn: nc, Logger: wm.NopLogger{}})
	must(t, err)
	log := newJournal()
	router := route(t, log)
	started, goOn := make(chan struct{}), make(chan struct{})
	cancelled := false
	router.AddHandler("work", "work", s.subscriber(wmjetstream.SubscriberConfig{}), "answer", pub, func(m *message.Message) ([]*message.Message, error) {
		close(started)
		cancelled = within(patience/20, m.Context().Done()) // less than Close waits
		<-goOn
		return []*message.Message{message.NewMessage(wm.NewUUID(), []byte("answer"))}, nil
	})
	run(t, router)
	came(t, "the handler runs", started)
	closed := make(chan error, 1)
	go func() { closed <- router.Close() }()
	for end := time.Now().Add(patience / 20); !nc.IsClosed() && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	close(goOn)
	closeErr := <-closed
	failed, _ := log.find(notSent)
	watermill(t, cancelled && failed.err != nil && s.stored("answer") == 0,
		"Close() = %v while a handler runs; its context is cancelled: %v; what it returns is not published: %v", closeErr, cancelled, failed.err)

	again := make(chan struct{})
	s.handle("work", wmjetstream.SubscriberConfig{}, func(*message.Message) error { close(again); return nil })
	repeated := within(patience, again)
	watermill(t, repeated, "after the next start the same message is handled again: %v", repeated)

	bus := open(t, s.URL())
	started = make(chan struct{})
	var published error
	cancelled = false
	g := group(t, bus, posthorn.GroupConfig{}, func(ctx context.Context, e *posthorn.Event[work]) error {
		close(started)
		cancelled = within(moment, ctx.Done())
		published = answered.Publish(ctx, bus, work{Key: e.Key})
		return nil
	})
	must(t, asked.Publish(t.Context(), bus, work{Key: "a", Text: "first"}))
	came(t, "the handler runs", started)
	stopErr := g.Stop(t.Context())
	ours(t, stopErr == nil && !cancelled && published == nil && s.stored(answeredStream) == 1,
		"Stop() = %v while a handler runs; its context is cancelled: %v; it publishes: %v", stopErr, cancelled, published)

	// Of the same key: had the first to come again, it would come before this one.
	must(t, asked.Publish(t.Context(), bus, work{Key: "a", Text: "second"}))
	must(t, bus.Close(t.Context()))
	bus = open(t, s.URL())
	next := make(chan string, 2)
	group(t, bus, posthorn.GroupConfig{}, func(_ context.Context, e *posthorn.Event[work]) error { next <- e.Data.Text; return nil })
	text := <-next
	ours(t, text == "second", "after the next start the first event that is handled is the %s", text)
}

// To stop one handler closes the publisher that others use.
func TestStopClosesShared(t *testing.T) {
	s := start(t)

	for _, topic := range []string{"one", "other", "answer"} {
		s.topic(topic, jetstream.ConsumerConfig{})
	}
	pub := s.publisher(s.URL())
	log := newJournal()
	router := route(t, log)
	answer := func(*message.Message) ([]*message.Message, error) {
		return []*message.Message{message.NewMessage(wm.NewUUID(), []byte("answer"))}, nil
	}
	slow := wmjetstream.NewStaticDelay(time.Second) // between the attempts, which go on
	one := router.AddHandler("one", "one", s.subscriber(wmjetstream.SubscriberConfig{NakDelay: slow}), "answer", pub, answer)
	router.AddHandler("other", "other", s.subscriber(wmjetstream.SubscriberConfig{NakDelay: slow}), "answer", pub, answer)
	run(t, router)
	one.Stop()
	came(t, "the handler has stopped", one.Stopped())
	s.send("other", "a")
	var failed entry
	await(t, "the other handler has answered, or could not", func() bool {
		var bad bool
		failed, bad = log.find(notSent)
		return bad || s.stored("answer") > 0
	})
	watermill(t, failed.err != nil, "one of two handlers is stopped; then the other one publishes: %v", failed.err)

	bus := open(t, s.URL())
	first := bus.Group("first", posthorn.GroupConfig{})
	published := make(chan error, 1)
	handle := func(ctx context.Context, e *posthorn.Event[work]) error {
		published <- answered.Publish(ctx, bus, work{Key: e.Key})
		return nil
	}
	asked.Handle(first, handle)
	must(t, first.Start(t.Context()))
	group(t, bus, posthorn.GroupConfig{}, handle)
	must(t, first.Stop(t.Context()))
	ask(t, bus, "a")
	err := <-published
	ours(t, err == nil, "one of two groups is stopped; then the other one publishes: %v", err)
}

// backlog is how many messages wait when a handler is stopped.
const backlog = 200

// cancelChild stops a handler of Watermill's that has a backlog before it.
func cancelChild(url string) error {
	sub, err := wmjetstream.NewSubscriber(wmjetstream.SubscriberConfig{URL: url, Logger: wm.NopLogger{}, ResourceInitializer: durable})
	if err != nil {
		return err
	}
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: 5 * time.Second}, wm.NopLogger{})
	if err != nil {
		return err
	}
	started := make(chan struct{})
	var once sync.Once
	h := router.AddConsumerHandler("work", "work", sub, func(m *message.Message) error {
		once.Do(func() { close(started) })
		<-m.Context().Done()
		return m.Context().Err()
	})
	go router.Run(context.Background())
	<-started
	if err := sentAll(url); err != nil {
		return err
	}
	h.Stop()
	// The process ends by a panic meanwhile, when what the client has fetched is looked
	// at; this is how long it is given before it counts as well.
	time.Sleep(patience / 4)
	return nil
}

// sentAll waits until the server has sent the whole backlog to the client.
func sentAll(url string) error {
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience/4)
	defer cancel()
	for {
		c, err := js.Consumer(ctx, "work", consumerName)
		if err != nil {
			return err
		}
		if c.CachedInfo().NumAckPending == backlog {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A handler that is stopped with messages before it ends the process.
func TestCancelPanics(t *testing.T) {
	s := start(t)
	var texts []string
	for i := range backlog {
		texts = append(texts, fmt.Sprint("m", i))
	}

	s.topic("work", jetstream.ConsumerConfig{})
	s.send("work", texts...)
	line := runChild(t, "cancel", s.URL())
	watermill(t, line == "panic: send on closed channel", "Handler.Stop() with %d messages waiting ends the process: %q", backlog, line)

	bus := open(t, s.URL())
	ask(t, bus, texts...)
	started := make(chan struct{})
	var calls atomic.Int32
	g := group(t, bus, posthorn.GroupConfig{Concurrency: 1}, func(context.Context, *posthorn.Event[work]) error {
		if calls.Add(1) == 1 {
			close(started)
		}
		return nil
	})
	came(t, "the handler runs", started)
	stopErr := g.Stop(t.Context())
	before := calls.Load()
	must(t, bus.Close(t.Context()))
	bus = open(t, s.URL())
	group(t, bus, posthorn.GroupConfig{}, func(context.Context, *posthorn.Event[work]) error { calls.Add(1); return nil })
	nothingLeft(t, bus)
	ours(t, stopErr == nil && calls.Load() == backlog, "Stop() = %v after %d of %d events; after the next start all are handled, %d handlings",
		stopErr, before, backlog, calls.Load())
}

// oddHeaderChild handles messages with Watermill until one is good.
func oddHeaderChild(url string) error {
	sub, err := wmjetstream.NewSubscriber(wmjetstream.SubscriberConfig{URL: url, Logger: wm.NopLogger{}, ResourceInitializer: durable})
	if err != nil {
		return err
	}
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: 5 * time.Second}, wm.NopLogger{})
	if err != nil {
		return err
	}
	good := make(chan struct{}, 1)
	router.AddConsumerHandler("work", "work", sub, func(m *message.Message) error {
		if string(m.Payload) == "good" {
			good <- struct{}{}
		}
		return nil
	})
	ended := make(chan error, 1)
	go func() { ended <- router.Run(context.Background()) }()
	select {
	case <-good:
		router.Close()
		return <-ended
	case <-time.After(patience / 2):
		return errors.New("the good message did not come")
	}
}

// A message with a header of two values ends the process, at each start.
func TestOddHeader(t *testing.T) {
	s := start(t)
	odd := func(subject string) *nats.Msg {
		return &nats.Msg{Subject: subject, Data: []byte("odd"), Header: nats.Header{"Colour": {"red", "blue"}}}
	}

	s.topic("work", jetstream.ConsumerConfig{AckWait: 2 * time.Second}) // after which it comes again
	_, err := s.js.PublishMsg(t.Context(), odd("work"))
	must(t, err)
	s.send("work", "good")
	line := runChild(t, "odd-header", s.URL())
	second := runChild(t, "odd-header", s.URL())
	watermill(t, line != "" && second != "", "the process ends: %q; started again: %q", line, second)

	bus := open(t, s.URL())
	ask(t, bus, "first")
	_, err = s.js.PublishMsg(t.Context(), odd(askedSubject))
	must(t, err)
	ask(t, bus, "good")
	good := make(chan struct{})
	group(t, bus, posthorn.GroupConfig{}, func(_ context.Context, e *posthorn.Event[work]) error {
		if e.Data.Text == "good" {
			close(good)
		}
		return nil
	})
	came(t, "the good event is handled", good)
	letter := dead(t, bus)
	ours(t, letter.Reason == posthorn.CodeForeign && string(letter.Data) == "odd", "it is a dead letter: %s, %q; the next event is handled", letter.Reason, letter.Errors)
}
