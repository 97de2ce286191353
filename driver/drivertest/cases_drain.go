package drivertest

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/posthorn/posthorn"
)

var drainCases = []Case{
	{Name: "drain/in-flight-finish", Promise: "P8 peer 3", Doc: "at a stop the handlers that run finish with a live context and a working bus; nothing is lost and nothing repeated", run: inFlightFinish},
	{Name: "drain/run", Promise: "P8 peer 3", Doc: "Run drains when its context ends, and not under that context", run: runDrains},
	{Name: "drain/gap-repeats-nothing", Promise: "P8", Doc: "a stop that leaves a gap repeats what is in the gap, and nothing of what is finished above it", run: gapRepeatsNothing},
	{Name: "drain/under-load", Promise: "P8", Doc: "stopped and started again under load, a group loses nothing and handles nothing twice", run: drainUnderLoad},
	{Name: "drain/times-out", Promise: "P8", Doc: "a drain ends at its time, with handlers that do not; their events come again", run: drainTimesOut},
}

func inFlightFinish(r *rig) {
	const running = 200
	up, down := r.kind(r.topic("up", 2), "up"), r.kind(r.topic("down", 2), "down")
	n := r.open()
	cfg := quick()
	cfg.Concurrency = running
	var inside atomic.Int32
	release := make(chan struct{})
	handler := func(n *node) itemFunc {
		return func(ctx context.Context, e *posthorn.Event[item]) error {
			inside.Add(1)
			if err := n.block(ctx, release); err != nil {
				return err
			}
			if ctx.Err() != nil {
				r.Errorf("the context of a handler that runs at the stop has ended: %v", ctx.Err())
			}
			return down.Publish(ctx, n.bus, e.Data)
		}
	}
	g := n.listen("up", cfg, handler(n), up)
	n.publish(up, r.items(2*running, keys(2*running)...)...)
	r.eventually("200 handlers run", func() bool { return inside.Load() >= running })
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		ctx, cancel := r.deadline()
		defer cancel()
		if err := g.Stop(ctx); err != nil {
			r.Errorf("Stop: %v", err)
		}
	}()
	r.never("Stop returned while handlers ran", func() bool {
		select {
		case <-stopped:
			return true
		default:
			return false
		}
	})
	if got := inside.Load(); got > running {
		r.Errorf("%d handlers were started, %d may run", got, running)
	}
	close(release)
	<-stopped
	if got := len(r.log.items(opEffect, "up")); got < running {
		r.Errorf("%d of %d handlers that ran at the stop had their effect", got, running)
	}
	n.close()
	n = r.open()
	n.listen("up", cfg, handler(n), up)
	n.listen("down", quick(), func(context.Context, *posthorn.Event[item]) error { return nil }, down)
	r.effects("up", 2*running)
	r.effects("down", 2*running)
	n.ended("up")
	n.settled("down")
	r.onceEach("up", 2*running)
	r.onceEach("down", 2*running)
}

func runDrains(r *rig) {
	made := r.kind(r.topic("run", 1), "made")
	n := r.open()
	release, inside := make(chan struct{}), make(chan struct{}, 64)
	g := n.bus.Group(r.name("g"), quick())
	made.Handle(g, n.recorded("g", func(ctx context.Context, _ *posthorn.Event[item]) error {
		inside <- struct{}{}
		if err := n.block(ctx, release); err != nil {
			return err
		}
		return ctx.Err()
	}))
	ctx, cancel := context.WithCancel(r.ctx)
	ended := make(chan error, 1)
	go func() { ended <- n.bus.Run(ctx) }()
	n.publish(made, r.items(5, keys(5)...)...)
	for range 5 {
		select {
		case <-inside:
		case <-time.After(r.patience):
			r.Fatalf("the handlers do not run")
		}
	}
	cancel()
	r.never("Run returned while handlers ran", func() bool { return len(ended) > 0 })
	close(release)
	select {
	case err := <-ended:
		if err != nil {
			r.Errorf("Run: %v", err)
		}
	case <-time.After(r.patience):
		r.Fatalf("Run does not return")
	}
	r.onceEach("g", 5)
	n.close()
	n = r.open()
	n.listen("g", quick(), ok, made)
	n.publish(made, r.items(1, "k")...)
	n.ended("g")
	r.onceEach("g", 6)
}

func gapRepeatsNothing(r *rig) {
	made := r.kind(r.topic("gap", 1), "made")
	n := r.open()
	cfg := quick()
	cfg.Drain = 200 * time.Millisecond
	over := n.died
	n.listen("g", cfg, func(_ context.Context, e *posthorn.Event[item]) error {
		if e.Key == "hangs" {
			select { // it ignores its context
			case <-r.stuck:
			case <-over:
			}
			return errKilled
		}
		return nil
	}, made)
	n.publish(made, r.items(1, "hangs")...)
	for range 20 {
		n.publish(made, r.items(10, keys(10)...)...)
	}
	n.publish(made, r.items(1, "hangs-not")...)
	r.effects("g", 201)
	ctx, cancel := r.deadline()
	_ = n.bus.Close(ctx) // it says that a handler did not end
	cancel()
	n.once.Do(func() { close(n.died) }) // whatever that handler does counts no more
	n = r.open()
	n.listen("g", quick(), ok, made)
	n.effectsOf("g", 202)
	n.settled("g")
	if rep := r.log.repeats("g"); len(rep) > 0 {
		r.Errorf("a clean stop repeats what was finished above a gap: %s", brief(rep))
	}
}

// effectsOf is effects, with the loss check.
func (n *node) effectsOf(group string, want int) {
	n.r.Helper()
	n.r.effects(group, want)
	if miss := n.r.log.missing(group); len(miss) > 0 {
		n.r.Errorf("lost: %s", brief(miss))
	}
}

func drainUnderLoad(r *rig) {
	made := r.kind(r.topic("load", 2), "made")
	total := 0
	for range 4 {
		n := r.open()
		g := n.listen("g", quick(), func(_ context.Context, e *posthorn.Event[item]) error {
			if e.Data.N%7 == 0 && e.Attempt < 3 {
				return errHandler
			}
			return nil
		}, made)
		for range 10 {
			n.publish(made, r.items(30, keys(11)...)...)
		}
		total += 300
		r.stop(g)
		n.close()
	}
	n := r.open()
	n.listen("g", quick(), ok, made)
	n.ended("g")
	n.settled("g")
	r.onceEach("g", total)
}

func drainTimesOut(r *rig) {
	made := r.kind(r.topic("deaf", 1), "made")
	n := r.open()
	cfg := quick()
	cfg.Drain = 100 * time.Millisecond
	inside := make(chan struct{}, 8)
	over := n.died
	g := n.listen("g", cfg, func(context.Context, *posthorn.Event[item]) error {
		inside <- struct{}{}
		select {
		case <-r.stuck:
		case <-over:
		}
		return errKilled
	}, made)
	n.publish(made, r.items(2, keys(2)...)...)
	for range 2 {
		select {
		case <-inside:
		case <-time.After(r.patience):
			r.Fatalf("the handlers do not run")
		}
	}
	began := time.Now()
	ctx, cancel := r.deadline()
	err := g.Stop(ctx)
	cancel()
	if err == nil {
		r.Errorf("Stop returned nil while handlers run")
	}
	if took := time.Since(began); took > 8*time.Second { // the drain, and a moment to record what is finished
		r.Errorf("a drain of 100 ms took %v", took)
	}
	ctx, cancel = r.deadline()
	_ = n.bus.Close(ctx)
	cancel()
	n.once.Do(func() { close(n.died) })
	n = r.open()
	n.listen("g", quick(), ok, made)
	n.effectsOf("g", 2)
}
