package drivertest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
)

var delayedCases = []Case{
	{Name: "delayed/never-early", Promise: "P2", Doc: "a delayed event comes, once and not before it is due, whoever waits for it already; one that is due by now comes at once", run: neverEarly},
	{Name: "delayed/restart", Promise: "P1 P2", Doc: "what is delayed outlives whoever has published it: killed, stopped, or gone before anybody listened", run: delayedRestart},
	{Name: "delayed/cancel", Promise: "P2", Doc: "cancelled by id, also by another process, an event never comes if Cancel has said so, and comes if it has not", run: delayedCancel},
	{Name: "delayed/same-id", Promise: "P7", Doc: "an id that is delayed again and again, by several processes, is stored once", run: delayedSameID},
	{Name: "delayed/many-at-once", Promise: "P2 P9", Doc: "thousands that are due at the same moment all come, once, over all partitions", run: delayedMany},
	{Name: "delayed/order", Promise: "P5", Doc: "events of one key come by their due times, whatever order they were published in, and equal ones in the order they were published in", run: delayedOrder},
	{Name: "delayed/movers", Promise: "P2 P7", Doc: "of the processes that publish what is due one is killed between publishing and taking note, and one stopped: all come, and each is stored once", run: delayedMovers},
	{Name: "delayed/from-handler", Promise: "P7", Doc: "what a handler delays has derived ids: a handler that runs again delays nothing twice", run: delayedFromHandler},
}

// dues notes when events are due at the earliest, by their ids.
type dues struct {
	mu sync.Mutex
	at map[string]time.Time
}

func (d *dues) note(id string, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.at == nil {
		d.at = map[string]time.Time{}
	}
	d.at[id] = at
}

// check is a handler that refuses what is early.
func (d *dues) check(r *rig, fn itemFunc) itemFunc {
	return func(ctx context.Context, e *posthorn.Event[item]) error {
		d.mu.Lock()
		at, known := d.at[e.ID]
		d.mu.Unlock()
		if early := at.Sub(time.Now().Round(0)); known && early > 0 {
			r.Errorf("event %s (item %d) comes %v early", e.ID, e.Data.N, early)
		}
		return fn(ctx, e)
	}
}

// delay publishes items as one batch, each due after a delay of its own, and
// returns their ids.
func (n *node) delay(d *dues, t itemType, after func(i int) time.Duration, items ...item) []string {
	n.r.Helper()
	began := time.Now().Round(0) // the wall clock's reading
	out := make([]*posthorn.Outgoing, len(items))
	at := make([]time.Duration, len(items))
	for i, it := range items {
		at[i] = after(i)
		out[i] = t.New(it, posthorn.After(at[i]))
	}
	ctx, cancel := n.r.deadline()
	defer cancel()
	err := n.bus.PublishAll(ctx, out...)
	n.published(items, out, err)
	if err != nil {
		n.r.Fatalf("publish %d for later: %v", len(items), err)
	}
	ids := make([]string, len(out))
	for i, o := range out {
		ids[i] = o.ID()
		d.note(ids[i], began.Add(at[i]))
	}
	return ids
}

// own makes items with a key each: those of a key come by their due times, which is
// another order than the log's checker looks for.
func (r *rig) own(n int) []item {
	items := r.items(n, "")
	for i := range items {
		items[i].K = fmt.Sprintf("key-%d", items[i].N)
	}
	return items
}

func always(d time.Duration) func(int) time.Duration { return func(int) time.Duration { return d } }

func neverEarly(r *rig) {
	t := r.kind(r.topic("delayed", 3), "t")
	a, b := r.open(), r.open()
	var d dues
	b.listen("g", quick(), d.check(r, ok), t)
	a.delay(&d, t, always(20*time.Millisecond), r.own(1)...)
	r.effects("g", 1) // now somebody waits for what is put
	spread := func(int) time.Duration { return time.Duration(r.rnd.IntN(1500)) * time.Millisecond }
	a.delay(&d, t, spread, r.own(60)...)
	b.delay(&d, t, spread, r.own(60)...)
	a.delay(&d, t, always(0), r.own(5)...)
	b.ended("g")
	// Once more, when whoever moves them has long had them all.
	a.delay(&d, t, func(int) time.Duration { return time.Duration(r.rnd.IntN(300)) * time.Millisecond }, r.own(30)...)
	b.ended("g")
	r.onceEach("g", 156)
}

func delayedRestart(r *rig) {
	t := r.kind(r.topic("delayed", 3), "t")
	var d dues
	// Killed, with a group that is at work.
	a := r.open()
	a.listen("g", quick(), d.check(r, ok), t)
	a.delay(&d, t, always(time.Second), r.own(20)...)
	a.kill()
	// Stopped, without a group.
	b := r.open()
	b.delay(&d, t, always(time.Second), r.own(20)...)
	b.close()
	// And what nobody was there for when it was due.
	c := r.open()
	ids := c.delay(&d, t, always(100*time.Millisecond), r.own(20)...)
	c.close()
	d.mu.Lock()
	last := d.at[ids[len(ids)-1]]
	d.mu.Unlock()
	r.eventually("the last is due", func() bool { return time.Now().Round(0).After(last.Add(100 * time.Millisecond)) })
	e := r.open()
	e.listen("g", quick(), d.check(r, ok), t)
	e.ended("g")
	r.onceEach("g", 60)
}

func delayedCancel(r *rig) {
	t := r.kind(r.topic("delayed", 2), "t")
	a, b := r.open(), r.open()
	var d dues
	b.listen("g", quick(), ok, t)
	cancel := func(n *node, id string) bool {
		r.Helper()
		ctx, end := r.deadline()
		defer end()
		done, err := t.Cancel(ctx, n.bus, id)
		if err != nil {
			r.Fatalf("Cancel: %v", err)
		}
		return done
	}
	far := a.delay(&d, t, always(time.Hour), r.own(2)...)
	for i, n := range []*node{a, b} { // an hour is far enough for any machine
		if !cancel(n, far[i]) {
			r.Errorf("an event that is due in an hour is not cancelled")
		}
		if cancel(a, far[i]) {
			r.Errorf("an event is cancelled twice")
		}
	}
	if cancel(a, "never-published") {
		r.Errorf("an id that was never published is cancelled")
	}
	// While they become due: either it is cancelled, or it comes.
	near := a.delay(&d, t, func(i int) time.Duration { return 100*time.Millisecond + time.Duration(i)*5*time.Millisecond }, r.own(200)...)
	cancelled := map[string]bool{}
	for i, id := range near {
		if i%10 != 0 {
			continue
		}
		time.Sleep(time.Until(d.at[id]) - time.Duration(r.rnd.IntN(4000))*time.Microsecond)
		if cancel([]*node{a, b}[i/10%2], id) {
			cancelled[id] = true
		}
	}
	last := a.delay(&d, t, always(time.Second), r.own(1)...)
	came := func() []string {
		var ids []string
		for _, o := range r.log.of(opEffect, "g") {
			ids = append(ids, o.id)
		}
		return ids
	}
	r.eventuallyf(func() string { return fmt.Sprintf("%d of %d come", len(came()), len(near)+1-len(cancelled)) }, func() bool {
		return len(came()) >= len(near)+1-len(cancelled) && slices.Contains(came(), last[0])
	})
	r.never("what was cancelled comes", func() bool {
		return slices.ContainsFunc(came(), func(id string) bool { return cancelled[id] || slices.Contains(far, id) })
	})
	if rep := r.log.repeats("g"); len(rep) > 0 {
		r.Errorf("handled twice: %s", brief(rep))
	}
	r.Logf("%d of 20 were cancelled in time", len(cancelled))
}

func delayedSameID(r *rig) {
	t := r.kind(r.topic("delayed", 2), "t")
	nodes := []*node{r.open(), r.open(), r.open()}
	it := r.items(1, "k")[0]
	var wg sync.WaitGroup
	var mu sync.Mutex
	fresh := 0
	due := time.Now().Add(1500 * time.Millisecond)
	for _, n := range nodes {
		for range 4 {
			wg.Go(func() {
				ctx, cancel := r.deadline()
				defer cancel()
				out := t.New(it, posthorn.WithID(r.name("same")), posthorn.At(due))
				if err := n.bus.PublishAll(ctx, out); err != nil {
					r.Errorf("publish: %v", err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				fresh++
			})
		}
	}
	wg.Wait()
	if fresh != 12 {
		r.Fatalf("%d of 12 are confirmed", fresh)
	}
	nodes[0].listen("g", quick(), ok, t)
	r.effects("g", 1)
	end := r.items(1, "k")
	nodes[0].publish(t, end...)
	r.effects("g", 2)
	nodes[0].settled("g")
	r.onceEach("g", 2)
}

func delayedMany(r *rig) {
	const count = 3000
	t := r.kind(r.topic("delayed", 5), "t")
	a := r.open()
	var d dues
	items := r.own(count)
	at := time.Now().Add(time.Second)
	for chunk := range slices.Chunk(items, 1000) {
		a.delay(&d, t, func(int) time.Duration { return max(time.Until(at), 0) }, chunk...)
	}
	b := r.open()
	b.listen("g", quick(), d.check(r, ok), t)
	b.ended("g")
	r.onceEach("g", count)
}

func delayedOrder(r *rig) {
	t := r.kind(r.topic("delayed", 2), "t")
	a := r.open()
	const each = 40
	ks := keys(3)
	var want [][]int
	at := time.Now().Add(1500 * time.Millisecond)
	for _, k := range ks {
		items := make([]item, each)
		offset := make([]time.Duration, each)
		for i := range items {
			items[i] = item{K: k, N: int(r.next.Add(1))}
			offset[i] = time.Duration(r.rnd.IntN(8)) * 10 * time.Millisecond // many are equal
		}
		out := make([]*posthorn.Outgoing, each)
		for i := range items {
			out[i] = t.New(items[i], posthorn.At(at.Add(offset[i])))
		}
		ctx, cancel := r.deadline()
		if err := a.bus.PublishAll(ctx, out...); err != nil {
			r.Fatalf("publish: %v", err)
		}
		cancel()
		order := make([]int, each)
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(x, y int) int { return int(offset[x] - offset[y]) })
		for i, j := range order {
			order[i] = items[j].N
		}
		want = append(want, order)
	}
	late := !time.Now().Before(at) // what is past by then is published at once
	a.listen("g", quick(), ok, t)
	r.effects("g", each*len(ks))
	if late {
		r.Logf("the machine is too slow today: the order was not looked at")
		return
	}
	for i, k := range ks {
		var got []int
		for _, o := range r.log.of(opEffect, "g") {
			if o.key == k {
				got = append(got, o.n)
			}
		}
		if !slices.Equal(got, want[i]) {
			r.Errorf("key %s: came  %v\nwant %v", k, got, want[i])
		}
	}
}

func delayedMovers(r *rig) {
	const count = 1500
	t := r.kind(r.topic("delayed", 3), "t")
	var d dues
	a, b, c := r.open(), r.open(), r.open()
	publishers := []*node{a, b}
	killed := make(chan *node, 1)
	for _, n := range publishers {
		var dying atomic.Bool
		dies := func(ops []driver.LaneOp) error {
			if !ops[0].Delete {
				return nil
			}
			// It has published, and is killed before it has deleted.
			select {
			case killed <- n:
				dying.Store(true)
				go n.cutOff()
			default:
			}
			if dying.Load() {
				return errKilled
			}
			return nil
		}
		n.cut.onApply.Store(&dies)
	}
	for _, n := range publishers {
		n.delay(&d, t, func(int) time.Duration { return time.Duration(r.rnd.IntN(3000)) * time.Millisecond }, r.own(count/2)...)
	}
	r.eventually("one is killed", func() bool { return (a.dead() || b.dead()) && len(killed) == 1 })
	dead, other := <-killed, a
	killed <- dead // no more of them
	if dead == a {
		other = b
	}
	dead.bury()
	c.listen("g", quick(), d.check(r, ok), t) // and publishes what is due from now on, too
	r.effects("g", count/5)
	other.close()
	c.ended("g")
	r.onceEach("g", count)
}

func delayedFromHandler(r *rig) {
	up, down := r.kind(r.topic("up", 2), "up"), r.kind(r.topic("down", 2), "down")
	n := r.open()
	n.listen("down", quick(), ok, down)
	n.listen("up", quick(), func(ctx context.Context, e *posthorn.Event[item]) error {
		if err := down.Publish(ctx, n.bus, item{K: e.Key, N: 1_000_000 + e.Data.N}, posthorn.After(time.Second)); err != nil {
			return err
		}
		if e.Attempt < 3 {
			return errHandler
		}
		return nil
	}, up)
	n.publish(up, r.items(10, keys(10)...)...)
	n.ended("up")
	r.effects("down", 10)
	n.settled("down")
	r.onceEach("down", 10)
}

// brokenDelays break what delayed publishing rests on.
var brokenDelays = []*brokenDriver{
	{
		name: "forgets-what-is-put-while-it-watches", logCase: "delayed/never-early", queueCase: "delayed/never-early",
		also: map[string]string{
			"delayed/*":  "what was delayed since the watch began does not come",
			"seam/watch": "it watches",
			"dead/*":     "what is replayed since the watch began is not told",
			"strict/*":   "what is replayed since the watch began is not told",
		},
		wrap: breakLanes(func(*brokenWorld) func(driver.Lane) *laneShim {
			return func(l driver.Lane) *laneShim {
				return &laneShim{Lane: l, watch: func(ctx context.Context, f func(driver.Entry)) error {
					all := false
					return l.Watch(ctx, func(e driver.Entry) {
						if !all {
							f(e)
						}
						all = all || e.Name == ""
					})
				}}
			}
		}),
	},
	{
		name: "hands-out-due-times-an-hour-early", logCase: "delayed/never-early", queueCase: "delayed/never-early",
		also: map[string]string{
			"delayed/*":         "what is delayed comes early",
			"retry/*":           "late attempts come early",
			"kill/lane-stays":   "late attempts come early",
			"seam/lane-content": "entries do not come back as they were put",
			"seam/lane-scan":    "entries do not come back as they were put",
			"seam/watch":        "entries do not come back as they were put",
		},
		wrap: breakLanes(func(*brokenWorld) func(driver.Lane) *laneShim {
			return func(l driver.Lane) *laneShim {
				return &laneShim{Lane: l, see: func(e *driver.Entry) bool {
					if e.State == driver.Due {
						e.Due = e.Due.Add(-time.Hour)
					}
					return true
				}}
			}
		}),
	},
}

func init() { brokenDrivers = append(brokenDrivers, brokenDelays...) }
