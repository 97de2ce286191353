//go:build unix

package compare

import (
	"context"
	"sync"
	"testing"
	"time"

	wm "github.com/ThreeDotsLabs/watermill"
	wmjetstream "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/jetstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// consumerName is the durable consumer of a Watermill subscriber.
const consumerName = "compare"

// A journal is a logger that keeps the errors.
type journal struct {
	wm.NopLogger
	mu     *sync.Mutex
	errors *[]entry
}

type entry struct {
	text   string
	err    error
	fields wm.LogFields
}

func newJournal() journal { return journal{mu: new(sync.Mutex), errors: new([]entry)} }

func (j journal) Error(text string, err error, fields wm.LogFields) {
	j.mu.Lock()
	defer j.mu.Unlock()
	*j.errors = append(*j.errors, entry{text, err, fields})
}

func (j journal) With(wm.LogFields) wm.LoggerAdapter { return j }

// find returns the first error with that text.
func (j journal) find(text string) (e entry, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range *j.errors {
		if e.text == text {
			return e, true
		}
	}
	return e, false
}

// waits are those that the retry middleware has noted.
func (j journal) waits() (all []time.Duration) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range *j.errors {
		if d, ok := e.fields["wait_time"].(time.Duration); ok {
			all = append(all, d)
		}
	}
	return all
}

// topic makes a topic of Watermill as its JetStream module would: a stream with the
// defaults. It has a durable consumer, which the module would only make without a
// name to come back to.
func (s *server) topic(name string, cfg jetstream.ConsumerConfig) {
	s.t.Helper()
	stream, err := s.js.CreateStream(s.t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{name}})
	must(s.t, err)
	cfg.Durable, cfg.AckPolicy = consumerName, jetstream.AckExplicitPolicy
	_, err = stream.CreateConsumer(s.t.Context(), cfg)
	must(s.t, err)
}

// durable has a subscriber use the consumer that topic has made.
func durable(ctx context.Context, js jetstream.JetStream, topic string) (jetstream.Consumer, func(context.Context, wm.LoggerAdapter), error) {
	c, err := js.Consumer(ctx, topic, consumerName)
	return c, nil, err
}

func (s *server) subscriber(cfg wmjetstream.SubscriberConfig) *wmjetstream.Subscriber {
	s.t.Helper()
	nc, err := nats.Connect(s.URL())
	must(s.t, err)
	s.t.Cleanup(nc.Close)
	cfg.Conn, cfg.ResourceInitializer = nc, durable
	if cfg.Logger == nil {
		cfg.Logger = wm.NopLogger{}
	}
	sub, err := wmjetstream.NewSubscriber(cfg)
	must(s.t, err)
	return sub
}

func (s *server) publisher(url string) *wmjetstream.Publisher {
	s.t.Helper()
	pub, err := wmjetstream.NewPublisher(wmjetstream.PublisherConfig{URL: url, Logger: wm.NopLogger{}})
	must(s.t, err)
	s.t.Cleanup(func() { pub.Close() })
	return pub
}

// send publishes to a topic of Watermill.
func (s *server) send(topic string, payloads ...string) {
	s.t.Helper()
	pub := s.publisher(s.URL())
	for _, p := range payloads {
		must(s.t, pub.Publish(topic, message.NewMessage(wm.NewUUID(), []byte(p))))
	}
}

// route returns a router that is yet to be run.
func route(t *testing.T, log wm.LoggerAdapter, m ...message.HandlerMiddleware) *message.Router {
	t.Helper()
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: patience / 6}, log)
	must(t, err)
	router.AddMiddleware(m...)
	return router
}

// run runs a router. It is not closed when the test ends, since that can end the
// process while messages wait, as TestCancelPanics shows: the connection of its
// subscriber is, and the router is left behind with nothing to do.
func run(t *testing.T, router *message.Router) {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- router.Run(context.Background()) }()
	select {
	case <-router.Running():
	case err := <-ended:
		t.Fatalf("the router ended: %v", err)
	}
}

// handle runs a handler of Watermill's on a topic, with the middlewares in the order
// in which AddMiddleware is given them: the first is outermost.
func (s *server) handle(topic string, cfg wmjetstream.SubscriberConfig, fn func(*message.Message) error, m ...message.HandlerMiddleware) journal {
	s.t.Helper()
	log := newJournal()
	router := route(s.t, log, m...)
	router.AddConsumerHandler("work", topic, s.subscriber(cfg), fn)
	run(s.t, router)
	return log
}
