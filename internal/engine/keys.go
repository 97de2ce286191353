package engine

import (
	"cmp"
	"slices"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// A keyQueue is one key of a tenure that has messages in memory or parked.
type keyQueue struct {
	key   string
	queue itemList // in memory, in order, behind the one that holds the key
	busy  bool     // one holds the key: it is ready, runs, or waits for its next attempt
	holds *Item    // the one
	stuck int      // abandoned handlers that still run

	// Parked entries wait in the lane. The index keeps a count, never one entry
	// each.
	parked  int      // in the lane and not loaded
	parking []uint64 // the orders of those on their way to the lane
	first   uint64   // no parked entry that is not loaded has a lower order
	loading bool
	trial   bool // the next batch that is loaded was there before an unclean start

	// In strict order: the failed ones behind which the others of the key wait, lowest
	// order first. They stand in the lane, Due or Dead.
	blocks []block

	turns uint64 // how many have let go of it
	// While it was waited for, since its pace was judged.
	waited time.Duration
	did    uint64
	slow   bool // what came of it
	vain   int  // how often it was waited for in vain
	passes int  // before it is waited for again, so many are parked
}

// A block is a failed message of a key in strict order.
type block struct {
	order uint64
	name  string // of its lane entry
}

// spills tells whether what comes next for the key has to be parked, so that it
// stays behind what is parked already, or behind what has failed.
func (k *keyQueue) spills(t *tenure, order uint64) bool {
	if k.stuck > 0 || k.waitsBehind(order) {
		return true
	}
	if k.parked > 0 && order < k.first {
		// Only after a start: it stood before those that are parked, and was being
		// handled, or waited in memory, when the last holder ended.
		return false
	}
	return k.spilling() || k.queue.n >= t.share
}

// spilling tells whether anything of the key is in the lane or on its way there.
func (k *keyQueue) spilling() bool { return k.parked > 0 || len(k.parking) > 0 }

// mayLoad is the highest order that may be loaded now. What the log still holds
// below a parked entry comes before it, and so does what is on its way to the lane
// and not there yet.
func (k *keyQueue) mayLoad(t *tenure) uint64 {
	most := ^uint64(0)
	if !t.queue {
		most = t.win.high
	}
	for _, order := range k.parking {
		most = min(most, order-1)
	}
	if len(k.blocks) > 0 {
		most = min(most, k.blocks[0].order-1)
	}
	return most
}

// waitsBehind tells whether a message of the key waits for one that has failed.
func (k *keyQueue) waitsBehind(order uint64) bool {
	return len(k.blocks) > 0 && order > k.blocks[0].order
}

// blockable returns the queue of a key whose others may have to wait, in strict order.
func (t *tenure) blockable(key string) *keyQueue {
	if !t.strict {
		return nil
	}
	return t.keyOf(key)
}

// block has the others of a key wait behind a message that goes to the lane, in
// strict order.
func (t *tenure) block(k *keyQueue, order uint64, name string) {
	if k == nil || !t.strict {
		return
	}
	if _, stands := t.blocked[name]; stands {
		return
	}
	t.blocked[name] = k
	i, _ := slices.BinarySearchFunc(k.blocks, order, func(b block, order uint64) int { return cmp.Compare(b.order, order) })
	k.blocks = slices.Insert(k.blocks, i, block{order, name})
}

// unblock lets the others of a key go on: what they waited for is settled. It returns
// the key, or nil if nobody waited.
func (t *tenure) unblock(name string) *keyQueue {
	k := t.blocked[name]
	if k == nil {
		return nil
	}
	delete(t.blocked, name)
	k.blocks = slices.DeleteFunc(k.blocks, func(b block) bool { return b.name == name })
	return k
}

const (
	// parkPace is about what it costs to take an item through the lane. A key that is
	// quicker is sooner through if it is waited for, and so are those behind it.
	parkPace = 100 * time.Microsecond
	// keyLook is for how long a key is waited for before its pace is judged.
	keyLook = 20 * time.Millisecond
	// maxPasses bounds how much of a slow key is parked before it is waited for again.
	maxPasses = 1 << 16
)

// awaitKey has the fetcher wait while a key that is only many, and not slow, has
// more than its share: nothing of it has to go through the lane then. It returns
// false when the tenure is to end.
func (t *tenure) awaitKey(it *Item) bool {
	k := t.crowded(it)
	if k == nil {
		return true
	}
	look := false
	timer := time.AfterFunc(keyLook, func() {
		t.g.mu.Lock()
		defer t.g.mu.Unlock()
		look = true
		t.roomC.Broadcast()
	})
	defer timer.Stop()
	t.awaits = k
	defer func() { t.awaits = nil }()
	turns, from := k.turns, time.Now() // monotonic
	for {
		t.roomC.Wait()
		roomy := k.roomy(t)
		switch {
		case t.lost || t.ctx.Err() != nil:
			return false
		case t.keys[it.Delivery.Msg.Key] != k || !k.worthWaiting(t): // nothing is left of it, or it waits itself
			return true
		case !roomy && !look:
			continue
		}
		now := time.Now() // monotonic
		k.paced(k.turns-turns, now.Sub(from), roomy, t.share)
		if roomy || k.passes > 0 {
			return true
		}
		turns, from, look = k.turns, now, false
		timer.Reset(keyLook)
	}
}

// paced takes note of how many turns a key had while it was waited for. What keeps
// the whole partition waiting says nothing of a key.
func (k *keyQueue) paced(turns uint64, in time.Duration, roomy bool, share int) {
	if k.holds != nil && !roomy {
		switch k.holds.where {
		case inReady, inGated, inStalled, inJudged:
			return
		}
	}
	k.waited += in
	k.did += turns
	if k.waited < keyLook {
		return
	}
	slow := time.Duration(k.did)*parkPace < k.waited
	switch {
	case !slow:
		k.vain = 0
	case !k.slow: // the machine may have been busy
	default:
		k.passes = min(share<<k.vain, maxPasses)
		k.vain = min(k.vain+1, 16)
	}
	k.slow, k.waited, k.did = slow, 0, 0
}

// crowded returns the key of an item that has come in, if it is to be waited for.
func (t *tenure) crowded(it *Item) *keyQueue {
	key := it.Delivery.Msg.Key
	if key == "" || t.unordered || it.suspect || t.held < t.share && t.parked == 0 {
		return nil
	}
	k := t.keys[key]
	switch {
	case k == nil || !k.spills(t, it.order) || !k.worthWaiting(t):
		return nil
	case k.passes > 0:
		k.passes--
		return nil
	}
	return k
}

// roomy tells whether a key that was waited for has room again, for more than a few.
func (k *keyQueue) roomy(t *tenure) bool { return !k.spilling() && k.queue.n <= t.share/2 }

// worthWaiting tells whether a key may soon have room.
func (k *keyQueue) worthWaiting(t *tenure) bool {
	return k.stuck == 0 && len(k.blocks) == 0 && (k.holds == nil || k.holds.where != inWait) && k.parked+len(k.parking) <= t.g.cfg.Window
}

func (k *keyQueue) unused() bool {
	return !k.busy && k.stuck == 0 && k.queue.n == 0 && !k.spilling() && !k.loading && len(k.blocks) == 0
}

// keyOf returns the queue of an item's key, or nil when it needs none.
func (t *tenure) keyOf(key string) *keyQueue {
	if key == "" || t.unordered {
		return nil
	}
	k := t.keys[key]
	if k == nil {
		if n := len(t.freeKeys); n > 0 {
			k, t.freeKeys = t.freeKeys[n-1], t.freeKeys[:n-1]
		} else {
			k = &keyQueue{}
		}
		k.key = key
		t.keys[key] = k
	}
	return k
}

// enqueue puts an item behind the others of its key, or makes it ready.
func (t *tenure) enqueue(it *Item) {
	k := it.kq
	if k == nil {
		t.makeReady(it)
		return
	}
	if k.busy || k.stuck > 0 {
		it.where = inKey
		k.queue.push(it)
		return
	}
	k.busy, k.holds = true, it
	t.makeReady(it)
}

// releaseKey lets the next of a key go ahead.
func (t *tenure) releaseKey(k *keyQueue) {
	if k == nil {
		return
	}
	k.busy, k.holds = false, nil
	k.turns++
	t.nextOf(k)
}

func (t *tenure) nextOf(k *keyQueue) {
	if k.busy || k.stuck > 0 || t.lost {
		return
	}
	if tail := k.queue.tail; tail != nil && k.waitsBehind(tail.order) {
		t.strand(k)
	}
	it := k.queue.pop()
	if k.parked > 0 && k.queue.n < loadBatch/4 { // before there is none left
		switch most := k.mayLoad(t); {
		case k.first <= most:
			t.askFor(k)
		case !t.queue && k.first > t.win.high:
			t.early[k] = struct{}{} // admit comes here again
		}
	}
	if it != nil {
		k.busy, k.holds = true, it
		t.makeReady(it)
		return
	}
	if k.unused() {
		delete(t.keys, k.key)
		if len(t.freeKeys) < 1024 {
			*k = keyQueue{}
			t.freeKeys = append(t.freeKeys, k)
		}
	}
}

// askFor has the clerk load parked entries of a key.
func (t *tenure) askFor(k *keyQueue) {
	if k.loading {
		return
	}
	k.loading = true
	t.loads = append(t.loads, k)
	t.wakeClerk()
}

// park sends an item to the lane, behind the others of its key.
func (t *tenure) park(it *Item) {
	k := it.kq
	if it.entry != nil {
		t.unblock(it.entry.Name) // another one has failed before it
	}
	first := !k.spilling()
	k.parking = append(k.parking, it.order)
	if t.queue && first {
		t.adopt(k)
	}
	t.g.cfg.Counts.Parked()
	t.move(it, t.entryOf(it, driver.Parked))
}

// hasParked notes that the lane has an item of the key.
func (t *tenure) hasParked(k *keyQueue, order uint64) {
	k.unpark(order)
	if k.parked == 0 || order < k.first {
		k.first = order
	}
	t.setParked(k, k.parked+1)
}

// unpark notes that an item is not on its way to the lane any more.
func (k *keyQueue) unpark(order uint64) bool {
	i := slices.Index(k.parking, order)
	if i >= 0 {
		k.parking = slices.Delete(k.parking, i, i+1)
	}
	return i >= 0
}

func (t *tenure) setParked(k *keyQueue, n int) {
	t.parked += n - k.parked
	k.parked = n
}

// strand parks all that waits behind a handler that ignores its deadline, or behind a
// message that has failed, so that the partition's floor does not wait for it.
func (t *tenure) strand(k *keyQueue) {
	for it := k.queue.take(); it != nil; {
		next := it.next
		it.next = nil
		switch {
		case k.stuck == 0 && len(k.blocks) > 0 && !k.waitsBehind(it.order):
			k.queue.push(it)
		case it.entry == nil || it.entry.State != driver.Parked:
			t.park(it)
		default: // it stands there still: forget that it was loaded
			t.hasParked(k, it.order)
			t.forget(it)
		}
		it = next
	}
}

// adopt has the lane take over all of a key that spills. A queue cannot say which
// of two messages came first once one of them is in the lane and the other comes
// again after an unclean end: so all of the key are in the lane, in order.
func (t *tenure) adopt(k *keyQueue) {
	if it := k.holds; it != nil && it.entry == nil {
		e := t.entryOf(it, driver.Parked)
		it.booted = false // the entry takes the place of the Boot entry, which has its name
		it.entry, it.adopted = e, true
		t.live[e.Name] = struct{}{}
		t.delist(it)
		t.held--
		if it.counted {
			it.counted = false
			t.suspects--
		}
		put := *e // the clerk's own: the engine reads e meanwhile
		t.apply(driver.LaneOp{Entry: &put}, func() {
			t.settling = append(t.settling, driver.Settlement{Pos: it.Delivery.Pos})
			t.noted(1)
			t.progress()
		})
	}
	t.strand(k)
}
