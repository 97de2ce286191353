package posthorn_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
)

// A basket is what the tests delay.
type basket struct {
	Of string `json:"of"`
	N  int    `json:"n"`
}

var basketForgotten = posthorn.Define[basket]("basket.forgotten", posthorn.Key(func(b basket) string { return b.Of }))

// A till notes what comes, and when.
type till struct {
	mu  sync.Mutex
	ids []string
	at  map[string]time.Time
	all []posthorn.Event[basket]
}

func (c *till) take(_ context.Context, e *posthorn.Event[basket]) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at == nil {
		c.at = map[string]time.Time{}
	}
	c.ids = append(c.ids, e.ID)
	c.at[e.ID] = time.Now()
	c.all = append(c.all, *e)
	return nil
}

func (c *till) got() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.ids)
}

// listen starts a group of a bus that takes all baskets.
func (c *till) listen(t *testing.T, bus *posthorn.Bus) *posthorn.Group {
	t.Helper()
	g := bus.Group("till", posthorn.GroupConfig{})
	basketForgotten.Handle(g, c.take)
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return g
}

// openNamed opens a bus on a store of the test's own, or closes it.
func openNamed(t *testing.T, opts ...posthorn.Option) (*posthorn.Bus, func()) {
	t.Helper()
	u := "memory:" + strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
	bus, err := posthorn.Open(context.Background(), u, append([]posthorn.Option{posthorn.Service("test"), posthorn.Logger(slog.New(slog.DiscardHandler))}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	end := func() {
		if closed {
			return
		}
		closed = true
		if err := bus.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(end)
	return bus, end
}

func TestDelayedPublishing(t *testing.T) {
	for _, shape := range []string{"log", "queue"} {
		t.Run(shape, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bus, err := posthorn.Open(t.Context(), "memory:?shape="+shape, posthorn.Logger(slog.New(slog.DiscardHandler)))
				if err != nil {
					t.Fatal(err)
				}
				defer closeExample(bus)
				var c till
				c.listen(t, bus)
				began := time.Now()
				past := basketForgotten.New(basket{"past", 1}, posthorn.At(began.Add(-time.Hour)))
				events := []*posthorn.Outgoing{
					basketForgotten.New(basket{"a", 1}, posthorn.After(50*time.Hour)),
					basketForgotten.New(basket{"b", 2}, posthorn.At(began.Add(72*time.Hour)), posthorn.WithHeader("x-note", "hello")),
					basketForgotten.New(basket{"c", 3}, posthorn.After(0)),
					past,
				}
				must(bus.PublishAll(t.Context(), events...))
				time.Sleep(80 * time.Hour)
				c.mu.Lock()
				at := func(i int, due time.Duration) {
					t.Helper()
					if late := c.at[events[i].ID()].Sub(began) - due; late < 0 || late > 2*time.Second {
						t.Errorf("event %d came %v late", i, late)
					}
				}
				at(0, 50*time.Hour)
				at(1, 72*time.Hour)
				at(2, 0)
				at(3, 0)
				for _, e := range c.all {
					if !e.Time.Equal(began) {
						t.Errorf("event %s has time %v, want that of publishing, %v", e.ID, e.Time, began)
					}
					if e.ID == events[1].ID() && e.Headers["x-note"] != "hello" {
						t.Errorf("headers %v", e.Headers)
					}
				}
				c.mu.Unlock()
				if s := bus.Stats(); s.Published != 4 || s.Delayed != 2 || s.Moved != 2 || s.Handled != 4 {
					t.Errorf("stats %+v", s)
				}
				must(bus.PublishAll(t.Context(), past)) // it keeps its id and its time
				time.Sleep(time.Hour)
			})
		})
	}
}

func TestDelayRefusals(t *testing.T) {
	bus := testBus(t)
	publish := func(opts ...posthorn.PublishOption) error {
		return basketForgotten.Publish(t.Context(), bus, basket{"k", 1}, opts...)
	}
	wantError(t, publish(posthorn.After(-time.Second)), posthorn.CodeInvalid, "After(-1s)", "negative")
	wantError(t, publish(posthorn.After(11*365*24*time.Hour)), posthorn.CodeInvalid, "10 years")
	wantError(t, publish(posthorn.At(time.Now().AddDate(11, 0, 0))), posthorn.CodeInvalid, "10 years")
	wantError(t, publish(posthorn.At(time.Time{})), posthorn.CodeInvalid, "zero")
	wantError(t, publish(posthorn.After(time.Hour), posthorn.ExpiresAt(time.Now().Add(time.Minute))), posthorn.CodeInvalid, "expires", "due")
	must(publish(posthorn.After(time.Hour), posthorn.ExpiresAt(time.Now().Add(2*time.Hour))))
	must(publish(posthorn.After(time.Hour), posthorn.WithID("taken")))

	_, err := basketForgotten.Cancel(t.Context(), bus, "")
	wantError(t, err, posthorn.CodeInvalid, "empty")
	_, err = bus.Cancel(t.Context(), "Basket", "x")
	wantError(t, err, posthorn.CodeInvalid, "Basket")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = basketForgotten.Cancel(ctx, bus, "taken")
	wantError(t, err, posthorn.CodeCanceled, "basket.forgotten", "taken")
	if ok, err := bus.Cancel(t.Context(), "nobody.knows", "x"); ok || err != nil {
		t.Errorf("Cancel in a topic that nothing was delayed in: %v, %v", ok, err)
	}
	if ok, err := bus.Cancel(t.Context(), "basket.paid", "taken"); ok || err != nil {
		t.Errorf("Cancel of an event of another type: %v, %v", ok, err)
	}
	if ok, err := basketForgotten.Cancel(t.Context(), bus, "taken"); !ok || err != nil {
		t.Errorf("Cancel: %v, %v", ok, err)
	}
	must(bus.Close(t.Context()))
	_, err = basketForgotten.Cancel(t.Context(), bus, "taken")
	wantError(t, err, posthorn.CodeClosed)
	wantError(t, publish(posthorn.After(time.Hour)), posthorn.CodeClosed)
}

// TestDelayedID: an id that waits is stored once; under another service's id
// nothing is dropped.
func TestDelayedID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, _ := openNamed(t)
		two, _ := openNamed(t, posthorn.Service("other"))
		var c till
		c.listen(t, one)
		same := func(n int) *posthorn.Outgoing {
			return basketForgotten.New(basket{"k", n}, posthorn.WithID("same"), posthorn.After(time.Hour))
		}
		must(one.PublishAll(t.Context(), same(1), same(2)))
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() { must(one.PublishAll(t.Context(), same(10+i))) })
		}
		wg.Wait()
		wantError(t, two.PublishAll(t.Context(), same(3)), posthorn.CodeConflict, "service test", "same", "another id")
		time.Sleep(2 * time.Hour)
		if got := c.got(); !slices.Equal(got, []string{"same"}) || c.all[0].Data.N != 1 {
			t.Errorf("came %v", got)
		}
		if left, err := one.Cancel(t.Context(), "basket.forgotten", "same"); left || err != nil {
			t.Errorf("Cancel of what was published: %v, %v", left, err)
		}
	})
}

// TestDelayedRestart: whoever has published is gone; a bus with a group publishes
// what is due, whether it was there before or comes later.
func TestDelayedRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keep, _ := openNamed(t) // the store ends with its last bus
		_ = keep
		consumer, _ := openNamed(t)
		var c till
		c.listen(t, consumer)
		time.Sleep(90 * time.Second)
		publisher, end := openNamed(t)
		began := time.Now()
		a := basketForgotten.New(basket{"k", 1}, posthorn.After(time.Second))
		b := basketForgotten.New(basket{"k", 2}, posthorn.After(24*time.Hour))
		must(publisher.PublishAll(t.Context(), a, b))
		time.Sleep(2 * time.Second)
		if got := c.got(); !slices.Equal(got, []string{a.ID()}) {
			t.Errorf("came %v", got)
		}
		end()
		time.Sleep(25 * time.Hour)
		if got := c.got(); !slices.Equal(got, []string{a.ID(), b.ID()}) {
			t.Fatalf("came %v", got)
		}
		if late := c.at[b.ID()].Sub(began) - 24*time.Hour; late < 0 || late > 2*time.Second {
			t.Errorf("%v late", late)
		}
	})
}

// TestDelayedFromHandler: ids are derived, and the event settles only when what it
// has delayed is stored.
func TestDelayedFromHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus, _ := openNamed(t)
		var c till
		c.listen(t, bus)
		var runs atomic.Int64
		g := bus.Group("orders", posthorn.GroupConfig{Retry: posthorn.Retry{Attempts: 5, Delay: time.Second}})
		OrderPlaced.Handle(g, func(ctx context.Context, e *posthorn.Event[Placed]) error {
			for i := range 3 {
				if err := basketForgotten.Publish(ctx, bus, basket{e.Key, i}, posthorn.After(time.Hour)); err != nil {
					return err
				}
			}
			if runs.Add(1) < 4 {
				return fmt.Errorf("not yet")
			}
			return nil
		})
		must(g.Start(t.Context()))
		must(OrderPlaced.Publish(t.Context(), bus, Placed{OrderID: "7"}, posthorn.WithID("order-7"), posthorn.WithCorrelationID("corr")))
		time.Sleep(3 * time.Hour)
		if got := c.got(); len(got) != 3 || runs.Load() != 4 {
			t.Fatalf("%d events of %d runs: %v", len(got), runs.Load(), got)
		}
		for i, e := range c.all {
			if e.CausationID != "order-7" || e.CorrelationID != "corr" || e.Data.N != i {
				t.Errorf("event %d: %+v", i, e)
			}
		}
	})
}

// laneFaults is a driver whose lanes from outside fail when they are asked to.
type laneFaults struct {
	driver.Driver
	apply atomic.Pointer[func(ctx context.Context, l driver.Lane, ops []driver.LaneOp) error]
	calls atomic.Int64
	ops   atomic.Int64
}

type faultyLane struct {
	driver.Lane
	d *laneFaults
}

func (d *laneFaults) Lane(group string, p driver.Partition) driver.Lane {
	return &faultyLane{d.Driver.Lane(group, p), d}
}

func (l *faultyLane) Apply(ctx context.Context, ops []driver.LaneOp) error {
	l.d.calls.Add(1)
	l.d.ops.Add(int64(len(ops)))
	if f := l.d.apply.Load(); f != nil {
		return (*f)(ctx, l.Lane, ops)
	}
	return l.Lane.Apply(ctx, ops)
}

func (d *laneFaults) fail(f func(ctx context.Context, l driver.Lane, ops []driver.LaneOp) error) {
	d.apply.Store(&f)
}

func openFaulty(t *testing.T) (*posthorn.Bus, *laneFaults) {
	t.Helper()
	open, _ := driver.Lookup("memory")
	inner, err := open(t.Context(), &url.URL{Scheme: "memory"}, driver.Env{Service: "test", Member: "m", Log: slog.New(slog.DiscardHandler), Alarm: func(driver.Alarm) {}, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	d := &laneFaults{Driver: inner}
	bus, err := posthorn.OpenDriver(t.Context(), d, posthorn.Service("test"), posthorn.Logger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.apply.Store(nil)
		if err := bus.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return bus, d
}

// TestDelayOutcomes: what the lane says of each event is what the caller hears.
func TestDelayOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus, d := openFaulty(t)
		var errs []error
		d.fail(func(ctx context.Context, l driver.Lane, ops []driver.LaneOp) error {
			var first error
			for i := range ops {
				switch ops[i].Entry.Msg.ID {
				case "full":
					ops[i].Err = fmt.Errorf("entry: %w", driver.ErrNoSpace)
				case "silent":
					ops[i].Err = fmt.Errorf("no answer: %w", driver.ErrUnavailable)
				default:
					ops[i].Err = l.Apply(ctx, ops[i:i+1])
				}
				if first == nil {
					first = ops[i].Err
				}
			}
			return first
		})
		event := func(id string) *posthorn.Outgoing {
			return basketForgotten.New(basket{"k", 1}, posthorn.WithID(id), posthorn.After(time.Hour))
		}
		err := bus.PublishAll(t.Context(), event("a"), event("full"), event("silent"), event("b"), event("a"))
		pe, ok := err.(*posthorn.PublishError)
		if !ok {
			t.Fatalf("got %v", err)
		}
		var got []string
		for _, r := range pe.Results {
			got = append(got, fmt.Sprintf("%s %s %v %s", r.ID, r.State, r.Duplicate, posthorn.CodeOf(r.Err)))
		}
		want := []string{"a stored false ", "full not stored false no_space", "silent unknown false unavailable", "b stored false ", "a stored true "}
		if !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
		// An error of the whole call, and one that never answers.
		d.fail(func(context.Context, driver.Lane, []driver.LaneOp) error { return driver.ErrDenied })
		errs = append(errs, bus.PublishAll(t.Context(), event("c")))
		d.fail(func(ctx context.Context, _ driver.Lane, _ []driver.LaneOp) error { <-ctx.Done(); return ctx.Err() })
		errs = append(errs, bus.PublishAll(t.Context(), event("d")))
		wantError(t, errs[0], posthorn.CodeDenied)
		wantError(t, errs[1], posthorn.CodeUnknown)
		// Cancelling with an unknown end.
		d.fail(func(context.Context, driver.Lane, []driver.LaneOp) error { return driver.ErrUnavailable })
		_, err = basketForgotten.Cancel(t.Context(), bus, "a")
		wantError(t, err, posthorn.CodeUnknown, "basket.forgotten", "may have been cancelled")
	})
}

// TestCancelledAndDelayedAgain: a cancelled entry that could not be deleted is in
// nobody's way.
func TestCancelledAndDelayedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus, d := openFaulty(t)
		var c till
		c.listen(t, bus)
		publish := func(n int) {
			must(basketForgotten.Publish(t.Context(), bus, basket{"k", n}, posthorn.WithID("a"), posthorn.After(time.Hour)))
		}
		cancel := func() bool {
			ok, err := basketForgotten.Cancel(t.Context(), bus, "a")
			must(err)
			return ok
		}
		publish(1)
		d.fail(func(ctx context.Context, l driver.Lane, ops []driver.LaneOp) error {
			if ops[0].Delete {
				return driver.ErrUnavailable
			}
			return l.Apply(ctx, ops)
		})
		if !cancel() || cancel() {
			t.Error("the first call cancels, and no other")
		}
		time.Sleep(2 * time.Hour)
		publish(2)
		publish(3)
		d.apply.Store(nil)
		time.Sleep(2 * time.Hour)
		if got := c.got(); !slices.Equal(got, []string{"a"}) || c.all[0].Data.N != 2 {
			t.Errorf("came %v", got)
		}
	})
}

// TestDelayIsPipelined: a batch costs one call, and callers who wait share one.
func TestDelayIsPipelined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus, d := openFaulty(t)
		must(basketForgotten.Publish(t.Context(), bus, basket{"k", 0}, posthorn.After(time.Hour)))
		before := d.calls.Load()
		var batch []*posthorn.Outgoing
		for i := range 1000 {
			batch = append(batch, basketForgotten.New(basket{fmt.Sprint(i), i}, posthorn.After(time.Hour)))
		}
		must(bus.PublishAll(t.Context(), batch...))
		if n := d.calls.Load() - before; n != 1 {
			t.Errorf("a batch of 1000 took %d calls", n)
		}
		d.fail(func(ctx context.Context, l driver.Lane, ops []driver.LaneOp) error {
			time.Sleep(time.Millisecond)
			return l.Apply(ctx, ops)
		})
		before = d.calls.Load()
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				must(basketForgotten.Publish(t.Context(), bus, basket{fmt.Sprint(i), i}, posthorn.After(time.Hour)))
			})
		}
		wg.Wait()
		if n := d.calls.Load() - before; n > 3 {
			t.Errorf("200 callers at a time took %d calls", n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
		defer cancel()
		time.Sleep(time.Second)
		wantError(t, basketForgotten.Publish(ctx, bus, basket{"k", 0}, posthorn.After(time.Hour)), posthorn.CodeTimeout)
	})
}

// TestHiddenFromUsers: what holds delayed events shows in Describe, and nowhere
// that groups and topics are listed.
func TestHiddenFromUsers(t *testing.T) {
	bus := testBus(t)
	must(basketForgotten.Publish(t.Context(), bus, basket{"k", 0}, posthorn.After(time.Hour)))
	desc, err := bus.Describe(t.Context())
	must(err)
	if len(desc.Groups) != 0 {
		t.Errorf("Describe lists the groups %+v", desc.Groups)
	}
	told := false
	for _, th := range desc.Things {
		told = told || strings.Contains(th.Name, "_delay.basket") && strings.Contains(th.Why, "delayed")
	}
	if !told {
		t.Errorf("Describe does not say why there is _delay.basket: %+v", desc.Things)
	}
	_, err = bus.Lag(t.Context(), "_delay.basket")
	wantError(t, err, posthorn.CodeInvalid)
}

// What nobody delays is not delayed, though its time is past the one that has surely
// been reached: the wall clock has gone forward a little since the bus was opened.
func TestNotDelayed(t *testing.T) {
	t.Parallel()
	var off atomic.Int64
	bus := testBus(t, posthorn.WallClock(func() time.Time { return time.Now().Add(time.Duration(off.Load())) }))
	off.Store(int64(30 * time.Second))
	for _, opts := range [][]posthorn.PublishOption{nil, {posthorn.After(0)}} {
		if err := basketForgotten.Publish(t.Context(), bus, basket{Of: "a"}, opts...); err != nil {
			t.Fatal(err)
		}
	}
	if s := bus.Stats(); s.Published != 2 || s.Delayed != 0 {
		t.Errorf("%+v", s)
	}
}
