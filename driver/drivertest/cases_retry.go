package drivertest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
)

var retryCases = []Case{
	{Name: "retry/in-memory", Promise: "P4", Doc: "the first attempts follow in memory, counted from 1, without the lane", run: retryInMemory},
	{Name: "retry/late", Promise: "P4", Doc: "then come late attempts through the lane, up to the budget, and then a dead letter; none after it", run: retryLate},
	{Name: "retry/late-succeeds", Promise: "P4", Doc: "what a late attempt handles is settled, and no dead letter", run: lateSucceeds},
	{Name: "retry/backoff-grows", Promise: "P4 peer 5", Doc: "the waits between attempts are no shorter than declared, and they grow, in memory and late", run: backoffGrows},
	{Name: "retry/frees-slot", Promise: "P4 peer 6", Doc: "waiting for an in-memory attempt holds the key, and neither a slot nor the partition", run: freesSlot},
	{Name: "retry/late-frees-key", Promise: "P4 P5", Doc: "a delayed attempt blocks nobody, not even its key", run: lateFreesKey},
	{Name: "retry/never-beside-its-key", Promise: "P5", Doc: "a late attempt is not run beside another event of its key", run: neverBesideItsKey},
	{Name: "retry/attempts-outlive-restart", Promise: "P4", Doc: "attempts are counted on after a clean restart", run: attemptsOutliveRestart},
	{Name: "retry/attempts-outlive-kill", Promise: "P4", Doc: "attempts that the lane knows of are counted on after a kill", run: attemptsOutliveKill},
	{Name: "retry/drain-keeps-count", Promise: "P4 P8", Doc: "an event that has failed and waits at a drain goes to the lane with its count", run: drainKeepsCount},
	{Name: "retry/after", Promise: "P4", Doc: "RetryAfter is obeyed: a short one in memory, a long one in the lane, holding nobody", run: retryAfter},
	{Name: "retry/many-delayed", Promise: "P4 P9", Doc: "thousands that wait for a late attempt hold no slot and no window", run: manyDelayed},
	{Name: "retry/lane-away", Promise: "P4 P6", Doc: "a lane that cannot be written loses nothing, and holds no handler", run: laneAway},
}

func failUntil(attempt int) itemFunc {
	return func(_ context.Context, e *posthorn.Event[item]) error {
		if e.Attempt < attempt {
			return errHandler
		}
		return nil
	}
}

func retryInMemory(r *rig) {
	made := r.kind(r.topic("memory", 2), "made")
	n := r.open()
	n.listen("g", quick(), failUntil(3), made)
	n.publish(made, r.items(20, keys(5)...)...)
	n.ended("g")
	n.settled("g")
	r.onceEach("g", 20)
	if s := n.bus.Stats(); s.Retried != 40 || s.Late != 0 || s.Dead != 0 {
		r.Errorf("20 events failed twice: %d retried, %d of them late, %d dead", s.Retried, s.Late, s.Dead)
	}
}

func retryLate(r *rig) {
	made := r.kind(r.topic("late", 2), "made")
	n := r.open()
	n.listen("g", quick(), func(context.Context, *posthorn.Event[item]) error { return errHandler }, made)
	n.publish(made, r.items(10, keys(5)...)...)
	for _, d := range n.hasDead("g", 10) {
		if d.Reason != posthorn.CodeHandler || d.Attempts != 6 || len(d.Errors) != 6 {
			r.Errorf("dead letter for %q after %d attempts with %d errors, want %q, 6 and 6", d.Reason, d.Attempts, len(d.Errors), posthorn.CodeHandler)
		}
	}
	n.ended("g")
	r.never("an attempt after the dead letter", func() bool { return r.log.count(opStart, "g") > 60 })
	if s := n.bus.Stats(); s.Late != 30 || s.Dead != 10 || s.Started != 60 {
		r.Errorf("10 events with 3 attempts in memory and 3 late ones: %d late, %d dead, %d started", s.Late, s.Dead, s.Started)
	}
	n.settled("g")
}

func lateSucceeds(r *rig) {
	made := r.kind(r.topic("late-ok", 2), "made")
	n := r.open()
	n.listen("g", quick(), failUntil(5), made)
	n.publish(made, r.items(20, keys(5)...)...)
	n.ended("g")
	r.onceEach("g", 20)
	if dead := n.deadLetters("g"); len(dead) > 0 {
		r.Errorf("%d dead letters", len(dead))
	}
	n.close()
	n = r.open() // and it is settled for good
	n.listen("g", quick(), ok, made)
	n.publish(made, r.items(5, keys(5)...)...)
	n.ended("g")
	n.settled("g")
	r.onceEach("g", 25)
}

func backoffGrows(r *rig) {
	made := r.kind(r.topic("backoff", 1), "made")
	n := r.open()
	cfg := quick()
	cfg.Retry = posthorn.Retry{Attempts: 4, Delay: 16 * time.Millisecond, MaxDelay: time.Second,
		Late: 3, LateDelay: 64 * time.Millisecond, MaxLateDelay: time.Second}
	n.listen("g", cfg, func(context.Context, *posthorn.Event[item]) error { return errHandler }, made)
	n.publish(made, r.items(3, keys(3)...)...)
	n.hasDead("g", 3)
	ms := time.Millisecond
	least := []time.Duration{8 * ms, 16 * ms, 32 * ms, 32 * ms, 64 * ms, 128 * ms}
	last := map[int]time.Time{}
	ends := r.log.of(opEnd, "g")
	for _, o := range ends {
		last[o.n*100+o.attempt] = o.at
	}
	for _, o := range r.log.of(opStart, "g") {
		if o.attempt < 2 || o.attempt-2 >= len(least) {
			continue
		}
		if gap := o.at.Sub(last[o.n*100+o.attempt-1]); gap < least[o.attempt-2]-ms {
			r.Errorf("attempt %d began %v after the end of the one before, want at least %v", o.attempt, gap, least[o.attempt-2])
		}
	}
	if len(ends) != 21 {
		r.Errorf("%d attempts for 3 events, want 21", len(ends))
	}
}

func freesSlot(r *rig) {
	made := r.kind(r.topic("slot", 1), "made")
	n := r.open()
	cfg := quick()
	cfg.Concurrency = 1
	cfg.Drain = time.Second
	cfg.Retry.Delay, cfg.Retry.MaxDelay = time.Hour, time.Hour
	n.listen("g", cfg, func(_ context.Context, e *posthorn.Event[item]) error {
		if e.Key == "fails" && e.Attempt == 1 {
			return errHandler
		}
		return nil
	}, made)
	n.publish(made, r.items(1, "fails")...)
	n.publish(made, r.items(1, "fails")...)
	n.publish(made, r.items(20, keys(4)...)...)
	r.eventually("the other keys are handled while one waits for its second attempt", func() bool { return len(r.log.items(opEffect, "g")) == 20 })
	r.never("the key of an event that waits for its second attempt went on", func() bool {
		return len(r.log.all(func(o op) bool { return o.what == opStart && o.key == "fails" })) > 1
	})
}

func lateFreesKey(r *rig) {
	made := r.kind(r.topic("frees", 1), "made")
	n := r.open()
	cfg := quick()
	cfg.Concurrency = 1
	cfg.Retry.Attempts = 1
	cfg.Retry.LateDelay, cfg.Retry.MaxLateDelay = time.Hour, time.Hour
	bad := r.items(1, "k")
	n.listen("g", cfg, func(_ context.Context, e *posthorn.Event[item]) error {
		if e.Data.N == bad[0].N {
			return errHandler
		}
		return nil
	}, made)
	n.publish(made, bad...)
	n.publish(made, r.items(20, "k", "other")...)
	r.effects("g", 20)
	n.settled("g") // what is due later does not count, and does not hold the floor
	r.onceEach("g", 20)
}

func neverBesideItsKey(r *rig) {
	made := r.kind(r.topic("beside", 1), "made")
	n := r.open()
	cfg := quick()
	cfg.Retry.Attempts = 1
	cfg.Retry.Late, cfg.Retry.LateDelay, cfg.Retry.MaxLateDelay = 3, 20*time.Millisecond, 20*time.Millisecond
	release := make(chan struct{})
	var second atomic.Bool
	it := r.items(3, "k")
	n.listen("g", cfg, func(ctx context.Context, e *posthorn.Event[item]) error {
		switch {
		case e.Data.N == it[0].N && e.Attempt == 1:
			return errHandler
		case e.Data.N == it[1].N:
			second.Store(true)
			return n.block(ctx, release)
		}
		return nil
	}, made)
	n.publish(made, it...)
	r.eventually("the second of the key is handled", second.Load)
	r.eventually("the first has gone to the lane", func() bool { return n.bus.Stats().Late == 1 })
	r.never("the late attempt of the first was started beside the second", func() bool { return r.log.runningNow("g") > 1 })
	close(release)
	n.ended("g")
	r.onceEach("g", 3)
}

func attemptsOutliveRestart(r *rig) { attemptsOutlive(r, (*node).close) }
func attemptsOutliveKill(r *rig)    { attemptsOutlive(r, (*node).kill) }

// attemptsOutlive: each bus makes what attempts it can in a short time; over all
// of them an event gets its budget, not more.
func attemptsOutlive(r *rig, end func(*node)) {
	made := r.kind(r.topic("outlive", 1), "made")
	cfg := quick()
	cfg.Retry = posthorn.Retry{Attempts: 2, Delay: time.Millisecond, MaxDelay: time.Millisecond,
		Late: 3, LateDelay: 300 * time.Millisecond, MaxLateDelay: 300 * time.Millisecond}
	fail := func(context.Context, *posthorn.Event[item]) error { return errHandler }
	n := r.open()
	n.listen("g", cfg, fail, made)
	n.publish(made, r.items(2, "a", "b")...)
	for late := 1; late <= 3; late++ {
		// Where time runs fast, a bus makes more than one late attempt.
		left := 2 - len(n.deadLetters("g"))
		r.eventuallyf(func() string { return fmt.Sprintf("bus %d has made a late attempt of each that is left", late) }, func() bool {
			s := n.bus.Stats()
			return int(s.Late+s.Dead) >= left
		})
		n.settled("g")
		end(n)
		n = r.open()
		if late == 3 {
			break
		}
		n.listen("g", cfg, fail, made)
	}
	n.listen("g", cfg, fail, made)
	for _, d := range n.hasDead("g", 2) {
		if d.Attempts != 5 {
			r.Errorf("dead after %d attempts, want 5", d.Attempts)
		}
	}
	// A kill may come before the lane has the count of an attempt that has ended:
	// that attempt is repeated.
	most := 10
	if len(r.log.of(opKill, "")) > 0 {
		most += 2 * 3
	}
	if got := r.log.count(opStart, "g"); got < 10 || got > most {
		r.Errorf("2 events were started %d times, want 10 to %d", got, most)
	}
	n.ended("g")
}

func drainKeepsCount(r *rig) {
	made := r.kind(r.topic("drained", 1), "made")
	cfg := quick()
	cfg.Retry.Delay, cfg.Retry.MaxDelay = 400*time.Millisecond, 400*time.Millisecond
	n := r.open()
	g := n.listen("g", cfg, failUntil(2), made)
	n.publish(made, r.items(10, keys(10)...)...)
	r.eventually("each has failed once", func() bool { return len(r.log.items(opEnd, "g")) == 10 })
	r.stop(g)
	if got := r.log.count(opEffect, "g"); got > 0 {
		r.Logf("%d were tried again before the drain", got)
	}
	n.close()
	n = r.open()
	n.listen("g", cfg, failUntil(2), made)
	n.ended("g") // its check A says that attempt 2 follows attempt 1
	r.onceEach("g", 10)
}

func retryAfter(r *rig) {
	made := r.kind(r.topic("after", 1), "made")
	n := r.open()
	cfg := quick()
	cfg.Concurrency = 1
	n.listen("g", cfg, func(_ context.Context, e *posthorn.Event[item]) error {
		switch {
		case e.Attempt > 1:
			return nil
		case e.Key == "soon":
			return posthorn.RetryAfter(errHandler, 60*time.Millisecond)
		case e.Key == "second":
			return posthorn.RetryAfter(errHandler, 1200*time.Millisecond)
		case e.Key == "hour":
			return posthorn.RetryAfter(errHandler, time.Hour)
		}
		return nil
	}, made)
	n.publish(made, r.items(4, "hour", "second", "soon", "plain")...)
	n.publish(made, r.items(2, "plain")...)
	r.effects("g", 5)
	r.eventually("the two long ones went through the lane", func() bool { return n.bus.Stats().Late == 2 })
	n.settled("g")
	at := map[string]time.Time{}
	for _, o := range r.log.of(opEnd, "g") {
		at[o.key] = o.at
	}
	for _, o := range r.log.of(opStart, "g") {
		least := map[string]time.Duration{"soon": 60 * time.Millisecond, "second": 1200 * time.Millisecond}[o.key]
		if gap := o.at.Sub(at[o.key]); o.attempt == 2 && gap < least-5*time.Millisecond {
			r.Errorf("%s was tried again after %v", o.key, gap)
		}
		if o.key == "hour" && o.attempt > 1 {
			r.Errorf("what was to wait an hour was tried again at once")
		}
	}
}

func manyDelayed(r *rig) {
	events := 10_000
	if testing.Short() || r.broken != nil {
		events = 600
	}
	made := r.kind(r.topic("delayed", 2), "made")
	n := r.open()
	cfg := quick()
	cfg.Concurrency = 8
	cfg.Window = 256
	cfg.Retry.Attempts = 1
	cfg.Retry.LateDelay, cfg.Retry.MaxLateDelay = time.Hour, time.Hour
	n.listen("g", cfg, func(_ context.Context, e *posthorn.Event[item]) error {
		if e.Key != "works" {
			return errHandler
		}
		return nil
	}, made)
	failing := r.items(events, keys(100)...)
	for i := 0; i < len(failing); i += 500 {
		for _, it := range failing[i:min(i+500, len(failing))] {
			it.Pad = ""
		}
		n.publish(made, failing[i:min(i+500, len(failing))]...)
	}
	n.publish(made, r.items(10, "works")...)
	r.eventuallyf(func() string { return fmt.Sprintf("%d wait in the lane; there are %d", events, n.bus.Stats().Late) },
		func() bool { return n.bus.Stats().Late >= int64(events) })
	r.effects("g", 10)
	n.settled("g")
	if got := r.log.count(opStart, "g"); got != events+10 {
		r.Errorf("%d starts for %d events", got, events+10)
	}
}

func laneAway(r *rig) {
	made := r.kind(r.topic("away", 1), "made")
	n := r.open()
	cfg := quick()
	cfg.Concurrency = 2
	cfg.Retry.Attempts, cfg.Retry.Late = 1, 2
	var mu sync.Mutex
	away := true
	fail := laneFault(func() bool { mu.Lock(); defer mu.Unlock(); return away })
	n.cut.onApply.Store(&fail)
	n.listen("g", cfg, func(_ context.Context, e *posthorn.Event[item]) error {
		if e.Key == "fails" && e.Attempt < 3 {
			return errHandler
		}
		return nil
	}, made)
	n.publish(made, r.items(5, "fails")...)
	n.publish(made, r.items(20, keys(4)...)...)
	r.eventually("the other keys are handled while the lane is away", func() bool {
		return len(r.log.all(func(o op) bool { return o.what == opEffect && o.key != "fails" })) == 20
	})
	mu.Lock()
	away = false
	mu.Unlock()
	n.ended("g")
	r.onceEach("g", 25)
}
