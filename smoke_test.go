package posthorn_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
	_ "github.com/posthorn/posthorn/driver/memory"
)

type placed struct {
	ID string `json:"id"`
	N  int    `json:"n"`
}

func TestSmoke(t *testing.T) {
	for _, shape := range []string{"log", "queue"} {
		t.Run(shape, func(t *testing.T) {
			ctx := t.Context()
			ev := posthorn.Define[placed]("order.placed", posthorn.Key(func(p placed) string { return p.ID }))
			bus, err := posthorn.Open(ctx, "memory:?shape="+shape)
			if err != nil {
				t.Fatal(err)
			}
			g := bus.Group("g", posthorn.GroupConfig{Retry: posthorn.Retry{Delay: time.Millisecond, LateDelay: time.Millisecond, Late: 1}})
			var mu sync.Mutex
			seen := map[string][]int{}
			done := make(chan struct{})
			n := 0
			ev.Handle(g, func(ctx context.Context, e *posthorn.Event[placed]) error {
				mu.Lock()
				defer mu.Unlock()
				if e.Data.N == 50 {
					return errors.New("no")
				}
				seen[e.Key] = append(seen[e.Key], e.Data.N)
				if n++; n == 990 {
					close(done)
				}
				return nil
			})
			if err := g.Start(ctx); err != nil {
				t.Fatal(err)
			}
			var out []*posthorn.Outgoing
			for i := range 1000 {
				out = append(out, ev.New(placed{ID: fmt.Sprint("k", i%10), N: i / 10}))
			}
			if err := bus.PublishAll(ctx, out...); err != nil {
				t.Fatal(err)
			}
			select {
			case <-done:
			case <-time.After(5 * time.Second):
				t.Fatalf("%d handled, %+v", n, bus.Stats())
			}
			for bus.Stats().Dead < 10 {
				time.Sleep(time.Millisecond)
			}
			if err := bus.Close(ctx); err != nil {
				t.Fatal(err)
			}
			for k, v := range seen {
				for i := 1; i < len(v); i++ {
					if v[i] <= v[i-1] {
						t.Fatal(k, v)
					}
				}
			}
			t.Logf("%+v", bus.Stats())
		})
	}
}

func BenchmarkMemory(b *testing.B) {
	ctx := b.Context()
	ev := posthorn.Define[placed]("order.placed", posthorn.Key(func(p placed) string { return p.ID }))
	bus, err := posthorn.Open(ctx, "memory:")
	if err != nil {
		b.Fatal(err)
	}
	defer bus.Close(ctx)
	var out []*posthorn.Outgoing
	for i := range b.N {
		out = append(out, ev.New(placed{ID: fmt.Sprint("k", i%10000), N: i / 10}))
	}
	if err := bus.PublishAll(ctx, out...); err != nil {
		b.Fatal(err)
	}
	g := bus.Group("g", posthorn.GroupConfig{})
	done := make(chan struct{})
	var mu sync.Mutex
	n := 0
	ev.Handle(g, func(ctx context.Context, e *posthorn.Event[placed]) error {
		mu.Lock()
		defer mu.Unlock()
		if n++; n == b.N {
			close(done)
		}
		return nil
	})
	b.ReportAllocs()
	b.ResetTimer()
	if err := g.Start(ctx); err != nil {
		b.Fatal(err)
	}
	<-done
}
