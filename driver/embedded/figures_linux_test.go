package embedded_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver/embedded"
)

// These benchmarks are those of docs/performance.md: a bus beside the raw client,
// on the same server, with the same body, headers and confirmation, in one run.

// payload is an event whose data is about 256 bytes.
type payload struct {
	ID   string `json:"id"`
	Text string `json:"text"`
}

func newPayload(key string) payload { return payload{ID: key, Text: text256} }

var text256 = string(make256())

func make256() []byte {
	b := make([]byte, 224)
	for i := range b {
		b[i] = 'a' + byte(i%26)
	}
	return b
}

var benchTopic = posthorn.DefineTopic("bench", posthorn.TopicConfig{Partitions: 8})

var benchEventType = posthorn.Define[payload]("bench.made", posthorn.In(benchTopic), posthorn.Key(func(p payload) string { return p.ID }))

// A pair is a bus and a raw client on one server, in one process.
type pair struct {
	b     *testing.B
	bus   *posthorn.Bus
	js    jetstream.JetStream
	store *os.File
	syncs groupSync
}

func newPair(b *testing.B) *pair {
	b.Helper()
	ctx := context.Background()
	dir := b.TempDir()
	bus, err := posthorn.Open(ctx, "embedded:"+dir, posthorn.Service("shop"), posthorn.Logger(slog.New(slog.DiscardHandler)))
	if err != nil {
		b.Fatal(err)
	}
	nc, err := embedded.Connect(ctx, dir)
	if err != nil {
		b.Fatal(err)
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(1000))
	if err != nil {
		b.Fatal(err)
	}
	store, err := os.Open(filepath.Clean(dir))
	if err != nil {
		b.Fatal(err)
	}
	p := &pair{b: b, bus: bus, js: js, store: store, syncs: groupSync{}}
	p.syncs.start(store)
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "raw", Subjects: []string{"raw"}, Duplicates: 2 * time.Minute}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		p.syncs.stop()
		nc.Close()
		_ = store.Close()
		if err := bus.Close(ctx); err != nil {
			b.Error(err)
		}
	})
	return p
}

// A groupSync gives the raw client our confirmation: one sync for all who wait.
type groupSync struct {
	c    chan chan error
	done chan struct{}
}

func (g *groupSync) start(dir *os.File) {
	g.c, g.done = make(chan chan error, 4096), make(chan struct{})
	go func() {
		defer close(g.done)
		for first := range g.c {
			waiting := []chan error{first}
			for more := true; more; {
				select {
				case w, ok := <-g.c:
					if more = ok; ok {
						waiting = append(waiting, w)
					}
				default:
					more = false
				}
			}
			err := unix.Syncfs(int(dir.Fd()))
			for _, w := range waiting {
				w <- err
			}
		}
	}()
}

func (g *groupSync) wait() error {
	w := make(chan error, 1)
	g.c <- w
	return <-w
}

func (g *groupSync) stop() {
	close(g.c)
	<-g.done
}

// rawEvent is what the bus would send, without the bus.
func rawEvent(i int64) *nats.Msg {
	p := newPayload(benchKey(i))
	id := fmt.Sprintf("0190b4c8-7e5d-7000-8000-%012d", i)
	return &nats.Msg{Subject: "raw", Data: []byte(`{"id":"` + p.ID + `","text":"` + p.Text + `"}`), Header: nats.Header{
		"Nats-Msg-Id": {id}, "ce-specversion": {"1.0"}, "ce-id": {id}, "ce-source": {"shop"}, "ce-type": {"bench.made"},
		"ce-subject": {p.ID}, "ce-time": {"2026-01-02T03:04:05.123456789Z"}, "ce-datacontenttype": {"application/json"},
	}}
}

func benchKey(i int64) string { return fmt.Sprintf("key-%05d", i%10_000) }

func BenchmarkPublish(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			p := newPair(b)
			ctx := context.Background()
			var i, j atomic.Int64
			compare(b,
				func(n int) {
					share(n, callers, func() error {
						return benchEventType.Publish(ctx, p.bus, newPayload(benchKey(i.Add(1))))
					}, b)
				},
				func(n int) {
					share(n, callers, func() error {
						if _, err := p.js.PublishMsg(ctx, rawEvent(j.Add(1))); err != nil {
							return err
						}
						return p.syncs.wait()
					}, b)
				})
		})
	}
}

func BenchmarkPublishAll(b *testing.B) {
	const batch = 1000
	p := newPair(b)
	ctx := context.Background()
	compare(b,
		func(n int) {
			for i := 0; i < n; i += batch {
				var events []*posthorn.Outgoing
				for k := range min(batch, n-i) {
					events = append(events, benchEventType.New(newPayload(benchKey(int64(i+k)))))
				}
				if err := p.bus.PublishAll(ctx, events...); err != nil {
					b.Fatal(err)
				}
			}
		},
		func(n int) {
			for i := 0; i < n; i += batch {
				for k := range min(batch, n-i) {
					if _, err := p.js.PublishMsgAsync(rawEvent(int64(i + k))); err != nil {
						b.Fatal(err)
					}
				}
				<-p.js.PublishAsyncComplete()
				if err := p.syncs.wait(); err != nil {
					b.Fatal(err)
				}
			}
		})
}

// BenchmarkConsume handles a backlog, by a handler that does nothing, with all that
// the engine does; the raw client acknowledges each message, reads the same
// headers and decodes nothing.
func BenchmarkConsume(b *testing.B) {
	p := newPair(b)
	ctx := context.Background()
	for i := 0; i < b.N; i += 1000 {
		var events []*posthorn.Outgoing
		for k := range min(1000, b.N-i) {
			events = append(events, benchEventType.New(newPayload(benchKey(int64(i+k)))))
			if _, err := p.js.PublishMsgAsync(rawEvent(int64(i + k))); err != nil {
				b.Fatal(err)
			}
		}
		if err := p.bus.PublishAll(ctx, events...); err != nil {
			b.Fatal(err)
		}
		<-p.js.PublishAsyncComplete()
	}
	compare(b,
		func(n int) {
			group := p.bus.Group("bench", posthorn.GroupConfig{})
			var handled atomic.Int64
			done := make(chan struct{})
			group.HandleRaw("bench.made", func(ctx context.Context, d *posthorn.Delivery) error {
				if handled.Add(1) == int64(n) {
					close(done)
				}
				return nil
			})
			if err := group.Start(ctx); err != nil {
				b.Fatal(err)
			}
			<-done
			if err := group.Stop(ctx); err != nil {
				b.Fatal(err)
			}
		},
		func(n int) {
			c, err := p.js.CreateConsumer(ctx, "raw", jetstream.ConsumerConfig{MaxAckPending: 20_000, AckPolicy: jetstream.AckExplicitPolicy})
			if err != nil {
				b.Fatal(err)
			}
			done := make(chan struct{})
			got := 0
			cc, err := c.Consume(func(m jetstream.Msg) {
				h := m.Headers()
				for _, name := range []string{"ce-id", "ce-source", "ce-type", "ce-subject", "ce-time", "ce-datacontenttype"} {
					if h.Get(name) == "" {
						b.Error("no", name)
					}
				}
				_ = m.Ack()
				if got++; got == n {
					close(done)
				}
			}, jetstream.PullMaxMessages(5000))
			if err != nil {
				b.Fatal(err)
			}
			<-done
			cc.Stop()
		})
}
