package engine

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthorn/posthorn/driver"
)

func (r *rig) lease(d time.Duration) {
	by := time.Now().Add(d)
	r.startBy.Store(&by)
}

// Whatever is ready when the lease is about to end waits, and starts when it was
// renewed: what is new, what failed and is to be tried again soon, what comes from
// the lane.
func TestNothingStartsLate(t *testing.T) {
	t.Parallel()
	shapes(t, func(t *testing.T, shape string) {
		r := newRig(t, shape)
		r.topic("order", 1, "a", "soon", "late", "slow")
		r.lease(time.Hour)
		var tried, lapsed atomic.Int64
		entered, leave := make(chan struct{}), make(chan struct{})
		failing := func(asked time.Duration) func(context.Context, *Item) Verdict {
			return func(ctx context.Context, it *Item) Verdict {
				if it.Attempt() == 1 {
					tried.Add(1)
					return Verdict{Kind: Fail, Err: errors.New("not yet"), Wait: asked, Asked: true}
				}
				if lapsed.Load() == 1 {
					t.Errorf("%s was started", it.Delivery.Msg.ID)
				}
				return r.handle(ctx, it)
			}
		}
		m := r.run("m", handlers{"a": r.handle, "soon": failing(500 * time.Millisecond), "late": failing(1100 * time.Millisecond),
			"slow": func(ctx context.Context, it *Item) Verdict {
				entered <- struct{}{}
				<-leave
				return r.handle(ctx, it)
			}}, nil)
		ids := r.publish("order", "", "soon", "late")
		ids = append(ids, r.publish("order", "k", "slow", "a")...)
		<-entered
		r.eventually("two have failed", func() bool { return tried.Load() == 2 })
		lapsed.Store(1)
		r.lease(-time.Second)
		ids = append(ids, r.publish("order", "", "a", "a")...)
		close(leave)
		r.eventually("what runs may finish", func() bool { return r.times(ids[2]) == 1 })
		r.eventually("all that is ready waits", func() bool {
			m.Group.mu.Lock()
			defer m.Group.mu.Unlock()
			n := 0
			for _, t := range m.tenures {
				n += t.stalled.n
			}
			return n == 5
		})
		if got := r.handled(); len(got) != 1 {
			t.Errorf("with a lapsed lease were handled %v", got)
		}
		lapsed.Store(0)
		r.lease(time.Hour)
		r.eventually("it goes on", func() bool { return r.each(1, ids...) && r.lag("order") == 0 })
	})
}

// A suspect does not count a boot while it waits for the lease.
func TestSuspectWaitsForTheLease(t *testing.T) {
	t.Parallel()
	shapes(t, func(t *testing.T, shape string) {
		r := newRig(t, shape)
		r.topic("order", 1, "a")
		ids := r.publish("order", "", "a", "a")
		r.diesWith("order", len(ids))
		r.lease(-time.Second)
		r.run("m", handlers{"a": r.handle}, nil)
		r.never("a suspect was tried", func() bool { return len(r.handled()) > 0 || len(r.entries("order")) > 0 })
		r.lease(time.Hour)
		r.eventually("they are tried", func() bool { return r.each(1, ids...) && r.lag("order") == 0 })
	})
}

// diesWith leaves a partition as a process that was killed does while it handled
// the first n messages.
func (r *rig) diesWith(topic string, n int) {
	r.Helper()
	d := r.open("dead")
	ctx, die := context.WithCancel(r.Context())
	dead := make(chan struct{})
	got := make(chan driver.Tenure, 8)
	go func() {
		defer close(dead)
		_ = d.Join(ctx, "g", &bare{topic: topic, got: got})
	}()
	t := <-got
	into := make([]driver.Delivery, n)
	for have := 0; have < n; {
		k, err := t.Fetch(r.Context(), into[have:], 1<<20)
		if err != nil {
			r.Fatal(err)
		}
		have += k
	}
	if !r.drv.Caps().Queue {
		if err := t.Checkpoint(r.Context(), driver.Checkpoint{Mark: into[n-1].Pos}); err != nil {
			r.Fatal(err)
		}
	}
	die()
	<-dead
}

// bare is a member without an engine.
type bare struct {
	topic string
	got   chan driver.Tenure
}

func (b *bare) Subscribed(driver.GroupSpec) []string        { return []string{b.topic} }
func (b *bare) Status() driver.Status                       { return driver.Status{} }
func (b *bare) Assigned(t driver.Tenure)                    { b.got <- t }
func (b *bare) Revoke(ctx context.Context, _ driver.Tenure) { <-ctx.Done() }
func (b *bare) Lost(driver.Tenure, error)                   {}

// entries is what the lane of partition 0 holds.
func (r *rig) entries(topic string) []driver.Entry {
	r.Helper()
	all, _, err := r.drv.Lane("g", driver.Partition{Topic: topic}).Scan(context.Background(), "", 1000)
	if err != nil {
		r.Fatal(err)
	}
	return all
}

// Nobody looks at the clock while nothing waits for it.
func TestWatchSleeps(t *testing.T) {
	t.Parallel()
	r := newRig(t, "log")
	r.topic("order", 1, "a")
	r.lease(time.Hour)
	m := r.run("m", handlers{"a": r.handle}, nil)
	r.eventually("it is handled", func() bool { return r.each(1, r.publish("order", "", "a")...) || len(r.handled()) > 0 })
	m.Group.mu.Lock()
	defer m.Group.mu.Unlock()
	if in := time.Until(m.watchAt); in < 10*time.Second {
		t.Errorf("it looks again in %v", in)
	}
}
