package posthorn

import (
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

	mu      sync.Mutex
	queue   []*pendingEvent
	running bool
	closed  bool
	idle    sync.WaitGroup // the goroutine, and batches that are under way
}

func newWriter(b *Bus, p driver.Partition) *writer { return &writer{bus: b, p: p} }

func (w *writer) add(events ...*pendingEvent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		go func() { // settle must not be called with the lock held by a caller's writer
			for _, e := range events {
				e.p.settle(e.nth, driver.Outcome{State: driver.NotStored, Err: errorf(CodeClosed, "the bus is closed")})
			}
		}()
		return
	}
	w.queue = append(w.queue, events...)
	if !w.running {
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
	if len(w.queue) == 0 {
		w.running = false
		w.queue = nil
		return nil, false
	}
	bytes := 0
	for len(w.queue) > 0 && len(batch) < maxBatch {
		e := w.queue[0]
		if !e.taken {
			if bytes += len(e.msg.Body); bytes > maxBatchBytes && len(batch) > 0 {
				break
			}
			e.sent = true
			batch = append(batch, e)
		}
		w.queue = w.queue[1:]
	}
	return batch, true
}

func (w *writer) send(batch []*pendingEvent) {
	msgs := make([]driver.Message, len(batch))
	var deadline time.Time
	for i, e := range batch {
		msgs[i] = e.msg
		if e.deadline.After(deadline) {
			deadline = e.deadline
		}
	}
	w.idle.Add(1)
	w.bus.drv.Append(w.p, msgs, deadline, func(outcomes []driver.Outcome) {
		defer w.idle.Done()
		for i, e := range batch {
			if i < len(outcomes) {
				e.p.settle(e.nth, outcomes[i])
			} else {
				e.p.settle(e.nth, driver.Outcome{Err: errorf(CodeInternal, "the driver returned %d outcomes for %d messages", len(outcomes), len(batch))})
			}
		}
	})
}

// takeBack keeps an event from being sent, unless it was.
func (w *writer) takeBack(e *pendingEvent) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	e.taken = !e.sent
	return e.taken
}

// close refuses new events and waits for those that are under way.
func (w *writer) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.idle.Wait()
}
