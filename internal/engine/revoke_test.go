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

// A member that joins gets a share: what is being handled there is finished first,
// what failed keeps its count, the other partitions go on meanwhile, and one that
// comes back works again.
func TestRevokeDrains(t *testing.T) {
	t.Parallel()
	shapes(t, func(t *testing.T, shape string) {
		r := newRig(t, shape)
		r.topic("order", 2, "a", "slow", "fails")
		entered, leave := make(chan string, 10), make(chan struct{})
		var attempts, running, most atomic.Int64
		hs := handlers{
			"a": r.handle,
			"slow": func(ctx context.Context, it *Item) Verdict {
				most.Store(max(most.Load(), running.Add(1)))
				defer running.Add(-1)
				entered <- it.t.g.cfg.Member
				<-leave
				if ctx.Err() != nil {
					t.Errorf("its context has ended: %v", context.Cause(ctx))
				}
				return r.handle(ctx, it)
			},
			"fails": func(ctx context.Context, it *Item) Verdict {
				attempts.Add(1)
				if it.Attempt() < 3 {
					return Verdict{Kind: Fail, Err: errors.New("not yet"), Wait: 900 * time.Millisecond, Asked: true}
				}
				return r.handle(ctx, it)
			},
		}
		first := r.run("first", hs, nil)
		var slow, behind, failing []string
		for n := range 2 { // both partitions, as either may be the one to go
			slow = append(slow, r.publishTo(n, "k", "slow")...)
			behind = append(behind, r.publishTo(n, "k", "a")...)
			failing = append(failing, r.publishTo(n, "x", "fails")...)
		}
		<-entered
		<-entered
		r.eventually("two have failed", func() bool { return attempts.Load() == 2 })
		second := r.run("second", hs, nil)
		r.eventually("a partition drains", func() bool { return first.closing() == 1 })
		kept := first.keeps()
		goes := r.publishTo(kept, "", "a")
		stays := r.publishTo(1-kept, "", "a")
		r.eventually("the other partition goes on", func() bool { return r.each(1, goes...) })
		if r.times(stays[0]) > 0 {
			t.Errorf("something was started in the partition that drains")
		}
		close(leave)
		r.eventually("the second has it", func() bool { return len(second.partitions()) == 1 })
		all := slices.Concat(slow, behind, failing, goes, stays)
		r.eventually("all are handled", func() bool { return r.each(1, all...) && r.lag("order") == 0 })
		if n := attempts.Load(); n != 6 {
			t.Errorf("%d attempts, want 3 each of 2", n)
		}
		second.stop()
		r.eventually("the first has it back", func() bool { return len(first.partitions()) == 2 })
		again := r.publishTo(1-kept, "k", "a", "a")
		r.eventually("it works there", func() bool { return r.each(1, again...) })
	})
}

// A deaf handler does not hold its partition for ever.
func TestRevokeLeavesADeafHandler(t *testing.T) {
	t.Parallel()
	shapes(t, func(t *testing.T, shape string) {
		r := newRig(t, shape)
		r.topic("order", 2, "a", "deaf")
		entered, leave := make(chan *Item, 10), make(chan struct{})
		var cancelled atomic.Int64
		deaf := handlers{"a": r.handle, "deaf": func(ctx context.Context, it *Item) Verdict {
			entered <- it
			select {
			case <-ctx.Done():
				cancelled.Add(1)
				<-leave
			case <-leave:
			}
			return Verdict{Kind: Done}
		}}
		brief := func(c *Config) { c.Drain = 50 * time.Millisecond }
		first := r.run("first", deaf, brief)
		ids := slices.Concat(r.publishTo(0, "k", "deaf", "a"), r.publishTo(1, "k", "deaf", "a"))
		old := []*Item{<-entered, <-entered}
		second := r.run("second", handlers{"a": r.handle, "deaf": r.handle}, nil)
		r.eventually("the second has one", func() bool { return len(second.partitions()) == 1 })
		if cancelled.Load() != 1 {
			t.Errorf("%d contexts have ended, want that of the one", cancelled.Load())
		}
		n := second.partitions()[0].N
		r.eventually("it is handled by the second", func() bool { return r.each(1, ids[2*n:2*n+2]...) })
		for _, it := range old {
			if it.t.part.N == n && it.Fence() >= second.fence(n) {
				t.Errorf("the fence of the one left behind is %d, that of its successor %d", it.Fence(), second.fence(n))
			}
		}
		close(leave)
		r.eventually("the other one is handled by the first", func() bool { return r.each(1, ids[3-2*n]) })
		r.eventually("all is settled", func() bool { return r.lag("order") == 0 && r.lagOf(1) == 0 })
		_ = first
	})
}

// A handler that is left behind with a partition gives its slot to others.
func TestLeftBehindGivesItsSlotUp(t *testing.T) {
	t.Parallel()
	r := newRig(t, "log")
	r.topic("order", 1, "a", "deaf")
	leave := make(chan struct{})
	entered := make(chan struct{}, 1)
	m := r.run("m", handlers{"a": r.handle, "deaf": func(context.Context, *Item) Verdict {
		entered <- struct{}{}
		<-leave
		return Verdict{Kind: Done}
	}}, func(c *Config) {
		c.Concurrency = 1
		c.Handlers["deaf"].Timeout = 50 * time.Millisecond
	})
	r.publish("order", "", "deaf")
	<-entered
	m.lose("order", 0)
	ids := r.publish("order", "", "a")
	r.eventually("another is handled", func() bool { return r.each(1, ids...) })
	close(leave)
}

// lose has the member lose a partition, as if the broker had given it away.
func (m *runner) lose(topic string, n int) {
	m.Helper()
	if err := m.drv.ResetGroup(m.Context(), "g", []string{topic}, driver.StartAt{Now: true}); err != nil {
		m.Fatal(err)
	}
}

func (m *runner) partitions() []driver.Partition {
	m.Group.mu.Lock()
	defer m.Group.mu.Unlock()
	var ps []driver.Partition
	for p, t := range m.tenures {
		if !t.closing {
			ps = append(ps, p)
		}
	}
	return ps
}

func (m *runner) closing() int {
	m.Group.mu.Lock()
	defer m.Group.mu.Unlock()
	n := 0
	for _, t := range m.tenures {
		if t.closing {
			n++
		}
	}
	return n
}

func (m *runner) keeps() int { return m.partitions()[0].N }

func (m *runner) fence(n int) uint64 {
	m.Group.mu.Lock()
	defer m.Group.mu.Unlock()
	for p, t := range m.tenures {
		if p.N == n {
			return t.d.Fence()
		}
	}
	return 0
}
