package posthorn_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
)

// standingOf is where the only copy of an event stands in a group.
func standingOf(t *testing.T, bus *posthorn.Bus, id, group string) posthorn.Standing {
	t.Helper()
	copies, err := bus.Why(t.Context(), id, posthorn.WhyConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if len(copies) != 1 {
		t.Fatalf("%d copies: %+v", len(copies), copies)
	}
	for _, s := range copies[0].Groups {
		if s.Group == group {
			return s
		}
	}
	return posthorn.Standing{}
}

func TestWhy(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	bus := testBus(t)
	other := posthorn.Define[string]("order.cancelled")
	hold := make(chan struct{})
	var held bool
	release := func() {
		if !held {
			close(hold)
			held = true
		}
	}
	defer release()
	start := func(name string, cfg posthorn.GroupConfig, h func(context.Context, *posthorn.Event[Placed]) error) {
		g := bus.Group(name, cfg)
		OrderPlaced.Handle(g, h)
		must(g.Start(ctx))
	}
	ok := func(context.Context, *posthorn.Event[Placed]) error { return nil }
	start("handles", posthorn.GroupConfig{}, ok)
	start("retries", posthorn.GroupConfig{Retry: posthorn.Retry{Attempts: posthorn.None, LateDelay: time.Hour}},
		func(context.Context, *posthorn.Event[Placed]) error { return errors.New("the till is shut") })
	start("gives-up", posthorn.GroupConfig{}, func(context.Context, *posthorn.Event[Placed]) error {
		return posthorn.Permanent(errors.New("no such order"))
	})
	start("holds", posthorn.GroupConfig{}, func(context.Context, *posthorn.Event[Placed]) error { <-hold; return nil })
	if _, err := bus.Provision(ctx, posthorn.Declaration{Groups: []posthorn.GroupDeclaration{
		{Name: "absent", Types: []string{"order.placed"}},
		{Name: "paused", Types: []string{"order.placed"}},
		{Name: "elsewhere", Types: []string{"stock.short"}},
		{Name: "beside", Types: []string{"order.cancelled"}},
	}}); err != nil {
		t.Fatal(err)
	}
	must(bus.Pause(ctx, "paused", "stock-taking"))

	o := OrderPlaced.New(Placed{OrderID: "o-1"})
	if err := bus.PublishAll(ctx, other.New("o-0"), o); err != nil {
		t.Fatal(err)
	}
	if _, err := bus.Provision(ctx, posthorn.Declaration{Groups: []posthorn.GroupDeclaration{
		{Name: "late", Types: []string{"order.placed"}, Start: posthorn.FromNow()}}}); err != nil {
		t.Fatal(err)
	}
	for group, want := range map[string]struct {
		state posthorn.Place
		why   string
	}{
		"handles":   {posthorn.StandsSettled, "handled"},
		"retries":   {posthorn.StandsRetry, "attempt 2: the till is shut"},
		"gives-up":  {posthorn.StandsDead, "no such order"},
		"holds":     {posthorn.StandsTaken, ""},
		"absent":    {posthorn.StandsWaiting, "no member"},
		"paused":    {posthorn.StandsWaiting, "paused: stock-taking"},
		"elsewhere": {posthorn.StandsOutside, "nothing in topic order"},
		"beside":    {posthorn.StandsOutside, "not subscribed to order.placed"},
		"late":      {posthorn.StandsBefore, "began"},
	} {
		var s posthorn.Standing
		until(t, group+" is "+string(want.state), func() bool {
			s = standingOf(t, bus, o.ID(), group)
			return s.State == want.state
		})
		if !strings.Contains(s.Why, want.why) {
			t.Errorf("%s: %q does not say %q", group, s.Why, want.why)
		}
		switch s.State {
		case posthorn.StandsRetry:
			if s.Due.IsZero() || s.Attempts != 1 || len(s.Errors) != 1 || s.Reason != posthorn.CodeHandler {
				t.Errorf("%+v", s)
			}
		case posthorn.StandsDead:
			if s.Died.IsZero() || s.Attempts != 1 || s.Reason != posthorn.CodePermanent || s.Member == "" {
				t.Errorf("%+v", s)
			}
		}
	}
	release()
	until(t, "it is settled", func() bool { return standingOf(t, bus, o.ID(), "holds").State == posthorn.StandsSettled })
}

// An event is found by an id that says nothing of its time, in structured mode, and
// when only a lane still has it.
func TestWhyFinds(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	bus := testBus(t)
	for i := range 3000 {
		if err := bus.Publish(ctx, "order.placed", i); err != nil {
			t.Fatal(err)
		}
	}
	must(bus.Publish(ctx, "order.placed", "x", posthorn.WithID("plain-id")))
	must(bus.Publish(ctx, "order.placed", []byte(`{"specversion":"1.0","id":"inside","source":"s","type":"order.x"}`)))
	var read, of int64
	copies, err := bus.Why(ctx, "plain-id", posthorn.WhyConfig{Progress: func(r, o int64) { read, of = r, o }})
	if err != nil || len(copies) != 1 || copies[0].Type != "order.placed" || !copies[0].Kept || copies[0].Position == 0 {
		t.Errorf("%+v, %v", copies, err)
	}
	if of != 3002 || read == 0 || read > of {
		t.Errorf("read %d of %d", read, of)
	}
	_, err = bus.Why(ctx, "no-such-id", posthorn.WhyConfig{})
	wantError(t, err, posthorn.CodeNotFound, "no-such-id", "1 topics")
	_, err = bus.Why(ctx, "x", posthorn.WhyConfig{Topics: []string{"ordre"}})
	wantError(t, err, posthorn.CodeNotFound, "ordre", "order")
	_, err = bus.Why(ctx, "", posthorn.WhyConfig{})
	wantError(t, err, posthorn.CodeInvalid)
}

func TestWhyInLaneOnly(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	short := posthorn.Define[string]("brief.note", posthorn.In(posthorn.DefineTopic("brief", posthorn.TopicConfig{Keep: time.Millisecond})))
	bus := testBus(t)
	g := bus.Group("g", posthorn.GroupConfig{})
	short.Handle(g, func(context.Context, *posthorn.Event[string]) error { return posthorn.Permanent(errors.New("bad")) })
	must(g.Start(ctx))
	o := short.New("x")
	must(bus.PublishAll(ctx, o))
	until(t, "the topic has let go of it", func() bool {
		topics, err := bus.Topics(ctx)
		return err == nil && len(topics) == 1 && topics[0].Events == 0
	})
	copies, err := bus.Why(ctx, o.ID(), posthorn.WhyConfig{})
	if err != nil || len(copies) != 1 || copies[0].Kept || len(copies[0].Groups) != 1 || copies[0].Groups[0].State != posthorn.StandsDead {
		t.Errorf("%+v, %v", copies, err)
	}
}
