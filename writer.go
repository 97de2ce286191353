package posthorn

import (
	"cmp"
	"errors"
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

// A writer gathers what is published to one partition. While the driver is busy
// with a batch, what comes meanwhile becomes the next one: many callers share a
// round trip, one caller waits for nobody.
type writer struct {
	bus *Bus
	p   driver.Partition
	// store takes the place of Driver.Append. It settles all of a batch before it
	// returns.
	store func(batch []*pendingEvent, deadline time.Time)

	mu      sync.Mutex
	queue   []*pendingEvent
	batches uint64 // how many were taken from it
	flying  int    // of these, how many are not answered
	reached uint64 // the last one of which anything is stored, or may be
	// held are asynchronous events that were refused for the moment. Nothing is sent
	// until they go again: what came later may be of their keys.
	held    []*pendingEvent
	running bool
	closed  bool
	idle    sync.WaitGroup // the goroutine, and batches that are under way
}

func newWriter(b *Bus, p driver.Partition) *writer { return &writer{bus: b, p: p} }

func (w *writer) add(events ...*pendingEvent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		for _, e := range events {
			e.taken = true
		}
		go func() { // settle must not be called with the lock held by a caller's writer
			for _, e := range events {
				e.p.settle(e.nth, driver.Outcome{State: driver.NotStored, Err: errorf(CodeClosed, "the bus is closed")})
			}
		}()
		return
	}
	for _, e := range events {
		e.last = events[len(events)-1]
	}
	w.queue = append(w.queue, events...)
	w.wake()
}

// wake makes sure that the queue is worked on. The caller holds the lock.
func (w *writer) wake() {
	if !w.running && len(w.held) == 0 {
		w.running = true
		w.idle.Add(1)
		go w.run()
	}
}

// run sends batches until there is nothing left.
func (w *writer) run() {
	defer w.idle.Done()
	for {
		batch, more := w.next()
		if !more {
			return
		}
		if len(batch) > 0 {
			w.send(batch)
		}
	}
}

// next returns the next batch, which is empty when all of it was taken back.
func (w *writer) next() (batch []*pendingEvent, more bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 || len(w.held) > 0 {
		w.running = false
		return nil, false
	}
	bytes := 0
	w.batches++
	for len(w.queue) > 0 && len(batch) < maxBatch {
		e := w.queue[0]
		if !e.taken {
			if bytes += len(e.msg.Body); bytes > maxBatchBytes && len(batch) > 0 {
				break
			}
			e.sent, e.batch = true, w.batches
			batch = append(batch, e)
		}
		w.queue = w.queue[1:]
	}
	if len(w.queue) == 0 {
		w.queue = nil
	}
	if len(batch) > 0 {
		w.flying++
	}
	return batch, true
}

func (w *writer) send(batch []*pendingEvent) {
	var deadline time.Time
	for _, e := range batch {
		if e.deadline.After(deadline) {
			deadline = e.deadline
		}
	}
	if w.store != nil {
		w.store(batch, deadline)
		w.mu.Lock()
		w.flying--
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
		e.sent, e.why = false, *o
		o.State = later
		if e.p.pending != nil {
			w.held = append(w.held, e)
		} else {
			again = append(again, e)
		}
	}
	if len(w.held) > 0 && w.flying == 0 {
		hold = againAfter(w.held[0].tries - 1)
	}
	return again, hold
}

// Between two attempts to store an event that the broker could not take.
const (
	firstAgain = 20 * time.Millisecond
	lastAgain  = 500 * time.Millisecond
)

// mayAgain tells whether an event is to be handed over again: it is not stored,
// the broker will take it soon, and no later event of the same call can have been
// stored before it. For an asynchronous one, any later event of the partition may
// be one of its caller's, and it is looked at once more when all are answered. The
// caller holds the lock.
func (w *writer) mayAgain(e *pendingEvent, o driver.Outcome) bool {
	if !errors.Is(o.Err, driver.ErrNotNow) || w.closed || time.Until(e.deadline) <= againAfter(e.tries) { // monotonic
		return false
	}
	return e.p.pending != nil || e.last.batch == e.batch
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
		if queue := append(w.held, w.queue...); len(queue) > 0 {
			w.queue, w.held = queue, nil
			w.wake()
		}
		w.mu.Unlock()
		for _, e := range over {
			e.p.settle(e.nth, e.why)
		}
	})
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
		for _, e := range again {
			e.taken = closed
		}
		if !closed && len(again) > 0 {
			w.queue = append(again, w.queue...)
			w.wake()
		}
		w.mu.Unlock()
		if closed {
			for _, e := range again {
				e.p.settle(e.nth, e.why)
			}
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
