//go:build unix

package compare

import (
	"sync/atomic"
	"testing"
	"time"

	wm "github.com/ThreeDotsLabs/watermill"
	wmjetstream "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/jetstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// With other settings Watermill has some of the defects not: docs/compared.md says so,
// and here it is held to that.
func TestOtherSettings(t *testing.T) {
	quick := middleware.Retry{MaxRetries: 1, InitialInterval: time.Millisecond, MaxInterval: time.Millisecond, Multiplier: 1}
	// twice fails at the first attempt, and notes how the context of the next one begins.
	twice := func(calls *int, begins *error) message.HandlerFunc {
		return func(m *message.Message) ([]*message.Message, error) {
			if *calls++; *calls == 1 {
				return nil, errOnce
			}
			*begins = m.Context().Err()
			return nil, nil
		}
	}
	one := func() *message.Message { return message.NewMessage(wm.NewUUID(), nil) }

	t.Run("HashCollides", func(t *testing.T) {
		a, b := sameSum()
		calls := 0
		handle := (&middleware.Deduplicator{KeyFactory: middleware.NewMessageHasherSHA256(1 << 20)}).Middleware(
			func(*message.Message) ([]*message.Message, error) { calls++; return nil, nil })
		for _, text := range []string{a, b} {
			_, err := handle(message.NewMessage(wm.NewUUID(), []byte(text)))
			must(t, err)
		}
		avoided(t, calls == 2, "%d of 2 handled", calls)
	})
	t.Run("RetryAroundPoison", func(t *testing.T) {
		var poisoned, calls int
		var begins error
		poison, err := middleware.PoisonQueue(publisherFunc(func() { poisoned++ }), "poison")
		must(t, err)
		_, err = poison(quick.Middleware(twice(&calls, &begins)))(one())
		must(t, err)
		avoided(t, calls == 2 && poisoned == 0, "%d attempts, %d poisoned", calls, poisoned)
	})
	t.Run("BackoffStays", func(t *testing.T) {
		log := newJournal()
		retry := middleware.Retry{MaxRetries: 3, InitialInterval: time.Millisecond, Multiplier: 2, MaxInterval: time.Second, Logger: log}
		_, _ = retry.Middleware(func(*message.Message) ([]*message.Message, error) { return nil, errOnce })(one())
		waits := log.waits()
		avoided(t, len(waits) == 3 && waits[1] == 2*waits[0] && waits[2] == 2*waits[1], "waits of %v", waits)
	})
	t.Run("DeadlineLost", func(t *testing.T) {
		var calls int
		var begins error
		retry := quick
		retry.ResetContextOnRetry = true
		_, err := retry.Middleware(middleware.Timeout(time.Minute)(twice(&calls, &begins)))(one())
		must(t, err)
		avoided(t, calls == 2 && begins == nil, "the second attempt's context begins as: %v", begins)
	})
	t.Run("PrefetchTimer", func(t *testing.T) {
		s := start(t)
		s.topic("work", jetstream.ConsumerConfig{AckWait: prefetchLimit})
		s.send("work", prefetchTexts()...)
		var calls atomic.Int32
		s.handle("work", wmjetstream.SubscriberConfig{AckWaitTimeout: prefetchLimit, ConsumeOptions: []jetstream.PullConsumeOpt{jetstream.PullMaxMessages(1)}},
			func(*message.Message) error { calls.Add(1); time.Sleep(prefetchEach); return nil })
		s.settled("work", prefetchCount)
		avoided(t, calls.Load() == prefetchCount, "%d messages, %d handlings", prefetchCount, calls.Load())
	})
	t.Run("PushShutdownLoses", func(t *testing.T) {
		s := start(t)
		s.work("a")
		s.standing(time.Second)
		started := make(chan struct{})
		router := s.pushed(time.Second, func(m *message.Message) error {
			close(started)
			<-m.Context().Done()
			return m.Context().Err()
		}, nats.ManualAck())
		came(t, "the handler runs", started)
		must(t, router.Close())
		again := make(chan struct{})
		s.pushed(time.Second, func(*message.Message) error { close(again); return nil }, nats.ManualAck())
		came(t, "the message is handled after the next start", again)
		avoided(t, true, "what a handler was stopped in is handled after the next start")
	})
}

func avoided(t *testing.T, ok bool, format string, args ...any) {
	t.Helper()
	t.Logf("Watermill: "+format, args...)
	if !ok {
		t.Error("this setting does not avoid the defect: docs/compared.md says it does")
	}
}

// A publisherFunc is called for each message that is published.
type publisherFunc func()

func (f publisherFunc) Publish(_ string, messages ...*message.Message) error {
	for range messages {
		f()
	}
	return nil
}

func (publisherFunc) Close() error { return nil }
