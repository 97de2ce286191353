package engine

import (
	"cmp"
	"slices"
	"time"

	"github.com/posthorn/posthorn/driver"
)

const (
	// blockedFrom is after how long a message is said to hold its partition back.
	blockedFrom = time.Second
	// maxBlocked is how many are told of.
	maxBlocked = 10
)

// status is what the member tells of itself.
func (g *Group) status() driver.Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := driver.Status{InFlight: g.running, Paused: g.whyPaused(), Lacks: g.sub.lacking()}
	now := time.Now() // monotonic
	for _, t := range g.tenures {
		s.Retrying += len(t.waiting) + t.due.Len()
		s.Parked += t.parked
		if it := t.oldest; it != nil && now.Sub(it.came) >= blockedFrom {
			s.Blocked = append(s.Blocked, it.blocks(now))
		}
	}
	slices.SortFunc(s.Blocked, func(x, y driver.Blocked) int { return cmp.Compare(y.For, x.For) })
	s.Blocked = s.Blocked[:min(len(s.Blocked), maxBlocked)]
	return s
}

// blocks tells of a message that holds its partition back.
func (it *Item) blocks(now time.Time) driver.Blocked {
	m := &it.Delivery.Msg
	return driver.Blocked{Topic: it.t.part.Topic, N: it.t.part.N, Pos: it.order, ID: m.ID, Type: m.Type, Key: m.Key,
		For: now.Sub(it.came), Attempts: it.rec.Attempts, Why: it.why()}
}

// why says what an item waits for.
func (it *Item) why() string {
	switch it.where {
	case inKey:
		return "waits behind another event of its key"
	case inGated:
		return "waits for the position to be recorded"
	case inReady:
		switch {
		case it.t.g.paused:
			return "the group is paused"
		case it.t.closing:
			return "the partition is given to another member"
		}
		return "waits for a free handler"
	case inStalled:
		if !it.t.served() {
			return "a handler is missing here for another type of the topic"
		}
		return "the lease has not been renewed"
	case inJudged:
		return "its process died; it waits to be tried by itself"
	case inRun:
		return "being handled"
	case inWait:
		return "waits for its next attempt"
	case inMove:
		return "waits for the lane to store it"
	case inHold:
		return "cannot be read; the group is paused"
	case inUnserved:
		return "its type has no handler here"
	}
	return "left for the next holder"
}

// enlist appends an item to those that hold the floor back, in the order of their
// positions. One that is looked at again belongs among the first.
func (t *tenure) enlist(it *Item, now time.Time) {
	it.came, it.listed = now, true
	at := t.newest
	for at != nil && at.order > it.order {
		at = at.older
	}
	it.older = at
	if at == nil {
		it.newer = t.oldest
	} else {
		it.newer = at.newer
	}
	t.link(it)
}

// delist takes an item out of them.
func (t *tenure) delist(it *Item) {
	if !it.listed {
		return
	}
	if it.older == nil {
		t.oldest = it.newer
	} else {
		it.older.newer = it.newer
	}
	if it.newer == nil {
		t.newest = it.older
	} else {
		it.newer.older = it.older
	}
	it.listed, it.older, it.newer = false, nil, nil
}

// link has the neighbours of an item point to it.
func (t *tenure) link(it *Item) {
	if it.older == nil {
		t.oldest = it
	} else {
		it.older.newer = it
	}
	if it.newer == nil {
		t.newest = it
	} else {
		it.newer.older = it
	}
}
