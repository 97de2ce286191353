package posthorn

import (
	"cmp"
	"errors"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// maxBatch bounds what one Append gets, so that a batch's memory and its time to
// be stored are bounded too.
const (
	maxBatch      = 1024
	maxBatchBytes = 4 << 20
)

// While a batch is under way, what comes meanwhile waits for its answer, unless there
// is enough of it to be worth another batch beside it: as much as is under way, so that
// one half of many callers is stored while the other half's sync, or answer, is waited
// for, and within these bounds.
const (
	leastAnother = 4  // events
	worthAnother = 32 // events, however many are under way
	maxUnderWay  = 16 // batches
)

// A writer gathers what is published to one partition. While a batch is under way,
// what comes meanwhile becomes the next one: many callers share a round trip, and a
// lone one hands its event to the driver by itself and waits for nobody.
type writer struct {
	bus *Bus
	p   driver.Partition
	// store takes the place of Driver.Append. It settles all of a batch before it
	// returns.
	store func(batch []*pendingEvent, deadline time.Time)

	mu      sync.Mutex
	queue   chain
	batches uint64 // how many were taken from it
	flying  int    // of these, how many are not answered
	out     int    // how many events are in those
	reached uint64 // the last one of which anything is stored, or may be
	// held are events that were refused for the moment. Nothing is sent until they go
	// again: what came later may be of their keys, and of their caller.
	held    []*pendingEvent
	sending bool // somebody does
	closed  bool
	idle    sync.WaitGroup // who sends, and batches that are under way
}

// A chain is a list of events, linked by next.
type chain struct {
	first, last *pendingEvent
	n           int
}

func (c *chain) add(e *pendingEvent) { c.join(chain{e, e, 1}) }

// join adds another chain at the end.
func (c *chain) join(o chain) {
	switch {
	case o.n == 0:
	case c.n == 0:
		*c = o
	default:
		c.last.next = o.first
		c.last, c.n = o.last, c.n+o.n
	}
}

// chained links events.
func chained(events []*pendingEvent) (c chain) {
	for _, e := range events {
		e.next = nil
		c.add(e)
	}
	return c
}

// take takes the first event off.
func (c *chain) take() *pendingEvent {
	e := c.first
	c.first, c.n = e.next, c.n-1
	if e.next = nil; c.n == 0 {
		c.last = nil
	}
	return e
}

func newWriter(b *Bus, p driver.Partition) *writer { return &writer{bus: b, p: p} }

// add takes in events of one call, and sends them if nobody else does and it is sure
// that this takes no time.
func (w *writer) add(events chain) {
	w.mu.Lock()
	if w.closed {
		w.refuse(events)
		return
	}
	last := events.last
	for e := events.first; e != nil; e = e.next {
		e.last = last
	}
	w.queue.join(events)
	mine := !w.sending && w.mayLocked()
	if mine {
		w.sending = true
		w.idle.Add(1)
	}
	w.mu.Unlock()
	switch {
	case !mine:
	case w.store == nil && w.bus.drv.Ready(w.p):
		w.gather()
		w.send(w.next())
		w.mu.Lock()
		w.sending = false
		w.wake()
		w.mu.Unlock()
		w.idle.Done()
	default:
		go w.run()
	}
}

// refuse settles what came too late. The caller holds the lock; refuse gives it back.
func (w *writer) refuse(events chain) {
	var over []*pendingEvent
	for e := events.first; e != nil; e = e.next {
		if !e.taken {
			e.taken, e.why = true, errorf(CodeClosed, "the bus is closed")
			over = append(over, e)
		}
	}
	w.mu.Unlock()
	notStored(over)
}

// mayLocked tells whether the queue's head is to be sent now. The caller holds the
// lock.
func (w *writer) mayLocked() bool {
	return w.queue.n > 0 && len(w.held) == 0 &&
		(w.flying == 0 || w.flying < maxUnderWay && w.queue.n >= min(max(w.out, leastAnother), worthAnother))
}

// gather lets others run who want to publish as well: callers that one answer has
// woken come one after the other, and the first of them would go alone, with the rest
// behind it for a whole round trip. One who publishes alone does not wait.
func (w *writer) gather() {
	if w.bus.callers.Load() > 1 {
		runtime.Gosched()
	}
}

// wake makes sure that what is to be sent now is sent. The caller holds the lock.
func (w *writer) wake() {
	if !w.sending && w.mayLocked() {
		w.sending = true
		w.idle.Add(1)
		go w.run()
	}
}

// run sends batches until nothing is to be sent now.
func (w *writer) run() {
	defer w.idle.Done()
	for {
		w.mu.Lock()
		more := w.mayLocked()
		w.sending = more
		w.mu.Unlock()
		if !more {
			return
		}
		w.gather()
		w.send(w.next())
	}
}

// next takes a batch off the queue. It is empty when all of it was taken back.
func (w *writer) next() (batch []*pendingEvent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.held) > 0 {
		return nil
	}
	bytes := 0
	w.batches++
	batch = make([]*pendingEvent, 0, min(w.queue.n, maxBatch))
	for w.queue.n > 0 && len(batch) < maxBatch {
		if e := w.queue.first; !e.taken {
			if bytes += len(e.msg.Body); bytes > maxBatchBytes && len(batch) > 0 {
				break
			}
			e.sent, e.batch = true, w.batches
			batch = append(batch, e)
		}
		w.queue.take()
	}
	if len(batch) > 0 {
		w.flying++
		w.out += len(batch)
	}
	return batch
}

func (w *writer) send(batch []*pendingEvent) {
	if len(batch) == 0 {
		return
	}
	deadline := batch[0].p.deadline
	for _, e := range batch[1:] {
		if e.p.deadline.After(deadline) {
			deadline = e.p.deadline
		}
	}
	if w.store != nil {
		w.store(batch, deadline)
		w.mu.Lock()
		w.flying--
		w.out -= len(batch)
		w.mu.Unlock()
		return
	}
	msgs := make([]driver.Message, len(batch))
	for i, e := range batch {
		msgs[i] = e.msg
	}
	w.idle.Add(1)
	w.bus.drv.Append(w.p, msgs, deadline, func(outcomes []driver.Outcome) {
		defer w.idle.Done()
		w.answered(batch, outcomes)
	})
}

// answered notes what became of a batch.
func (w *writer) answered(batch []*pendingEvent, outcomes []driver.Outcome) {
	for len(outcomes) < len(batch) {
		outcomes = append(outcomes, driver.Outcome{Err: errorf(CodeInternal, "the driver returned %d outcomes for %d messages", len(outcomes), len(batch))})
	}
	again, hold := w.sort(batch, outcomes)
	for i, e := range batch {
		if outcomes[i].State != later {
			e.p.settle(e.nth, outcomes[i])
		}
	}
	w.later(again)
	w.goOn(hold)
}

// later takes the place of the state of what is not settled yet.
const later driver.StoreState = 255

// sort keeps of a batch what is to be handed over again: it is returned, or held.
// hold says when the events that are held may go again; 0: not now.
func (w *writer) sort(batch []*pendingEvent, outcomes []driver.Outcome) (again []*pendingEvent, hold time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flying--
	w.out -= len(batch)
	for i, e := range batch {
		o := &outcomes[i]
		if o.State != driver.NotStored {
			w.reached = max(w.reached, e.batch)
			continue
		}
		if !w.mayAgain(e, *o) {
			continue
		}
		e.tries++
		e.sent, e.why = false, o.Err
		o.State = later
		if e.spread() {
			w.held = append(w.held, e)
		} else {
			again = append(again, e)
		}
	}
	if len(w.held) > 0 && w.flying == 0 {
		hold = againAfter(w.held[0].tries - 1)
	}
	w.wake()
	return again, hold
}

// Between two attempts to store an event that the broker could not take.
const (
	firstAgain = 20 * time.Millisecond
	lastAgain  = 500 * time.Millisecond
)

// mayAgain tells whether an event is to be handed over again: it is not stored, and
// the broker will take it soon. One of a call that waits for it, and sent it with all
// that it publishes here, goes again by itself. Others may have a later event of their
// caller behind them: they are held, and looked at once more when all are answered.
// The caller holds the lock.
func (w *writer) mayAgain(e *pendingEvent, o driver.Outcome) bool {
	if !errors.Is(o.Err, driver.ErrNotNow) || w.closed || time.Until(e.p.deadline) <= againAfter(e.tries) { // monotonic
		return false
	}
	return true
}

// goOn lets the events that are held go again after a while.
func (w *writer) goOn(after time.Duration) {
	if after == 0 {
		return
	}
	w.idle.Add(1)
	time.AfterFunc(after, func() {
		defer w.idle.Done()
		var over []*pendingEvent
		w.mu.Lock()
		slices.SortStableFunc(w.held, func(x, y *pendingEvent) int { return cmp.Compare(x.batch, y.batch) })
		w.held = slices.DeleteFunc(w.held, func(e *pendingEvent) bool {
			passed := w.closed || e.batch < w.reached // what was stored may be a later one of its key
			if passed && !e.taken {
				e.taken = true
				over = append(over, e)
			}
			return e.taken
		})
		w.putBack(w.held)
		w.held = nil
		w.wake()
		w.mu.Unlock()
		notStored(over)
	})
}

// putBack puts events at the head of the queue. The caller holds the lock.
func (w *writer) putBack(events []*pendingEvent) {
	head := chained(events)
	head.join(w.queue)
	w.queue = head
}

// notStored settles events that were refused before and do not go again.
func notStored(events []*pendingEvent) {
	for _, e := range events {
		e.p.settle(e.nth, driver.Outcome{State: driver.NotStored, Err: e.why})
	}
}

func againAfter(tries int) time.Duration { return min(firstAgain<<min(tries, 8), lastAgain) }

// later puts events back to the head of the queue after a while.
func (w *writer) later(again []*pendingEvent) {
	if len(again) == 0 {
		return
	}
	w.idle.Add(1)
	time.AfterFunc(againAfter(again[0].tries-1), func() {
		defer w.idle.Done()
		w.mu.Lock()
		again = slices.DeleteFunc(again, func(e *pendingEvent) bool { return e.taken })
		closed := w.closed
		if closed {
			for _, e := range again {
				e.taken = true
			}
		} else {
			w.putBack(again)
			w.wake()
		}
		w.mu.Unlock()
		if closed {
			notStored(again)
		}
	})
}

// takeBack keeps an event from being sent, unless it was, or is settled already.
func (w *writer) takeBack(e *pendingEvent) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.sent || e.taken {
		return false
	}
	e.taken = true
	return true
}

// close refuses new events and waits for those that are under way.
func (w *writer) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.idle.Wait()
}
