package engine

import (
	"cmp"
	"container/heap"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// A laneOp is an operation that the clerk has to carry out.
type laneOp struct {
	op driver.LaneOp
	// after is called under Group.mu when it is done.
	after func()
	// settled says that a queue must have settled all that was finished before.
	settled bool
}

// A dueEntry is what the index knows of a Due entry. Its due time became a wait
// when it was put, or when the lane was taken over: a wall clock that jumps later
// changes nothing.
type dueEntry struct {
	at    time.Time // monotonic
	name  string
	trial bool
	// mended says that somebody outside has put it: it is taken up only as it was put.
	mended bool
}

type dueHeap []dueEntry

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(dueEntry)) }
func (h *dueHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	return e
}

// loadIndex reads what the lane holds, before the first message is taken in.
func (t *tenure) loadIndex() bool {
	g, now, sure := t.g, time.Now(), t.g.cfg.Clock.Sure() // monotonic
	unclean := !t.d.Start().Clean
	var wait backoff
	defer t.calm(&wait, "lane_failed")
	var stale []*driver.Entry
	for after := ""; ; {
		entries, next, err := t.d.Lane().Scan(t.ctx, after, 1000)
		if err != nil {
			if t.ended(err) {
				return false
			}
			t.trouble(&wait, "lane_failed", "the lane cannot be read", err)
			if !wait.sleep(t.ctx) {
				return false
			}
			continue
		}
		g.mu.Lock()
		for i := range entries {
			e := &entries[i]
			switch e.State {
			case driver.Due:
				heap.Push(&t.due, dueEntry{at: now.Add(e.Due.Sub(sure)), name: e.Name, trial: unclean && !e.Due.After(sure)})
				t.block(t.blockable(e.Key), e.Order, e.Name)
			case driver.Dead:
				t.block(t.blockable(e.Key), e.Order, e.Name)
			case driver.Parked:
				k := t.keyOf(e.Key)
				if k == nil { // the topic was ordered when it was parked
					heap.Push(&t.due, dueEntry{at: now, name: e.Name, trial: unclean})
					continue
				}
				if k.parked == 0 || e.Order < k.first {
					k.first = e.Order
				}
				t.setParked(k, k.parked+1)
				k.trial = unclean
			case driver.Discarded:
				heap.Push(&t.due, dueEntry{at: now, name: e.Name, mended: true})
			case driver.Boot:
				if !unclean || !t.queue && t.win.settled(e.Order) {
					stale = append(stale, e)
				}
			}
		}
		g.mu.Unlock()
		if after = next; after == "" {
			break
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range stale {
		t.apply(driver.LaneOp{Entry: e, Delete: true}, nil)
	}
	for _, k := range t.keys {
		t.nextOf(k)
	}
	t.wakeClerk()
	return true
}

// apply hands an operation to the clerk.
func (t *tenure) apply(op driver.LaneOp, after func()) {
	t.ops = append(t.ops, &laneOp{op: op, after: after})
	t.wakeClerk()
}

// entryOf makes the lane entry of an item in a new state.
func (t *tenure) entryOf(it *Item, state driver.EntryState) *driver.Entry {
	it.rec.Member = t.g.cfg.Member
	it.rec.Order = it.order
	e := &driver.Entry{
		Name:  t.entryName(it),
		State: state,
		Key:   it.Delivery.Msg.Key,
		Order: it.order,
		Head:  it.rec.encode(),
		Msg:   it.Delivery.Msg,
	}
	if it.entry != nil {
		e.Name = it.entry.Name
	}
	return e
}

// move takes an item to the lane. It keeps its place in the window until the
// lane has it.
func (t *tenure) move(it *Item, e *driver.Entry) { t.moveUntil(it, e, time.Time{}) }

// moveUntil takes an item to the lane, which is to come back at a time, monotonic.
func (t *tenure) moveUntil(it *Item, e *driver.Entry, at time.Time) {
	it.where = inMove
	it.booted = false // the entry takes the place of the Boot entry, which has its name
	t.apply(driver.LaneOp{Entry: e}, func() { t.moved(it, e, at) })
}

// moved is called when the lane has an item.
func (t *tenure) moved(it *Item, e *driver.Entry, at time.Time) {
	switch e.State {
	case driver.Due:
		heap.Push(&t.due, dueEntry{at: at, name: e.Name})
	case driver.Parked:
		k := it.kq
		t.hasParked(k, e.Order)
		t.nextOf(k)
	case driver.Dead:
		if k := it.kq; k != nil && k.unpark(e.Order) { // it was too large to be parked
			t.nextOf(k)
		}
	}
	if it.entry != nil {
		t.forget(it)
		return
	}
	t.leave(it)
}

// drop deletes the lane entry of an item that is settled.
func (t *tenure) drop(it *Item) {
	it.where = inMove
	t.apply(driver.LaneOp{Entry: it.entry, Delete: true}, func() { t.forget(it) })
	// What the lane has adopted still stands in the queue until it is settled there:
	// without its entry it would be handled again after a kill, behind its followers.
	t.ops[len(t.ops)-1].settled = it.adopted
}

// unboot deletes the Boot entry of an item that is settled. The item leaves, and
// lets the next suspect start, only when that is done: a kill by the next one must
// not find the boot of this one.
func (t *tenure) unboot(it *Item) {
	it.booted = false
	it.where = inMove
	t.apply(driver.LaneOp{Entry: &driver.Entry{Name: t.entryName(it)}, Delete: true}, func() { t.leave(it) })
}

// keepLane carries out lane operations and loads what is due, until the tenure
// ends.
func (t *tenure) keepLane() {
	defer t.g.routines.Done()
	defer close(t.clerk)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var wait backoff
	defer t.calm(&wait, "lane_failed")
	for {
		select {
		case <-t.wakeC:
		case <-timer.C:
		case <-t.all.Done():
			return
		}
		next, err := t.serveLane()
		if err == nil {
			t.calm(&wait, "lane_failed")
			timer.Reset(next)
			continue
		}
		if t.ended(err) {
			return
		}
		t.trouble(&wait, "lane_failed", "the lane cannot be written or read; what has to go there keeps its place", err)
		if !wait.sleep(t.all) {
			return
		}
		t.wakeClerk()
	}
}

// serveLane does all there is to do now and returns when something is due next.
func (t *tenure) serveLane() (time.Duration, error) {
	for {
		applied, err := t.applyOps()
		if err != nil {
			return 0, err
		}
		// However much there is to be put: keys whose next is in the lane wait.
		loaded, err := t.loadKey()
		if err != nil {
			return 0, err
		}
		if applied || loaded {
			continue
		}
		more, next, err := t.loadDue()
		if err != nil || !more {
			return next, err
		}
	}
}

// applyOps carries out the operations that wait; more tells that there were any.
func (t *tenure) applyOps() (more bool, err error) {
	g := t.g
	g.mu.Lock()
	n := t.nextOps()
	batch := t.ops[:n:n]
	t.ops = t.ops[n:]
	t.applying = n > 0
	lost := t.lost
	g.mu.Unlock()
	if lost {
		return false, driver.ErrLost
	}
	if n == 0 {
		return false, nil
	}
	ops := make([]driver.LaneOp, n)
	for i, o := range batch {
		ops[i] = o.op
		ops[i].Err = nil
	}
	if t.queue && !t.settledFirst(batch) {
		return false, cmp.Or(t.all.Err(), error(driver.ErrLost))
	}
	err = t.d.Lane().Apply(t.all, ops)
	failed := batch[:0:0]
	g.mu.Lock()
	defer g.mu.Unlock()
	t.applying = false
	var again error
	for i, o := range batch {
		switch e := ops[i].Err; {
		case err == nil || e == nil && !t.none(ops):
			t.done(o)
		case errors.Is(e, driver.ErrTooLarge) && t.cut(o.op.Entry, e):
			failed = append(failed, o)
			t.wakeClerk()
		default:
			failed = append(failed, o)
			again = err
		}
	}
	t.ops = append(failed, t.ops...)
	g.changed.Broadcast()
	return again == nil, again
}

// cut makes a dead letter without data and headers of an entry that is too large for
// the lane, which a message can be that just fits into its topic. It returns false when
// there is nothing to leave out.
func (t *tenure) cut(e *driver.Entry, why error) bool {
	m := &e.Msg
	if len(m.Body) == 0 && len(m.Headers) == 0 && len(m.Attrs) == 0 {
		return false
	}
	r, _ := decodeRecord(e.Head)
	now, dead := t.g.cfg.Clock.Now(), e.State == driver.Dead
	r.note(Verdict{Code: "too_large", Err: fmt.Errorf("its %d bytes of data, and its headers, do not fit into the lane and are left out: %w", len(m.Body), why)}, now)
	r.Order, r.Died, r.Cut = e.Order, now.UnixMilli(), true
	e.State, e.Due, e.Head = driver.Dead, time.Time{}, r.encode()
	m.Body, m.Headers, m.Attrs = nil, nil, nil
	t.block(t.blockable(e.Key), e.Order, e.Name)
	if !dead {
		t.g.cfg.Counts.Dead(false)
	}
	t.g.log.Error("dead letter without its data, which is too large for the lane", "type", m.Type, "id", m.ID, "key", m.Key,
		"topic", t.part.Topic, "partition", t.part.N, "position", e.Order, "error", why)
	return true
}

// settledFirst waits, where operations ask for it, until a queue has settled all
// that was finished, before followers of a key go to the lane: what the queue hands
// out again after a kill would come behind them otherwise. It returns false when
// the tenure ends.
func (t *tenure) settledFirst(ops []*laneOp) bool {
	parks := func(o *laneOp) bool { return o.settled || !o.op.Delete && o.op.Entry.State == driver.Parked }
	if !slices.ContainsFunc(ops, parks) {
		return true
	}
	t.g.mu.Lock()
	defer t.g.mu.Unlock()
	want := t.flushed + len(t.settling) + t.flushing
	t.wakeRecorder()
	for t.flushed < want && !t.lost && t.all.Err() == nil {
		t.g.changed.Wait()
	}
	return t.flushed >= want
}

// nextOps is how many operations go in one batch.
func (t *tenure) nextOps() int {
	n := min(len(t.ops), moveBatch)
	for i := 1; i < n; i++ {
		if t.ops[i].settled {
			return i
		}
	}
	return n
}

// none tells whether no operation has an error of its own: then the error of
// Apply is that of all.
func (t *tenure) none(ops []driver.LaneOp) bool {
	for _, o := range ops {
		if o.Err != nil {
			return false
		}
	}
	return true
}

func (t *tenure) done(o *laneOp) {
	if o.after != nil {
		o.after()
	}
}

// loadKey loads parked entries of one key.
func (t *tenure) loadKey() (more bool, err error) {
	g := t.g
	g.mu.Lock()
	if len(t.loads) == 0 || t.lost || t.ctx.Err() != nil {
		g.mu.Unlock()
		return false, nil
	}
	k := t.loads[0]
	first, key := k.first, k.key
	g.mu.Unlock()
	entries, err := t.d.Lane().Parked(t.all, key, max(first, 1)-1, loadBatch)
	if err != nil {
		return false, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.lost {
		return false, driver.ErrLost
	}
	if k.first != first {
		return true, nil // something before these has been parked meanwhile: look again
	}
	t.loads = t.loads[1:]
	k.loading = false
	t.bringBack(k, entries)
	t.nextOf(k)
	return true, nil
}

// bringBack revives parked entries of a key, as far as their turn has come.
func (t *tenure) bringBack(k *keyQueue, entries []driver.Entry) {
	if k.stuck > 0 {
		return
	}
	trial := k.trial
	for i := range entries {
		e := &entries[i]
		if e.Order > k.mayLoad(t) {
			k.first = e.Order
			t.setParked(k, max(k.parked, 1))
			return
		}
		k.first = e.Order + 1
		t.setParked(k, max(k.parked-1, 0))
		t.revive(e, trial)
	}
	k.trial = false
	if len(entries) < loadBatch {
		t.setParked(k, 0) // whatever the count was: they may have been changed from outside
	}
}

// loadDue loads entries whose time has come.
func (t *tenure) loadDue() (more bool, next time.Duration, err error) {
	g, now := t.g, time.Now() // monotonic
	g.mu.Lock()
	var batch []dueEntry
	for t.due.Len() > 0 && !t.idleNow() && len(t.live)+len(batch) < maxLoaded && len(batch) < loadBatch && !t.due[0].at.After(now) {
		batch = append(batch, heap.Pop(&t.due).(dueEntry))
	}
	next = time.Hour
	if t.due.Len() > 0 && !t.idleNow() {
		next = max(t.due[0].at.Sub(now), time.Millisecond)
		if len(t.live) >= maxLoaded {
			next = max(next, 10*time.Millisecond)
		}
	}
	g.mu.Unlock()
	if len(batch) == 0 {
		return false, min(next, time.Minute), nil
	}
	names := make([]string, len(batch))
	asked := make(map[string]dueEntry, len(batch))
	for i, e := range batch {
		names[i] = e.name
		if old, twice := asked[e.name]; !twice || old.mended {
			asked[e.name] = e
		}
	}
	entries, err := t.d.Lane().Get(t.all, names)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		for _, e := range batch {
			heap.Push(&t.due, e)
		}
		return false, 0, err
	}
	if len(entries) < len(names) {
		t.g.log.Debug("lane entries that were due are gone: they were handled or deleted", "topic", t.part.Topic, "partition", t.part.N, "due", len(names), "found", len(entries))
	}
	for i := range entries {
		switch e := &entries[i]; {
		case e.State == driver.Discarded:
			t.discarded(e)
		case !asked[e.Name].mended || IsReplayed(e):
			t.revive(e, asked[e.Name].trial)
		}
		delete(asked, entries[i].Name)
	}
	for name := range asked {
		if k := t.unblock(name); k != nil { // somebody has deleted what it waited for
			t.nextOf(k)
		}
	}
	return true, 0, nil
}

// revive brings a lane entry back into memory, to be handled.
func (t *tenure) revive(e *driver.Entry, trial bool) {
	g := t.g
	if e.State != driver.Due && e.State != driver.Parked {
		return // changed from outside
	}
	if _, ok := t.live[e.Name]; ok {
		return // it is in memory already
	}
	rec, err := decodeRecord(e.Head)
	it := &Item{
		Delivery: driver.Delivery{Pos: e.Order, Msg: e.Msg},
		t:        t,
		order:    e.Order,
		entry:    e,
		rec:      rec,
		known:    rec.Attempts,
		suspect:  trial,
	}
	it.Delivery.Stored = fromMillis(rec.Stored)
	t.live[e.Name] = struct{}{}
	t.bytes += it.size()
	if err != nil {
		t.bury(it, Verdict{Kind: Dead, Err: err, Code: "undecodable"})
		return
	}
	it.h = g.cfg.Handlers[e.Msg.Type]
	if it.h == nil && e.Msg.Type == "" {
		it.h = g.cfg.Foreign[t.part.Topic]
	}
	if it.h == nil {
		t.bury(it, g.cfg.Foreigner(it))
		return
	}
	it.expires = expiryOf(&e.Msg)
	it.kq = t.keyOf(e.Key)
	if it.kq != nil && it.kq.waitsBehind(it.order) {
		t.park(it) // until what has failed before it is settled
		return
	}
	t.enqueue(it)
}
