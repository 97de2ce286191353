package engine

import (
	"errors"

	"github.com/posthorn/posthorn/driver"
)

// A Gate lets one suspect at a time run, in all groups and partitions of a
// process: otherwise a message that kills its process would have another
// partition's innocent suspect, which ran beside it, counted as well.
type Gate struct{ c chan struct{} }

// NewGate returns an open gate.
func NewGate() *Gate { return &Gate{c: make(chan struct{}, 1)} }

var errQuarantine = errors.New("the process died while the message was being handled")

// judge queues a suspect that is the first of its key.
func (g *Group) judge(it *Item) {
	it.where = inJudged
	g.suspects.push(it)
	if !g.judging {
		g.judging = true
		g.routines.Add(1)
		go g.runSuspects()
	}
}

// runSuspects runs suspects one at a time, each after its start was recorded.
func (g *Group) runSuspects() {
	defer g.routines.Done()
	for {
		it := g.nextSuspect()
		if it == nil {
			return
		}
		select {
		case g.cfg.Gate.c <- struct{}{}:
		case <-it.t.all.Done():
			continue
		}
		judged := make(chan struct{})
		if g.try(it, judged) {
			select {
			case <-judged:
			case <-it.t.all.Done():
			}
		}
		<-g.cfg.Gate.c
	}
}

// nextSuspect waits for the next suspect that may be started; nil when there is
// none.
func (g *Group) nextSuspect() *Item {
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		it := g.eligible()
		if it != nil {
			return it
		}
		if g.suspects.n == 0 || g.draining || g.over {
			g.judging, g.leaseWait = false, false
			return nil
		}
		g.changed.Wait()
	}
}

// eligible takes the first suspect that may be started, and drops those that will
// not be by this tenure.
func (g *Group) eligible() *Item {
	if g.draining || g.over {
		return nil
	}
	var prev, found *Item
	lapsed := false
	for it := g.suspects.head; it != nil && found == nil; {
		next, t := it.next, it.t
		switch {
		case t.lost || t.closing:
			g.suspects.remove(prev, it)
		case g.paused || t.stalls():
			lapsed = lapsed || t.lapsed()
			prev = it
		default:
			g.suspects.remove(prev, it)
			found = it
		}
		it = next
	}
	if lapsed && found == nil && !g.leaseWait {
		wake(g.wakeW)
	}
	g.leaseWait = lapsed && found == nil
	return found
}

// try records the start of a suspect and lets it go, or quarantines it. It
// returns false when it was not let go.
func (g *Group) try(it *Item, judged chan struct{}) bool {
	t := it.t
	g.mu.Lock()
	if t.idleNow() || t.stalls() { // since it was chosen
		g.judge(it)
		g.mu.Unlock()
		return false
	}
	if it.rec.Boots >= g.cfg.Boots {
		g.quarantine(it)
		g.mu.Unlock()
		return false
	}
	// The clerk puts it, behind what it has still to put under this name, and what
	// follows is decided in the same moment: a stop would not wait for it otherwise.
	decided, going := make(chan struct{}), false
	t.apply(driver.LaneOp{Entry: t.bootEntry(it)}, func() {
		going = t.letTry(it, judged)
		close(decided)
	})
	g.mu.Unlock()
	select {
	case <-decided:
		return going
	case <-t.all.Done():
		return false
	}
}

// letTry lets a suspect go whose start is on record, if it still may.
func (t *tenure) letTry(it *Item, judged chan struct{}) bool {
	if t.lost {
		return false
	}
	if it.entry == nil {
		it.booted = true
	}
	it.counts, it.suspect = true, false
	switch {
	case t.closing || t.g.draining:
		t.uncount(it, nil)
		return false
	case t.g.paused || t.stalls():
		t.takeBack(it)
		return false
	}
	it.judged, it.where = judged, nowhere
	t.makeReady(it)
	return true
}

// takeBack has a suspect that was let go, and was not started, wait to be tried
// again, so that others can be tried meanwhile.
func (t *tenure) takeBack(it *Item) {
	it.left()
	it.where = inMove
	t.uncount(it, func() {
		it.suspect = true
		t.makeReady(it)
	})
}

// uncount takes a start off the record that has not happened.
func (t *tenure) uncount(it *Item, after func()) {
	it.counts = false
	e := &driver.Entry{Name: t.entryName(it)}
	op := driver.LaneOp{Entry: e}
	switch {
	case it.entry != nil:
		*e = *it.entry
		e.Head = it.rec.encode()
	case it.rec.Boots == 0:
		op.Delete = true
	default:
		*e = *t.entryOf(it, driver.Boot)
		e.Msg = driver.Message{}
	}
	t.apply(op, func() {
		if it.entry == nil {
			it.booted = !op.Delete
		}
		if after != nil {
			after()
		}
	})
}

// bootEntry counts one more start. For an item from the window that is a Boot
// entry; one from the lane counts in its own.
func (t *tenure) bootEntry(it *Item) *driver.Entry {
	rec := it.rec
	rec.Attempts++
	rec.Boots++
	rec.Order, rec.Member = it.order, t.g.cfg.Member
	if it.entry != nil {
		e := *it.entry
		e.Head = rec.encode()
		return &e
	}
	return &driver.Entry{
		Name:  t.entryName(it),
		State: driver.Boot,
		Key:   it.Delivery.Msg.Key,
		Order: it.order,
		Head:  rec.encode(),
	}
}

// quarantine buries a message that was being handled each time its process
// died.
func (g *Group) quarantine(it *Item) {
	g.cfg.Alarm(driver.Alarm{Code: "quarantined", Thing: g.cfg.Name + " " + it.Delivery.Msg.ID,
		Text: "group " + g.cfg.Name + ": the message " + it.Delivery.Msg.ID + " of type " + it.Delivery.Msg.Type +
			" was being handled each time its process died; it is a dead letter now, and the others go on"})
	it.t.bury(it, Verdict{Kind: Dead, Err: errQuarantine, Code: "quarantined"})
}
