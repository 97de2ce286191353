package posthorn_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/posthorn/posthorn"
)

// An observer is middleware that notes what it sees.
type observer struct {
	mu   sync.Mutex
	seen []string
}

func (o *observer) note(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seen = append(o.seen, fmt.Sprintf(format, args...))
}

func (o *observer) take() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	seen := strings.Join(o.seen, ", ")
	o.seen = nil
	return seen
}

func (o *observer) publish(next posthorn.Publisher) posthorn.Publisher {
	return func(ctx context.Context, e *posthorn.Outgoing) error {
		if e.ID() == "" {
			o.note("no id")
		}
		o.note("%v", e.Data())
		e.SetHeader("seen", fmt.Sprint(e.Data()))
		e.OnResult(func(r posthorn.Result) {
			if r.ID != e.ID() {
				o.note("result of another event")
			}
			o.note("%v %s", e.Data(), r.State)
		})
		return next(ctx, e)
	}
}

// Each way of publishing meets the middleware, each event once, in order, and with
// its outcome before the caller has it.
func TestPublishThrough(t *testing.T) {
	t.Parallel()
	var o observer
	bus := openExample(posthorn.PublishThrough(o.publish))
	defer closeExample(bus)
	type seen struct{ data, header, cause string }
	got, seenAll := make(chan seen, 10), make(chan struct{})
	group := bus.Group("g", posthorn.GroupConfig{})
	counted.Handle(group, func(ctx context.Context, e *posthorn.Event[int]) error {
		got <- seen{fmt.Sprint(e.Data), e.Headers["seen"], e.CausationID}
		if e.Data == 100 {
			<-seenAll
			return counted.Publish(ctx, bus, 101)
		}
		return nil
	})
	if err := group.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := func(what, notes string, events ...string) {
		t.Helper()
		for _, e := range events {
			if s := <-got; s.data != e || s.header != e {
				t.Errorf("%s: %+v arrives, want %s", what, s, e)
			}
		}
		if s := o.take(); s != notes {
			t.Errorf("%s: the middleware saw %q, want %q", what, s, notes)
		}
	}
	ctx := t.Context()
	must(counted.Publish(ctx, bus, 1))
	want("Publish", "1, 1 stored", "1")
	must(bus.PublishAll(ctx, counted.New(2), counted.New(3)))
	want("PublishAll", "2, 3, 2 stored, 3 stored", "2", "3")
	must(counted.PublishAsync(ctx, bus, 4).Wait(ctx))
	want("PublishAsync", "4, 4 stored", "4")
	must(counted.Publish(ctx, bus, 5, posthorn.After(time.Millisecond)))
	want("After", "5, 5 stored", "5")
	must(bus.Publish(ctx, "count.made", 6, posthorn.WithKey("k")))
	want("untyped", "6, 6 stored", "6")
	must(counted.Publish(ctx, bus, 100))
	want("in a handler", "100, 100 stored", "100")
	close(seenAll)
	if s := <-got; s.data != "101" || s.header != "101" || s.cause == "" {
		t.Errorf("what a handler publishes: %+v", s)
	}
	waitUntil(func() bool { return bus.Stats().Handled >= 8 })
	if s := o.take(); s != "101, 101 stored" {
		t.Errorf("what a handler publishes: the middleware saw %q", s)
	}
}

func TestPublishThroughRefuses(t *testing.T) {
	t.Parallel()
	own := errors.New("not on Sundays")
	refuse := func(next posthorn.Publisher) posthorn.Publisher {
		return func(ctx context.Context, o *posthorn.Outgoing) error {
			switch o.Data().(int) {
			case 1:
				return own
			case 2:
				return nil // forgotten
			case 3:
				_ = next(ctx, o)
				return own
			case 4:
				_ = next(ctx, o)
				return next(ctx, o)
			case 5:
				return next(ctx, counted.New(50))
			case 6:
				o.SetHeader("no good", "")
				return next(ctx, o)
			}
			return next(ctx, o)
		}
	}
	bus := openExample(posthorn.PublishThrough(refuse))
	defer closeExample(bus)
	var events []*posthorn.Outgoing
	for i := range 8 {
		events = append(events, counted.New(i))
	}
	want := []posthorn.Code{"", posthorn.CodeRefused, posthorn.CodeInvalid, posthorn.CodeRefused, posthorn.CodeInvalid, posthorn.CodeInvalid, posthorn.CodeInvalid, ""}
	async := bus.PublishAsync(t.Context(), events...)
	<-async.Done()
	for _, err := range []error{bus.PublishAll(t.Context(), events...), async.Err()} {
		var pe *posthorn.PublishError
		if !errors.As(err, &pe) {
			t.Fatal(err)
		}
		for i, r := range pe.Results {
			state := posthorn.NotStored
			if want[i] == "" {
				state = posthorn.Stored
			}
			if got := posthorn.CodeOf(r.Err); got != want[i] || r.State != state {
				t.Errorf("event %d: %s, code %q, want %q (%v)", i, r.State, got, want[i], r.Err)
			}
		}
		if !errors.Is(err, own) {
			t.Errorf("%v does not say why", err)
		}
	}
}

// A handler whose event is refused has failed, and the next attempt's ids are those
// of the first, whatever was refused.
func TestPublishThroughRefusesInHandlers(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	ids := map[int][]string{}
	refused := 0
	bus := openExample(posthorn.PublishThrough(func(next posthorn.Publisher) posthorn.Publisher {
		return func(ctx context.Context, o *posthorn.Outgoing) error {
			n := o.Data().(int)
			mu.Lock()
			defer mu.Unlock()
			ids[n] = append(ids[n], o.ID())
			if n == 11 && refused < 2 {
				refused++
				return errors.New("not yet")
			}
			return next(ctx, o)
		}
	}))
	defer closeExample(bus)
	group := bus.Group("g", posthorn.GroupConfig{Retry: posthorn.Retry{Delay: time.Millisecond}})
	counted.Handle(group, func(ctx context.Context, e *posthorn.Event[int]) error {
		if e.Data == 1 {
			_ = counted.Publish(ctx, bus, 11) // carelessly
			counted.PublishAsync(ctx, bus, 12)
		}
		return nil
	})
	must(group.Start(t.Context()))
	must(counted.Publish(t.Context(), bus, 1))
	waitUntil(func() bool { return bus.Stats().Handled >= 3 })
	must(group.Stop(t.Context()))
	if s := bus.Stats(); s.Retried != 2 {
		t.Errorf("it was tried again %d times", s.Retried)
	}
	for n, of := range map[int][]string{11: ids[11], 12: ids[12]} {
		slices.Sort(of)
		if len(of) != 3 || len(slices.Compact(of)) != 1 {
			t.Errorf("event %d has the ids %v over three attempts", n, of)
		}
	}
	if ids[11][0] == ids[12][0] {
		t.Error("two events have one id")
	}
}

// What a handler publishes asynchronously, and which never got as far as an id, fails
// it as well: nobody may have looked.
func TestAsyncInvalidFailsHandler(t *testing.T) {
	t.Parallel()
	bus := openExample()
	defer closeExample(bus)
	keyed := posthorn.Define[string]("keyed.made", posthorn.Key(func(s string) string { return s }))
	group := bus.Group("g", posthorn.GroupConfig{Retry: posthorn.Retry{Attempts: 1, Late: posthorn.None}})
	counted.Handle(group, func(ctx context.Context, e *posthorn.Event[int]) error {
		keyed.PublishAsync(ctx, bus, "")
		return nil
	})
	must(group.Start(t.Context()))
	must(counted.Publish(t.Context(), bus, 1))
	waitUntil(func() bool { return deadLetters(bus, "g") == 1 })
}

// The context that the middleware hands on is the one whose span the event carries.
func TestPublishThroughSpan(t *testing.T) {
	t.Parallel()
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	bus := openExample(posthorn.PublishThrough(func(next posthorn.Publisher) posthorn.Publisher {
		return func(ctx context.Context, o *posthorn.Outgoing) error {
			return next(trace.ContextWithSpanContext(posthorn.ContextWithCorrelation(ctx, "c-1"), span), o)
		}
	}))
	defer closeExample(bus)
	got := make(chan string, 1)
	group := bus.Group("g", posthorn.GroupConfig{})
	counted.Handle(group, func(ctx context.Context, e *posthorn.Event[int]) error {
		got <- e.CorrelationID + " " + trace.SpanContextFromContext(ctx).TraceID().String()
		return nil
	})
	must(group.Start(t.Context()))
	must(counted.Publish(t.Context(), bus, 1))
	if s := <-got; s != "c-1 "+span.TraceID().String() {
		t.Errorf("it arrives with %s", s)
	}
}

// Headers that are set while an earlier publish of the event may be under way are not
// those of that one.
func TestSetHeaderAgain(t *testing.T) {
	t.Parallel()
	n := 0
	bus, s := openScripted(t, posthorn.PublishTimeout(10*time.Millisecond), posthorn.PublishThrough(func(next posthorn.Publisher) posthorn.Publisher {
		return func(ctx context.Context, o *posthorn.Outgoing) error {
			n++
			o.SetHeader("try", fmt.Sprint(n))
			if o.Header("TRY") != fmt.Sprint(n) || o.Header("other") != "" {
				return fmt.Errorf("the header is %q", o.Header("try"))
			}
			return next(ctx, o)
		}
	}))
	o := counted.New(1, posthorn.WithHeader("Try", "0"))
	var calls []appendCall
	for range 2 {
		if err := bus.PublishAll(t.Context(), o); posthorn.CodeOf(err) != posthorn.CodeUnknown {
			t.Fatal(err)
		}
		calls = append(calls, <-s.calls)
		calls[len(calls)-1].answer(stored)
	}
	for i, c := range calls {
		if h := c.msgs[0].Headers; len(h) != 1 || h[0].Value != fmt.Sprint(i+1) {
			t.Errorf("try %d has the headers %v", i+1, h)
		}
	}
}

// A panic in the middleware is the handler's, and leaves nothing open that its
// attempt would wait for.
func TestPublishThroughPanics(t *testing.T) {
	t.Parallel()
	bus := openExample(posthorn.PublishThrough(func(next posthorn.Publisher) posthorn.Publisher {
		return func(ctx context.Context, o *posthorn.Outgoing) error {
			if o.Data().(int) > 10 {
				panic("on purpose")
			}
			return next(ctx, o)
		}
	}))
	defer closeExample(bus)
	group := bus.Group("g", posthorn.GroupConfig{Timeout: time.Hour, Retry: posthorn.Retry{Attempts: 1, Late: posthorn.None}})
	counted.Handle(group, func(ctx context.Context, e *posthorn.Event[int]) error {
		if e.Data == 1 {
			counted.PublishAsync(ctx, bus, 11)
		}
		return bus.PublishAll(ctx, counted.New(3), counted.New(12))
	})
	must(group.Start(t.Context()))
	must(counted.Publish(t.Context(), bus, 1))
	must(counted.Publish(t.Context(), bus, 2))
	waitUntil(func() bool { return deadLetters(bus, "g") == 2 })
	for d, err := range bus.DeadLetters(t.Context(), "g") {
		if err != nil || d.Reason != posthorn.CodePanic {
			t.Errorf("%v, %v", d.Reason, err)
		}
	}
}

func TestPublishThroughNil(t *testing.T) {
	t.Parallel()
	_, err := posthorn.Open(t.Context(), "memory:", posthorn.PublishThrough(nil))
	if posthorn.CodeOf(err) != posthorn.CodeInvalid {
		t.Error(err)
	}
}
