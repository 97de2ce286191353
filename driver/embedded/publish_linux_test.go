//go:build linux

package embedded_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver/embedded/natstest"
)

// BenchmarkPublishServer publishes over TCP to a NATS server of its own process, at
// the server's own durability, beside the raw client with the same headers. The
// allocations are those of this process, of ours and of the raw client's.
func BenchmarkPublishServer(b *testing.B) {
	for _, size := range []int{256, 1024} {
		p := newServerPair(b, size)
		name := func(work string) string { return fmt.Sprintf("size=%d/%s", size, work) }
		b.Run(name("async"), func(b *testing.B) { p.compare(b, p.async, p.rawAsync) })
		b.Run(name("batch=1000"), func(b *testing.B) { p.compare(b, p.batch, p.rawAsync) })
		for _, callers := range []int{1, 64} {
			b.Run(name(fmt.Sprintf("callers=%d", callers)), func(b *testing.B) {
				p.compare(b,
					func(b *testing.B, n int) {
						share(n, callers, func() error { return benchEventType.Publish(b.Context(), p.bus, p.payload()) }, b)
					},
					func(b *testing.B, n int) {
						share(n, callers, func() error {
							_, err := p.js.PublishMsg(b.Context(), p.rawMsg())
							return err
						}, b)
					})
			})
		}
	}
}

type serverPair struct {
	bus    *posthorn.Bus
	js     jetstream.JetStream
	server *natstest.Server
	text   string
	n      atomic.Int64
}

func newServerPair(b *testing.B, size int) *serverPair {
	b.Helper()
	ctx := context.Background()
	s := natstest.Start(b, natstest.Options{})
	bus, err := posthorn.Open(ctx, s.URL()+"?durability=server", posthorn.Service("shop"), posthorn.Logger(slog.New(slog.DiscardHandler)))
	if err != nil {
		b.Fatal(err)
	}
	nc, err := nats.Connect(s.URL())
	if err != nil {
		b.Fatal(err)
	}
	p := &serverPair{bus: bus, server: s}
	if p.js, err = jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4000)); err != nil {
		b.Fatal(err)
	}
	if _, err := p.js.CreateStream(ctx, jetstream.StreamConfig{Name: "raw", Subjects: []string{"raw"}, Duplicates: 2 * time.Minute}); err != nil {
		b.Fatal(err)
	}
	text := make([]byte, size-32)
	for i := range text {
		text[i] = 'a' + byte(i%26)
	}
	p.text = string(text)
	b.Cleanup(func() {
		nc.Close()
		if err := bus.Close(ctx); err != nil {
			b.Error(err)
		}
	})
	return p
}

func (p *serverPair) payload() payload { return payload{ID: benchKey(p.n.Add(1)), Text: p.text} }

func (p *serverPair) rawMsg() *nats.Msg {
	m := rawEvent(p.n.Add(1))
	id := m.Header["ce-subject"][0]
	m.Data = []byte(`{"id":"` + id + `","text":"` + p.text + `"}`)
	return m
}

func (p *serverPair) async(b *testing.B, n int) {
	pending := make([]*posthorn.Pending, n)
	for i := range pending {
		pending[i] = benchEventType.PublishAsync(b.Context(), p.bus, p.payload())
	}
	for _, one := range pending {
		if err := one.Wait(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func (p *serverPair) batch(b *testing.B, n int) {
	for i := 0; i < n; i += 1000 {
		events := make([]*posthorn.Outgoing, min(1000, n-i))
		for k := range events {
			events[k] = benchEventType.New(p.payload())
		}
		if err := p.bus.PublishAll(b.Context(), events...); err != nil {
			b.Fatal(err)
		}
	}
}

func (p *serverPair) rawAsync(b *testing.B, n int) {
	for range n {
		if _, err := p.js.PublishMsgAsync(p.rawMsg(), jetstream.WithStallWait(10*time.Second)); err != nil {
			b.Fatal(err)
		}
	}
	<-p.js.PublishAsyncComplete()
}

// compare does both in turn, a few times, and reports medians.
func (p *serverPair) compare(b *testing.B, ours, raw func(b *testing.B, n int)) {
	const rounds = 5
	var rates [2][]float64
	var allocs, client, server [2]float64
	var ratios []float64
	n := max(1, b.N/rounds)
	ours(b, n) // warm
	for range rounds {
		for who, f := range []func(*testing.B, int){ours, raw} {
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			mine, its := cpuOf(b, os.Getpid()), cpuOf(b, p.server.PID())
			begun := time.Now()
			f(b, n)
			rates[who] = append(rates[who], float64(n)/time.Since(begun).Seconds())
			client[who] += (cpuOf(b, os.Getpid()) - mine) * 1e6 / float64(n*rounds)
			server[who] += (cpuOf(b, p.server.PID()) - its) * 1e6 / float64(n*rounds)
			runtime.ReadMemStats(&after)
			allocs[who] += float64(after.Mallocs-before.Mallocs) / float64(n*rounds)
		}
		ratios = append(ratios, rates[0][len(rates[0])-1]/rates[1][len(rates[1])-1])
	}
	median := func(x []float64) float64 { slices.Sort(x); return x[len(x)/2] }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(rates[0]), "ours/s")
	b.ReportMetric(median(rates[1]), "raw/s")
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(client[0], "our-µs")
	b.ReportMetric(client[1], "raw-µs")
	b.ReportMetric(server[0], "our-server-µs")
	b.ReportMetric(server[1], "raw-server-µs")
	b.ReportMetric(allocs[0], "our-allocs")
	b.ReportMetric(allocs[1], "raw-allocs")
}

// cpuOf is the time in seconds that a process has spent, as Linux counts it.
func cpuOf(b *testing.B, pid int) float64 {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, err := strconv.Atoi(f[11])
	if err != nil {
		b.Fatal(err)
	}
	system, err := strconv.Atoi(f[12])
	if err != nil {
		b.Fatal(err)
	}
	return float64(user+system) / 100
}
