package drivertest

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/posthorn/posthorn"
)

var orderCases = []Case{
	{Name: "order/per-key", Promise: "P5", Doc: "events of one key are handled one at a time in the order of publishing, and different keys side by side", run: orderPerKey},
	{Name: "order/across-types", Promise: "P5", Doc: "events of several types of one topic keep the order of their key", run: orderAcrossTypes},
	{Name: "order/parallel-in-a-partition", Promise: "peer 1", Doc: "one partition keeps as many handlers running as the group allows", run: parallelInPartition},
	{Name: "order/slow-key", Promise: "P5 P6", Doc: "a key whose handler hangs holds no other key", run: slowKey},
	{Name: "order/hot-key", Promise: "P5 P9", Doc: "a key with many more waiting than the window holds keeps its order, and holds no other key", run: hotKey},
	{Name: "order/hot-key-restart", Promise: "P5", Doc: "what waits behind a hot key is neither lost nor out of order after a clean restart", run: hotKeyRestart},
	{Name: "order/hot-key-kill", Promise: "P5", Doc: "what waits behind a hot key is neither lost nor out of order after a kill", run: hotKeyKill},
	{Name: "order/without-key", Promise: "P5", Doc: "events without a key are spread over the partitions and handled side by side", run: withoutKey},
}

func orderPerKey(r *rig) {
	made := r.kind(r.topic("order", 3), "made")
	n := r.open()
	n.listen("g", quick(), func(context.Context, *posthorn.Event[item]) error {
		if rand.IntN(4) == 0 {
			time.Sleep(time.Duration(rand.IntN(500)) * time.Microsecond)
		}
		runtime.Gosched()
		return nil
	}, made)
	for range 10 {
		n.publish(made, r.items(100, keys(20)...)...)
	}
	n.ended("g")
	n.settled("g")
	r.onceEach("g", 1000)
	if most := r.log.maxRunning("g"); most < 2 {
		r.Errorf("at most %d handlers of 16 ran at a time", most)
	}
}

func orderAcrossTypes(r *rig) {
	topic := r.topic("types", 2)
	a, b, c := r.kind(topic, "a"), r.kind(topic, "b"), r.kind(topic, "c")
	n := r.open()
	n.listen("g", quick(), ok, a, b, c)
	for i := range 50 {
		var items []item
		var out []*posthorn.Outgoing
		for j := range 6 {
			it := r.items(1, keys(3)[(i+j)%3])[0]
			items, out = append(items, it), append(out, []itemType{a, b, c}[(i*j)%3].New(it))
		}
		n.published(items, out, n.bus.PublishAll(r.ctx, out...))
	}
	n.ended("g")
	r.onceEach("g", 300)
}

func parallelInPartition(r *rig) {
	const slots = 32
	made := r.kind(r.topic("parallel", 1), "made")
	n := r.open()
	cfg := quick()
	cfg.Concurrency = slots
	var running atomic.Int32
	all := make(chan struct{})
	n.listen("g", cfg, func(ctx context.Context, _ *posthorn.Event[item]) error {
		if running.Add(1) == slots {
			close(all)
		}
		return n.block(ctx, all)
	}, made)
	n.publish(made, r.items(slots, keys(slots)...)...)
	r.eventuallyf(func() string { return "32 handlers run at a time in one partition" }, func() bool { return running.Load() >= slots })
	n.ended("g")
}

func slowKey(r *rig) {
	made := r.kind(r.topic("slow", 1), "made")
	n := r.open()
	release := make(chan struct{})
	n.listen("g", quick(), func(ctx context.Context, e *posthorn.Event[item]) error {
		if e.Key == "slow" {
			return n.block(ctx, release)
		}
		return nil
	}, made)
	for range 10 {
		n.publish(made, r.items(20, "slow", "a", "b", "c")...)
	}
	r.eventually("the other keys are handled while one hangs", func() bool { return len(r.log.items(opEffect, "g")) == 150 })
	close(release)
	n.ended("g")
	r.onceEach("g", 200)
}

// hotGroup is a group with a window that a hot key fills many times.
func hotGroup() posthorn.GroupConfig {
	cfg := quick()
	cfg.Window = 64
	cfg.Concurrency = 4
	return cfg
}

func hotEvents(r *rig) int {
	if r.broken != nil {
		return 300
	}
	return 600
}

// slowIfHot takes a moment for each event of the hot key.
func slowIfHot(_ context.Context, e *posthorn.Event[item]) error {
	if e.Key == "hot" {
		time.Sleep(time.Millisecond)
	}
	return nil
}

// publishHot publishes many events of one key, with a few of others in between.
func (n *node) publishHot(made itemType, hot int) (total int) {
	n.r.Helper()
	for i := 0; i < hot; i += 100 {
		n.publish(made, n.r.items(100, "hot")...)
		n.publish(made, n.r.items(10, "a", "b")...)
		total += 110
	}
	return total
}

func (l *opLog) hotAndCold(group string) (hot, cold int) {
	for _, o := range l.of(opEffect, group) {
		if o.key == "hot" {
			hot++
		} else {
			cold++
		}
	}
	return hot, cold
}

func hotKey(r *rig) {
	made := r.kind(r.topic("hot", 1), "made")
	n := r.open()
	hot := hotEvents(r)
	total := n.publishHot(made, hot)
	n.listen("g", hotGroup(), slowIfHot, made)
	var before int
	r.eventually("the other keys are handled while many wait behind the hot one", func() bool {
		h, cold := r.log.hotAndCold("g")
		before = h
		return cold == total-hot
	})
	if before >= hot {
		r.Errorf("the other keys had to wait for the last of the hot one")
	}
	if s := n.bus.Stats(); s.Parked == 0 {
		r.Errorf("nothing was parked, with %d waiting and a window of 64", hot)
	}
	total += n.publishHot(made, 100)
	n.ended("g")
	n.settled("g")
	r.onceEach("g", total)
}

func hotKeyRestart(r *rig) { hotKeyEnds(r, (*node).close) }
func hotKeyKill(r *rig)    { hotKeyEnds(r, (*node).kill) }

func hotKeyEnds(r *rig, end func(*node)) {
	made := r.kind(r.topic("hot", 1), "made")
	total, killed := 0, false
	for range 3 {
		n := r.open()
		n.listen("g", hotGroup(), slowIfHot, made)
		before, _ := r.log.hotAndCold("g")
		total += n.publishHot(made, hotEvents(r)/3)
		r.eventually("some of the hot key are handled", func() bool {
			hot, _ := r.log.hotAndCold("g")
			return hot > before+20
		})
		end(n)
		killed = n.dead()
	}
	n := r.open()
	n.listen("g", hotGroup(), ok, made)
	n.ended("g")
	n.settled("g")
	if !killed {
		r.onceEach("g", total)
	}
}

func withoutKey(r *rig) {
	const slots = 8
	topic := r.topic("nokey", 4)
	made := posthorn.Define[item](topic.Name()+".made", posthorn.In(topic))
	n := r.open()
	cfg := quick()
	cfg.Concurrency = slots
	var running atomic.Int32
	var partitions sync.Map
	all := make(chan struct{})
	n.listen("g", cfg, func(ctx context.Context, e *posthorn.Event[item]) error {
		partitions.Store(e.Partition, true)
		if running.Add(1) == slots {
			close(all)
		}
		return n.block(ctx, all)
	}, made)
	n.publish(made, r.items(64, "")...)
	n.ended("g")
	r.onceEach("g", 64)
	spread := 0
	partitions.Range(func(any, any) bool { spread++; return true })
	if spread != 4 {
		r.Errorf("64 events without a key went to %d of 4 partitions", spread)
	}
}
