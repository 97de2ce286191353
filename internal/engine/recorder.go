package engine

import (
	"cmp"
	"errors"
	"time"

	"github.com/posthorn/posthorn/driver"
)

const (
	// minStep is by how much the mark is raised when little happens. What lies
	// below the mark when a process dies is handled one at a time by the next one,
	// so it is small; and each raise is a write, so it is not one.
	minStep = 8
	// stepTime is how much work, at the present rate, a raise covers, and maxStepTime
	// how much it may cover where a record takes so long that handlers would wait for it.
	stepTime    = 100 * time.Millisecond
	maxStepTime = time.Second
	// checkpointEvery is after how many results a record is due before its time.
	checkpointEvery = 4096
)

// makeReady lets an item go to a worker, as far as it may.
func (t *tenure) makeReady(it *Item) {
	switch {
	case t.lost:
		it.left()
	case it.suspect:
		t.g.judge(it)
	case !t.queue && it.entry == nil && it.order > t.mark:
		it.where = inGated
		t.gated.push(it)
		t.raiseMark()
	default:
		t.letGo(it)
	}
}

func (t *tenure) letGo(it *Item) {
	if !t.queue && it.entry == nil {
		t.ahead++
		t.top = max(t.top, it.order)
	}
	t.g.push(it)
}

// raiseMark asks for a higher mark when little is left below it.
func (t *tenure) raiseMark() {
	if t.raise || t.queue || t.lost {
		return
	}
	if t.gated.n > 0 && uint64(t.ahead) <= t.step/2 || t.gated.n == 0 && t.mark < t.top+t.step/2 {
		t.raise = true
		t.wakeRecorder()
	}
}

// nextMark is the mark that is to be recorded: far enough for the work of
// stepTime at the rate of late.
func (t *tenure) nextMark(now time.Time) uint64 {
	if !t.raised.IsZero() {
		elapsed := max(now.Sub(t.raised), time.Microsecond)
		covers := min(max(stepTime, 4*t.writes), maxStepTime)
		want := uint64(float64(t.starts) * float64(covers) / float64(elapsed))
		t.step = min(max(want, minStep), 4*t.step, t.win.size/2)
		t.step = max(t.step, minStep)
	}
	t.raised, t.starts = now, 0
	base := max(t.top, t.win.floor)
	more := t.step
	for it := t.gated.head; it != nil && more > 0; it, more = it.next, more-1 {
		base = max(base, it.order)
	}
	return max(base+more, t.mark) // what is gated may be the first of many of its key
}

// keepRecord records results and marks until the tenure ends.
func (t *tenure) keepRecord() {
	defer t.g.routines.Done()
	defer close(t.scribe)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var wait backoff
	defer t.calm(&wait, "checkpoint_failed")
	for {
		select {
		case <-t.wakeS:
		case <-timer.C:
		case <-t.all.Done():
			return
		}
		more, failed := t.lookAgain()
		next, err := t.record()
		if errors.Is(err, driver.ErrSubscription) {
			err = t.resubscribe()
			more = true
		}
		if err = cmp.Or(err, failed); err == nil {
			if more {
				t.wakeRecorder()
			}
			t.calm(&wait, "checkpoint_failed")
			timer.Reset(next)
			continue
		}
		if t.ended(err) {
			return
		}
		t.trouble(&wait, "checkpoint_failed", "the position cannot be recorded", err)
		if !wait.sleep(t.all) {
			return
		}
		t.wakeRecorder()
	}
}

// resubscribe takes in what the group has subscribed to since the last record, which
// has been refused for it.
func (t *tenure) resubscribe() error {
	if t.refused++; t.refused > 3 {
		return driver.ErrSubscription // again and again: not at once any more
	}
	return t.g.askRecord(t.all)
}

// record writes what is due and returns when it wants to be called again.
func (t *tenure) record() (time.Duration, error) {
	g := t.g
	g.mu.Lock()
	if t.lost {
		g.mu.Unlock()
		return time.Hour, driver.ErrLost
	}
	age := time.Duration(0)
	if t.changes > 0 {
		age = time.Since(t.since) // monotonic
	}
	sure := t.unsure()
	due := t.raise || t.press && !sure || t.changes >= checkpointEvery || t.fills() && !sure || t.changes > 0 && (age >= g.cfg.Checkpoint || t.queue)
	if !due {
		next := time.Hour
		if t.changes > 0 {
			next = g.cfg.Checkpoint - age
		}
		g.mu.Unlock()
		return next, nil
	}
	changes := t.changes
	c := t.checkpoint(sure)
	high := t.win.high
	settling := t.settling
	t.settling, t.flushing = nil, len(settling)
	if t.raise {
		c.Mark = t.nextMark(time.Now()) // monotonic
	}
	g.mu.Unlock()

	begun := time.Now() // monotonic
	err := t.write(c, settling)

	g.mu.Lock()
	defer g.mu.Unlock()
	t.writes += (time.Since(begun) - t.writes) / 4 // monotonic
	t.flushing = 0
	if err != nil {
		t.settling = append(settling, t.settling...)
		return 0, err
	}
	t.refused = 0
	t.flushed += len(settling)
	g.changed.Broadcast()
	t.changes -= changes
	if t.changes > 0 {
		t.since = time.Now() // monotonic
	}
	if !t.queue {
		if t.press = false; !sure {
			t.win.confirm(high)
		}
		t.roomC.Broadcast()
		t.recorded(c)
	}
	if t.raise || t.queue && t.changes > 0 || t.changes >= checkpointEvery || t.fills() && !t.unsure() {
		t.wakeRecorder()
	}
	return g.cfg.Checkpoint, nil
}

func (t *tenure) write(c driver.Checkpoint, settling []driver.Settlement) error {
	if !t.queue {
		return t.d.Checkpoint(t.all, c)
	}
	if len(settling) == 0 {
		return nil
	}
	return t.d.Settle(t.all, settling)
}

// recorded lets go what is below the new mark.
func (t *tenure) recorded(c driver.Checkpoint) {
	t.mark = max(t.mark, c.Mark)
	t.raise = false
	for it := t.gated.take(); it != nil; {
		next := it.next
		it.next = nil
		if it.order > t.mark {
			t.gated.push(it)
		} else {
			t.letGo(it)
		}
		it = next
	}
	t.raiseMark()
}
