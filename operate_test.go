package posthorn_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
)

func TestTopicsAndGroups(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	bus := testBus(t)
	if topics, err := bus.Topics(ctx); err != nil || len(topics) != 0 {
		t.Errorf("an empty broker: %v, %v", topics, err)
	}
	g := bus.Group("inventory", posthorn.GroupConfig{Retry: posthorn.Retry{Attempts: posthorn.None, LateDelay: time.Hour}})
	OrderPlaced.Handle(g, func(_ context.Context, e *posthorn.Event[Placed]) error {
		switch e.Key {
		case "dead":
			return posthorn.Permanent(errors.New("no"))
		case "late":
			return errors.New("not yet")
		}
		return nil
	})
	must(g.Start(ctx))
	for _, key := range []string{"dead", "late", "fine"} {
		must(OrderPlaced.Publish(ctx, bus, Placed{OrderID: key}))
	}
	var st posthorn.GroupStatus
	until(t, "the group has come to all of it", func() bool {
		var err error
		if st, err = bus.GroupStatus(ctx, "inventory"); err != nil {
			t.Fatal(err)
		}
		return st.Lag == 0 && st.Lanes.Due == 1 && st.Lanes.Dead == 1
	})
	if len(st.Members) != 1 || st.Members[0].Holds != posthorn.DefaultPartitions || len(st.Partitions) != posthorn.DefaultPartitions ||
		st.Partitions[0].Member != st.Members[0].Name || st.Lanes.Next.IsZero() || len(st.Types["order"]) != 1 {
		t.Errorf("%+v", st)
	}
	topics, err := bus.Topics(ctx)
	if err != nil || len(topics) != 1 {
		t.Fatal(topics, err)
	}
	top := topics[0]
	if top.Name != "order" || top.Events != 3 || top.Bytes <= 0 || top.Oldest.IsZero() || len(top.Groups) != 1 ||
		top.Settings.Partitions != posthorn.DefaultPartitions || top.Settings.Keep != posthorn.DefaultKeep || len(top.Partitions) != posthorn.DefaultPartitions {
		t.Errorf("%+v", top)
	}
	_, err = bus.GroupStatus(ctx, "inventroy")
	wantError(t, err, posthorn.CodeNotFound, "inventroy", "there are inventory")
	_, err = bus.GroupStatus(ctx, "Inventory")
	wantError(t, err, posthorn.CodeInvalid, "Inventory")
}

func TestReset(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	bus := testBus(t)
	seen := make(chan string, 100)
	g := bus.Group("g", posthorn.GroupConfig{})
	OrderPlaced.Handle(g, func(_ context.Context, e *posthorn.Event[Placed]) error {
		seen <- e.Key
		return nil
	})
	must(g.Start(ctx))
	must(OrderPlaced.Publish(ctx, bus, Placed{OrderID: "1"}))
	if k := <-seen; k != "1" {
		t.Fatal(k)
	}
	must(bus.Reset(ctx, "g", posthorn.FromBeginning()))
	if k := <-seen; k != "1" {
		t.Errorf("after the reset came %s", k)
	}
	wantError(t, bus.Reset(ctx, "g", posthorn.FromNow(), "stock"), posthorn.CodeNotFound, "stock", "order")
	wantError(t, bus.Reset(ctx, "h", posthorn.FromNow()), posthorn.CodeNotFound, `"h"`, "there are g")
}

func TestPauseRefuses(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	bus := testBus(t)
	wantError(t, bus.Pause(ctx, "g", "why"), posthorn.CodeNotFound, "no group is")
	wantError(t, bus.Resume(ctx, "g"), posthorn.CodeNotFound)
	wantError(t, bus.Pause(ctx, "g", " "), posthorn.CodeInvalid, "reason")
	if _, err := bus.Provision(ctx, posthorn.Declaration{Groups: []posthorn.GroupDeclaration{{Name: "g", Types: []string{"a.b"}}}}); err != nil {
		t.Fatal(err)
	}
	must(bus.Pause(ctx, "g", "why"))
	if g, err := bus.GroupStatus(ctx, "g"); err != nil || g.Paused != "why" {
		t.Errorf("%+v, %v", g, err)
	}
	must(bus.Resume(ctx, "g"))
	if g, err := bus.GroupStatus(ctx, "g"); err != nil || g.Paused != "" {
		t.Errorf("%+v, %v", g, err)
	}
}

func TestRemove(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	bus := testBus(t)
	g := bus.Group("g", posthorn.GroupConfig{})
	OrderPlaced.Handle(g, func(context.Context, *posthorn.Event[Placed]) error { return nil })
	must(g.Start(ctx))
	until(t, "it is a member", func() bool {
		s, err := bus.GroupStatus(ctx, "g")
		return err == nil && len(s.Members) == 1
	})
	wantError(t, bus.Remove(ctx, "g"), posthorn.CodeConflict, "at work", "test@", "by force")
	must(g.Stop(ctx))
	must(bus.Remove(ctx, "g"))
	wantError(t, bus.Remove(ctx, "g"), posthorn.CodeNotFound)
}
