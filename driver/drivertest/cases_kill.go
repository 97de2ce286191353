package drivertest

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/posthorn/posthorn"
)

var killCases = []Case{
	{Name: "kill/under-load", Promise: "P2 P5 L O U", Doc: "killed under load again and again, nothing confirmed is lost and the order per key is kept", run: killUnderLoad},
	{Name: "kill/suspects-alone", Promise: "P8", Doc: "after a kill, what may have been started is handled one at a time, until it is past", run: suspectsAlone},
	{Name: "kill/poison", Promise: "P3 P6", Doc: "a message that kills its process is quarantined after as many starts as declared, and no neighbour is", run: poison},
	{Name: "kill/innocent", Promise: "P3", Doc: "messages that are being handled at many kills, without being the cause, are not quarantined", run: innocent},
	{Name: "kill/repeats-what-was-in-flight", Promise: "P8", Doc: "a kill repeats what was in flight and what finished since the last checkpoint, and nothing before", run: repeatsInFlight},
	{Name: "kill/dead-letters-stay", Promise: "P3", Doc: "dead letters outlive a kill, once each", run: deadLettersStay},
	{Name: "kill/lane-stays", Promise: "P4", Doc: "what waits in the lane for its time outlives a kill and keeps its time", run: laneStays},
}

func killUnderLoad(r *rig) {
	made := r.kind(r.topic("load", 2), "made")
	rounds := 4
	for range rounds {
		n := r.open()
		n.listen("g", quick(), func(_ context.Context, e *posthorn.Event[item]) error {
			if e.Data.N%13 == 0 && e.Attempt < 5 {
				return errHandler
			}
			time.Sleep(time.Duration(e.Data.N%5) * 200 * time.Microsecond)
			return nil
		}, made)
		published := make(chan struct{})
		go func() {
			defer close(published)
			for range 30 {
				if n.tryPublish(made, r.items(20, keys(9)...)...) != nil {
					return
				}
			}
		}()
		least := r.log.count(opEffect, "g") + 50 + r.rnd.IntN(200)
		r.eventually("there is work under way", func() bool { return r.log.count(opEffect, "g") >= least })
		n.cutOff()
		<-published
		n.bury()
	}
	n := r.open()
	n.listen("g", quick(), ok, made)
	n.ended("g")
	n.settled("g")
}

func suspectsAlone(r *rig) {
	const running = 12
	made := r.kind(r.topic("suspects", 1), "made")
	cfg := quick()
	cfg.Checkpoint = 10 * time.Millisecond
	n := r.open()
	var inside atomic.Int32
	block := n.block
	n.listen("g", cfg, func(ctx context.Context, _ *posthorn.Event[item]) error {
		inside.Add(1)
		return block(ctx, nil)
	}, made)
	n.publish(made, r.items(running, keys(running)...)...)
	r.eventually("12 handlers run", func() bool { return inside.Load() == running })
	n.cutOff()
	n.bury()
	n = r.open()
	var now, most atomic.Int32
	n.listen("g", cfg, func(_ context.Context, e *posthorn.Event[item]) error {
		if e.Data.N > running {
			return nil
		}
		if c := now.Add(1); c > most.Load() {
			most.Store(c)
		}
		time.Sleep(2 * time.Millisecond)
		now.Add(-1)
		return nil
	}, made)
	n.publish(made, r.items(30, keys(30)...)...)
	n.ended("g")
	if most.Load() != 1 {
		r.Errorf("%d suspects ran at a time after a kill", most.Load())
	}
}

func poison(r *rig) {
	const boots = 2
	made := r.kind(r.topic("poison", 1), "made")
	cfg := quick()
	cfg.Boots = boots
	bad := 0
	starts := 0
	for process := range boots + 4 {
		n := r.open()
		kill := make(chan struct{}, 1)
		n.listen("g", cfg, func(ctx context.Context, e *posthorn.Event[item]) error {
			switch {
			case e.Data.N == bad:
				n.cutOff() // the process is gone
				kill <- struct{}{}
				return errKilled
			case process == 0:
				return n.block(ctx, nil) // 64 in flight when it dies for the first time
			}
			return nil
		}, made)
		if process == 0 {
			before, after := r.items(10, keys(10)...), r.items(10, keys(10)...)
			p := r.items(1, "poison")
			bad = p[0].N
			n.publish(made, append(append(before, p...), after...)...)
		}
		var dead []posthorn.DeadLetter
		died := false
		r.eventually("the process dies, or the poison is a dead letter", func() bool {
			select {
			case <-kill:
				died = true
				return true
			default:
			}
			if n.dead() {
				return false
			}
			dead = n.deadLetters("g")
			return len(dead) > 0
		})
		if died {
			starts++
			n.bury()
			continue
		}
		n.publish(made, r.items(20, keys(10)...)...)
		n.recordDead("g")
		n.ended("g")
		n.settled("g")
		if len(dead) != 1 || dead[0].Reason != posthorn.CodeQuarantined || dead[0].Key != "poison" {
			r.Errorf("dead letters after a poisonous message: %v", reasons(dead))
		}
		// The first start is not counted by a boot: only a suspect's is.
		if starts < boots || starts > boots+1 {
			r.Errorf("the poison killed %d processes, want %d or %d", starts, boots, boots+1)
		}
		if s := n.bus.Stats(); s.Quarantine != 1 {
			r.Errorf("%d quarantined are counted", s.Quarantine)
		}
		return
	}
	r.Errorf("the poison has killed %d processes and is not quarantined", starts)
}

func innocent(r *rig) {
	made := r.kind(r.topic("innocent", 1), "made")
	cfg := quick()
	cfg.Boots = 2
	for process := range 6 {
		n := r.open()
		before := r.log.count(opEffect, "g")
		started := make(chan struct{}, 100)
		n.listen("g", cfg, func(ctx context.Context, e *posthorn.Event[item]) error {
			started <- struct{}{}
			// The first of the suspects hang once each; then it is killed from
			// outside while another one runs.
			if e.Data.N > process+1 {
				return n.block(ctx, nil)
			}
			return nil
		}, made)
		if process == 0 {
			n.publish(made, r.items(12, keys(12)...)...)
		}
		r.eventually("some are handled, and one hangs", func() bool {
			return r.log.count(opEffect, "g") > before && r.log.runningNow("g") > 0
		})
		r.wait(func() bool { // the checkpoint tells of the effect
			lag, err := n.bus.Lag(r.ctx, r.name("g"))
			return err == nil && int(lag) <= 12-len(r.log.items(opEffect, "g"))
		})
		n.cutOff()
		n.bury()
	}
	n := r.open()
	n.listen("g", cfg, ok, made)
	n.ended("g")
	if dead := n.deadLetters("g"); len(dead) > 0 {
		r.Errorf("%d innocent messages are dead letters: %v", len(dead), reasons(dead))
	}
}

func repeatsInFlight(r *rig) {
	made := r.kind(r.topic("bounded", 1), "made")
	n := r.open()
	block := n.block
	n.listen("g", quick(), func(ctx context.Context, e *posthorn.Event[item]) error {
		if e.Key == "hangs" {
			return block(ctx, nil)
		}
		return nil
	}, made)
	for range 20 {
		n.publish(made, r.items(20, keys(10)...)...)
	}
	r.effects("g", 400)
	n.settled("g") // the checkpoint tells of all of it
	n.publish(made, r.items(3, "hangs", "x", "y")...)
	r.effects("g", 402)
	r.wait(func() bool { // the checkpoint tells of the two
		lag, err := n.bus.Lag(r.ctx, r.name("g"))
		return err == nil && lag <= 1
	})
	n.cutOff()
	n.bury()
	n = r.open()
	n.listen("g", quick(), ok, made)
	n.ended("g")
	for _, i := range r.log.repeats("g") {
		if i <= 400 {
			r.Errorf("item %d was settled before the kill and is handled again", i)
			break
		}
	}
}

func deadLettersStay(r *rig) {
	made := r.kind(r.topic("stay", 1), "made")
	bad := func(_ context.Context, e *posthorn.Event[item]) error {
		if e.Key == "bad" {
			return posthorn.Permanent(errHandler)
		}
		return nil
	}
	n := r.open()
	n.listen("g", quick(), bad, made)
	n.publish(made, r.items(20, "bad", "good")...)
	n.hasDead("g", 10)
	n.ended("g")
	for range 2 {
		n.kill()
		n = r.open()
		n.listen("g", quick(), bad, made)
		n.publish(made, r.items(1, "good")...)
		n.ended("g")
		n.settled("g")
		dead := n.deadLetters("g")
		ids := map[string]bool{}
		for _, d := range dead {
			ids[d.ID] = true
		}
		if len(ids) != 10 || len(dead) != 10 {
			r.Errorf("after a kill there are %d dead letters of %d events, want 10 of 10", len(dead), len(ids))
		}
	}
}

func laneStays(r *rig) {
	made := r.kind(r.topic("lane", 1), "made")
	cfg := quick()
	const delay = 1500 * time.Millisecond
	cfg.Retry = posthorn.Retry{Attempts: 1, Late: 1, LateDelay: delay, MaxLateDelay: delay}
	old := r.open()
	old.listen("g", cfg, failUntil(2), made)
	old.publish(made, r.items(10, keys(10)...)...)
	r.eventually("all wait in the lane", func() bool { return old.bus.Stats().Late == 10 })
	old.settled("g")
	old.kill()
	n := r.open()
	n.listen("g", cfg, failUntil(2), made)
	n.ended("g")
	failed := map[int]time.Time{}
	for _, o := range r.log.of(opEnd, "g") {
		failed[o.n] = o.at
	}
	times, stayed := map[int]int{}, 0
	for _, o := range r.log.of(opEffect, "g") {
		if gap := o.at.Sub(failed[o.n]); gap < delay/2-5*time.Millisecond {
			r.Errorf("item %d was tried again %v after it failed, want half of %v at least", o.n, gap, delay)
		}
		if o.bus == old.n { // it was due before the kill, on a slow machine
			continue
		}
		stayed++
		if times[o.n]++; times[o.n] > 1 {
			r.Errorf("item %d was handled twice after the kill", o.n)
		}
	}
	if stayed == 0 {
		r.Errorf("nothing waited at the kill: the case has tested nothing")
	}
}

var boundCases = []Case{
	{Name: "bound/concurrency", Promise: "P9", Doc: "no more handlers of a group run at a time than declared, over all partitions", run: boundConcurrency},
	{Name: "bound/window", Promise: "P9", Doc: "a slow handler slows its intake: no more is taken than the window", run: boundWindow},
	{Name: "bound/bytes", Promise: "P9", Doc: "a slow handler slows its intake: no more bytes are taken than declared", run: boundBytes},
	{Name: "bound/abandoned", Promise: "P9", Doc: "handlers that ignore their deadlines are capped", run: boundAbandoned},
}

func boundConcurrency(r *rig) {
	made := r.kind(r.topic("concurrency", 4), "made")
	n := r.open()
	cfg := quick()
	cfg.Concurrency = 5
	n.listen("g", cfg, func(context.Context, *posthorn.Event[item]) error {
		time.Sleep(500 * time.Microsecond)
		return nil
	}, made)
	n.publish(made, r.items(300, keys(50)...)...)
	n.ended("g")
	if most := r.log.maxRunning("g"); most != 5 {
		r.Errorf("%d handlers ran at a time, want 5", most)
	}
}

func boundWindow(r *rig) {
	const window = 64
	made := r.kind(r.topic("window", 1), "made")
	n := r.open()
	n.publish(made, r.items(1000, keys(1000)...)...)
	cfg := quick()
	cfg.Window = window
	cfg.Concurrency = 4
	release := make(chan struct{})
	n.listen("g", cfg, func(ctx context.Context, _ *posthorn.Event[item]) error { return n.block(ctx, release) }, made)
	r.eventually("4 handlers run", func() bool { return r.log.runningNow("g") == 4 })
	r.never("more was taken than the window", func() bool { return n.cut.fetched.Load() > window })
	close(release)
	n.ended("g")
	r.onceEach("g", 1000)
}

func boundBytes(r *rig) {
	const size, most = 16 << 10, 256 << 10
	made := r.kind(r.topic("bytes", 2), "made")
	n := r.open()
	pad := make([]byte, size)
	for i := range pad {
		pad[i] = 'x'
	}
	items := r.items(120, keys(120)...)
	for i := range items {
		items[i].Pad = string(pad)
	}
	n.publish(made, items...)
	cfg := quick()
	cfg.WindowBytes = most
	cfg.Concurrency = 4
	release := make(chan struct{})
	n.listen("g", cfg, func(ctx context.Context, _ *posthorn.Event[item]) error { return n.block(ctx, release) }, made)
	r.eventually("4 handlers run", func() bool { return r.log.runningNow("g") == 4 })
	r.never("more bytes were taken than twice what is declared", func() bool { return n.cut.fetched.Load()*size > 2*most })
	close(release)
	n.ended("g")
	r.onceEach("g", 120)
}

func boundAbandoned(r *rig) {
	made := r.kind(r.topic("abandoned", 1), "made")
	n := r.open()
	cfg := quick()
	cfg.Concurrency = 2
	cfg.Timeout = 10 * time.Millisecond
	cfg.Drain = 100 * time.Millisecond
	cfg.Retry.Attempts, cfg.Retry.Late = 1, posthorn.None
	var inside atomic.Int32
	release := make(chan struct{})
	n.listen("g", cfg, func(context.Context, *posthorn.Event[item]) error {
		inside.Add(1)
		select {
		case <-release:
		case <-r.stuck:
		}
		return nil
	}, made)
	n.publish(made, r.items(300, keys(300)...)...)
	r.eventually("handlers ignore their deadlines", func() bool { return n.bus.Stats().Abandoned > 0 })
	r.never("handlers without end are abandoned", func() bool { return inside.Load() > 150 })
	close(release)
	r.eventually("the rest goes on when they return", func() bool { return inside.Load() == 300 })
}

var retentionCases = []Case{
	{Name: "retention/keeps-unsettled", Promise: "P2", Doc: "retention deletes only what is older than declared and settled by every registered group", run: keepsUnsettled},
}

func keepsUnsettled(r *rig) {
	topic := posthorn.DefineTopic(r.name("keep"), posthorn.TopicConfig{Partitions: 1, Keep: time.Millisecond})
	made := r.kind(topic, "made")
	n := r.open()
	g := n.listen("slow", quick(), ok, made)
	n.listen("fast", quick(), ok, made)
	n.publish(made, r.items(20, keys(5)...)...)
	n.ended("slow")
	r.stop(g) // it is registered, and away
	n.publish(made, r.items(100, keys(5)...)...)
	n.ended("fast")
	n.settled("fast")
	n.close() // closing and opening runs retention's round, if a bus has one at its start
	n = r.open()
	n.listen("fast", quick(), ok, made)
	n.publish(made, r.items(10, keys(5)...)...)
	n.ended("fast")
	r.never("what a group has not settled is deleted", func() bool { return n.trimmedTooMuch(topic.Name()) })
	n.close()
	n = r.open()
	n.listen("slow", quick(), ok, made)
	n.ended("slow")
	n.settled("slow")
	r.onceEach("slow", 130)
}

// trimmedTooMuch tells whether a Trim went above the floor of a group.
func (n *node) trimmedTooMuch(topic string) bool {
	for _, c := range n.cut.trimmed() {
		if c.p.Topic != topic {
			continue
		}
		for group, floor := range c.floor {
			if c.below > floor+1 {
				n.r.Errorf("Trim(%v, below %d), and group %s stands at %d", c.p, c.below, group, floor)
				return true
			}
		}
	}
	return false
}
