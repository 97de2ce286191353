package engine

import (
	"time"

	"github.com/posthorn/posthorn/driver"
)

// An Item is a message in memory.
type Item struct {
	Delivery driver.Delivery
	t        *tenure
	h        *Handler
	kq       *keyQueue
	next     *Item // in the one list that it is in
	older    *Item // of those that hold the floor back
	newer    *Item
	listed   bool      // among these
	came     time.Time // when it came in, monotonic
	entry    *driver.Entry
	order    uint64
	expires  time.Time
	rec      record
	known    int  // rec.Attempts as it is stored
	suspect  bool // may have been started by a process that died
	counted  bool // in tenure.suspects
	adopted  bool // the lane took it over from a queue
	booted   bool // a Boot entry stands for it
	counts   bool // its next start is on record
	alone    bool // it is started as a suspect
	skipped  bool // outside of the subscription, as far as that is known
	where    place
	timer    *time.Timer
	judged   chan struct{} // closed when a suspect has left the window
}

// place says where an item is; it is in one place at a time.
type place uint8

const (
	nowhere    place = iota
	inKey            // waits behind another of its key
	inGated          // waits for the mark
	inReady          // waits for a worker
	inStalled        // waits until handlers of its tenure may be started
	inJudged         // waits to be run as a suspect
	inRun            // its handler runs
	inWait           // waits for its next attempt in memory
	inMove           // waits for the lane to have it
	inHold           // unreadable, in a paused group
	inUnserved       // of a type without a handler here
)

// Group is the name of the group that handles the item.
func (it *Item) Group() string { return it.t.g.cfg.Name }

// Partition is where the item is stored.
func (it *Item) Partition() driver.Partition { return it.t.part }

// Fence is the fencing number of the tenure.
func (it *Item) Fence() uint64 { return it.t.d.Fence() }

// Attempt is the number of this start, from 1.
func (it *Item) Attempt() int { return it.rec.Attempts + 1 }

// Alone tells whether the item may have killed a process, so that it is handled
// by itself.
func (it *Item) Alone() bool { return it.alone }

// Leaving tells whether the group stops or the partition is given back, so that
// nothing is worth waiting for.
func (it *Item) Leaving() bool {
	g := it.t.g
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.draining || it.t.closing || it.t.lost
}

// Position is the item's place in the partition's log.
func (it *Item) Position() uint64 { return it.order }

func (it *Item) size() int { return len(it.Delivery.Msg.Body) + 256 }

// An itemList is a first-in, first-out list through Item.next.
type itemList struct {
	head, tail *Item
	n          int
}

func (l *itemList) push(it *Item) {
	it.next = nil
	if l.tail == nil {
		l.head = it
	} else {
		l.tail.next = it
	}
	l.tail = it
	l.n++
}

func (l *itemList) pop() *Item {
	it := l.head
	if it == nil {
		return nil
	}
	l.head = it.next
	if l.head == nil {
		l.tail = nil
	}
	it.next = nil
	l.n--
	return it
}

// unpop puts an item before all others.
func (l *itemList) unpop(it *Item) {
	it.next = l.head
	if l.head = it; l.tail == nil {
		l.tail = it
	}
	l.n++
}

// remove takes out an item that stands behind prev, or first.
func (l *itemList) remove(prev, it *Item) {
	if prev == nil {
		l.pop()
		return
	}
	prev.next = it.next
	if l.tail == it {
		l.tail = prev
	}
	it.next = nil
	l.n--
}

// take removes and returns all.
func (l *itemList) take() *Item {
	it := l.head
	*l = itemList{}
	return it
}
