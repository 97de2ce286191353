package embedded_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/embedded"
)

// The benchmarks do the same work twice, through the driver and with the raw
// client on the same server, and print both rates and their ratio. The raw
// client's publishes are confirmed when the server has them, ours when the disk
// has them.

func benchDriver(b *testing.B) (driver.Driver, *nats.Conn) {
	b.Helper()
	dir := b.TempDir()
	env := driver.Env{Service: "bench", Member: "bench-" + rand.Text(), Log: slog.New(slog.DiscardHandler), Now: time.Now, Alarm: func(a driver.Alarm) { b.Log(a) }}
	d, err := embedded.Open(context.Background(), dir, embedded.Options{}, env)
	if err != nil {
		b.Fatal(err)
	}
	nc, err := embedded.Connect(context.Background(), dir)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { nc.Close(); _ = d.Close(context.Background()) })
	if _, err := d.EnsureTopic(context.Background(), driver.TopicSpec{Name: "order", Partitions: 1}); err != nil {
		b.Fatal(err)
	}
	return d, nc
}

var benchIDs atomic.Int64

func benchEvent(size int) driver.Message {
	m := event(fmt.Sprintf("0190b4c8-7e5d-7000-8000-%012d", benchIDs.Add(1)), "customer-4711")
	m.Source, m.Body = "shop/order", make([]byte, size)
	return m
}

// rawMsg has the headers that the driver writes.
func rawMsg(subject string, size int) *nats.Msg {
	m := benchEvent(size)
	return &nats.Msg{Subject: subject, Data: m.Body, Header: nats.Header{
		"Nats-Msg-Id": {m.ID[:22] + m.ID[24:]}, "ce-specversion": {"1.0"}, "ce-id": {m.ID}, "ce-source": {m.Source}, "ce-type": {m.Type},
		"ce-subject": {m.Key}, "ce-time": {m.Time}, "ce-datacontenttype": {m.ContentType},
	}}
}

// compare reports both rates.
func compare(b *testing.B, ours, raw func(n int)) {
	b.Helper()
	b.ReportAllocs()
	rate := func(f func(n int)) float64 {
		runtime.GC()
		begun := time.Now()
		f(b.N)
		return float64(b.N) / time.Since(begun).Seconds()
	}
	b.ResetTimer()
	us := rate(ours)
	b.StopTimer()
	them := rate(raw)
	b.ReportMetric(us, "ours/s")
	b.ReportMetric(them, "raw/s")
	b.ReportMetric(us/them, "ratio")
}

func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{256, 1024} {
		for _, callers := range []int{1, 64} {
			b.Run(fmt.Sprintf("size=%d/callers=%d", size, callers), func(b *testing.B) {
				d, nc := benchDriver(b)
				js, _ := jetstream.New(nc)
				compare(b,
					func(n int) {
						share(n, callers, func() error {
							done := make(chan error, 1)
							d.Append(order0, []driver.Message{benchEvent(size)}, time.Now().Add(time.Minute), func(o []driver.Outcome) { done <- o[0].Err })
							return <-done
						}, b)
					},
					func(n int) {
						share(n, callers, func() error {
							_, err := js.PublishMsg(context.Background(), rawMsg("ph.t.order.0", size))
							return err
						}, b)
					})
			})
		}
		b.Run(fmt.Sprintf("size=%d/batch=512", size), func(b *testing.B) {
			d, nc := benchDriver(b)
			js, _ := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(1000))
			compare(b,
				func(n int) {
					var wg sync.WaitGroup
					for n > 0 {
						msgs := make([]driver.Message, min(n, 512))
						for i := range msgs {
							msgs[i] = benchEvent(size)
						}
						n -= len(msgs)
						wg.Add(1)
						d.Append(order0, msgs, time.Now().Add(time.Minute), func(os []driver.Outcome) {
							for _, o := range os {
								if o.Err != nil {
									b.Error(o.Err)
								}
							}
							wg.Done()
						})
					}
					wg.Wait()
				},
				func(n int) {
					for range n {
						if _, err := js.PublishMsgAsync(rawMsg("ph.t.order.0", size)); err != nil {
							b.Fatal(err)
						}
					}
					<-js.PublishAsyncComplete()
				})
		})
	}
}

// share divides n calls among goroutines.
func share(n, callers int, call func() error, b *testing.B) {
	var left atomic.Int64
	left.Store(int64(n))
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := call(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkFetch(b *testing.B) {
	for _, size := range []int{256, 1024} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			d, nc := benchDriver(b)
			if _, err := d.EnsureGroup(context.Background(), driver.GroupSpec{Name: "g", Types: map[string][]string{"order": {"x"}}}); err != nil {
				b.Fatal(err)
			}
			var stored sync.WaitGroup
			for n := b.N; n > 0; n -= 512 {
				msgs := make([]driver.Message, min(n, 512))
				for i := range msgs {
					msgs[i] = benchEvent(size)
				}
				stored.Add(1)
				d.Append(order0, msgs, time.Now().Add(time.Minute), func([]driver.Outcome) { stored.Done() })
			}
			stored.Wait()
			js, _ := jetstream.New(nc)
			m := &member{topics: []string{"order"}, got: make(chan driver.Tenure, 1), lost: make(chan error, 1)}
			ctx, cancel := context.WithCancel(context.Background())
			left := make(chan error, 1)
			go func() { left <- d.Join(ctx, "g", m) }()
			t := <-m.got
			compare(b,
				func(n int) {
					into := make([]driver.Delivery, 256)
					for got, marked := 0, 0; got < n; {
						k, err := t.Fetch(ctx, into, 1<<20)
						if err != nil {
							b.Fatal(err)
						}
						if got += k; got-marked > 50_000 {
							marked = got
							if err := t.Checkpoint(ctx, driver.Checkpoint{Floor: uint64(got), Mark: uint64(got)}); err != nil {
								b.Fatal(err)
							}
						}
					}
				},
				func(n int) {
					c, err := js.CreateConsumer(ctx, "PH-T-order-0", jetstream.ConsumerConfig{MaxAckPending: 20_000, MemoryStorage: true})
					if err != nil {
						b.Fatal(err)
					}
					done := make(chan struct{})
					got := 0
					cc, err := c.Consume(func(m jetstream.Msg) {
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
			cancel()
			<-left
		})
	}
}
