//go:build unix

package compare

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	wm "github.com/ThreeDotsLabs/watermill"
	wmjetstream "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/jetstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthorn/posthorn"
)

// together is a handler's work that tells whether a second one starts while the
// first one runs, for that long at most.
func together(d time.Duration) (fn func(), result <-chan bool) {
	var started atomic.Int32
	second, ran := make(chan struct{}), make(chan bool, 1)
	return func() {
		switch started.Add(1) {
		case 1:
			ran <- within(d, second)
		case 2:
			close(second)
		}
	}, ran
}

// While a handler works, the subscriber hands out nothing else.
func TestOneInFlight(t *testing.T) {
	s := start(t)

	s.topic("work", jetstream.ConsumerConfig{})
	s.send("work", "a", "b")
	fn, ran := together(moment)
	s.handle("work", wmjetstream.SubscriberConfig{}, func(*message.Message) error { fn(); return nil })
	beside := <-ran
	watermill(t, !beside, "the second of two messages starts while the first is handled: %v", beside)

	bus := open(t, s.URL())
	ourFn, ran := together(patience)
	group(t, bus, posthorn.GroupConfig{}, func(context.Context, *posthorn.Event[work]) error { ourFn(); return nil })
	ask(t, bus, "a", "b")
	beside = <-ran
	ours(t, beside, "the second of two events, of another key, starts while the first is handled: %v", beside)
}

// A batch goes out one message at a time, each behind the answer to the one before.
func TestBatchInTurn(t *testing.T) {
	const n = 100
	s := start(t)
	// sent is how many of a batch leave while the server's answers are held back.
	sent := func(d time.Duration, p *proxy, publish func() error) int {
		p.hold()
		done := make(chan error, 1)
		go func() { done <- publish() }()
		for end := time.Now().Add(d); p.count() < n && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
		out := p.count()
		p.release()
		must(t, <-done)
		return out
	}

	s.topic("work", jetstream.ConsumerConfig{})
	p := newProxy(t, s.Addr(), "marked-for-counting")
	pub := s.publisher("nats://" + p.addr())
	must(t, pub.Publish("work", message.NewMessage(wm.NewUUID(), []byte("first"))))
	var batch []*message.Message
	for range n {
		batch = append(batch, message.NewMessage(wm.NewUUID(), []byte("marked-for-counting")))
	}
	out := sent(moment, p, func() error { return pub.Publish("work", batch...) })
	watermill(t, out == 1, "of a batch of %d, %d leave before the first answer", n, out)

	p = newProxy(t, s.Addr(), "marked-for-counting")
	bus := open(t, "nats://"+p.addr())
	ask(t, bus, "first")
	var events []*posthorn.Outgoing
	for range n {
		events = append(events, asked.New(work{Key: "a", Text: "marked-for-counting"}))
	}
	out = sent(patience, p, func() error { return bus.PublishAll(t.Context(), events...) })
	ours(t, out == n, "of a batch of %d, %d leave before the first answer", n, out)
}

// The wait before a retry is slept through in the handler, and all others wait too.
func TestRetryHoldsOthers(t *testing.T) {
	s := start(t)
	// after handles a failing message and tells when another one follows it.
	after := func() (fn func(text string) error, other <-chan struct{}) {
		handled := make(chan struct{})
		var failed atomic.Bool
		return func(text string) error {
			if text == "fails" {
				failed.Store(true)
				return errors.New("not now")
			}
			if failed.Load() {
				close(handled)
			}
			return nil
		}, handled
	}

	s.topic("work", jetstream.ConsumerConfig{})
	s.send("work", "fails", "other")
	fn, other := after()
	s.handle("work", wmjetstream.SubscriberConfig{}, func(m *message.Message) error { return fn(string(m.Payload)) },
		middleware.Retry{MaxRetries: 1, InitialInterval: time.Minute, MaxInterval: time.Minute, Multiplier: 1}.Middleware)
	passed := within(moment, other)
	watermill(t, !passed, "while one message waits a minute for its retry, another is handled: %v", passed)

	bus := open(t, s.URL())
	ourFn, other := after()
	group(t, bus, posthorn.GroupConfig{Concurrency: 1, Retry: posthorn.Retry{Attempts: 2, Delay: time.Minute, MaxDelay: time.Minute}},
		func(_ context.Context, e *posthorn.Event[work]) error { return ourFn(e.Data.Text) })
	ask(t, bus, "fails", "other")
	came(t, "the other event is handled", other)
	ours(t, true, "while one event waits a minute for its retry, another is handled, with one slot and one partition")
}

// Messages that are each handled well within the limit, and not all of them together.
const prefetchCount, prefetchEach, prefetchLimit = 8, 1500 * time.Millisecond, 8 * time.Second

func prefetchTexts() (texts []string) {
	for i := range prefetchCount {
		texts = append(texts, fmt.Sprint("m", i))
	}
	return texts
}

// The server's timer of a message runs while it waits in the client's memory.
func TestPrefetchTimer(t *testing.T) {
	const n, each, limit = prefetchCount, prefetchEach, prefetchLimit
	s := start(t)
	texts := prefetchTexts()

	s.topic("work", jetstream.ConsumerConfig{AckWait: limit})
	s.send("work", texts...)
	var calls atomic.Int32
	again := make(chan struct{})
	s.handle("work", wmjetstream.SubscriberConfig{AckWaitTimeout: limit}, func(*message.Message) error {
		if calls.Add(1) == n+1 {
			close(again)
		}
		time.Sleep(each)
		return nil
	})
	repeated := within(patience, again)
	watermill(t, repeated, "%d messages, each handled in %v, limit %v: one is handled a second time: %v", n, each, limit, repeated)

	bus := open(t, s.URL())
	var ourCalls atomic.Int32
	g := group(t, bus, posthorn.GroupConfig{Concurrency: 1, Timeout: limit}, func(context.Context, *posthorn.Event[work]) error {
		ourCalls.Add(1)
		time.Sleep(each)
		return nil
	})
	ask(t, bus, texts...)
	nothingLeft(t, bus)
	must(t, g.Stop(t.Context()))
	ours(t, ourCalls.Load() == n, "%d events, one at a time, the same limit for a handler: %d handlings", n, ourCalls.Load())
}

// What is refused is handed out again at once, without end.
func TestHotLoop(t *testing.T) {
	const enough = 200
	s := start(t)

	// fails is a handler that tells when it has been called often enough.
	fails := func() (fn func(*message.Message) error, calls *atomic.Int32, many <-chan struct{}) {
		calls = new(atomic.Int32)
		often := make(chan struct{})
		return func(*message.Message) error {
			if calls.Add(1) == enough {
				close(often)
			}
			return errors.New("never")
		}, calls, often
	}
	s.topic("work", jetstream.ConsumerConfig{})
	s.send("work", "fails")
	fn, calls, many := fails()
	s.handle("work", wmjetstream.SubscriberConfig{}, fn)
	watermill(t, within(patience, many), "a message that always fails is handled %d times and goes on", calls.Load())

	ch := gochannel.NewGoChannel(gochannel.Config{}, wm.NopLogger{})
	t.Cleanup(func() { ch.Close() })
	fn, calls, many = fails()
	router := route(t, wm.NopLogger{})
	router.AddConsumerHandler("work", "work", ch, fn)
	run(t, router)
	must(t, ch.Publish("work", message.NewMessage(wm.NewUUID(), nil)))
	watermill(t, within(patience, many), "on a GoChannel a message that always fails is handled %d times and goes on", calls.Load())

	bus := open(t, s.URL())
	var ourCalls atomic.Int32
	group(t, bus, posthorn.GroupConfig{Retry: posthorn.Retry{Attempts: 3, Late: posthorn.None}},
		func(context.Context, *posthorn.Event[work]) error { ourCalls.Add(1); return errors.New("never") })
	ask(t, bus, "fails")
	letter := dead(t, bus)
	ours(t, ourCalls.Load() == 3 && letter.Attempts == 3, "an event that always fails is handled %d times, then it is a dead letter: %s",
		ourCalls.Load(), letter.Reason)
}
