package engine

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// strictly has a member handle a topic in strict order.
func strictly(topic string) func(*Config) {
	return func(c *Config) { c.Strict = map[string]bool{topic: true} }
}

// standing is what the lane of partition 0 holds, by id.
func (r *rig) standing() map[string]driver.Entry {
	r.Helper()
	entries := map[string]driver.Entry{}
	for _, e := range r.lane() {
		entries[e.Msg.ID] = e
	}
	return entries
}

// The followers of a message that has failed wait for its late attempt, in order;
// other keys go on.
func TestStrictOrder(t *testing.T) {
	t.Parallel()
	shapes(t, func(t *testing.T, shape string) {
		r := newRig(t, shape)
		r.topic("order", 1, "a", "b")
		var mended atomic.Bool
		m := r.run("m", map[string]func(context.Context, *Item) Verdict{
			"a": func(ctx context.Context, it *Item) Verdict {
				if it.Delivery.Msg.ID == "a-2" && !mended.Load() {
					return Verdict{Kind: Fail, Err: errors.New("on purpose")}
				}
				return r.handle(ctx, it)
			},
			"b": r.handle,
		}, func(c *Config) {
			strictly("order")(c)
			c.Handlers["a"].Retry.Late = 1 << 20
		})
		ids := r.publish("order", "k", repeat("a", 300)...)
		others := r.publish("order", "other", "b", "b")
		r.eventually("the other key is handled", func() bool { return r.each(1, others...) })
		r.eventually("the followers are parked", func() bool {
			return r.times("a-1") == 1 && m.counts.parked.Load() >= 298
		})
		if n := len(r.handled()); n != 3 {
			t.Errorf("%d are handled while a-2 fails: %v", n, r.handled())
		}
		mended.Store(true)
		r.eventually("all are handled", func() bool { return len(r.handled()) >= 302 })
		of := slices.DeleteFunc(r.handled(), func(id string) bool { return slices.Contains(others, id) })
		if !slices.Equal(of, ids) {
			t.Errorf("the order is lost: %v", of)
		}
		r.eventually("the lane is empty", func() bool { return len(r.standing()) == 0 })
		m.Group.mu.Lock()
		defer m.Group.mu.Unlock()
		for _, t1 := range m.tenures {
			if len(t1.blocked) > 0 || t1.parked != 0 {
				t.Errorf("%d keys are blocked and %d entries parked at the end", len(t1.blocked), t1.parked)
			}
		}
	})
}

// The followers of a dead letter wait for it at the next holder too.
func TestStrictOrderSurvives(t *testing.T) {
	t.Parallel()
	shapes(t, func(t *testing.T, shape string) {
		r := newRig(t, shape)
		r.topic("order", 1, "a")
		handlers := map[string]func(context.Context, *Item) Verdict{"a": func(ctx context.Context, it *Item) Verdict {
			if it.Delivery.Msg.ID == "a-2" {
				return Verdict{Kind: Dead, Err: errors.New("on purpose")}
			}
			return r.handle(ctx, it)
		}}
		ids := r.publish("order", "k", repeat("a", 10)...)
		other := r.publish("order", "other", "a")
		m := r.run("m1", handlers, strictly("order"))
		r.eventually("the followers are parked", func() bool {
			lane := r.standing()
			return r.each(1, ids[0], other[0]) && len(lane) == 9 && lane["a-2"].State == driver.Dead
		})
		m.stop()
		m = r.run("m2", handlers, strictly("order"))
		ids = append(ids, r.publish("order", "k", "a")...)
		r.eventually("what comes later is parked too", func() bool { return len(r.standing()) == 10 })
		if n := len(r.handled()); n != 2 {
			t.Errorf("%d are handled behind a dead letter: %v", n, r.handled())
		}
		m.stop()
		// Somebody deletes the dead letter while nobody holds the lane.
		dead := r.standing()["a-2"]
		ops := []driver.LaneOp{{Entry: &dead, Delete: true}}
		if err := r.drv.Lane("g", driver.Partition{Topic: "order"}).Apply(r.Context(), ops); err != nil {
			t.Fatal(err)
		}
		r.run("m3", handlers, strictly("order"))
		want := slices.Concat(ids[:1], ids[2:])
		r.eventually("the followers are handled", func() bool { return len(r.handled()) > len(want) })
		of := slices.DeleteFunc(r.handled(), func(id string) bool { return id == other[0] })
		if !slices.Equal(of, want) {
			t.Errorf("the order is lost: %v, want %v", of, want)
		}
	})
}

// A late attempt does not run beside a handler of its key that was abandoned.
func TestLateAttemptWaitsForTheAbandoned(t *testing.T) {
	t.Parallel()
	shapes(t, func(t *testing.T, shape string) {
		r := newRig(t, shape)
		r.topic("order", 1, "a")
		release := make(chan struct{})
		var inside, most, starts atomic.Int32
		m := r.run("m", map[string]func(context.Context, *Item) Verdict{"a": func(ctx context.Context, it *Item) Verdict {
			if n := inside.Add(1); n > most.Load() {
				most.Store(n)
			}
			defer inside.Add(-1)
			if starts.Add(1) == 1 {
				<-release
			}
			return r.handle(ctx, it)
		}}, func(c *Config) {
			c.Handlers["a"].Timeout = 10 * time.Millisecond
			c.Handlers["a"].Retry.Attempts = 1
		})
		ids := r.publish("order", "k", "a", "a")
		r.eventually("the handler is abandoned", func() bool { return m.counts.abandoned.Load() == 1 })
		r.never("a late attempt is made beside it", func() bool { return starts.Load() > 1 })
		close(release)
		r.eventually("all are handled", func() bool { return len(r.handled()) >= 3 })
		if most.Load() > 1 {
			t.Errorf("%d handlers of one key ran at a time", most.Load())
		}
		if r.times(ids[1]) != 1 {
			t.Errorf("handled: %v", r.handled())
		}
	})
}
