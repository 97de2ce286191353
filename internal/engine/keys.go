package engine

import "github.com/posthorn/posthorn/driver"

// A keyQueue is one key of a tenure that has messages in memory or parked.
type keyQueue struct {
	key   string
	queue itemList // in memory, in order, behind the one that holds the key
	busy  bool     // one holds the key: it is ready, runs, or waits for its next attempt
	holds *Item    // the one
	stuck int      // abandoned handlers that still run

	// Parked entries wait in the lane. The index keeps a count, never one entry
	// each.
	parked  int    // in the lane and not loaded
	parking int    // on their way to the lane
	first   uint64 // no parked entry that is not loaded has a lower order
	loading bool
	trial   bool // the next batch that is loaded was there before an unclean start
}

// spills tells whether what comes next for the key has to be parked, so that it
// stays behind what is parked already.
func (k *keyQueue) spills(t *tenure, order uint64) bool {
	if k.stuck > 0 {
		return true
	}
	if k.parked > 0 && order < k.first {
		// Only after an unclean start: it stood before those that are parked, and was
		// being handled, or waited in memory, when the process ended.
		return false
	}
	return k.parked+k.parking > 0 || k.queue.n >= t.share
}

func (k *keyQueue) unused() bool {
	return !k.busy && k.stuck == 0 && k.queue.n == 0 && k.parked == 0 && k.parking == 0 && !k.loading
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
	if k.busy {
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
	t.nextOf(k)
}

func (t *tenure) nextOf(k *keyQueue) {
	if k.busy || k.stuck > 0 || t.lost {
		return
	}
	if it := k.queue.pop(); it != nil {
		k.busy, k.holds = true, it
		t.makeReady(it)
		return
	}
	if k.parked > 0 {
		if !t.queue && k.first > t.win.high {
			// After a start: what the log still holds before it comes first, and has
			// not been fetched yet. See tenure.admit.
			t.early[k] = struct{}{}
			return
		}
		t.askFor(k)
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
	if k.loading || k.parking > 0 && k.parked == 0 {
		return
	}
	k.loading = true
	t.loads = append(t.loads, k)
	t.wakeClerk()
}

// park sends an item to the lane, behind the others of its key.
func (t *tenure) park(it *Item) {
	k := it.kq
	if t.queue && k.parked+k.parking == 0 {
		k.parking++ // once
		t.adopt(k)
		k.parking--
	}
	k.parking++
	t.g.cfg.Counts.Parked()
	e := t.entryOf(it, driver.Parked)
	t.move(it, e)
}

// strand parks all that waits behind a handler that ignores its deadline, so that
// the partition's floor does not wait for it.
func (t *tenure) strand(k *keyQueue) {
	for it := k.queue.take(); it != nil; {
		next := it.next
		it.next = nil
		if it.entry == nil || it.entry.State != driver.Parked {
			t.park(it)
		} else { // it stands there still: forget that it was loaded
			k.parked++
			k.first = min(k.first, it.order)
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
		if it.booted {
			e.Rev, it.booted = it.bootRev, false
		}
		it.entry = e
		t.loaded++
		t.held--
		t.apply(driver.LaneOp{Entry: e}, func() {
			t.settling = append(t.settling, driver.Settlement{Pos: it.Delivery.Pos})
			t.changed()
		})
	}
	t.strand(k)
}
