//go:build unix

package compare

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	wm "github.com/ThreeDotsLabs/watermill"
	wmnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// push returns a subscriber of pkg/nats, which the module recommends over
// pkg/jetstream: durable, with a queue group, and all other settings its own.
func (s *server) push(ackWait time.Duration, opts ...nats.SubOpt) *wmnats.Subscriber {
	s.t.Helper()
	nc, err := nats.Connect(s.URL())
	must(s.t, err)
	s.t.Cleanup(nc.Close)
	sub, err := wmnats.NewSubscriberWithNatsConn(nc, wmnats.SubscriberSubscriptionConfig{
		QueueGroupPrefix: consumerName, AckWaitTimeout: ackWait, CloseTimeout: patience / 6,
		JetStream: wmnats.JetStreamConfig{DurablePrefix: consumerName,
			SubscribeOptions: append(opts, nats.AckExplicit(), nats.AckWait(ackWait))},
	}, wm.NopLogger{})
	must(s.t, err)
	return sub
}

// pushed runs a handler on a subscriber of pkg/nats.
func (s *server) pushed(ackWait time.Duration, fn func(*message.Message) error, opts ...nats.SubOpt) *message.Router {
	s.t.Helper()
	router := route(s.t, wm.NopLogger{})
	router.AddConsumerHandler("work", "work", s.push(ackWait, opts...), fn)
	run(s.t, router)
	return router
}

// work makes the stream that a subscriber of pkg/nats makes itself when told to.
func (s *server) work(texts ...string) {
	s.t.Helper()
	_, err := s.js.CreateStream(s.t.Context(), jetstream.StreamConfig{Name: "work", Subjects: []string{"work"}})
	must(s.t, err)
	s.send("work", texts...)
}

// standing makes the consumer beforehand. One that the subscriber makes is deleted
// when it is closed.
func (s *server) standing(ackWait time.Duration) {
	s.t.Helper()
	_, err := s.js.CreatePushConsumer(s.t.Context(), "work", jetstream.ConsumerConfig{Durable: consumerName, DeliverSubject: "to.compare",
		DeliverGroup: consumerName, FilterSubject: "work", AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait})
	must(s.t, err)
}

// What is seen of pkg/jetstream and has to do with the subscriber, seen of pkg/nats.
// Posthorn's side of it is in the tests of the same names.
func TestPush(t *testing.T) {
	const ackWait = 30 * time.Second // its default

	t.Run("OneInFlight", func(t *testing.T) {
		s := start(t)
		s.work("a", "b")
		fn, ran := together(moment)
		s.pushed(ackWait, func(*message.Message) error { fn(); return nil })
		beside := <-ran
		watermill(t, !beside, "the second of two messages starts while the first is handled: %v", beside)
	})

	t.Run("PrefetchTimer", func(t *testing.T) {
		s := start(t)
		s.work(prefetchTexts()...)
		var calls atomic.Int32
		again := make(chan struct{})
		s.pushed(prefetchLimit, func(*message.Message) error {
			if calls.Add(1) == prefetchCount+1 {
				close(again)
			}
			time.Sleep(prefetchEach)
			return nil
		})
		repeated := within(patience, again)
		watermill(t, repeated, "%d messages, each handled in %v, limit %v: one is handled a second time: %v", prefetchCount, prefetchEach, prefetchLimit, repeated)
	})

	t.Run("HotLoop", func(t *testing.T) {
		s := start(t)
		s.work("fails")
		var calls atomic.Int32
		many := make(chan struct{})
		s.pushed(ackWait, func(*message.Message) error {
			if calls.Add(1) == 200 {
				close(many)
			}
			return errors.New("never")
		})
		endless := within(patience, many)
		watermill(t, endless, "a message that always fails is handled %d times and goes on", calls.Load())
	})

	t.Run("Shutdown", func(t *testing.T) {
		s := start(t)
		s.work("first", "second")
		started := make(chan struct{})
		cancelled := make(chan bool, 1)
		router := s.pushed(ackWait, func(m *message.Message) error {
			if string(m.Payload) == "second" { // the first is acknowledged by now
				close(started)
				cancelled <- within(patience/20, m.Context().Done())
			}
			return nil
		})
		came(t, "the handler runs", started)
		must(t, router.Close())
		ended := <-cancelled
		watermill(t, ended, "Close() while a handler runs; its context is cancelled: %v", ended)
		_, err := s.js.PushConsumer(t.Context(), "work", consumerName)
		watermill(t, errors.Is(err, jetstream.ErrConsumerNotFound), "then the server is asked for the durable consumer: %v", err)

		again := make(chan string, 2)
		s.pushed(ackWait, func(m *message.Message) error { again <- string(m.Payload); return nil })
		text := "none"
		select {
		case text = <-again:
		case <-time.After(patience):
		}
		watermill(t, text == "first", "the first message was acknowledged; after the next start the first that is handled is: %s", text)
	})

	// With a consumer that stood before, which Close leaves in place.
	t.Run("ShutdownLoses", func(t *testing.T) {
		s := start(t)
		s.work("a")
		s.standing(ackWait)
		started := make(chan struct{})
		router := s.pushed(ackWait, func(m *message.Message) error {
			close(started)
			<-m.Context().Done()
			return m.Context().Err()
		})
		came(t, "the handler runs", started)
		must(t, router.Close())
		lost := false
		for end := time.Now().Add(patience); !lost && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			lost = s.pushConsumer().AckFloor.Stream == 1
		}
		watermill(t, lost, "Close() ends the context of a handler, which returns the error; the message is acknowledged: %v", lost)
	})

	t.Run("OddHeader", func(t *testing.T) {
		s := start(t)
		s.work()
		_, err := s.js.PublishMsg(t.Context(), &nats.Msg{Subject: "work", Data: []byte("odd"), Header: nats.Header{"Colour": {"red", "blue"}}})
		must(t, err)
		s.send("work", "good")
		var calls atomic.Int32
		s.pushed(ackWait, func(m *message.Message) error { calls.Add(1); return nil })
		await(t, "the good message is acknowledged", func() bool { return s.pushConsumer().AckFloor.Stream == 2 || calls.Load() > 1 })
		watermill(t, calls.Load() == 1, "of a message with a header of two values and a good one, both are acknowledged, %d is handled", calls.Load())
	})
}

// pushConsumer is what the server knows of a subscriber of pkg/nats.
func (s *server) pushConsumer() *jetstream.ConsumerInfo {
	s.t.Helper()
	c, err := s.js.PushConsumer(s.t.Context(), "work", consumerName)
	must(s.t, err)
	return c.CachedInfo()
}
