package drivertest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
)

var batchCases = []Case{
	{Name: "batch/gathers", Promise: "P5 peer 1", Doc: "a batch goes ahead when it is full, or when the first of it has waited", run: batchGathers},
	{Name: "batch/one-of-a-key", Promise: "P5", Doc: "a batch never holds two events of a key, and each key keeps its order", run: batchOneOfAKey},
	{Name: "batch/verdicts", Promise: "P3 P4", Doc: "each event of a batch ends by its own verdict, and is tried again by itself", run: batchVerdicts},
	{Name: "batch/fails-whole", Promise: "P3 P6", Doc: "a panic, the timeout, an ended goroutine or a wrong number of verdicts is an error of each event", run: batchFailsWhole},
	{Name: "batch/causes", Promise: "P7 P10", Doc: "what a batch publishes names its cause, has an id derived from it in whatever company it comes again, and is refused without", run: batchCauses},
	{Name: "batch/settles-after-confirm", Promise: "P7 P1", Doc: "an event whose batch published for it in vain is tried again, and no other", run: batchConfirms},
	{Name: "batch/suspects-alone", Promise: "P8", Doc: "after a kill, each event that may have been started is a batch of its own", run: batchSuspects},
	{Name: "batch/drain", Promise: "P8", Doc: "a stop lets the events that wait for a batch go ahead at once, and nothing is repeated", run: batchDrains},
	{Name: "batch/hand-over", Promise: "P5 P8", Doc: "a partition that is given to another member does not wait for a batch to fill", run: batchHandOver},
}

type batchFunc = func(ctx context.Context, events []*posthorn.Event[item]) error

// listenBatch starts a group with one recorded batch handler.
func (n *node) listenBatch(name string, cfg posthorn.GroupConfig, fn batchFunc, t itemType, opts ...posthorn.BatchOption) *posthorn.Group {
	n.r.Helper()
	return n.group(name, cfg, func(g *posthorn.Group) { t.HandleBatch(g, n.recordedBatch(name, fn), opts...) })
}

// recordedBatch is recorded, for a batch.
func (n *node) recordedBatch(group string, fn batchFunc) batchFunc {
	return func(ctx context.Context, events []*posthorn.Event[item]) error {
		if n.dead() {
			return errKilled
		}
		ops := make([]op, len(events))
		for i, e := range events {
			ops[i] = op{bus: n.n, group: group, id: e.ID, key: e.Data.K, n: e.Data.N, attempt: e.Attempt, note: fmt.Sprint("position ", e.Position)}
			n.r.log.start(ops[i])
			ops[i].what, ops[i].note = opEnd, "it panicked"
		}
		defer func() {
			for _, o := range ops {
				n.r.log.end(o, !n.dead())
			}
		}()
		err := fn(ctx, events)
		var each posthorn.Verdicts
		if !errors.As(err, &each) {
			each = make(posthorn.Verdicts, len(events))
			for i := range each {
				each[i] = err
			}
		}
		for i := range ops {
			if len(each) != len(ops) {
				ops[i].note = "the number of verdicts is wrong"
			} else if ops[i].note = fmt.Sprint(each[i]); each[i] == nil {
				ops[i].what, ops[i].note = opEffect, ""
			}
		}
		return err
	}
}

// waiters counts the events on their way into a batch.
func waiters(in *atomic.Int32) posthorn.HandleOption {
	return posthorn.With(func(next posthorn.Handler) posthorn.Handler {
		return func(ctx context.Context, d *posthorn.Delivery) error {
			in.Add(1)
			return next(ctx, d)
		}
	})
}

// forever is so long that a case fails which waits for it.
const forever = time.Hour

func batchGathers(r *rig) {
	made := r.kind(r.topic("gathers", 2), "made")
	n := r.open()
	var mu sync.Mutex
	var full []int
	n.listenBatch("full", quick(), func(_ context.Context, events []*posthorn.Event[item]) error {
		mu.Lock()
		defer mu.Unlock()
		full = append(full, len(events))
		return nil
	}, made, posthorn.BatchSize(5), posthorn.BatchWait(forever))
	n.listenBatch("some", quick(), func(context.Context, []*posthorn.Event[item]) error { return nil }, made,
		posthorn.BatchSize(16), posthorn.BatchWait(5*time.Millisecond))
	n.publish(made, r.items(10, keys(10)...)...)
	for _, g := range []string{"full", "some"} {
		n.ended(g)
		n.settled(g)
		r.onceEach(g, 10)
	}
	mu.Lock()
	defer mu.Unlock()
	if fmt.Sprint(full) != "[5 5]" {
		r.Errorf("10 events came in batches of %v, want two of 5", full)
	}
}

func batchOneOfAKey(r *rig) {
	made := r.kind(r.topic("keys", 2), "made")
	n := r.open()
	var last sync.Map // by key
	n.listenBatch("g", quick(), func(_ context.Context, events []*posthorn.Event[item]) error {
		in := map[string]int{}
		for _, e := range events {
			if other, two := in[e.Data.K]; two {
				r.Errorf("items %d and %d of key %s are in one batch", other, e.Data.N, e.Data.K)
			}
			in[e.Data.K] = e.Data.N
			if before, ok := last.Swap(e.Data.K, e.Data.N); ok && before.(int) > e.Data.N {
				r.Errorf("item %d of key %s came behind %d", e.Data.N, e.Data.K, before)
			}
		}
		return nil
	}, made, posthorn.BatchSize(8), posthorn.BatchWait(time.Millisecond))
	for range 5 {
		n.publish(made, r.items(40, keys(5)...)...)
	}
	n.ended("g")
	n.settled("g")
	r.onceEach("g", 200)
}

func batchVerdicts(r *rig) {
	made := r.kind(r.topic("verdicts", 1), "made")
	n := r.open()
	n.listenBatch("g", quick(), func(_ context.Context, events []*posthorn.Event[item]) error {
		each := make(posthorn.Verdicts, len(events))
		for i, e := range events {
			switch {
			case e.Key == "dies":
				each[i] = posthorn.Permanent(errHandler)
			case e.Key == "skipped":
				each[i] = posthorn.Skip("on purpose")
			case e.Key == "late" && e.Attempt < 5: // twice in memory, twice late
				each[i] = errHandler
			case e.Key == "asks" && e.Attempt == 1:
				each[i] = posthorn.RetryAfter(errHandler, time.Millisecond)
			}
		}
		return each
	}, made, posthorn.BatchSize(5), posthorn.BatchWait(20*time.Millisecond))
	n.publish(made, r.items(10, "fine", "dies", "skipped", "late", "asks")...)
	for _, d := range n.hasDead("g", 2) {
		if d.Key != "dies" || d.Reason != posthorn.CodePermanent || d.Attempts != 1 {
			r.Errorf("dead letter of key %s for %s after %d attempts", d.Key, d.Reason, d.Attempts)
		}
	}
	r.effects("g", 6)
	n.settled("g")
	r.onceEach("g", 6)
	most := map[string]int{}
	for _, o := range r.log.of(opStart, "g") {
		most[o.key] = max(most[o.key], o.attempt)
	}
	if want := map[string]int{"fine": 1, "dies": 1, "skipped": 1, "late": 5, "asks": 2}; fmt.Sprint(most) != fmt.Sprint(want) {
		r.Errorf("the attempts are %v, want %v", most, want)
	}
	r.eventuallyf(func() string { // what was due in the lane is counted after it had its effect
		s := n.bus.Stats()
		return fmt.Sprintf("%d handled and %d skipped, want 6 and 2", s.Handled, s.Skipped)
	}, func() bool {
		s := n.bus.Stats()
		return s.Handled == 6 && s.Skipped == 2
	})
}

func batchFailsWhole(r *rig) {
	made := r.kind(r.topic("whole", 1), "made")
	faults := []struct {
		name string
		code posthorn.Code
		text string
		fn   batchFunc
	}{
		{"panics", posthorn.CodePanic, "on purpose", func(context.Context, []*posthorn.Event[item]) error { panic("on purpose") }},
		{"exits", posthorn.CodePanic, "Goexit", func(context.Context, []*posthorn.Event[item]) error { runtime.Goexit(); return nil }},
		{"short", posthorn.CodeInvalid, "verdicts for", func(_ context.Context, events []*posthorn.Event[item]) error {
			return make(posthorn.Verdicts, len(events)-1)
		}},
		{"slow", posthorn.CodeTimeout, "within 40ms", func(ctx context.Context, _ []*posthorn.Event[item]) error {
			<-ctx.Done()
			return ctx.Err()
		}},
		{"fails", posthorn.CodeHandler, errHandler.Error(), func(context.Context, []*posthorn.Event[item]) error { return errHandler }},
	}
	n := r.open()
	cfg := quick()
	cfg.Retry = posthorn.Retry{Attempts: 2, Delay: time.Millisecond, Late: posthorn.None}
	for _, f := range faults {
		timeout := cfg.Timeout
		if f.code == posthorn.CodeTimeout {
			timeout = 40 * time.Millisecond
		}
		n.listenBatch(f.name, cfg, f.fn, made, posthorn.BatchSize(3), posthorn.BatchWait(forever), posthorn.Timeout(timeout))
	}
	n.publish(made, r.items(3, keys(3)...)...)
	for _, f := range faults {
		for _, d := range n.hasDead(f.name, 3) {
			if d.Reason != f.code || d.Attempts != 2 || !strings.Contains(strings.Join(d.Errors, "\n"), f.text) {
				r.Errorf("a batch that %s: dead letter for %s after %d attempts: %q", f.name, d.Reason, d.Attempts, d.Errors)
			}
		}
		n.ended(f.name)
	}
}

func batchCauses(r *rig) {
	up, down := r.kind(r.topic("up", 2), "up"), r.kind(r.topic("down", 1), "down")
	n := r.open()
	var sent, got idsOf
	var foreign atomic.Pointer[posthorn.Event[item]] // of a batch before
	kept := make(chan context.Context, 64)
	refused := func(what string, err error) {
		if posthorn.CodeOf(err) != posthorn.CodeInvalid || !strings.Contains(err.Error(), "CausedBy") {
			r.Errorf("published by a batch handler %s: code %q, %v", what, posthorn.CodeOf(err), err)
		}
	}
	n.listenBatch("up", quick(), func(ctx context.Context, events []*posthorn.Event[item]) error {
		refused("without a cause", down.Publish(ctx, n.bus, item{K: "k"}))
		if e := foreign.Swap(events[0]); e != nil && e.ID != events[0].ID {
			in := false
			for _, other := range events {
				in = in || other.ID == e.ID
			}
			if !in {
				refused("with a cause of another batch", down.Publish(ctx, n.bus, item{K: "k"}, posthorn.CausedBy(e)))
			}
		}
		var all []*posthorn.Outgoing
		for _, e := range events {
			for i := range 2 {
				all = append(all, down.New(item{K: "k", N: e.Data.N*10 + i}, posthorn.CausedBy(e)))
			}
		}
		if err := n.bus.PublishAll(ctx, all...); err != nil {
			return err
		}
		each := make(posthorn.Verdicts, len(events))
		for i, e := range events {
			for k := range 2 {
				sent.add(fmt.Sprint(e.Data.N, "/", k), all[2*i+k].ID())
			}
			if e.Attempt < 1+e.Data.N%4 { // so that the company changes
				each[i] = errHandler
			}
		}
		select {
		case kept <- context.WithoutCancel(ctx):
		default:
		}
		return each
	}, up, posthorn.BatchSize(4), posthorn.BatchWait(10*time.Millisecond))
	n.group("down", quick(), func(g *posthorn.Group) {
		down.Handle(g, func(_ context.Context, e *posthorn.Event[item]) error {
			note := fmt.Sprint(e.Data.N/10, "/", e.Data.N%10)
			got.add(note, e.ID)
			got.add(note+" cause", e.CausationID)
			return nil
		})
	})
	items := r.items(9, keys(9)...)
	n.publish(up, items...)
	n.ended("up")
	n.settled("up")
	n.settled("down")
	cause := map[int]string{}
	for _, o := range r.log.of(opConfirmed, "") {
		cause[o.n] = o.id
	}
	for _, it := range items {
		for k := range 2 {
			note := fmt.Sprint(it.N, "/", k)
			if ids := sent.of(note); len(ids) != 1 || ids[0][14] != '8' {
				r.Errorf("event %s was published under %v, want one UUIDv8", note, ids)
			}
			if ids := got.of(note); len(ids) != 1 {
				r.Errorf("event %s arrived under %d ids", note, len(ids))
			}
			if ids := got.of(note + " cause"); len(ids) != 1 || ids[0] != cause[it.N] {
				r.Errorf("event %s was caused by %v, want %s", note, ids, cause[it.N])
			}
		}
	}
	if err := down.Publish(<-kept, n.bus, item{K: "k", N: 1}, posthorn.CausedBy(foreign.Load())); posthorn.CodeOf(err) != posthorn.CodeClosed {
		r.Errorf("publishing after the batch handler's return: code %q (%v), want %q", posthorn.CodeOf(err), err, posthorn.CodeClosed)
	}
	refused("outside of a handler", down.Publish(r.ctx, n.bus, item{K: "k"}, posthorn.CausedBy(foreign.Load())))
}

func batchConfirms(r *rig) {
	up, down := r.kind(r.topic("up", 1), "up"), r.kind(r.topic("down", 1), "down")
	n := r.open()
	items := r.items(4, keys(4)...)
	bad := items[2].N
	n.listenBatch("up", quick(), func(ctx context.Context, events []*posthorn.Event[item]) error {
		for _, e := range events {
			_ = down.Publish(ctx, n.bus, e.Data, posthorn.CausedBy(e)) // carelessly
		}
		return nil
	}, up, posthorn.BatchSize(4), posthorn.BatchWait(20*time.Millisecond))
	down.Publish(r.ctx, n.bus, item{K: "k", N: 1 << 20}) // the topic exists
	topic := down.Topic().Name()
	var refusals atomic.Int32
	refuse := func(p driver.Partition, msgs []driver.Message) appendFault {
		for _, m := range msgs {
			if p.Topic == topic && strings.Contains(string(m.Body), fmt.Sprintf(`"n":%d}`, bad)) && refusals.Add(1) <= 2 {
				return appendFault{refuse: fmt.Errorf("on purpose: %w", driver.ErrTooLarge)}
			}
		}
		return appendFault{}
	}
	n.cut.onAppend.Store(&refuse)
	var got idsOf
	n.group("down", quick(), func(g *posthorn.Group) {
		down.Handle(g, func(_ context.Context, e *posthorn.Event[item]) error {
			got.add(fmt.Sprint(e.Data.N), e.ID)
			return nil
		})
	})
	n.publish(up, items...)
	r.eventually("all are published in the end", func() bool {
		for _, it := range items {
			if len(got.of(fmt.Sprint(it.N))) != 1 {
				return false
			}
		}
		return true
	})
	n.settled("up")
	for _, o := range r.log.of(opStart, "up") {
		if o.n != bad && o.attempt > 1 {
			r.Errorf("attempt %d of item %d, whose own event was stored", o.attempt, o.n)
		}
	}
	if s := n.bus.Stats(); s.Retried != 2 {
		r.Errorf("2 publishes of a batch were refused, and %d events were tried again", s.Retried)
	}
}

func batchSuspects(r *rig) {
	const running = 12
	made := r.kind(r.topic("suspects", 1), "made")
	n := r.open()
	var inside atomic.Int32
	block := n.block
	n.listenBatch("g", quick(), func(ctx context.Context, events []*posthorn.Event[item]) error {
		inside.Add(int32(len(events)))
		return block(ctx, nil)
	}, made, posthorn.BatchSize(4), posthorn.BatchWait(forever))
	n.publish(made, r.items(running, keys(running)...)...)
	r.eventually("12 events are in batches", func() bool { return inside.Load() == running })
	n.cutOff()
	n.bury()
	n = r.open()
	var now atomic.Int32
	n.listenBatch("g", quick(), func(_ context.Context, events []*posthorn.Event[item]) error {
		suspects := 0
		for _, e := range events {
			if e.Data.N <= running {
				suspects++
			}
		}
		if suspects == 0 {
			return nil
		}
		if len(events) > 1 || now.Add(1) > 1 {
			r.Errorf("a suspect is handled in a batch of %d, or beside another", len(events))
		}
		time.Sleep(time.Millisecond)
		now.Add(-1)
		return nil
	}, made, posthorn.BatchSize(4), posthorn.BatchWait(5*time.Millisecond))
	n.publish(made, r.items(30, keys(30)...)...)
	n.ended("g")
}

func batchDrains(r *rig) {
	made := r.kind(r.topic("drain", 2), "made")
	cfg := quick()
	n := r.open()
	var in atomic.Int32
	g := n.listenBatch("g", cfg, func(ctx context.Context, events []*posthorn.Event[item]) error {
		if ctx.Err() != nil {
			r.Errorf("the context of a batch at the stop has ended: %v", ctx.Err())
		}
		return nil
	}, made, posthorn.BatchSize(8), posthorn.BatchWait(forever), waiters(&in))
	n.publish(made, r.items(5, keys(5)...)...)
	r.eventually("5 events wait", func() bool { return in.Load() == 5 })
	r.stop(g)
	if got := r.log.count(opEffect, "g"); got != 5 {
		r.Errorf("%d of 5 events that waited for a batch were handled at the stop", got)
	}
	n.close()
	n = r.open()
	n.listenBatch("g", cfg, func(context.Context, []*posthorn.Event[item]) error { return nil }, made,
		posthorn.BatchSize(8), posthorn.BatchWait(time.Millisecond))
	n.publish(made, r.items(3, keys(3)...)...)
	n.ended("g")
	n.settled("g")
	r.onceEach("g", 8)
}

func batchHandOver(r *rig) {
	made := r.kind(r.topic("over", 4), "made")
	var in atomic.Int32
	accept := func(context.Context, []*posthorn.Event[item]) error { return nil }
	first := r.open()
	first.listenBatch("g", quick(), accept, made, posthorn.BatchSize(12), posthorn.BatchWait(forever), waiters(&in))
	first.publish(made, r.items(10, keys(10)...)...)
	r.eventually("10 events wait", func() bool { return in.Load() == 10 })
	second := r.open()
	second.listenBatch("g", quick(), accept, made, posthorn.BatchSize(12), posthorn.BatchWait(time.Millisecond))
	r.divided("g", first, second)
	first.close() // what waits in partitions that it has kept goes ahead, too
	second.ended("g")
	second.settled("g")
	r.onceEach("g", 10)
	for _, o := range r.log.of(opStart, "g") {
		if o.attempt > 1 { // its first one ended with the drain
			r.Errorf("item %d waited for a batch to fill until its partition was drained", o.n)
		}
	}
}
