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
		it := g.suspects.head
		switch {
		case it == nil || g.draining || g.over:
			g.judging = false
			return nil
		case it.t.lost || it.t.closing:
			g.suspects.pop()
		case g.paused:
			g.changed.Wait()
		default:
			return g.suspects.pop()
		}
	}
}

// try records the start of a suspect and lets it go, or quarantines it. It
// returns false when it was not let go.
func (g *Group) try(it *Item, judged chan struct{}) bool {
	t := it.t
	if it.rec.Boots >= g.cfg.Boots {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.quarantine(it)
		return false
	}
	g.mu.Lock()
	e := t.bootEntry(it)
	g.mu.Unlock()
	var wait backoff
	for {
		err := t.putBoot(e)
		if err == nil {
			t.calm(&wait, "lane_failed")
			break
		}
		if t.ended(err) {
			return false
		}
		t.trouble(&wait, "lane_failed", "the start of a suspect message cannot be recorded", err)
		if !wait.sleep(t.all) {
			return false
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.lost {
		return false
	}
	if it.entry != nil {
		it.entry.Rev = e.Rev
	} else {
		it.booted, it.bootRev = true, e.Rev
	}
	it.counts = true
	if t.idleNow() {
		t.uncount(it)
		return false
	}
	it.suspect, it.judged = false, judged
	it.where = nowhere
	t.makeReady(it)
	return true
}

// uncount takes a start off the record that will not happen in this tenure.
func (t *tenure) uncount(it *Item) {
	it.counts = false
	switch {
	case it.entry != nil:
		e := *it.entry
		e.Head = it.rec.encode()
		t.apply(driver.LaneOp{Entry: &e}, nil)
	case it.rec.Boots == 0:
		t.apply(driver.LaneOp{Entry: &driver.Entry{Name: t.entryName(it)}, Delete: true}, nil)
	default:
		e := t.entryOf(it, driver.Boot)
		e.Rev, e.Msg = it.bootRev, driver.Message{}
		t.apply(driver.LaneOp{Entry: e}, nil)
	}
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
		if e.Rev == 0 {
			e.Rev = anyRev // the lane is about to have it
		}
		return &e
	}
	return &driver.Entry{
		Name:  t.entryName(it),
		State: driver.Boot,
		Key:   it.Delivery.Msg.Key,
		Order: it.order,
		Head:  rec.encode(),
		Rev:   it.bootRev,
	}
}

// putBoot writes the entry, whatever revision stands.
func (t *tenure) putBoot(e *driver.Entry) error {
	ops := []driver.LaneOp{{Entry: e}}
	if err := t.lookUp(ops); err != nil {
		return err
	}
	err := t.d.Lane().Apply(t.all, ops)
	if err != nil {
		e.Rev = anyRev // it may have been written all the same
	}
	return err
}

// quarantine buries a message that was being handled each time its process
// died.
func (g *Group) quarantine(it *Item) {
	g.cfg.Alarm(driver.Alarm{Code: "quarantined", Thing: g.cfg.Name + " " + it.Delivery.Msg.ID,
		Text: "group " + g.cfg.Name + ": the message " + it.Delivery.Msg.ID + " of type " + it.Delivery.Msg.Type +
			" was being handled each time its process died; it is a dead letter now, and the others go on"})
	it.t.bury(it, Verdict{Kind: Dead, Err: errQuarantine, Code: "quarantined"})
}
