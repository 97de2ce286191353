package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/posthorn/posthorn/driver"
)

const (
	// quickPace is what a handler needs that does not wait for anything.
	quickPace = 10 * time.Microsecond
	// maxHand is how many items a worker takes at a time, at most.
	maxHand = 64
	// handTime is for how long they keep it busy, by what their handlers have taken of
	// late.
	handTime = 100 * time.Microsecond
	// slowPace is what a handler is taken to need that has not run yet, and the most
	// that one run of it says of the next.
	slowPace = 2 * time.Millisecond
	// recallAfter is how long a handler may run before others take what its worker has
	// taken besides.
	recallAfter = time.Millisecond
)

// A worker runs handlers, one at a time. It takes several items at once as long
// as their handlers are quick: to take one, and to settle one, costs more than such
// a handler. What it has taken and not started can be taken back at any time, and is
// when a handler is not quick after all, or when nothing may start any more.
type worker struct {
	g *Group

	mu     sync.Mutex // a leaf below Group.mu
	hand   []*Item    // taken, and not started
	spare  []*Item    // what hand was made of
	done   []ended    // finished, and not settled
	cur    *run       // the handler that runs
	counts bool       // the start of the one in hand, a suspect, is on record
	gone   bool       // it has been replaced: its handler was abandoned
	quick  bool       // it is expected back at once; guarded by Group.mu
}

// A run is a handler at work.
type run struct {
	it        *Item
	ctx       runContext
	started   time.Time
	abandoned bool
}

// limit is when it is abandoned.
func (r *run) limit() time.Time { return r.started.Add(r.it.h.allowed()) }

// allowed is for how long a handler is waited for.
func (h *Handler) allowed() time.Duration { return h.Timeout + grace(h.Timeout) }

// An ended is a run and what came of it.
type ended struct {
	r    *run
	v    Verdict
	took time.Duration
}

// push makes an item available to the workers, and sees that one is awake.
func (g *Group) push(it *Item) {
	it.where = inReady
	g.ready.push(it)
	g.rouse()
}

// rouse sees that a worker is on its way, unless one is: it rouses the next if
// there is more than it takes.
func (g *Group) rouse() {
	switch {
	case g.over || g.draining || g.paused || g.waking || g.limited():
	case g.quick >= g.procs:
		// More of them would only be in each other's way. Should these not be back at
		// once after all, relieve rouses others.
		g.lookSoon()
	case g.idle > 0:
		g.idle--
		g.waking = true
		g.work.Signal()
	case len(g.workers)-g.abandoned < g.cfg.Concurrency:
		g.waking = true
		w := &worker{g: g}
		g.workers[w] = struct{}{}
		g.routines.Add(1)
		go g.worker(w)
	}
}

// worker runs handlers until the group is over, or until one of them was
// abandoned: then it has been replaced.
func (g *Group) worker(w *worker) {
	defer g.routines.Done()
	g.mu.Lock()
	g.waking = false
	for {
		if w.quick {
			w.quick = false
			g.quick--
		}
		g.settleDone(w)
		if g.over {
			break
		}
		if !g.deal(w) {
			g.idle++
			g.work.Wait()
			g.waking = false
			continue
		}
		g.mu.Unlock()
		if !w.run() {
			return
		}
		g.mu.Lock()
	}
	delete(g.workers, w)
	g.mu.Unlock()
}

// deal gives a worker what it is to do next, and says false when there is nothing.
func (g *Group) deal(w *worker) bool {
	g.putBack(w)
	now := time.Now() // monotonic
	it := g.next(now)
	if it == nil {
		return false
	}
	clear(w.spare)
	hand, left := w.spare[:0], handTime
	counts := it.counts
	for it != nil {
		g.begin(it, now)
		hand = append(hand, it)
		left -= it.h.pace
		if it.h.pace > quickPace || it.judged != nil || len(hand) == maxHand {
			break
		}
		if head := g.ready.head; head == nil || head.judged != nil || head.h.pace > min(left, quickPace) {
			break
		}
		if it = g.next(now); it != nil && (it.judged != nil || it.h.pace > min(left, quickPace)) {
			it.unbegun() // those before it were not to be started
			g.ready.unpop(it)
			break
		}
	}
	if w.quick = hand[0].h.pace <= quickPace; w.quick {
		g.quick++
	}
	w.mu.Lock()
	w.hand, w.spare, w.counts = hand, hand, counts
	w.mu.Unlock()
	if len(hand) > 1 {
		g.lookSoon()
	}
	if g.ready.n > 0 {
		g.rouse()
	}
	return true
}

// lookSoon has watch look whether quick handlers are quick.
func (g *Group) lookSoon() {
	if !g.soon {
		g.soon = true
		wake(g.wakeW)
	}
}

// unbegun undoes what next has noted of an item that is not started after all.
func (it *Item) unbegun() {
	it.where = inReady
	it.t.g.limit.giveBack()
	if !it.t.queue && it.entry == nil {
		it.t.ahead++
	}
}

// putBack takes back what a worker has not started.
func (g *Group) putBack(w *worker) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.hand) - 1; i >= 0; i-- {
		it := w.hand[i]
		it.counts = it.judged != nil && w.counts
		g.running--
		it.t.running--
		it.t.starts--
		it.unbegun()
		g.ready.unpop(it)
	}
	w.hand = nil
}

// recall takes back what all workers have not started: from now on nothing starts
// that next does not let go.
func (g *Group) recall() {
	n := g.ready.n
	for w := range g.workers {
		g.putBack(w)
	}
	if g.ready.n > n {
		g.rouse()
	}
}

// settleDone settles what a worker has finished.
func (g *Group) settleDone(w *worker) {
	w.mu.Lock()
	done := w.done
	w.done = nil
	w.mu.Unlock()
	if len(done) == 0 {
		return
	}
	handled := 0
	for i := range done {
		e := &done[i]
		e.r.it.h.took(e.took)
		if g.end(e.r, e.v) {
			handled++
		}
	}
	clear(done)
	w.mu.Lock()
	if w.done == nil {
		w.done = done[:0]
	}
	w.mu.Unlock()
	g.cfg.Counts.Handled(handled)
	g.changed.Broadcast()
}

// took notes how long a run has taken.
func (h *Handler) took(d time.Duration) { h.pace += (min(d, slowPace) - h.pace) / 8 }

// next takes the next item that may be started.
func (g *Group) next(now time.Time) *Item {
	for {
		if g.draining || g.paused || g.over || g.limited() {
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
		stalls := t.lapsedAt(now) || !t.served()
		switch {
		case t.lost:
			it.left()
		case t.closing:
			it.where = nowhere
			t.shelve(it)
		case stalls && it.judged != nil:
			t.takeBack(it)
		case stalls:
			it.where = inStalled
			t.stalled.push(it)
			wake(g.wakeW)
		case !it.expires.IsZero() && it.expires.Before(g.cfg.Clock.Sure()):
			g.cfg.Counts.Expired()
			t.finishKeyed(it)
		default:
			g.limit.take()
			return it
		}
	}
}

func (t *tenure) finishKeyed(it *Item) {
	k := it.kq
	t.settle(it)
	t.releaseKey(k)
}

// begin notes that a worker has an item.
func (g *Group) begin(it *Item, now time.Time) {
	it.where, it.counts, it.alone = inRun, false, it.judged != nil
	t := it.t
	g.running++
	t.running++
	t.starts++
	t.raiseMark()
	if now.Add(it.h.allowed()).Before(g.watchAt) {
		wake(g.wakeW)
	}
}

// grace is how long after its timeout a handler may take to notice.
func grace(timeout time.Duration) time.Duration {
	return min(max(timeout/10, 100*time.Millisecond), 5*time.Second)
}

// run runs what the worker has taken. It returns false when the worker has been
// replaced, or ends.
func (w *worker) run() bool {
	now := time.Now() // monotonic
	for {
		r := w.start(now)
		if r == nil {
			return true
		}
		v, returned := w.call(r)
		if !returned {
			return false
		}
		now = time.Now() // monotonic
		if !w.finish(r, v, now) {
			w.g.mu.Lock()
			w.g.returned(w, r)
			w.g.mu.Unlock()
			return false
		}
	}
}

// start starts the next item that the worker has, or returns nil: when there is
// none, or it may not be started any more.
func (w *worker) start(now time.Time) *run {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.hand) == 0 {
		return nil
	}
	it := w.hand[0]
	if it.t.lapsedAt(now) {
		return nil
	}
	w.hand = w.hand[1:]
	r := &run{it: it, started: now}
	r.ctx.base, r.ctx.deadline = w.g.base, now.Add(it.h.Timeout)
	w.cur = r
	w.g.cfg.Counts.Started()
	return r
}

// finish notes a verdict, and says false when the run was abandoned.
func (w *worker) finish(r *run, v Verdict, now time.Time) bool {
	r.ctx.finish()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone {
		return false
	}
	w.cur = nil
	w.done = append(w.done, ended{r, v, now.Sub(r.started)})
	return true
}

// call runs the handler. returned is false when it ended its goroutine instead:
// then call does not return to run but does the rest itself.
func (w *worker) call(r *run) (v Verdict, returned bool) {
	defer func() {
		if returned {
			return
		}
		if p := recover(); p != nil {
			v, returned = Verdict{Kind: Fail, Code: "panic", Err: fmt.Errorf("panic: %v\n%s", p, debug.Stack())}, true
			return
		}
		w.exit(r) // runtime.Goexit: this goroutine ends when its deferred calls have run
	}()
	v = r.it.h.Run(&r.ctx, r.it)
	if v.Kind == Fail && r.ctx.Err() != nil && errors.Is(v.Err, context.DeadlineExceeded) {
		v.Code = "timeout"
	}
	return v, true
}

// exit does what is left to do when a handler has ended the worker's goroutine.
func (w *worker) exit(r *run) {
	g := w.g
	still := w.finish(r, Verdict{Kind: Fail, Code: "panic", Err: errGoexit}, time.Now()) // monotonic
	g.mu.Lock()
	defer g.mu.Unlock()
	if !still {
		g.returned(w, r)
		return
	}
	g.settleDone(w)
	g.putBack(w)
	delete(g.workers, w)
	g.rouse()
}

var (
	errGoexit = errors.New("the handler ended its goroutine (runtime.Goexit; in a test: t.FailNow)")
	errStuck  = errors.New("the handler did not return at its deadline")
)

// returned takes note of an abandoned handler's return.
func (g *Group) returned(w *worker, r *run) {
	it := r.it
	t := it.t
	delete(g.workers, w)
	g.running--
	t.running--
	g.abandoned--
	g.unstuck(it.Delivery.Msg.Type)
	if it.kq != nil && !t.lost {
		it.kq.stuck--
		t.nextOf(it.kq)
	}
	wake(g.wakeW) // another may have waited to be abandoned
	g.changed.Broadcast()
}

// end takes a verdict in, and tells whether it handled the item.
func (g *Group) end(r *run, v Verdict) bool {
	it := r.it
	t := it.t
	g.running--
	t.running--
	if t.lost {
		it.left()
		return false
	}
	g.decide(r, v)
	t.progress()
	return v.Kind == Done
}

// unstuck ends the alarm of a type whose abandoned handlers have all returned.
func (g *Group) unstuck(typ string) {
	for w := range g.workers {
		if r := w.running(); r != nil && r.abandoned && r.it.Delivery.Msg.Type == typ {
			return
		}
	}
	g.cfg.Alarm(driver.Alarm{Code: "handler_stuck", Thing: g.cfg.Name + " " + typ, Text: "it has returned", Cleared: true})
}

// running is the handler that runs, or nil.
func (w *worker) running() *run {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cur
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
		t.finishKeyed(it)
	case Skip:
		g.cfg.Counts.Skipped(1)
		t.finishKeyed(it)
	case Dead:
		g.failed(it, v, r)
		k := it.kq
		t.buryNoted(it, v)
		t.releaseKey(k)
	default:
		g.failed(it, v, r)
		g.retry(it, v)
	}
}

// failed notes a failed attempt.
func (g *Group) failed(it *Item, v Verdict, r *run) {
	if it.rec.First == 0 {
		it.rec.First = g.cfg.Clock.Now().Add(-time.Since(r.started)).UnixMilli() // monotonic
	}
	it.rec.fail(v, r.started)
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
	t.block(it.kq, e.Order, e.Name)
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
	if v.Unreadable && len(it.rec.Lives) == 0 { // what somebody has replayed is no flood
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
	e := t.entryOf(it, driver.Dead)
	k := it.kq
	if k == nil { // it was never in a queue: no handler was to be started for it
		k = t.blockable(m.Key)
	}
	t.block(k, e.Order, e.Name)
	t.move(it, e)
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
	g.soon = false
	for w := range g.workers {
		r := g.relieve(w, now)
		if r == nil || r.abandoned {
			continue
		}
		if limit := r.limit(); !now.After(limit) {
			next = min(next, limit.Sub(now))
		} else if g.abandoned < g.cfg.Concurrency {
			g.abandon(w, r)
		}
	}
	if g.soon {
		next = min(next, recallAfter)
	}
	for _, t := range g.tenures {
		if t.unstall(); t.stalled.n > 0 && t.lapsed() {
			next = min(next, renewEvery)
		}
	}
	if g.limit != nil && g.ready.n > 0 {
		if d := g.limit.wait(now); d > 0 {
			next = min(next, d)
		} else {
			g.rouse()
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

// relieve settles what a worker has finished, and has others do what it has taken,
// when its handler is not as quick as that of others. It returns what it runs.
func (g *Group) relieve(w *worker, now time.Time) *run {
	w.mu.Lock()
	r := w.cur
	w.mu.Unlock()
	if !w.quick {
		return r
	}
	if r == nil || now.Sub(r.started) < recallAfter {
		g.soon = true // look again
		return r
	}
	r.it.h.pace = slowPace
	w.quick = false
	g.quick--
	g.settleDone(w)
	g.putBack(w)
	if g.ready.n > 0 {
		g.rouse()
	}
	return r
}

// renewEvery is how often a lease is looked at that was about to end.
const renewEvery = 20 * time.Millisecond

// abandon gives the slot of a handler that ignores its deadline to others. Its
// key stays taken until it returns.
func (g *Group) abandon(w *worker, r *run) {
	g.settleDone(w)
	g.putBack(w)
	w.mu.Lock()
	w.gone = w.cur == r
	w.mu.Unlock()
	if !w.gone {
		return // it has returned
	}
	it := r.it
	t := it.t
	r.abandoned = true
	g.abandoned++
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
	g.failed(left, v, r)
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
