package engine

import (
	"context"
	"slices"
	"testing"
)

// A key that makes up a backlog keeps its order, whether it is waited for or parked:
// its handlers are quick, then one hangs for a while, then they are quick again.
func TestKeyThatIsMany(t *testing.T) {
	t.Parallel()
	shapes(t, func(t *testing.T, shape string) {
		r := newRig(t, shape)
		r.topic("order", 1, "a", "slow", "other")
		release := make(chan struct{})
		m := r.run("m", map[string]func(context.Context, *Item) Verdict{
			"a":     r.handle,
			"other": r.handle,
			"slow":  func(ctx context.Context, it *Item) Verdict { <-release; return r.handle(ctx, it) },
		}, nil)
		m.deemQuick("slow")
		ids := r.publish("order", "hot", repeat("a", 2000)...)
		ids = append(ids, r.publish("order", "hot", "slow")...)
		ids = append(ids, r.publish("order", "hot", repeat("a", 600)...)...)
		behind := r.publish("order", "cold", "other")
		// The fetcher does not wait for a key that hangs.
		r.eventually("what stands behind the key is handled", func() bool { return r.each(1, behind...) })
		if n := m.counts.parked.Load(); n == 0 {
			t.Error("nothing of the key is parked")
		}
		close(release)
		r.eventually("all are handled", func() bool { return len(r.handled()) == len(ids)+1 })
		hot := slices.DeleteFunc(r.handled(), func(id string) bool { return id == behind[0] })
		if !slices.Equal(hot, ids) {
			t.Error("the key's order is lost")
		}
	})
}

// A key is slow when it is no quicker than the lane, twice; what keeps the whole
// partition waiting says nothing of it.
func TestKeyPace(t *testing.T) {
	const share, enough = 100, uint64(keyLook / parkPace)
	running, gated := &Item{where: inRun}, &Item{where: inGated}
	for _, c := range []struct {
		name   string
		holds  *Item
		turns  uint64
		roomy  bool
		passes int
	}{
		{"nothing is handled", nil, 0, false, share},
		{"a handler runs", running, 0, false, share},
		{"slow handlers", running, enough - 1, false, share},
		{"slow handlers, little room", running, enough - 1, true, share},
		{"quick handlers", running, enough, false, 0},
		{"the partition waits", gated, 0, false, 0},
		{"the partition waited, and there is room", gated, enough, true, 0},
	} {
		k := &keyQueue{holds: c.holds}
		k.paced(c.turns, keyLook, c.roomy, share)
		if k.passes != 0 {
			t.Errorf("%s: slow at once", c.name)
		}
		k.paced(c.turns, keyLook, c.roomy, share)
		if k.passes != c.passes {
			t.Errorf("%s: %d are parked before it is waited for again, want %d", c.name, k.passes, c.passes)
		}
	}
	k := &keyQueue{holds: running}
	for want := 0; want < 4*maxPasses; want = max(share, 2*want) {
		k.paced(0, keyLook, false, share)
		if k.passes != min(want, maxPasses) {
			t.Errorf("%d are parked, want %d", k.passes, min(want, maxPasses))
		}
	}
	k.paced(enough, keyLook, false, share)
	k.passes = 0
	k.paced(0, keyLook, false, share)
	k.paced(0, keyLook, false, share)
	if k.passes != share {
		t.Errorf("after it was quick again: %d", k.passes)
	}
}
