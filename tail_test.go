package posthorn_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
)

func TestTailFollows(t *testing.T) {
	t.Parallel()
	bus := testBus(t)
	must(OrderPlaced.Publish(t.Context(), bus, Placed{OrderID: "before"}))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	got := make(chan *posthorn.Delivery)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for d, err := range bus.Tail(ctx, posthorn.TailConfig{Types: []string{"order.*"}, Text: "2"}) {
			if err != nil {
				t.Error(err)
				return
			}
			got <- d
		}
	}()
	// It says nothing when it has begun: publish until something comes.
	var d *posthorn.Delivery
	for n := 0; d == nil; n++ {
		must(OrderPlaced.Publish(t.Context(), bus, Placed{OrderID: fmt.Sprint(n), Pence: 1}))
		must(OrderPlaced.Publish(t.Context(), bus, Placed{OrderID: fmt.Sprint(n), Pence: 2}))
		must(bus.Publish(t.Context(), "stock.short", 2))
		select {
		case d = <-got:
		case <-time.After(50 * time.Millisecond):
		}
	}
	if d.Type != "order.placed" || d.Key == "before" || d.Topic != "order" || d.Position == 0 || d.Stored.IsZero() || string(d.Data) == "" {
		t.Errorf("%+v", d)
	}
	stop()
	for {
		select {
		case <-got:
			continue
		case <-ended:
		}
		break
	}
}

// What is stored already comes by the time of storing, over all partitions.
func TestTailSince(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	bus := testBus(t)
	var want []string
	for i := range 1000 {
		key := fmt.Sprintf("o-%d", i)
		want = append(want, key)
		must(OrderPlaced.Publish(ctx, bus, Placed{OrderID: key}))
	}
	tail := func(cfg posthorn.TailConfig) (keys []string) {
		cfg.Stop = true
		for d, err := range bus.Tail(ctx, cfg) {
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, d.Key)
		}
		return keys
	}
	long := time.Now().Add(-time.Hour)
	if got := tail(posthorn.TailConfig{Since: long}); !slices.Equal(got, want) {
		t.Errorf("%d events, in another order", len(got))
	}
	if got := tail(posthorn.TailConfig{Since: long, Key: "o-77"}); !slices.Equal(got, []string{"o-77"}) {
		t.Errorf("of one key: %v", got)
	}
	if got := tail(posthorn.TailConfig{Since: long, Types: []string{"stock.*"}}); got != nil {
		t.Errorf("of other types: %v", got)
	}
	if got := tail(posthorn.TailConfig{}); got != nil {
		t.Errorf("from now: %v", got)
	}
	for _, c := range []posthorn.TailConfig{{Topics: []string{"stock"}}, {Topics: []string{"S"}}, {Types: []string{"["}}} {
		for _, err := range bus.Tail(ctx, c) {
			if err == nil {
				t.Errorf("%+v: no error", c)
			}
		}
	}
}
