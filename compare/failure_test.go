//go:build unix

package compare

import (
	"context"
	"errors"
	"fmt"
	"hash/adler32"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	wm "github.com/ThreeDotsLabs/watermill"
	wmjetstream "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/jetstream"
	"github.com/ThreeDotsLabs/watermill/components/delay"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthorn/posthorn"
)

var errOnce = errors.New("not the first time")

// A message that has failed is dropped as a duplicate of itself.
func TestDuplicateOfItself(t *testing.T) {
	s := start(t)

	s.topic("work", jetstream.ConsumerConfig{})
	s.send("work", "a")
	var calls, done atomic.Int32
	handle := func() error {
		if calls.Add(1) == 1 {
			return errOnce
		}
		done.Add(1)
		return nil
	}
	s.handle("work", wmjetstream.SubscriberConfig{}, func(*message.Message) error { return handle() }, new(middleware.Deduplicator).Middleware)
	s.settled("work", 1)
	watermill(t, done.Load() == 0, "a message whose first attempt fails is acknowledged after %d handlings, of which %d succeeded", calls.Load(), done.Load())

	bus := open(t, s.URL())
	calls.Store(0)
	done.Store(0)
	group(t, bus, posthorn.GroupConfig{}, func(context.Context, *posthorn.Event[work]) error { return handle() })
	ask(t, bus, "a")
	nothingLeft(t, bus)
	ours(t, calls.Load() == 2 && done.Load() == 1, "an event whose first attempt fails is settled after %d handlings, of which %d succeeded", calls.Load(), done.Load())
}

// Two orders are taken for one, since a 32-bit sum of their data is the same.
func TestHashCollides(t *testing.T) {
	s := start(t)
	a, b := sameSum()

	s.topic("work", jetstream.ConsumerConfig{})
	s.send("work", a, b)
	var calls atomic.Int32
	s.handle("work", wmjetstream.SubscriberConfig{}, func(*message.Message) error { calls.Add(1); return nil }, new(middleware.Deduplicator).Middleware)
	s.settled("work", 2)
	watermill(t, calls.Load() == 1, "%s and %s: both are acknowledged, %d is handled", a, b, calls.Load())

	bus := open(t, s.URL())
	calls.Store(0)
	group(t, bus, posthorn.GroupConfig{}, func(context.Context, *posthorn.Event[work]) error { calls.Add(1); return nil })
	ask(t, bus, a, b)
	nothingLeft(t, bus)
	ours(t, calls.Load() == 2, "both are settled, %d are handled", calls.Load())
}

// sameSum finds two orders with the same Adler-32 sum.
func sameSum() (a, b string) {
	seen := map[uint32]string{}
	for i := 1000; ; i++ {
		b = fmt.Sprintf(`{"order":"o-%d","pence":%d}`, i, i*7%1000)
		if a, ok := seen[adler32.Checksum([]byte(b))]; ok {
			return a, b
		}
		seen[adler32.Checksum([]byte(b))] = b
	}
}

// The order of two middlewares decides whether anything is tried again.
func TestRetryAroundPoison(t *testing.T) {
	s := start(t)

	s.topic("work", jetstream.ConsumerConfig{})
	s.topic("poison", jetstream.ConsumerConfig{})
	s.send("work", "a")
	poison, err := middleware.PoisonQueue(s.publisher(s.URL()), "poison")
	must(t, err)
	var calls atomic.Int32
	handle := func() error {
		if calls.Add(1) == 1 {
			return errOnce
		}
		return nil
	}
	s.handle("work", wmjetstream.SubscriberConfig{}, func(*message.Message) error { return handle() },
		middleware.Retry{MaxRetries: 3, InitialInterval: time.Millisecond, MaxInterval: time.Millisecond, Multiplier: 1}.Middleware, poison)
	s.settled("work", 1)
	watermill(t, calls.Load() == 1 && s.stored("poison") == 1, "with 3 retries declared, a message that would succeed at the second attempt is handled %d time and poisoned", calls.Load())

	bus := open(t, s.URL())
	calls.Store(0)
	group(t, bus, posthorn.GroupConfig{}, func(context.Context, *posthorn.Event[work]) error { return handle() })
	ask(t, bus, "a")
	nothingLeft(t, bus)
	ours(t, calls.Load() == 2 && noDead(t, bus), "there is no order to choose: it is handled %d times and settled", calls.Load())
}

func noDead(t *testing.T, bus *posthorn.Bus) bool {
	t.Helper()
	for _, err := range bus.DeadLetters(t.Context(), "compare") {
		must(t, err)
		return false
	}
	return true
}

// The waits between attempts stay what the first one was.
func TestBackoffStays(t *testing.T) {
	s := start(t)

	log := newJournal()
	fail := func(*message.Message) ([]*message.Message, error) { return nil, errors.New("never") }
	retry := middleware.Retry{MaxRetries: 3, InitialInterval: 100 * time.Millisecond, Logger: log}
	_, _ = retry.Middleware(fail)(message.NewMessage(wm.NewUUID(), nil))
	waits := log.waits()
	watermill(t, len(waits) == 3 && waits[0] == waits[1] && waits[1] == waits[2], "Retry with an InitialInterval and no Multiplier waits %v", waits)

	m := message.NewMessage(wm.NewUUID(), nil)
	slower := middleware.DelayOnError{InitialInterval: time.Second, MaxInterval: time.Hour, Multiplier: 1.5}
	var delays []string
	for range 3 {
		_, _ = slower.Middleware(fail)(m)
		delays = append(delays, m.Metadata.Get(delay.DelayedForKey))
	}
	watermill(t, delays[0] == delays[1] && delays[1] == delays[2], "DelayOnError with a Multiplier of 1.5 asks for %v", delays)

	bus := open(t, s.URL())
	times := make(chan time.Time, 4)
	group(t, bus, posthorn.GroupConfig{Retry: posthorn.Retry{Attempts: 4, Delay: 100 * time.Millisecond, Late: posthorn.None}},
		func(context.Context, *posthorn.Event[work]) error {
			times <- time.Now()
			return errors.New("never")
		})
	ask(t, bus, "a")
	dead(t, bus)
	waits = nil
	for last := <-times; len(waits) < 3; {
		next := <-times
		waits, last = append(waits, next.Sub(last).Round(time.Millisecond)), next
	}
	// Each wait is drawn between half of it and the whole, so that the third, of 400 ms,
	// is at the least twice what the first, of 100 ms, can be.
	ours(t, waits[2] >= 200*time.Millisecond, "Retry with a Delay of 100 ms and nothing else waits %v", waits)
}

// A delay is accepted, travels along, and delays nothing.
func TestDelayIgnored(t *testing.T) {
	s := start(t)

	s.topic("work", jetstream.ConsumerConfig{})
	pub, err := delay.NewPublisher(s.publisher(s.URL()), delay.PublisherConfig{})
	must(t, err)
	m := message.NewMessage(wm.NewUUID(), []byte("later"))
	m.SetContext(delay.WithContext(t.Context(), delay.For(time.Hour)))
	must(t, pub.Publish("work", m))
	handled := make(chan struct{})
	s.handle("work", wmjetstream.SubscriberConfig{}, func(*message.Message) error { close(handled); return nil })
	early := within(patience, handled)
	watermill(t, early, "a message that is published for an hour later is handled at once: %v", early)

	bus := open(t, s.URL())
	first := make(chan string, 2)
	group(t, bus, posthorn.GroupConfig{}, func(_ context.Context, e *posthorn.Event[work]) error { first <- e.Data.Text; return nil })
	must(t, asked.Publish(t.Context(), bus, work{Key: "a", Text: "later"}, posthorn.WithID("later"), posthorn.After(time.Hour)))
	must(t, asked.Publish(t.Context(), bus, work{Key: "a", Text: "now"}))
	text := <-first
	waits, err := asked.Cancel(t.Context(), bus, "later") // only what still waits can be cancelled
	must(t, err)
	ours(t, text == "now" && waits, "of one for an hour later and one for now, %q is handled; the other waits: %v", text, waits)
}

// Behind a timeout, every attempt after the first begins with a context that has ended.
func TestDeadlineLost(t *testing.T) {
	s := start(t)

	s.topic("work", jetstream.ConsumerConfig{})
	s.send("work", "a")
	second := make(chan error, 1)
	calls := 0
	handle := func(ctx context.Context) error {
		if calls++; calls == 1 {
			return errOnce
		}
		second <- ctx.Err()
		return nil
	}
	s.handle("work", wmjetstream.SubscriberConfig{}, func(m *message.Message) error { return handle(m.Context()) },
		middleware.Retry{MaxRetries: 1, InitialInterval: time.Millisecond, MaxInterval: time.Millisecond, Multiplier: 1}.Middleware,
		middleware.Timeout(time.Minute))
	err := <-second
	watermill(t, err != nil, "with a timeout of a minute, the context of the second attempt begins as: %v", err)

	bus := open(t, s.URL())
	calls = 0
	group(t, bus, posthorn.GroupConfig{Timeout: time.Minute}, func(ctx context.Context, _ *posthorn.Event[work]) error { return handle(ctx) })
	ask(t, bus, "a")
	err = <-second
	ours(t, err == nil, "with a timeout of a minute, the context of the second attempt begins as: %v", err)
}

// A message that is given up on is gone from the consumer, and nothing tells of it but
// an advisory that somebody has to listen to at that time.
func TestGivenUp(t *testing.T) {
	for _, c := range []struct {
		name     string
		consumer jetstream.ConsumerConfig
		nak      wmjetstream.Delay
		advisory string
	}{
		{"MaxDeliver", jetstream.ConsumerConfig{MaxDeliver: 3}, nil, "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>"},
		{"MaxRetryDelay", jetstream.ConsumerConfig{}, wmjetstream.NewMaxRetryDelay(time.Millisecond, 3), "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t)
			s.topic("work", c.consumer)
			advisory, err := s.nc.SubscribeSync(c.advisory)
			must(t, err)
			must(t, s.nc.Flush())
			s.send("work", "fails")
			var calls atomic.Int32
			s.handle("work", wmjetstream.SubscriberConfig{NakDelay: c.nak}, func(*message.Message) error { calls.Add(1); return errors.New("never") })
			_, err = advisory.NextMsg(patience) // from now on it is not handed out any more
			must(t, err)
			waiting := s.consumer("work").NumPending
			var kept []string // where a dead letter could be
			for name := range s.js.StreamNames(t.Context()).Name() {
				kept = append(kept, name)
			}
			watermill(t, calls.Load() == 3 && waiting == 0 && len(kept) == 1 && s.stored("work") == 1,
				"after %d handlings it is given up on; %d wait to be handed out; streams that could hold a dead letter: none but its own, %v", calls.Load(), waiting, kept)
		})
	}

	s := start(t)
	bus := open(t, s.URL())
	group(t, bus, posthorn.GroupConfig{Retry: posthorn.Retry{Attempts: 3, Late: posthorn.None}},
		func(context.Context, *posthorn.Event[work]) error { return errors.New("never") })
	ask(t, bus, "fails")
	letter := dead(t, bus)
	ours(t, letter.Attempts == 3 && len(letter.Errors) == 3 && strings.Contains(string(letter.Data), "fails"),
		"after %d handlings it is a dead letter with its data and the errors %q", letter.Attempts, letter.Errors)
}

// A server that syncs every two minutes, with one copy, is taken as it is.
func TestPublishedNotSynced(t *testing.T) {
	s := start(t)

	s.topic("work", jetstream.ConsumerConfig{})
	err := s.publisher(s.URL()).Publish("work", message.NewMessage(wm.NewUUID(), []byte("a")))
	watermill(t, err == nil, "Publish() on one server with its default settings = %v", err)

	bus, err := posthorn.Open(t.Context(), s.URL(), posthorn.Service("compare"))
	if err == nil {
		err = asked.Publish(t.Context(), bus, work{Key: "a"})
		bus.Close(context.Background())
	}
	ours(t, err != nil, "Open() on the same server = %v", err)
}
