package engine

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// deemQuick has workers take as many items of a type at a time as they ever do.
func (m *runner) deemQuick(typ string) {
	m.Group.mu.Lock()
	defer m.Group.mu.Unlock()
	m.cfg.Handlers[typ].pace = 0
}

// Handlers that were quick and are not any more have all slots at once.
func TestQuickHandlersThatTurnSlow(t *testing.T) {
	t.Parallel()
	shapes(t, func(t *testing.T, shape string) {
		r := newRig(t, shape)
		r.topic("order", 1, "a")
		release := make(chan struct{})
		var inside, most atomic.Int32
		m := r.run("m", map[string]func(context.Context, *Item) Verdict{"a": func(ctx context.Context, it *Item) Verdict {
			if n := inside.Add(1); n > most.Load() {
				most.Store(n)
			}
			<-release
			inside.Add(-1)
			return r.handle(ctx, it)
		}}, nil)
		m.deemQuick("a")
		ids := r.publish("order", "", repeat("a", 200)...)
		r.eventually("16 handlers run", func() bool { return inside.Load() == 16 })
		r.never("more than 16 handlers run", func() bool { return inside.Load() > 16 })
		close(release)
		r.eventually("all are handled once", func() bool { return r.each(1, ids...) })
		if most.Load() != 16 {
			t.Errorf("%d handlers ran at a time", most.Load())
		}
	})
}

// What a worker has finished does not wait for the next that it has taken.
func TestFinishedDoesNotWaitForTheNext(t *testing.T) {
	t.Parallel()
	shapes(t, func(t *testing.T, shape string) {
		r := newRig(t, shape)
		r.topic("order", 1, "a", "stuck")
		release := make(chan struct{})
		m := r.run("m", map[string]func(context.Context, *Item) Verdict{
			"a":     r.handle,
			"stuck": func(ctx context.Context, it *Item) Verdict { <-release; return r.handle(ctx, it) },
		}, func(c *Config) { c.Concurrency = 2 })
		m.deemQuick("a")
		m.deemQuick("stuck")
		first := r.publish("order", "k1", "a")
		stuck := r.publish("order", "k2", "stuck")
		behind := r.publish("order", "k1", "a")
		others := append(r.publish("order", "k3", "a"), r.publish("order", "k4", "a")...)
		r.eventually("all but the stuck one are handled", func() bool {
			return r.each(1, first...) && r.each(1, behind...) && r.each(1, others...)
		})
		r.eventually("what is finished is settled", func() bool { return r.lag("order") <= 4 })
		close(release)
		r.eventually("the stuck one is handled", func() bool { return r.each(1, stuck...) && r.lag("order") == 0 })
	})
}

// At a stop, what a worker has taken and not started is given back.
func TestStopGivesBackWhatIsNotStarted(t *testing.T) {
	t.Parallel()
	shapes(t, func(t *testing.T, shape string) {
		r := newRig(t, shape)
		r.topic("order", 1, "a")
		running, release := make(chan struct{}, 100), make(chan struct{})
		m := r.run("m", map[string]func(context.Context, *Item) Verdict{"a": func(ctx context.Context, it *Item) Verdict {
			running <- struct{}{}
			<-release
			return r.handle(ctx, it)
		}}, func(c *Config) { c.Concurrency = 1 })
		m.deemQuick("a")
		ids := r.publish("order", "", repeat("a", 50)...)
		<-running
		stopped := make(chan struct{})
		go func() { defer close(stopped); m.stop() }()
		r.eventually("the stop has begun", func() bool {
			m.Group.mu.Lock()
			defer m.Group.mu.Unlock()
			return m.draining
		})
		close(release)
		<-stopped
		if n := len(r.handled()); n != 1 {
			t.Errorf("%d were handled, and 1 was running at the stop", n)
		}
		r.run("n", map[string]func(context.Context, *Item) Verdict{"a": r.handle}, nil)
		r.eventually("all are handled once", func() bool { return r.each(1, ids...) })
	})
}

// A worker starts nothing of what it has taken when the lease is about to end.
func TestLeaseEndsAmongWhatIsTaken(t *testing.T) {
	t.Parallel()
	shapes(t, func(t *testing.T, shape string) {
		r := newRig(t, shape)
		r.topic("order", 1, "a")
		var started atomic.Int32
		m := r.run("m", map[string]func(context.Context, *Item) Verdict{"a": func(ctx context.Context, it *Item) Verdict {
			if started.Add(1) == 5 {
				now := time.Now()
				r.startBy.Store(&now)
			}
			return r.handle(ctx, it)
		}}, func(c *Config) { c.Concurrency = 1 })
		m.deemQuick("a")
		ids := r.publish("order", "", repeat("a", 40)...)
		r.eventually("the fifth has run", func() bool { return started.Load() >= 5 })
		r.never("another one is started", func() bool { return started.Load() > 5 })
		later := time.Now().Add(time.Hour)
		r.startBy.Store(&later)
		r.eventually("all are handled once", func() bool { return r.each(1, ids...) })
	})
}

// A pause, too, keeps back what a worker has taken.
func TestPauseAmongWhatIsTaken(t *testing.T) {
	t.Parallel()
	r := newRig(t, "log")
	r.topic("order", 1, "a")
	var started atomic.Int32
	var m *runner
	ready := make(chan struct{})
	m = r.run("m", map[string]func(context.Context, *Item) Verdict{"a": func(ctx context.Context, it *Item) Verdict {
		<-ready
		if started.Add(1) == 5 {
			m.Group.mu.Lock()
			m.takePause(driver.GroupSpec{Name: "g", Resumes: m.resumes, Paused: "on purpose"})
			m.Group.mu.Unlock()
		}
		return r.handle(ctx, it)
	}}, func(c *Config) { c.Concurrency = 1 })
	m.deemQuick("a")
	close(ready)
	ids := r.publish("order", "", repeat("a", 40)...)
	r.eventually("the fifth has run", func() bool { return started.Load() >= 5 })
	r.never("another one is started", func() bool { return started.Load() > 5 })
	m.Group.mu.Lock()
	m.takePause(driver.GroupSpec{Name: "g", Resumes: m.resumes})
	m.Group.mu.Unlock()
	r.eventually("all are handled once", func() bool { return r.each(1, ids...) })
}
