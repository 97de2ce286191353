package posthorn_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/posthorn/posthorn"
)

// told keeps the alarms that a bus has raised.
type told struct {
	mu  sync.Mutex
	all []posthorn.Alarm
}

func (a *told) hook(al posthorn.Alarm) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = append(a.all, al)
}

func (a *told) of(code string) []posthorn.Alarm {
	a.mu.Lock()
	defer a.mu.Unlock()
	var found []posthorn.Alarm
	for _, al := range a.all {
		if al.Code == code {
			found = append(found, al)
		}
	}
	return found
}

// A group that is new to a topic that holds events says so, with the count and the
// way out; it is no reason of ill health, and it is not said of a group that begins
// with what comes next, or that was there before.
func TestBacklogIsTold(t *testing.T) {
	t.Parallel()
	var alarms told
	var log bytes.Buffer
	bus := testBus(t, posthorn.OnAlarm(alarms.hook), posthorn.Logger(slog.New(slog.NewTextHandler(&log, nil))))
	placed := posthorn.Define[string]("order.placed")
	for range 7 {
		if err := placed.Publish(t.Context(), bus, "x"); err != nil {
			t.Fatal(err)
		}
	}
	start := func(name string, cfg posthorn.GroupConfig) {
		t.Helper()
		g := bus.Group(name, cfg)
		placed.Handle(g, func(context.Context, *posthorn.Event[string]) error { return nil })
		if err := g.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	start("from-now", posthorn.GroupConfig{Start: posthorn.FromNow()})
	start("billing", posthorn.GroupConfig{})
	until(t, "it is told", func() bool { return len(alarms.of("backlog")) > 0 })
	if h := bus.Health(t.Context()); !h.OK {
		t.Errorf("health: %+v", h)
	}
	if bus.Stats().Alarms != 1 {
		t.Errorf("%d alarms are counted", bus.Stats().Alarms)
	}
	all := alarms.of("backlog")
	if len(all) != 1 || all[0].Thing != "billing order" {
		t.Fatalf("told %+v", all)
	}
	for _, w := range []string{"billing", "order", " 7 messages", "posthorn.FromNow()", "posthorn groups reset billing --to now"} {
		if !strings.Contains(all[0].Text, w) {
			t.Errorf("the text does not say %q: %s", w, all[0].Text)
		}
	}
	if err := bus.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), " 7 messages") {
		t.Errorf("the log does not say it: %s", log.String())
	}
}

// The second start of a group has nothing to tell.
func TestBacklogIsToldOnce(t *testing.T) {
	t.Parallel()
	name := "memory:backlog-once"
	placed := posthorn.Define[string]("order.placed")
	var alarms told
	for range 2 {
		keep, err := posthorn.Open(t.Context(), name, posthorn.Service("test"), posthorn.Logger(slog.New(slog.DiscardHandler)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = keep.Close(context.Background()) })
		bus, err := posthorn.Open(t.Context(), name, posthorn.Service("test"), posthorn.OnAlarm(alarms.hook), posthorn.Logger(slog.New(slog.DiscardHandler)))
		if err != nil {
			t.Fatal(err)
		}
		if err := placed.Publish(t.Context(), bus, "x"); err != nil {
			t.Fatal(err)
		}
		g := bus.Group("billing", posthorn.GroupConfig{})
		placed.Handle(g, func(context.Context, *posthorn.Event[string]) error { return nil })
		if err := g.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := bus.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(alarms.of("backlog")); n != 1 {
		t.Errorf("it was told %d times", n)
	}
}
