package drivertest

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/posthorn/posthorn"
)

var handlerCases = []Case{
	{Name: "handler/panic", Promise: "P3 P6", Doc: "a panic is an error: tried again, then a dead letter that names it; the process and the others go on", run: panics},
	{Name: "handler/goexit", Promise: "P3 P6", Doc: "a handler that ends its goroutine is an error, and its slot is free again", run: goexits},
	{Name: "handler/timeout", Promise: "P3 P6", Doc: "a handler's context ends at its timeout, each attempt has a whole one, and the reason is told", run: timesOut},
	{Name: "handler/ignores-context", Promise: "P6 P9", Doc: "a handler that ignores its context gives its slot to others and keeps its key until it returns", run: ignoresContext},
	{Name: "handler/skip", Promise: "P3", Doc: "a skipped event ends by the handler's word: counted, not tried again, no dead letter", run: skips},
	{Name: "handler/permanent", Promise: "P4", Doc: "a permanent error is a dead letter after one attempt", run: permanent},
	{Name: "handler/expired", Promise: "P3 P10", Doc: "an event that is past its expiry is counted and not handled, also when it expires between attempts", run: expires},
	{Name: "handler/middleware", Promise: "P4 peer 5", Doc: "middleware runs once for each attempt, outermost first, and the retry is outside of it", run: middlewares},
}

func panics(r *rig) {
	made := r.kind(r.topic("panic", 1), "made")
	n := r.open()
	n.listen("g", quick(), func(_ context.Context, e *posthorn.Event[item]) error {
		switch e.Key {
		case "always":
			panic("on purpose: always")
		case "once":
			if e.Attempt == 1 {
				panic(errors.New("on purpose: once"))
			}
		}
		return nil
	}, made)
	n.publish(made, r.items(12, "always", "once", "never")...)
	dead := n.hasDead("g", 4)
	for _, d := range dead {
		if d.Key != "always" || d.Reason != posthorn.CodePanic || d.Attempts != 6 {
			r.Errorf("dead letter of key %s for %s after %d attempts", d.Key, d.Reason, d.Attempts)
		}
		if all := strings.Join(d.Errors, "\n"); !strings.Contains(all, "on purpose") {
			r.Errorf("the dead letter does not say what the panic said: %q", all)
		}
	}
	n.ended("g")
	r.onceEach("g", 8)
}

func goexits(r *rig) {
	made := r.kind(r.topic("goexit", 1), "made")
	n := r.open()
	cfg := quick()
	cfg.Concurrency = 2
	n.listen("g", cfg, func(_ context.Context, e *posthorn.Event[item]) error {
		if e.Key == "exits" {
			runtime.Goexit()
		}
		return nil
	}, made)
	n.publish(made, r.items(20, "exits", "stays")...)
	for _, d := range n.hasDead("g", 10) {
		if d.Key != "exits" || d.Reason != posthorn.CodePanic {
			r.Errorf("dead letter of key %s for %s", d.Key, d.Reason)
		}
	}
	n.ended("g")
	r.onceEach("g", 10)
}

func timesOut(r *rig) {
	const timeout = 40 * time.Millisecond
	made := r.kind(r.topic("timeout", 1), "made")
	n := r.open()
	cfg := quick()
	cfg.Retry.Late = 1
	n.group("g", cfg, func(g *posthorn.Group) {
		made.Handle(g, n.recorded("g", func(ctx context.Context, e *posthorn.Event[item]) error {
			if e.Key != "slow" {
				return nil
			}
			end, has := ctx.Deadline()
			if left := time.Until(end); !has || left > timeout {
				r.Errorf("attempt %d began with %v left of %v", e.Attempt, left, timeout)
			}
			<-ctx.Done()
			return ctx.Err()
		}), posthorn.Timeout(timeout))
	})
	n.publish(made, r.items(1, "slow")...)
	n.publish(made, r.items(10, keys(5)...)...)
	d := n.hasDead("g", 1)[0]
	if d.Reason != posthorn.CodeTimeout || d.Attempts != 4 {
		r.Errorf("dead letter for %q after %d attempts, want %q after 4", d.Reason, d.Attempts, posthorn.CodeTimeout)
	}
	r.eventually("the others are handled", func() bool { return len(r.log.items(opEffect, "g")) >= 10 })
	starts := r.log.all(func(o op) bool { return o.what == opStart && o.key == "slow" })
	for i := 1; i < len(starts); i++ {
		if gap := starts[i].at.Sub(starts[i-1].at); gap < timeout/2 {
			r.Errorf("attempt %d began %v after the one before, whose timeout was %v", i+1, gap, timeout)
		}
	}
}

func ignoresContext(r *rig) {
	made := r.kind(r.topic("ignores", 1), "made")
	n := r.open()
	release := make(chan struct{})
	var running atomic.Int32
	cfg := quick()
	cfg.Concurrency = 1
	cfg.Retry.Attempts, cfg.Retry.Late = 1, posthorn.None
	n.group("g", cfg, func(g *posthorn.Group) {
		made.Handle(g, n.recorded("g", func(_ context.Context, e *posthorn.Event[item]) error {
			if e.Key == "deaf" && running.Add(1) == 1 {
				return n.block(context.Background(), release)
			}
			return nil
		}), posthorn.Timeout(30*time.Millisecond))
	})
	n.publish(made, r.items(1, "deaf")...)
	r.eventually("it runs", func() bool { return running.Load() == 1 })
	n.publish(made, r.items(1, "deaf")...)
	n.publish(made, r.items(5, "others")...)
	r.eventually("other keys go on while a handler ignores its deadline", func() bool { return len(r.log.items(opEffect, "g")) == 5 })
	r.never("the next of its key was started beside it", func() bool { return running.Load() > 1 })
	if s := n.bus.Stats(); s.Abandoned != 1 {
		r.Errorf("%d abandoned handlers are counted, want 1", s.Abandoned)
	}
	close(release)
	r.eventually("the next of its key is handled when it has returned", func() bool { return len(r.log.items(opEffect, "g")) >= 6 })
	dead := n.hasDead("g", 1)
	if dead[0].Reason != posthorn.CodeTimeout {
		r.Errorf("dead letter for %q, want %q", dead[0].Reason, posthorn.CodeTimeout)
	}
}

func skips(r *rig) {
	made := r.kind(r.topic("skip", 1), "made")
	n := r.open()
	n.listen("g", quick(), func(_ context.Context, e *posthorn.Event[item]) error {
		if e.Key == "skip" {
			return posthorn.Skip("not for us")
		}
		return nil
	}, made)
	n.publish(made, r.items(20, "skip", "keep")...)
	r.effects("g", 10)
	n.settled("g")
	if s := n.bus.Stats(); s.Skipped != 10 || s.Dead != 0 || s.Retried != 0 {
		r.Errorf("10 events were skipped by the handler: %d skipped, %d dead, %d retried", s.Skipped, s.Dead, s.Retried)
	}
}

func permanent(r *rig) {
	made := r.kind(r.topic("permanent", 1), "made")
	n := r.open()
	n.listen("g", quick(), func(_ context.Context, e *posthorn.Event[item]) error {
		if e.Key == "bad" {
			return posthorn.Permanent(errHandler)
		}
		return nil
	}, made)
	n.publish(made, r.items(10, "bad", "good")...)
	for _, d := range n.hasDead("g", 5) {
		if d.Reason != posthorn.CodePermanent || d.Attempts != 1 || !strings.Contains(strings.Join(d.Errors, ""), errHandler.Error()) {
			r.Errorf("dead letter for %q after %d attempts: %q", d.Reason, d.Attempts, d.Errors)
		}
	}
	n.ended("g")
	r.onceEach("g", 5)
}

func expires(r *rig) {
	made := r.kind(r.topic("expired", 1), "made")
	n := r.open()
	n.listen("g", quick(), func(_ context.Context, e *posthorn.Event[item]) error {
		if !e.Expires.IsZero() && e.Expires.Before(time.Now().Add(-time.Second)) {
			r.Errorf("an event that expired at %v is handled", e.Expires)
		}
		if e.Key == "later" {
			return posthorn.RetryAfter(errHandler, 30*time.Millisecond)
		}
		return nil
	}, made)
	it := r.items(3, "past", "future", "later")
	for i, expiry := range []time.Time{time.Now().Add(-time.Minute), time.Now().Add(time.Hour), time.Now().Add(2 * time.Second)} {
		if err := made.Publish(r.ctx, n.bus, it[i], posthorn.ExpiresAt(expiry)); err != nil {
			r.Fatalf("publish: %v", err)
		}
	}
	n.publish(made, r.items(5, "plain")...)
	r.effects("g", 6)
	r.eventually("the event that was past its expiry is counted", func() bool { return n.bus.Stats().Expired >= 1 })
	n.settled("g")
	for _, o := range r.log.of(opStart, "g") {
		if o.key == "past" {
			r.Errorf("it is handled after its expiry: %v", o)
		}
	}
}

func middlewares(r *rig) {
	made := r.kind(r.topic("middleware", 1), "made")
	n := r.open()
	var outer, inner atomic.Int32
	cfg := quick()
	cfg.Middleware = []posthorn.Middleware{func(next posthorn.Handler) posthorn.Handler {
		return func(ctx context.Context, d *posthorn.Delivery) error {
			outer.Add(1)
			return next(ctx, d)
		}
	}}
	n.group("g", cfg, func(g *posthorn.Group) {
		made.Handle(g, n.recorded("g", func(_ context.Context, e *posthorn.Event[item]) error {
			if e.Attempt < 5 {
				return errHandler
			}
			return nil
		}), posthorn.With(func(next posthorn.Handler) posthorn.Handler {
			return func(ctx context.Context, d *posthorn.Delivery) error {
				if outer.Load() != inner.Add(1) {
					r.Errorf("the group's middleware is not the outer one")
				}
				return next(ctx, d)
			}
		}))
	})
	n.publish(made, r.items(1, "k")...)
	n.ended("g")
	if o, i := outer.Load(), inner.Load(); o != 5 || i != 5 {
		r.Errorf("5 attempts went %d times through the outer and %d times through the inner middleware", o, i)
	}
}
