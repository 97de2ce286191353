package posthorn_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/deadletter"
)

// Why tells the truth of what was dead: set back, replayed, dead again, handled.
func TestWhyOfTheDead(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	bus := testBus(t)
	var mended atomic.Bool
	g := bus.Group("billing", posthorn.GroupConfig{})
	OrderPlaced.Handle(g, func(context.Context, *posthorn.Event[Placed]) error {
		if mended.Load() {
			return nil
		}
		return posthorn.Permanent(errors.New("no such order"))
	})
	must(g.Start(ctx))
	must(OrderPlaced.Publish(ctx, bus, Placed{OrderID: "7"}, posthorn.WithID("o-7")))
	waitUntil(func() bool { return deadLetters(bus, "billing") == 1 })
	q := deadletter.Query{Groups: []string{"billing"}}

	_, err := deadletter.Replay(ctx, bus, q, deadletter.Job{By: "anna"})
	must(err)
	waitUntil(func() bool {
		s := standingOf(t, bus, "o-7", "billing")
		return s.State == posthorn.StandsDead && strings.Contains(s.Why, "the group gave up after 1 attempt, as it did before it was replayed: no such order")
	})
	// Set back while nobody is there: it will be handled, though a dead letter stands.
	must(g.Stop(ctx))
	must(bus.Reset(ctx, "billing", posthorn.FromBeginning()))
	if s := standingOf(t, bus, "o-7", "billing"); s.State != posthorn.StandsWaiting || !strings.Contains(s.Why, "a dead letter of it stands from before the group was set back") {
		t.Errorf("%+v", s)
	}
	must(bus.Reset(ctx, "billing", posthorn.FromNow()))
	if s := standingOf(t, bus, "o-7", "billing"); s.State != posthorn.StandsDead {
		t.Errorf("%+v", s)
	}
	_, err = deadletter.Replay(ctx, bus, q, deadletter.Job{By: "berta"})
	must(err)
	if s := standingOf(t, bus, "o-7", "billing"); s.State != posthorn.StandsRetry || s.Why != "it was replayed by berta, and waits to be handled: no such order" || s.Attempts != 0 {
		t.Errorf("%+v", s)
	}
}

// In strict order, an event that waits says what it waits for.
func TestWhyInStrictOrder(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	bus := testBus(t)
	ledger := bus.Group("ledger", posthorn.GroupConfig{StrictOrder: true})
	OrderPlaced.Handle(ledger, func(context.Context, *posthorn.Event[Placed]) error { return errors.New("closed") },
		posthorn.WithRetry(posthorn.Retry{Attempts: posthorn.None, Late: 1, LateDelay: time.Hour}))
	OrderCancelled.Handle(ledger, func(context.Context, *posthorn.Event[Placed]) error { return posthorn.Permanent(errors.New("closed")) })
	must(ledger.Start(ctx))
	for _, c := range []struct{ order, want string }{
		{"retried", "before it stands retried-1, which has failed and is tried again"},
		{"dead", "before it stands the dead letter dead-1: in strict order it waits until that one is replayed or discarded"},
	} {
		typ := OrderPlaced
		if c.order == "dead" {
			typ = OrderCancelled
		}
		for _, id := range []string{c.order + "-1", c.order + "-2"} {
			must(typ.Publish(ctx, bus, Placed{OrderID: c.order}, posthorn.WithID(id)))
		}
		waitUntil(func() bool {
			s := standingOf(t, bus, c.order+"-2", "ledger")
			return s.State == posthorn.StandsParked && strings.Contains(s.Why, c.want)
		})
	}
}
