package engine

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/posthorn/posthorn/driver"
)

func (r *rig) pause(why string) {
	r.Helper()
	if _, err := r.drv.PauseGroup(r.Context(), "g", why); err != nil {
		r.Fatal(err)
	}
}

// In a paused group those that run finish, and nothing starts until it is resumed:
// nothing new, no retry, nothing of the lane.
func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	shapes(t, func(t *testing.T, shape string) {
		r := newRig(t, shape)
		r.topic("order", 1, "a", "slow", "late")
		entered, leave := make(chan struct{}), make(chan struct{})
		m := r.run("m", handlers{"a": r.handle,
			"slow": func(ctx context.Context, it *Item) Verdict {
				entered <- struct{}{}
				<-leave
				return r.handle(ctx, it)
			},
			"late": func(ctx context.Context, it *Item) Verdict {
				if it.Attempt() == 1 {
					return Verdict{Kind: Fail, Err: errors.New("not yet"), Wait: 1100 * time.Millisecond, Asked: true}
				}
				return r.handle(ctx, it)
			}}, nil)
		ids := r.publish("order", "k", "slow", "a", "late")
		<-entered
		r.eventually("one waits in the lane", func() bool { return m.status().Retrying+m.status().InFlight >= 1 })
		r.pause("looking into it")
		r.eventually("it is paused", func() bool { return m.alarmed("group_paused") })
		if s := m.status(); s.Paused != "looking into it" || s.InFlight != 1 {
			t.Errorf("status %+v", s)
		}
		ids = append(ids, r.publish("order", "", "a", "a")...)
		close(leave)
		r.eventually("what ran has finished", func() bool { return r.times(ids[0]) == 1 })
		r.never("something was started", func() bool { return len(r.handled()) > 1 })
		r.pause("")
		r.eventually("it goes on", func() bool { return r.each(1, ids...) && r.lag("order") == 0 })
		if m.alarmed("group_paused") {
			t.Errorf("the alarm stands")
		}
	})
}

// A member that joins a paused group starts nothing; suspects of a process that
// died are tried after the resumption.
func TestPausedFromTheStart(t *testing.T) {
	t.Parallel()
	shapes(t, func(t *testing.T, shape string) {
		r := newRig(t, shape)
		r.topic("order", 1, "a")
		ids := r.publish("order", "", "a", "a", "a")
		r.diesWith("order", 2)
		r.pause("by hand")
		m := r.run("m", handlers{"a": r.handle}, nil)
		r.never("something was started", func() bool { return len(r.handled()) > 0 || len(r.entries("order")) > 0 })
		if !m.alarmed("group_paused") {
			t.Errorf("no alarm")
		}
		r.pause("")
		r.eventually("it goes on", func() bool { return r.each(1, ids...) && r.lag("order") == 0 })
	})
}

// A flood of what cannot be read pauses the group by itself. Resuming it makes dead
// letters of what was held, and counting starts again; a pause by hand ends at its
// own word only.
func TestFloodAndResume(t *testing.T) {
	t.Parallel()
	shapes(t, func(t *testing.T, shape string) {
		r := newRig(t, shape)
		r.topic("order", 1, "a")
		m := r.run("m", handlers{"a": r.handle}, nil)
		foreign := func(n int) {
			msgs := make([]driver.Message, n)
			for i := range msgs {
				msgs[i].Body = fmt.Appendf(nil, "not an event %d", i)
			}
			r.store(driver.Partition{Topic: "order"}, msgs)
		}
		foreign(floodLimit + 5)
		r.eventually("it has paused", func() bool { return m.alarmed("foreign_flood") })
		if n := m.counts.dead.Load(); n != floodLimit-1 {
			t.Errorf("%d dead letters, want %d", n, floodLimit-1)
		}
		if m.status().Paused == "" {
			t.Errorf("the status does not say that it is paused")
		}
		after := r.publish("order", "", "a")
		r.never("it goes on", func() bool { return len(r.handled()) > 0 })
		r.pause("by hand, too")
		r.eventually("it was told", func() bool { return m.alarmed("group_paused") })
		r.pause("")
		r.eventually("it goes on", func() bool { return r.each(1, after...) && r.lag("order") == 0 })
		if n := m.counts.dead.Load(); n != floodLimit+5 {
			t.Errorf("%d dead letters, want %d", n, floodLimit+5)
		}
		if m.alarmed("foreign_flood") {
			t.Errorf("the alarm stands")
		}
		foreign(floodLimit)
		r.eventually("it pauses again", func() bool { return m.alarmed("foreign_flood") })
		m.stop()
		if m.alarmed("foreign_flood") {
			t.Errorf("the alarm outlives the member")
		}
	})
}

// What holds a partition back is told, the longest first.
func TestBlocked(t *testing.T) {
	t.Parallel()
	shapes(t, func(t *testing.T, shape string) {
		r := newRig(t, shape)
		r.topic("order", 2, "a", "slow")
		leave := make(chan struct{})
		m := r.run("m", handlers{"a": r.handle, "slow": func(ctx context.Context, it *Item) Verdict {
			<-leave
			return r.handle(ctx, it)
		}}, nil)
		first := r.publishTo(1, "k", "slow", "a")
		r.eventually("it runs", func() bool { return m.status().InFlight == 1 })
		second := r.publishTo(0, "l", "a", "slow", "a")
		r.eventually("both are told of", func() bool { return len(m.status().Blocked) == 2 })
		b := m.status().Blocked
		if b[0].N != 1 || b[0].ID != first[0] || b[0].Key != "k" || b[0].Type != "slow" || b[0].Topic != "order" || b[0].Pos == 0 ||
			b[0].Why != "being handled" || b[0].For < blockedFrom || b[1].For > b[0].For || b[1].ID != second[1] {
			t.Errorf("blocked %+v", b)
		}
		close(leave)
		r.eventually("nothing is blocked", func() bool { return len(m.status().Blocked) == 0 && r.lag("order")+r.lagOf(1) == 0 })
	})
}

// The list of what holds the floor back keeps the order of positions, whatever
// comes and goes.
func TestBlockedList(t *testing.T) {
	t.Parallel()
	var tn tenure
	items := map[uint64]*Item{}
	for _, pos := range []uint64{5, 6, 2, 9, 1, 7} {
		items[pos] = &Item{order: pos}
		tn.enlist(items[pos], time.Now())
	}
	for _, pos := range []uint64{6, 1, 9, 2, 7, 5} {
		tn.delist(items[pos])
		tn.delist(items[pos])
		delete(items, pos)
		last, n := uint64(0), 0
		for it := tn.oldest; it != nil; it = it.newer {
			if it.order <= last || items[it.order] == nil || it.newer == nil && it != tn.newest {
				t.Fatalf("after %d went: %d behind %d", pos, it.order, last)
			}
			last = it.order
			n++
		}
		if n != len(items) {
			t.Fatalf("after %d went: %d left, want %d", pos, n, len(items))
		}
	}
}
