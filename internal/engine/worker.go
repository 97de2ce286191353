package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// A run is a handler at work.
type run struct {
	it        *Item
	cancel    context.CancelCauseFunc
	started   time.Time
	limit     time.Time // when it is abandoned
	abandoned bool
}

// push makes an item available to the workers, and sees that one is awake.
func (g *Group) push(it *Item) {
	it.where = inReady
	g.ready.push(it)
	g.rouse()
}

func (g *Group) rouse() {
	switch {
	case g.over || g.draining || g.paused:
	case g.idle > 0:
		g.idle--
		g.work.Signal()
	case g.workers < g.cfg.Concurrency:
		g.workers++
		g.routines.Add(1)
		go g.worker()
	}
}

// worker runs handlers until the group is over, or until one of them was
// abandoned: then it has been replaced.
func (g *Group) worker() {
	defer g.routines.Done()
	g.mu.Lock()
	for !g.over {
		it := g.next()
		if it == nil {
			g.idle++
			g.work.Wait()
			continue
		}
		r := g.begin(it)
		g.mu.Unlock()
		v, returned := g.call(r)
		g.mu.Lock()
		if g.end(r, v) || !returned {
			if !returned && !r.abandoned {
				g.workers--
				g.rouse()
			}
			g.mu.Unlock()
			return
		}
	}
	g.workers--
	g.mu.Unlock()
}

// next takes the next item that may be started.
func (g *Group) next() *Item {
	for {
		if g.draining || g.paused || g.over {
			return nil
		}
		it := g.ready.pop()
		if it == nil {
			return nil
		}
		t := it.t
		if !t.queue && it.entry == nil {
			t.ahead--
		}
		switch {
		case t.lost:
			it.left()
		case t.closing:
			it.where = nowhere
			t.shelve(it)
		case t.stalls() && it.judged != nil:
			t.takeBack(it)
		case t.stalls():
			it.where = inStalled
			t.stalled.push(it)
			wake(g.wakeW)
		case !it.expires.IsZero() && it.expires.Before(g.cfg.Clock.Sure()):
			g.cfg.Counts.Expired()
			t.finishKeyed(it)
		default:
			return it
		}
	}
}

func (t *tenure) finishKeyed(it *Item) {
	k := it.kq
	t.settle(it)
	t.releaseKey(k)
}

// begin notes a start.
func (g *Group) begin(it *Item) *run {
	it.where, it.counts, it.alone = inRun, false, it.judged != nil
	t := it.t
	t.running++
	t.starts++
	t.raiseMark()
	now := time.Now() // monotonic
	if it.rec.First == 0 {
		it.rec.First = g.cfg.Clock.Now().UnixMilli()
	}
	r := &run{it: it, started: now, limit: now.Add(it.h.Timeout + grace(it.h.Timeout))}
	g.runs[r] = struct{}{}
	if r.limit.Before(g.watchAt) {
		wake(g.wakeW)
	}
	g.cfg.Counts.Started()
	return r
}

// grace is how long after its timeout a handler may take to notice.
func grace(timeout time.Duration) time.Duration {
	return min(max(timeout/10, 100*time.Millisecond), 5*time.Second)
}

// call runs the handler. returned is false when it ended its goroutine instead:
// then call does not return to worker but runs the rest itself.
func (g *Group) call(r *run) (v Verdict, returned bool) {
	it := r.it
	ctx, cancel := context.WithCancelCause(g.base)
	r.setCancel(g, cancel)
	defer cancel(nil)
	ctx, stop := context.WithDeadlineCause(ctx, r.started.Add(it.h.Timeout), context.DeadlineExceeded)
	defer stop()
	ended := false
	defer func() {
		if ended {
			return
		}
		if p := recover(); p != nil {
			v, returned = Verdict{Kind: Fail, Code: "panic", Err: fmt.Errorf("panic: %v\n%s", p, debug.Stack())}, true
			return
		}
		// runtime.Goexit: this goroutine ends when its deferred calls have run.
		g.mu.Lock()
		defer g.mu.Unlock()
		g.end(r, Verdict{Kind: Fail, Code: "panic", Err: errGoexit})
		if !r.abandoned {
			g.workers--
			g.rouse()
		}
	}()
	v = it.h.Run(ctx, it)
	if v.Kind == Fail && ctx.Err() != nil && errors.Is(v.Err, context.DeadlineExceeded) {
		v.Code = "timeout"
	}
	ended = true
	return v, true
}

var (
	errGoexit = errors.New("the handler ended its goroutine (runtime.Goexit; in a test: t.FailNow)")
	errStuck  = errors.New("the handler did not return at its deadline")
)

func (r *run) setCancel(g *Group, cancel context.CancelCauseFunc) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r.cancel = cancel
	if r.it.t.lost {
		cancel(driver.ErrLost)
	}
}

// end takes a verdict in. It returns true when the worker has been replaced.
func (g *Group) end(r *run, v Verdict) bool {
	delete(g.runs, r)
	it := r.it
	t := it.t
	t.running--
	g.changed.Broadcast()
	if r.abandoned {
		g.abandoned--
		g.unstuck(it.Delivery.Msg.Type)
		if it.kq != nil && !t.lost {
			it.kq.stuck--
			t.nextOf(it.kq)
		}
		wake(g.wakeW) // another may have waited to be abandoned
		return true
	}
	if t.lost {
		it.left()
		return false
	}
	g.decide(r, v)
	return false
}

// unstuck ends the alarm of a type whose abandoned handlers have all returned.
func (g *Group) unstuck(typ string) {
	for r := range g.runs {
		if r.abandoned && r.it.Delivery.Msg.Type == typ {
			return
		}
	}
	g.cfg.Alarm(driver.Alarm{Code: "handler_stuck", Thing: g.cfg.Name + " " + typ, Text: "it has returned", Cleared: true})
}

// decide carries out a verdict.
func (g *Group) decide(r *run, v Verdict) {
	it := r.it
	t := it.t
	if !v.Unreadable {
		g.unread = 0
	}
	switch v.Kind {
	case Done:
		g.cfg.Counts.Handled()
		t.finishKeyed(it)
	case Skip:
		g.cfg.Counts.Skipped(1)
		t.finishKeyed(it)
	case Dead:
		it.rec.fail(v, r.started)
		k := it.kq
		t.buryNoted(it, v)
		t.releaseKey(k)
	default:
		it.rec.fail(v, r.started)
		g.retry(it, v)
	}
}

// retry finds the next attempt for an item whose key is still held.
func (g *Group) retry(it *Item, v Verdict) {
	t, p, n := it.t, it.h.Retry, it.rec.Attempts
	k := it.kq
	switch {
	case n >= p.Attempts+p.Late:
		t.buryNoted(it, v)
		t.releaseKey(k)
	case n < p.Attempts && !g.draining && !t.closing && (!v.Asked || v.Wait < shortWait),
		v.Asked && v.Wait < shortWait && !g.draining && !t.closing:
		g.cfg.Counts.Retried(false)
		wait := v.Wait
		if !v.Asked {
			wait = jitter(growing(p.Delay, p.MaxDelay, n))
		}
		g.retrySoon(it, wait)
	default:
		g.cfg.Counts.Retried(true)
		t.later(it, v)
		t.releaseKey(k)
	}
}

// later sends an item to the lane, to be handled again.
func (t *tenure) later(it *Item, v Verdict) {
	p := it.h.Retry
	wait := v.Wait
	if !v.Asked {
		wait = jitter(growing(p.LateDelay, p.MaxLate, max(1, it.rec.Attempts-p.Attempts+1)))
	}
	e := t.entryOf(it, driver.Due)
	e.Due = t.g.cfg.Clock.Now().Add(wait)
	t.moveUntil(it, e, time.Now().Add(wait)) // monotonic
}

// growing is the wait after n failures: first, doubled each time, up to most.
func growing(first, most time.Duration, n int) time.Duration {
	d := first
	for i := 1; i < n && d < most; i++ {
		d *= 2
	}
	return min(d, most)
}

// retrySoon keeps the key and frees the slot.
func (g *Group) retrySoon(it *Item, wait time.Duration) {
	t := it.t
	it.where = inWait
	t.waiting[it] = struct{}{}
	it.timer = time.AfterFunc(wait, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if _, ok := t.waiting[it]; !ok || t.lost {
			return
		}
		delete(t.waiting, it)
		t.letGo(it)
	})
}

// moveFailed sends to the lane, with its count, what has failed and is not
// finished, when a drain leaves no time for more attempts.
func (t *tenure) moveFailed() {
	g := t.g
	if t.lost {
		return
	}
	for it := range t.waiting {
		it.timer.Stop()
		t.shelve(it)
	}
	clear(t.waiting)
	for it := t.stalled.take(); it != nil; {
		next := it.next
		it.next = nil
		t.shelve(it)
		it = next
	}
	for it := g.ready.take(); it != nil; {
		next := it.next
		it.next = nil
		if it.t == t {
			if !t.queue && it.entry == nil {
				t.ahead--
			}
			t.shelve(it)
		} else {
			g.ready.push(it)
		}
		it = next
	}
}

// shelve puts an item that will not be started by this tenure aside: one that has
// failed goes to the lane, any other one stays where it is stored.
func (t *tenure) shelve(it *Item) {
	if it.failed() {
		t.later(it, Verdict{})
		return
	}
	if it.counts {
		t.uncount(it, nil)
	}
	it.where = nowhere
	it.left()
}

// failed tells whether attempts were made that only memory knows of.
func (it *Item) failed() bool { return it.rec.Attempts > it.known }

// buryNoted makes a dead letter of an item whose last error is in its record.
func (t *tenure) buryNoted(it *Item, v Verdict) {
	g := t.g
	if v.Unreadable {
		if g.unread++; g.unread >= floodLimit {
			g.holdUnreadable(it, v)
			return
		}
	}
	t.inter(it, v)
}

// inter makes the dead letter.
func (t *tenure) inter(it *Item, v Verdict) {
	g := t.g
	it.rec.Died = g.cfg.Clock.Now().UnixMilli()
	g.cfg.Counts.Dead(v.Code == "quarantined")
	m := &it.Delivery.Msg
	g.log.Error("dead letter", "type", m.Type, "id", m.ID, "key", m.Key, "topic", t.part.Topic, "partition", t.part.N,
		"attempts", it.rec.Attempts, "code", v.Code, "error", v.Err)
	t.move(it, t.entryOf(it, driver.Dead))
}

// bury makes a dead letter of an item that no handler was started for.
func (t *tenure) bury(it *Item, v Verdict) {
	it.rec.note(v, t.g.cfg.Clock.Now())
	if it.Delivery.Bad != nil {
		it.rec.Bad = it.Delivery.Bad.Error()
	}
	k := it.kq
	t.buryNoted(it, v)
	if k != nil {
		t.releaseKey(k)
	}
}

// watch abandons handlers that ignore their deadline, and lets go what waited for
// a lease. It sleeps while there is neither.
func (g *Group) watch() {
	defer g.routines.Done()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-g.wakeW:
		case <-g.base.Done():
			return
		}
		timer.Reset(g.look())
	}
}

// look does what watch is for and returns when to look again.
func (g *Group) look() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now() // monotonic
	next := time.Hour
	for r := range g.runs {
		if r.abandoned {
			continue
		}
		if !now.After(r.limit) {
			next = min(next, r.limit.Sub(now))
		} else if g.abandoned < g.cfg.Concurrency {
			g.abandon(r)
		}
	}
	for _, t := range g.tenures {
		if t.unstall(); t.stalled.n > 0 && t.lapsed() {
			next = min(next, renewEvery)
		}
	}
	if g.leaseWait {
		g.changed.Broadcast()
		next = min(next, renewEvery)
	}
	next += time.Millisecond
	g.watchAt = now.Add(next)
	return next
}

// renewEvery is how often a lease is looked at that was about to end.
const renewEvery = 20 * time.Millisecond

// abandon gives the slot of a handler that ignores its deadline to others. Its
// key stays taken until it returns.
func (g *Group) abandon(r *run) {
	it := r.it
	t := it.t
	r.abandoned = true
	g.abandoned++
	g.workers--
	g.cfg.Counts.Abandoned()
	m := &it.Delivery.Msg
	g.cfg.Alarm(driver.Alarm{Code: "handler_stuck", Thing: g.cfg.Name + " " + m.Type,
		Text: fmt.Sprintf("group %s: a handler of %s has not returned %v after its start (id %s, timeout %v); its slot is given to others, "+
			"events of its key wait; let the handler heed its context", g.cfg.Name, m.Type, time.Since(r.started).Round(time.Millisecond), m.ID, it.h.Timeout)}) // monotonic
	if t.lost {
		g.rouse() // who holds the partition now decides
		return
	}
	v := Verdict{Kind: Fail, Err: errStuck, Code: "timeout"}
	moved := *it // the handler goes on using the item
	left := &moved
	it.judged, it.listed = nil, false
	if left.listed {
		t.link(left)
	}
	left.rec.fail(v, r.started)
	if left.kq != nil {
		left.kq.stuck++
		left.kq.busy, left.kq.holds = false, nil
		t.strand(left.kq)
	}
	if p := left.h.Retry; left.rec.Attempts >= p.Attempts+p.Late {
		t.buryNoted(left, v)
	} else {
		g.cfg.Counts.Retried(true)
		t.later(left, v)
	}
	g.rouse()
}
