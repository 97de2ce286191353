package drivertest

import (
	"context"
	"fmt"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
)

func needsReadFrom(c driver.Caps) string {
	if c.ReadFrom {
		return ""
	}
	return "the driver cannot start a group in the past"
}

func needsLog(c driver.Caps) string {
	if c.Queue {
		return "the driver is a queue, the case is about a log"
	}
	return ""
}

func needsQueue(c driver.Caps) string {
	if c.Queue {
		return ""
	}
	return "the driver is a log, the case is about a queue"
}

var groupCases = []Case{
	{Name: "group/each-gets-all", Promise: "P2", Doc: "every group gets every event, whatever the others do", run: eachGetsAll},
	{Name: "group/from-beginning", Promise: "P2", Doc: "a new group begins with the first event that is kept", needs: needsReadFrom, run: fromBeginning},
	{Name: "group/from-now", Promise: "P2", Doc: "a group that starts now gets what is published next, also while it is away, and nothing before", run: fromNow},
	{Name: "group/from-time", Promise: "P2", Doc: "a group that starts at a time gets what was stored since, and nothing before", needs: needsReadFrom, run: fromTime},
	{Name: "group/resumes", Promise: "P2 P8", Doc: "a group that was away gets what was published meanwhile, once, and nothing again", run: resumes},
	{Name: "group/outside-subscription", Promise: "P3", Doc: "a type outside the subscription is skipped, counted, and handled by no one", run: outsideSubscription},
	{Name: "group/missing-handler", Promise: "P2", Doc: "a member without a handler for a recorded type takes no partition of that topic and says so; the next complete one has lost nothing", run: missingHandler},
	{Name: "group/unsubscribe", Promise: "P2", Doc: "a type is removed from a subscription by command, and no handler is then missing", run: unsubscribe},
	{Name: "group/stop-is-its-own", Promise: "peer 9 P6", Doc: "stopping one group leaves the others working; stopping twice, before the start, and closing twice are harmless", run: stopIsItsOwn},
	{Name: "group/one-fails", Promise: "P6", Doc: "a group that fails, or hangs, holds no other one", run: oneFails},
	{Name: "group/fetch-errors", Promise: "peer 11", Doc: "a broker that answers with errors is asked again with pauses, not in a hot loop, and nothing is lost", run: fetchErrors},
}

func eachGetsAll(r *rig) {
	made := r.kind(r.topic("each", 2), "made")
	n := r.open()
	for i := range 3 {
		n.listen(fmt.Sprint("g", i), quick(), ok, made)
	}
	n.publish(made, r.items(100, keys(10)...)...)
	for i := range 3 {
		g := fmt.Sprint("g", i)
		n.ended(g)
		r.onceEach(g, 100)
	}
}

func fromBeginning(r *rig) {
	made := r.kind(r.topic("begin", 2), "made")
	n := r.open()
	n.publish(made, r.items(50, keys(7)...)...)
	n.listen("g", quick(), ok, made)
	n.publish(made, r.items(50, keys(7)...)...)
	n.ended("g")
	r.onceEach("g", 100)
}

func fromNow(r *rig) {
	made := r.kind(r.topic("now", 2), "made")
	n := r.open()
	for _, it := range r.items(50, keys(7)...) { // before the group: not recorded as confirmed
		if err := made.Publish(r.ctx, n.bus, it); err != nil {
			r.Fatalf("publish: %v", err)
		}
	}
	old := int(r.next.Load())
	cfg := quick()
	cfg.Start = posthorn.FromNow()
	n.listen("g", cfg, ok, made)
	n.publish(made, r.items(20, keys(7)...)...)
	n.ended("g")
	n.close()

	// Now is the moment of the first start, not of each.
	n = r.open()
	n.publish(made, r.items(20, keys(7)...)...)
	n.close()
	n = r.open()
	n.listen("g", cfg, ok, made)
	n.ended("g")
	r.onceEach("g", 40)
	for i := range r.log.items(opEffect, "g") {
		if i <= old {
			r.Errorf("item %d was published before the group existed", i)
		}
	}
}

func fromTime(r *rig) {
	made := r.kind(r.topic("time", 2), "made")
	n := r.open()
	pub := func(k int) {
		for _, it := range r.items(k, keys(7)...) {
			if err := made.Publish(r.ctx, n.bus, it); err != nil {
				r.Fatalf("publish: %v", err)
			}
		}
	}
	pub(20)
	old := int(r.next.Load())
	time.Sleep(20 * time.Millisecond) // the times of storing differ
	from := time.Now()
	time.Sleep(20 * time.Millisecond)
	n.publish(made, r.items(20, keys(7)...)...)
	cfg := quick()
	cfg.Start = posthorn.FromTime(from)
	n.listen("g", cfg, ok, made)
	n.ended("g")
	n.settled("g")
	r.onceEach("g", 20)
	for i := range r.log.items(opEffect, "g") {
		if i <= old {
			r.Errorf("item %d was stored before %v", i, from)
		}
	}
}

func resumes(r *rig) {
	made := r.kind(r.topic("resume", 2), "made")
	total := 0
	for range 3 {
		n := r.open()
		n.listen("g", quick(), ok, made)
		n.publish(made, r.items(40, keys(5)...)...)
		n.ended("g")
		n.close()
		n = r.open()
		n.publish(made, r.items(40, keys(5)...)...)
		n.close()
		total += 80
	}
	n := r.open()
	n.listen("g", quick(), ok, made)
	n.ended("g")
	n.settled("g")
	r.onceEach("g", total)
}

func outsideSubscription(r *rig) {
	topic := r.topic("outside", 2)
	in, out := r.kind(topic, "in"), r.kind(topic, "out")
	n := r.open()
	n.listen("g", quick(), ok, in)
	for range 5 {
		n.publish(in, r.items(4, keys(4)...)...)
		for _, it := range r.items(4, keys(4)...) {
			if err := out.Publish(r.ctx, n.bus, it); err != nil {
				r.Fatalf("publish: %v", err)
			}
		}
	}
	n.ended("g")
	n.settled("g")
	if s := n.bus.Stats(); s.Skipped != 20 || s.Dead != 0 {
		r.Errorf("20 events of a type outside the subscription: %d skipped, %d dead letters", s.Skipped, s.Dead)
	}
	r.onceEach("g", 20)
}

func missingHandler(r *rig) {
	topic, other := r.topic("missing", 2), r.topic("missing-not", 1)
	a, b, c := r.kind(topic, "a"), r.kind(topic, "b"), r.kind(other, "c")
	n := r.open()
	n.listen("g", quick(), ok, a, b, c)
	n.publish(a, r.items(4, keys(4)...)...)
	n.publish(b, r.items(4, keys(4)...)...)
	n.ended("g")
	n.close()

	n = r.open()
	n.publish(a, r.items(4, keys(4)...)...)
	n.publish(b, r.items(4, keys(4)...)...)
	g := n.bus.Group(r.name("g"), quick())
	a.Handle(g, n.recorded("g", ok))
	c.Handle(g, n.recorded("g", ok))
	ctx, cancel := r.deadline()
	defer cancel()
	if err := g.Start(ctx); err != nil {
		r.Fatalf("a member that lacks one handler does not start at all: %v", err)
	}
	n.publish(c, r.items(4, "c-0", "c-1")...) // the order of a key is one of a topic
	r.effects("g", 12)                        // the other topic goes on
	r.eventually("an alarm names the type without a handler", func() bool { return len(n.alarmed(b.Name())) > 0 })
	r.never("a member that lacks a handler took a partition of the topic", func() bool { return n.cut.assigned(topic.Name()) > 0 })
	if h := n.bus.Health(r.ctx); h.OK {
		r.Errorf("health is fine while a handler is missing")
	}
	n.close()

	n = r.open()
	n.listen("g", quick(), ok, a, b, c)
	n.ended("g")
	r.onceEach("g", 20)
	if s := n.bus.Stats(); s.Skipped > 0 || s.Dead > 0 {
		r.Errorf("after it: %d skipped, %d dead letters", s.Skipped, s.Dead)
	}
}

func unsubscribe(r *rig) {
	topic := r.topic("unsub", 1)
	a, b := r.kind(topic, "a"), r.kind(topic, "b")
	n := r.open()
	n.listen("g", quick(), ok, a, b)
	n.publish(b, r.items(3, "k")...)
	n.ended("g")
	n.close()
	n = r.open()
	ctx, cancel := r.deadline()
	defer cancel()
	if err := n.bus.Unsubscribe(ctx, r.name("g"), b.Name()); err != nil {
		r.Fatalf("Unsubscribe: %v", err)
	}
	if err := b.Publish(ctx, n.bus, item{K: "k", N: 1 << 20}); err != nil {
		r.Fatalf("publish: %v", err)
	}
	n.listen("g", quick(), ok, a)
	n.publish(a, r.items(3, "k")...)
	n.ended("g")
	n.settled("g")
	r.onceEach("g", 6)
	if s := n.bus.Stats(); s.Skipped != 1 {
		r.Errorf("one event of a type that was removed: %d skipped", s.Skipped)
	}
}

func stopIsItsOwn(r *rig) {
	made := r.kind(r.topic("stop", 2), "made")
	n := r.open()
	never := n.bus.Group(r.name("never"), quick())
	made.Handle(never, ok)
	r.stop(never)
	g1 := n.listen("g1", quick(), ok, made)
	g2 := n.listen("g2", quick(), ok, made)
	n.publish(made, r.items(20, keys(5)...)...)
	n.ended("g1")
	r.stop(g1)
	r.stop(g1)
	n.publish(made, r.items(20, keys(5)...)...)
	n.ended("g2")
	r.onceEach("g2", 40)
	if got := r.log.count(opEffect, "g1"); got != 20 {
		r.Errorf("the stopped group had %d effects, want 20", got)
	}
	r.stop(g2)
	n.close()
	n.close()
	n = r.open()
	n.listen("g1", quick(), ok, made)
	n.ended("g1")
	r.onceEach("g1", 40)
}

func oneFails(r *rig) {
	made := r.kind(r.topic("fails", 2), "made")
	n := r.open()
	hang := quick()
	hang.Concurrency = 2
	hang.Drain = 50 * time.Millisecond
	n.listen("hangs", hang, func(ctx context.Context, _ *posthorn.Event[item]) error { return n.block(ctx, nil) }, made)
	n.listen("fails", quick(), func(context.Context, *posthorn.Event[item]) error { return errHandler }, made)
	n.listen("panics", quick(), func(context.Context, *posthorn.Event[item]) error { panic("on purpose") }, made)
	n.listen("works", quick(), ok, made)
	n.publish(made, r.items(60, keys(6)...)...)
	n.ended("works")
	r.onceEach("works", 60)
	n.hasDead("fails", 60)
	n.hasDead("panics", 60)
}

func fetchErrors(r *rig) {
	made := r.kind(r.topic("errors", 1), "made")
	n := r.open()
	start := time.Now()
	var until = start.Add(300 * time.Millisecond)
	fail := func() error {
		if time.Now().Before(until) {
			return fmt.Errorf("on purpose: %w", driver.ErrUnavailable)
		}
		return nil
	}
	n.cut.onFetch.Store(&fail)
	n.listen("g", quick(), ok, made)
	n.publish(made, r.items(20, keys(5)...)...)
	r.eventually("the outage is over", func() bool { return time.Now().After(until) })
	if calls := n.cut.fetches.Load(); calls > 200 {
		r.Errorf("an outage of 300 ms was met by %d calls of Fetch", calls)
	}
	n.ended("g")
	r.onceEach("g", 20)
}
