package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/posthorn/posthorn/driver"
)

type handlers = map[string]func(context.Context, *Item) Verdict

// A member that has the handler, and is not told in time that the group has
// subscribed to the type meanwhile, handles what it passed over: exactly what was
// published after that.
func TestPassedOverAndHandledAfterAll(t *testing.T) {
	t.Parallel()
	shapes(t, func(t *testing.T, shape string) {
		r := newRig(t, shape)
		r.topic("order", 1, "a")
		old := r.publish("order", "", "b", "b", "a")
		m := r.run("m", handlers{"a": r.handle, "b": r.handle}, nil)
		r.eventually("what was there is settled", func() bool { return r.lag("order") == 0 })
		if !r.each(0, old[:2]...) || r.times(old[2]) != 1 {
			t.Fatalf("handled %v", r.handled())
		}
		r.deaf.Store(true)
		r.subscribe("order", "b")
		fresh := r.publish("order", "", "b", "a", "c", "b", "a", "c", "b")
		r.eventually("what is new is settled", func() bool { return r.lag("order") == 0 })
		for _, id := range fresh {
			if want := map[byte]int{'a': 1, 'b': 1, 'c': 0}[id[0]]; r.times(id) != want {
				t.Errorf("%s was handled %d times", id, r.times(id))
			}
		}
		if !r.each(0, old[:2]...) {
			t.Errorf("what was published before the subscription was handled: %v", r.handled())
		}
		if shape == "log" && r.refused.Load() == 0 {
			t.Errorf("no checkpoint was refused")
		}
		if n := m.counts.skipped.Load(); n != 4 {
			t.Errorf("%d counted as skipped, want 4", n)
		}
	})
}

// A member that lacks the handler leaves what it passed over to one that has it.
func TestPassedOverAndLeftToAnother(t *testing.T) {
	t.Parallel()
	shapes(t, func(t *testing.T, shape string) {
		r := newRig(t, shape)
		r.topic("order", 1, "a")
		r.topic("stock", 1, "s")
		old := r.run("old", handlers{"a": r.handle, "s": r.handle}, nil)
		first := r.publish("order", "", "a", "c")
		r.eventually("it works", func() bool { return r.each(1, first[0]) && r.lag("order") == 0 })
		r.deaf.Store(true)
		r.subscribe("order", "b")
		fresh := r.publish("order", "k", "b", "a", "b", "c", "a")
		r.eventually("the missing handler is told of", func() bool { return old.alarmed("handler_missing") })
		r.never("settled by who cannot handle it", func() bool { return r.lag("order") < 2 })
		if got := old.status().Lacks; !slices.Equal(got, []string{"b"}) {
			t.Errorf("status: lacks %v", got)
		}
		r.deaf.Store(false)
		r.subscribe("stock", "s2") // a change, which the deaf one hears of as well
		other := r.publish("stock", "", "s2")
		r.run("new", handlers{"a": r.handle, "b": r.handle, "s": r.handle, "s2": r.handle}, nil)
		r.eventually("all is settled", func() bool { return r.lag("order") == 0 && r.lag("stock") == 0 })
		for _, id := range append(fresh, other...) {
			if want := map[byte]int{'a': 1, 'b': 1, 'c': 0, 's': 1}[id[0]]; r.times(id) != want {
				t.Errorf("%s was handled %d times", id, r.times(id))
			}
		}
		if r.times(first[0]) != 1 {
			t.Errorf("%s was handled %d times", first[0], r.times(first[0]))
		}
	})
}

// The same when the member stops before its next checkpoint.
func TestPassedOverThenStopped(t *testing.T) {
	t.Parallel()
	shapes(t, func(t *testing.T, shape string) {
		r := newRig(t, shape)
		r.topic("order", 1, "a")
		old := r.run("old", handlers{"a": r.handle}, func(c *Config) { c.Checkpoint = 1 << 40 })
		first := r.publish("order", "", "a")
		r.eventually("it works", func() bool { return r.each(1, first...) })
		r.deaf.Store(true)
		r.subscribe("order", "b")
		fresh := r.publish("order", "", "b", "a", "b", "c")
		r.eventually("all were seen", func() bool { return r.each(1, fresh[1]) || old.alarmed("handler_missing") })
		old.stop()
		if n := r.lag("order"); n < 2 {
			t.Fatalf("after the stop %d are not settled", n)
		}
		r.deaf.Store(false)
		r.run("new", handlers{"a": r.handle, "b": r.handle}, nil)
		r.eventually("all is settled", func() bool { return r.lag("order") == 0 })
		if !r.each(1, fresh[:3]...) || !r.each(1, first...) || r.times(fresh[3]) != 0 {
			t.Errorf("handled %v", r.handled())
		}
	})
}

// The member hears of a type that it lacks when a batch of it is on its way in: it
// neither settles it nor starts what stands behind it.
func TestLackingWithABatchUnderWay(t *testing.T) {
	t.Parallel()
	r := newRig(t, "log")
	r.topic("order", 1, "a")
	m := r.run("m", handlers{"a": r.handle}, nil)
	first := r.publish("order", "k", "a")
	r.eventually("it works", func() bool { return r.each(1, first...) && r.lag("order") == 0 })
	r.deaf.Store(true)
	spec := r.subscribe("order", "b")
	tell := func(into []driver.Delivery) int {
		(*member)(m.Group).Subscribed(spec)
		return len(into)
	}
	r.onFetch.Store(&tell)
	ids := r.publish("order", "k", "b", "a")
	r.eventually("it was told", func() bool { return m.alarmed("handler_missing") })
	r.never("settled or started", func() bool { return r.lag("order") < 2 || r.times(ids[1]) > 0 })
	m.stop()
	if r.lag("order") != 2 || r.times(ids[1]) > 0 {
		t.Errorf("after the stop: lag %d, handled %v", r.lag("order"), r.handled())
	}
}

// The subscription grows between the look at a batch and its intake.
func TestGrownWithABatchUnderWay(t *testing.T) {
	t.Parallel()
	r := newRig(t, "log")
	r.topic("order", 1, "a")
	ids := r.publish("order", "", "a")
	r.diesWith("order", 1)
	grow := func() {}
	r.onGet.Store(&grow)
	var m *runner
	ready := make(chan struct{})
	var once sync.Once
	grow = func() { // a suspect is looked for in the lane
		once.Do(func() {
			<-ready
			(*member)(m.Group).Subscribed(r.subscribe("order", "b"))
		})
	}
	ids = append(ids, r.publish("order", "", "b", "c", "b")...)
	m = r.run("m", handlers{"a": r.handle, "b": r.handle}, nil)
	close(ready)
	r.eventually("all is settled", func() bool { return r.lag("order") == 0 })
	if !r.each(1, ids[0], ids[1], ids[3]) || r.times(ids[2]) != 0 {
		t.Errorf("handled %v", r.handled())
	}
}

// More is passed over than fits into the window: it goes on, with few records.
func TestPassingOverIsCheap(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ n, window, records int }{{100_000, 8192, 100_000 / 1500}, {5_000, 64, 5_000 / 10}} {
		t.Run(fmt.Sprint(c.window), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "log")
			r.topic("order", 1, "a")
			for range c.n / 1000 {
				r.publish("order", "", repeat("b", 1000)...)
			}
			last := r.publish("order", "", "a")
			m := r.run("m", handlers{"a": r.handle}, func(cfg *Config) { cfg.Window, cfg.Checkpoint = c.window, 1<<40 })
			r.eventually("the one that matters is handled", func() bool { return r.each(1, last...) })
			if got := m.counts.skipped.Load(); got != int64(c.n) {
				t.Errorf("%d counted as skipped, want %d", got, c.n)
			}
			if got := r.records.Load(); got > int64(c.records) {
				t.Errorf("%d records for %d events", got, c.n)
			}
			m.stop()
			if r.lag("order") != 0 {
				t.Errorf("lag %d", r.lag("order"))
			}
		})
	}
}

// Behind what is passed over, the log has a gap that does not fit into the window.
func TestPassingOverBeforeAGap(t *testing.T) {
	t.Parallel()
	r := newRig(t, "log")
	r.topic("order", 1, "a")
	gap := func(into []driver.Delivery) int {
		n := 0
		for _, d := range into {
			if d.Msg.Type != "hole" {
				into[n] = d
				n++
			}
		}
		return n
	}
	r.onFetch.Store(&gap)
	r.publish("order", "", "b", "b")
	r.publish("order", "", repeat("hole", 500)...)
	last := r.publish("order", "", "a")
	r.run("m", handlers{"a": r.handle}, func(c *Config) { c.Window, c.Checkpoint = 64, 1<<40 })
	r.eventually("what stands behind the gap is handled", func() bool { return r.each(1, last...) })
}

// What is passed over does not hold up a window that others have filled.
func TestPassingOverAmongSlowOnes(t *testing.T) {
	t.Parallel()
	r := newRig(t, "log")
	r.topic("order", 1, "a")
	var all []string
	for range 200 {
		all = append(all, r.publish("order", "", "b", "a", "b", "b", "a")...)
	}
	r.run("m", handlers{"a": r.handle}, func(c *Config) { c.Window, c.Checkpoint = 64, 1<<40 })
	r.eventually("all are handled", func() bool { return len(r.handled()) == 400 })
	for _, id := range all {
		if want := map[byte]int{'a': 1, 'b': 0}[id[0]]; r.times(id) != want {
			t.Errorf("%s was handled %d times", id, r.times(id))
		}
	}
}

// The subscription shrinks: what is left of the type is skipped, and the member
// goes on with the topic that it could not serve.
func TestHandlerMissingUntilDropped(t *testing.T) {
	t.Parallel()
	shapes(t, func(t *testing.T, shape string) {
		r := newRig(t, shape)
		r.topic("order", 1, "a", "b")
		ids := r.publish("order", "k", "b", "a", "b")
		m := r.run("m", handlers{"a": r.handle}, nil)
		r.eventually("the missing handler is told of", func() bool { return m.alarmed("handler_missing") })
		r.never("it takes the topic", func() bool { return len(r.handled()) > 0 || r.lag("order") < 3 })
		if err := r.drv.DropTypes(t.Context(), "g", []string{"b"}); err != nil {
			t.Fatal(err)
		}
		r.eventually("it goes on", func() bool { return r.each(1, ids[1]) && r.lag("order") == 0 })
		if m.alarmed("handler_missing") {
			t.Errorf("the alarm stands")
		}
	})
}

// A record that was read before what is known changes nothing.
func TestOlderRecord(t *testing.T) {
	t.Parallel()
	r := newRig(t, "log")
	r.topic("order", 1, "a")
	m := r.run("m", handlers{"a": r.handle}, nil)
	m.Group.mu.Lock()
	defer m.Group.mu.Unlock()
	m.Group.takeIn(driver.GroupSpec{Name: "g", Version: 9, Types: map[string][]string{"order": {"a", "c"}}})
	m.Group.takeIn(driver.GroupSpec{Name: "g", Version: 8, Types: map[string][]string{"order": {"a"}}})
	if m.Group.sub.version != 9 || !slices.Equal(m.Group.sub.lacking(), []string{"c"}) {
		t.Errorf("version %d, lacking %v", m.Group.sub.version, m.Group.sub.lacking())
	}
}

// BenchmarkPassingOver reads a topic that is nearly all of other types.
func BenchmarkPassingOver(b *testing.B) {
	r := newRig(b, "log")
	r.topic("order", 1, "a")
	for left := b.N; left > 0; left -= 1000 {
		r.publish("order", "", repeat("b", min(left, 1000))...)
	}
	last := r.publish("order", "", "a")
	b.ReportAllocs()
	b.ResetTimer()
	r.run("m", handlers{"a": r.handle}, func(c *Config) { c.Window, c.Checkpoint = 8192, 1<<30 })
	r.eventually("the one that matters is handled", func() bool { return r.each(1, last...) })
	b.ReportMetric(float64(r.records.Load())/float64(b.N), "records/op")
}
