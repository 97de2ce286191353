package drivertest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
)

var asyncCases = []Case{
	{Name: "async/order", Promise: "P1 P5", Doc: "what is published asynchronously, from many callers and between publishes that wait, keeps the order of its key", run: asyncOrder},
	{Name: "async/confirmed-is-kept", Promise: "P1", Doc: "a process that is killed the moment its asynchronous publishes are confirmed has lost nothing", run: asyncKept},
	{Name: "async/not-before-confirmed", Promise: "P1 U", Doc: "an asynchronous publish is not done before it is confirmed, and unknown when its deadline passes first", run: asyncUnknown},
	{Name: "async/close-waits", Promise: "P8", Doc: "Close waits until what is published asynchronously is confirmed, and it is kept", run: asyncClose},
	{Name: "async/settles-after-confirm", Promise: "P7 P1", Doc: "a delivery settles only after what its handler published asynchronously is confirmed", run: asyncSettles},
	{Name: "async/not-stored-is-failure", Promise: "P7", Doc: "a handler whose asynchronous publish is not stored has failed, and repeats its ids", run: asyncFails},
}

// async publishes items and returns what is pending, an item each.
func (n *node) async(t itemType, items ...item) []*posthorn.Pending {
	pending := make([]*posthorn.Pending, len(items))
	for i, it := range items {
		pending[i] = t.PublishAsync(n.r.ctx, n.bus, it)
	}
	return pending
}

// confirmed waits for what is pending and records it.
func (n *node) confirmed(items []item, pending []*posthorn.Pending) {
	for i, p := range pending {
		ctx, cancel := n.r.deadline()
		err := p.Wait(ctx)
		cancel()
		if err != nil {
			n.r.Errorf("asynchronous publish: %v", err)
			continue
		}
		n.r.log.add(op{what: opConfirmed, bus: n.n, id: p.Results()[0].ID, key: items[i].K, n: items[i].N})
	}
}

func asyncOrder(r *rig) {
	made := r.kind(r.topic("async", 3), "made")
	n := r.open(posthorn.MaxPending(64))
	n.publish(made, r.items(1, "warm")...)
	n.listen("g", quick(), ok, made)
	var wg sync.WaitGroup
	for c := range 8 {
		mine := []string{fmt.Sprintf("caller-%d", c)}
		wg.Go(func() {
			for range 10 {
				first, then, last := r.items(10, mine...), r.items(2, mine...), r.items(5, mine...)
				one := n.async(made, first...)
				if err := n.tryPublish(made, then...); err != nil {
					r.Errorf("publish: %v", err)
				}
				two := n.async(made, last...)
				n.confirmed(first, one)
				n.confirmed(last, two)
			}
		})
	}
	wg.Wait()
	n.ended("g")
	r.onceEach("g", 8*10*17+1)
}

func asyncKept(r *rig) {
	made := r.kind(r.topic("async-kept", 2), "made")
	for range 3 {
		n := r.open()
		items := r.items(50, keys(5)...)
		n.confirmed(items, n.async(made, items...))
		n.cutOff()
		n.bury()
	}
	n := r.open()
	n.listen("g", quick(), ok, made)
	n.ended("g")
	r.onceEach("g", 150)
}

func asyncUnknown(r *rig) {
	made := r.kind(r.topic("async-unknown", 1), "made")
	n := r.open()
	n.publish(made, r.items(1, "k")...)
	hold := func(driver.Partition, []driver.Message) appendFault { return appendFault{hold: true} }
	n.cut.onAppend.Store(&hold)
	it := r.items(1, "k")
	out := made.New(it[0])
	ctx, cancel := context.WithTimeout(r.ctx, 200*time.Millisecond)
	defer cancel()
	p := n.bus.PublishAsync(ctx, out)
	r.eventually("the broker has stored it", func() bool { return n.cut.holding() > 0 })
	select {
	case <-p.Done():
		if ctx.Err() == nil {
			r.Errorf("it is done before it is confirmed: %v", p.Err())
		}
	default:
	}
	wait, done := r.deadline()
	defer done()
	err := p.Wait(wait)
	n.published(it, []*posthorn.Outgoing{out}, err)
	if posthorn.CodeOf(err) != posthorn.CodeUnknown {
		r.Errorf("an asynchronous publish that was not confirmed in time: code %q, want %q (%v)", posthorn.CodeOf(err), posthorn.CodeUnknown, err)
	}
	n.cut.onAppend.Store(nil)
	n.cut.letGo()
	n.confirmed(it, []*posthorn.Pending{n.bus.PublishAsync(r.ctx, out)})
	n.listen("g", quick(), ok, made)
	n.ended("g")
}

func asyncClose(r *rig) {
	made := r.kind(r.topic("async-close", 2), "made")
	n := r.open()
	n.publish(made, r.items(1, "warm")...)
	hold := func(driver.Partition, []driver.Message) appendFault { return appendFault{hold: true} }
	n.cut.onAppend.Store(&hold)
	items := r.items(100, keys(10)...)
	pending := n.async(made, items...)
	r.eventually("some of it is on its way", func() bool { return n.cut.holding() > 0 })
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		n.close()
	}()
	r.never("Close returned before all was confirmed", func() bool {
		select {
		case <-closed:
			return true
		default:
			return false
		}
	})
	n.cut.onAppend.Store(nil)
	n.cut.letGo()
	<-closed
	for _, p := range pending {
		select {
		case <-p.Done():
		default:
			r.Fatalf("Close returned before all was confirmed")
		}
	}
	n.confirmed(items, pending)
	n = r.open()
	n.listen("g", quick(), ok, made)
	n.ended("g")
	r.onceEach("g", 101)
}

func asyncSettles(r *rig) {
	settlesOnlyConfirmed(r, func(n *node, down itemType, returns chan<- struct{}) itemFunc {
		return func(ctx context.Context, e *posthorn.Event[item]) error {
			down.PublishAsync(ctx, n.bus, item{K: "k", N: e.Data.N})
			returns <- struct{}{}
			return nil
		}
	})
}

func asyncFails(r *rig) {
	up, down := r.kind(r.topic("up", 1), "up"), r.kind(r.topic("down", 1), "down")
	n := r.open()
	var sent, got idsOf
	n.listen("up", quick(), func(ctx context.Context, e *posthorn.Event[item]) error {
		for i := range 3 {
			out := down.New(item{K: "k", N: 10*e.Data.N + i})
			n.bus.PublishAsync(ctx, out)
			sent.add(fmt.Sprint(i), out.ID())
		}
		return nil
	}, up)
	n.publish(down, r.items(1, "k")...) // the topic exists
	n.refuseTwice(down.Topic().Name())
	n.group("down", quick(), func(g *posthorn.Group) {
		down.Handle(g, func(_ context.Context, e *posthorn.Event[item]) error {
			got.add(fmt.Sprint(e.Data.N), e.ID)
			return nil
		})
	})
	it := r.items(1, "k")
	n.publish(up, it...)
	for i := range 3 {
		r.eventually("it is published in the end", func() bool { return len(got.of(fmt.Sprint(10*it[0].N+i))) == 1 })
	}
	n.settled("up")
	if s := n.bus.Stats(); s.Retried < 1 {
		r.Errorf("asynchronous publishes of a handler were refused, and it was not tried again")
	}
	for i := range 3 {
		if ids := sent.of(fmt.Sprint(i)); len(ids) != 1 {
			r.Errorf("its event %d was published under %d ids", i, len(ids))
		}
	}
}
