package posthorn_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/posthorn/posthorn"
)

func TestBatchRefuses(t *testing.T) {
	t.Parallel()
	accept := func(context.Context, []*posthorn.Event[Placed]) error { return nil }
	for _, c := range []struct {
		name  string
		fn    func(context.Context, []*posthorn.Event[Placed]) error
		cfg   posthorn.GroupConfig
		opts  []posthorn.BatchOption
		words []string
	}{
		{name: "nil", words: []string{`group "g"`, "order.placed", "nil"}},
		{name: "size", fn: accept, opts: []posthorn.BatchOption{posthorn.BatchSize(-1)}, words: []string{`group "g"`, "BatchSize(-1)", "order.placed", "one event or more"}},
		{name: "wait", fn: accept, opts: []posthorn.BatchOption{posthorn.BatchWait(-1)}, words: []string{`group "g"`, "BatchWait(-1ns)", "order.placed", "negative"}},
		{name: "timeout", fn: accept, opts: []posthorn.BatchOption{posthorn.Timeout(-1)}, words: []string{`group "g"`, "timeout", "order.placed", "negative"}},
		{name: "retry", fn: accept, opts: []posthorn.BatchOption{posthorn.WithRetry(posthorn.Retry{Late: -2})}, words: []string{`group "g"`, "order.placed", "posthorn.None"}},
		{name: "never full", fn: accept, cfg: posthorn.GroupConfig{Concurrency: 8}, opts: []posthorn.BatchOption{posthorn.BatchSize(9)},
			words: []string{`group "g"`, "BatchSize(9)", "order.placed", "8 events at a time", "Concurrency to 9", "to 8 or less"}},
		{name: "default concurrency", fn: accept, opts: []posthorn.BatchOption{posthorn.BatchSize(65)}, words: []string{"64 events at a time"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			group := testBus(t).Group("g", c.cfg)
			OrderPlaced.HandleBatch(group, c.fn, c.opts...)
			wantError(t, group.Start(t.Context()), posthorn.CodeInvalid, c.words...)
		})
	}
}

// A batch may be as large as the group is wide, and the default adapts to a narrow
// one.
func TestBatchSizeFitsTheGroup(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]posthorn.BatchOption{
		"given": {posthorn.BatchSize(4), posthorn.BatchWait(time.Hour)}, "default": {posthorn.BatchWait(time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bus := testBus(t)
			group := bus.Group("g", posthorn.GroupConfig{Concurrency: 4})
			sizes := make(chan int, 8)
			OrderPlaced.HandleBatch(group, func(_ context.Context, events []*posthorn.Event[Placed]) error {
				sizes <- len(events)
				return nil
			}, opts...)
			if err := group.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, id := range []string{"a", "b", "c", "d"} {
				if err := OrderPlaced.Publish(t.Context(), bus, Placed{OrderID: id}); err != nil {
					t.Fatal(err)
				}
			}
			if n := <-sizes; n != 4 {
				t.Errorf("the batch has %d events, want 4", n)
			}
		})
	}
}

// One that cannot be decoded is nobody else's failure.
func TestBatchLeavesOutTheUndecodable(t *testing.T) {
	t.Parallel()
	bus := testBus(t)
	group := bus.Group("g", posthorn.GroupConfig{})
	var mu sync.Mutex
	var got []string
	OrderPlaced.HandleBatch(group, func(_ context.Context, events []*posthorn.Event[Placed]) error {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range events {
			got = append(got, e.Data.OrderID)
		}
		return nil
	}, posthorn.BatchWait(time.Millisecond))
	if err := group.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := bus.PublishAll(t.Context(), OrderPlaced.New(Placed{OrderID: "a"}), OrderPlaced.New(Placed{OrderID: "b"})); err != nil {
		t.Fatal(err)
	}
	if err := bus.Publish(t.Context(), "order.placed", "no object", posthorn.WithKey("c")); err != nil {
		t.Fatal(err)
	}
	waitUntil(func() bool { return bus.Stats().Handled == 2 && deadLetters(bus, "g") == 1 })
	mu.Lock()
	defer mu.Unlock()
	if slices.Sort(got); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("handled %v", got)
	}
}

// Middleware sees each event by itself, and its verdict.
func TestBatchMiddleware(t *testing.T) {
	t.Parallel()
	bus := testBus(t)
	refused := errors.New("refused")
	var mu sync.Mutex
	seen := map[string]error{}
	group := bus.Group("g", posthorn.GroupConfig{
		Retry: posthorn.Retry{Attempts: posthorn.None, Late: posthorn.None},
		Middleware: []posthorn.Middleware{func(next posthorn.Handler) posthorn.Handler {
			return func(ctx context.Context, d *posthorn.Delivery) error {
				err := next(ctx, d)
				mu.Lock()
				defer mu.Unlock()
				seen[d.Key] = err
				return err
			}
		}},
	})
	OrderPlaced.HandleBatch(group, func(_ context.Context, events []*posthorn.Event[Placed]) error {
		each := make(posthorn.Verdicts, len(events))
		for i, e := range events {
			if e.Key == "b" {
				each[i] = refused
			}
		}
		return each
	}, posthorn.BatchSize(3), posthorn.BatchWait(time.Hour))
	if err := group.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := bus.PublishAll(t.Context(), OrderPlaced.New(Placed{OrderID: "a"}), OrderPlaced.New(Placed{OrderID: "b"}), OrderPlaced.New(Placed{OrderID: "c"})); err != nil {
		t.Fatal(err)
	}
	waitUntil(func() bool { return bus.Stats().Handled == 2 && deadLetters(bus, "g") == 1 })
	mu.Lock()
	defer mu.Unlock()
	if len(seen) != 3 || seen["a"] != nil || !errors.Is(seen["b"], refused) || seen["c"] != nil {
		t.Errorf("middleware saw %v", seen)
	}
}

func TestBatchMiddlewareWithoutContext(t *testing.T) {
	t.Parallel()
	bus := testBus(t)
	group := bus.Group("g", posthorn.GroupConfig{Retry: posthorn.Retry{Attempts: posthorn.None, Late: posthorn.None}})
	OrderPlaced.HandleBatch(group, func(context.Context, []*posthorn.Event[Placed]) error { return nil },
		posthorn.With(func(next posthorn.Handler) posthorn.Handler {
			return func(_ context.Context, d *posthorn.Delivery) error { return next(context.Background(), d) }
		}))
	if err := group.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := OrderPlaced.Publish(t.Context(), bus, Placed{OrderID: "a"}); err != nil {
		t.Fatal(err)
	}
	waitUntil(func() bool { return deadLetters(bus, "g") == 1 })
	for d, err := range bus.DeadLetters(t.Context(), "g") {
		if err != nil || d.Reason != posthorn.CodeInvalid || !strings.Contains(d.Errors[0], "hand that on") {
			t.Errorf("%v %s %q", err, d.Reason, d.Errors)
		}
	}
}

// What a batch publishes belongs to the trace of its cause; ids that middleware and
// the batch derive from one event differ.
func TestBatchCauses(t *testing.T) {
	t.Parallel()
	bus := testBus(t)
	done := posthorn.Define[Placed]("made.done", posthorn.Key(func(p Placed) string { return p.OrderID }))
	up := bus.Group("up", posthorn.GroupConfig{})
	OrderPlaced.HandleBatch(up, func(ctx context.Context, events []*posthorn.Event[Placed]) error {
		var all []*posthorn.Outgoing
		for _, e := range events {
			all = append(all, done.New(e.Data, posthorn.CausedBy(e)))
		}
		return bus.PublishAll(ctx, all...)
	}, posthorn.BatchSize(2), posthorn.BatchWait(time.Hour), posthorn.With(func(next posthorn.Handler) posthorn.Handler {
		return func(ctx context.Context, d *posthorn.Delivery) error {
			if err := done.Publish(ctx, bus, Placed{OrderID: d.Key}); err != nil {
				return err
			}
			return next(ctx, d)
		}
	}))
	type seen struct {
		trace trace.TraceID
		event posthorn.Meta
	}
	got := make(chan seen, 8)
	down := bus.Group("down", posthorn.GroupConfig{})
	done.Handle(down, func(ctx context.Context, e *posthorn.Event[Placed]) error {
		got <- seen{trace.SpanContextFromContext(ctx).TraceID(), e.Meta}
		return nil
	})
	for _, g := range []*posthorn.Group{up, down} {
		if err := g.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	traces := map[string]trace.TraceID{"a": {1}, "b": {2}}
	for key, id := range traces {
		sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: trace.SpanID{1}, TraceFlags: trace.FlagsSampled})
		if err := OrderPlaced.Publish(trace.ContextWithSpanContext(t.Context(), sc), bus, Placed{OrderID: key}); err != nil {
			t.Fatal(err)
		}
	}
	ids := map[string]bool{}
	for range 4 {
		s := <-got
		ids[s.event.ID] = true
		if s.trace != traces[s.event.Key] {
			t.Errorf("the event of %s is in trace %s, want %s", s.event.Key, s.trace, traces[s.event.Key])
		}
	}
	if len(ids) != 4 {
		t.Errorf("4 events have %d ids", len(ids))
	}
}

func TestVerdictsText(t *testing.T) {
	t.Parallel()
	a, b := errors.New("no stock"), errors.New("no price")
	v := posthorn.Verdicts{nil, a, nil, b}
	if got := v.Error(); got != "2 of 4 events failed: event 1: no stock; event 3: no price" {
		t.Error(got)
	}
	if !errors.Is(v, a) || !errors.Is(v, b) || errors.Is(v, context.Canceled) {
		t.Error("Unwrap")
	}
}

// The first event waits as long as it is told, and no longer; the timeout begins
// with the handler.
func TestBatchWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus, err := posthorn.Open(context.Background(), "memory:", posthorn.Service("test"))
		if err != nil {
			t.Fatal(err)
		}
		group := bus.Group("g", posthorn.GroupConfig{})
		type call struct {
			n        int
			at       time.Duration
			deadline time.Duration
		}
		calls := make(chan call, 4)
		begun := time.Now()
		OrderPlaced.HandleBatch(group, func(ctx context.Context, events []*posthorn.Event[Placed]) error {
			d, _ := ctx.Deadline()
			calls <- call{len(events), time.Since(begun), time.Until(d)}
			return nil
		}, posthorn.BatchSize(8), posthorn.BatchWait(3*time.Second), posthorn.Timeout(time.Second))
		if err := group.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"a", "b"} {
			if err := OrderPlaced.Publish(context.Background(), bus, Placed{OrderID: key}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		c := <-calls
		if c.n != 2 || c.at < 3*time.Second || c.at > 3100*time.Millisecond || c.deadline != time.Second {
			t.Errorf("a batch of %d after %v with %v to go; want 2 after 3s with 1s", c.n, c.at, c.deadline)
		}
		if err := bus.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// What a batch publishes asynchronously is its cause's, or, without one, fails all.
func TestBatchPublishesAsync(t *testing.T) {
	t.Parallel()
	bus := testBus(t)
	done := posthorn.Define[Placed]("made.done", posthorn.Key(func(p Placed) string { return p.OrderID }))
	var bad atomic.Bool
	up := bus.Group("up", posthorn.GroupConfig{Retry: posthorn.Retry{Attempts: posthorn.None, Late: posthorn.None}})
	OrderPlaced.HandleBatch(up, func(ctx context.Context, events []*posthorn.Event[Placed]) error {
		for i, e := range events {
			if bad.Load() && i == 0 {
				done.PublishAsync(ctx, bus, e.Data)
				continue
			}
			done.PublishAsync(ctx, bus, e.Data, posthorn.CausedBy(e))
		}
		return nil
	}, posthorn.BatchSize(2), posthorn.BatchWait(time.Hour))
	causes := make(chan [2]string, 8)
	down := bus.Group("down", posthorn.GroupConfig{})
	done.Handle(down, func(ctx context.Context, e *posthorn.Event[Placed]) error {
		causes <- [2]string{e.Key, e.CausationID}
		return nil
	})
	for _, g := range []*posthorn.Group{up, down} {
		if err := g.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	publish := func(keys ...string) {
		for _, key := range keys {
			if err := OrderPlaced.Publish(t.Context(), bus, Placed{OrderID: key}, posthorn.WithID("id-of-"+key)); err != nil {
				t.Fatal(err)
			}
		}
	}
	publish("a", "b")
	for range 2 {
		if c := <-causes; c[1] != "id-of-"+c[0] {
			t.Errorf("the event of %s is caused by %s", c[0], c[1])
		}
	}
	bad.Store(true)
	publish("c", "d")
	waitUntil(func() bool { return deadLetters(bus, "up") == 2 })
	for d, err := range bus.DeadLetters(t.Context(), "up") {
		if err != nil || !strings.Contains(d.Errors[0], "asynchronously") || !strings.Contains(d.Errors[0], "CausedBy") {
			t.Errorf("%v %q", err, d.Errors)
		}
	}
}
