package engine

import (
	"container/heap"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// Dead letters are mended from outside of any tenure: an entry is compared and put,
// Due if it is to be replayed, Discarded if it is to go. A holder finds what was put
// before it took the lane over in loadIndex. Of what is put later it is told by a
// watch on the lane, which it keeps only while somebody is at work there: each of its
// own writes to the lane would come back to it otherwise. The group's record says so,
// by its nudges.

// mendIdle is for how long a lane is watched after the last news.
const mendIdle = time.Minute

// takeNudge has the lanes watched when the group's record says that something is put
// there. Group.mu is held.
func (g *Group) takeNudge(spec driver.GroupSpec) {
	if spec.Nudges == g.nudges {
		return
	}
	g.nudges = spec.Nudges
	for _, t := range g.tenures {
		t.nudged()
	}
}

// nudged has the lane watched, for a while. Group.mu is held.
func (t *tenure) nudged() {
	switch {
	case t.lost || t.closing:
	case t.mending != nil:
		t.remend = !t.mending.Reset(mendIdle) // the watch was about to end
	default:
		ctx, cancel := context.WithCancel(t.all)
		t.mending = time.AfterFunc(mendIdle, cancel)
		t.g.routines.Add(1)
		go t.watchLane(ctx, cancel)
	}
}

// watchLane takes up what is put into the lane from outside, until nothing has been
// for a while.
func (t *tenure) watchLane(ctx context.Context, cancel context.CancelFunc) {
	defer t.g.routines.Done()
	defer cancel()
	for wait := (backoff{}); ; {
		err := t.d.Lane().Watch(ctx, func(e driver.Entry) { t.mended(&e) })
		if ctx.Err() != nil || errors.Is(err, driver.ErrLost) {
			break // who holds the lane next reads it
		}
		t.g.log.Warn("the lane cannot be watched; what is replayed or discarded is taken up later", "topic", t.part.Topic, "partition", t.part.N, "error", err)
		if !wait.sleep(ctx) {
			break
		}
	}
	t.g.mu.Lock()
	defer t.g.mu.Unlock()
	t.mending.Stop()
	again := t.remend
	t.mending, t.remend = nil, false
	if again && t.all.Err() == nil {
		t.nudged()
	}
}

// mended takes up an entry that somebody outside has put.
func (t *tenure) mended(e *driver.Entry) {
	if e.State != driver.Discarded && !IsReplayed(e) {
		return
	}
	t.g.mu.Lock()
	defer t.g.mu.Unlock()
	if t.mending != nil {
		t.mending.Reset(mendIdle)
	}
	at := time.Now() // monotonic
	if !at.After(t.mendedAt) {
		at = t.mendedAt.Add(1) // in the order they were put
	}
	t.mendedAt = at
	heap.Push(&t.due, dueEntry{at: at, name: e.Name, mended: true})
	t.wakeClerk()
}

// discarded deletes an entry that somebody has discarded, unless its name is in use
// again: a message that came anew, after a reset or as a copy, has the same one.
func (t *tenure) discarded(e *driver.Entry) {
	_, live := t.live[e.Name]
	if live || slices.ContainsFunc(t.ops, func(o *laneOp) bool { return o.op.Entry.Name == e.Name }) {
		return
	}
	t.apply(driver.LaneOp{Entry: &driver.Entry{Name: e.Name}, Delete: true}, nil)
	if k := t.unblock(e.Name); k != nil {
		t.nextOf(k)
	}
}
