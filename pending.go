package posthorn

import (
	"context"
	"slices"
	"sync"
	"time"
)

// PublishAsync publishes events without waiting for their confirmation, which the
// [Pending] tells. It returns when the events are in line: as soon as there is room
// for them (see [MaxPending]). ctx bounds that; its deadline, or without one the
// bus's publish timeout, bounds the confirmation too. What cannot be taken is told by
// the Pending as well.
//
// Events of one key are stored in the order in which one goroutine publishes them,
// whether by PublishAsync, Publish or PublishAll. An event may come to be not stored
// while a later one is stored: who needs all or the first of them waits in between.
//
// With the context of a handler, the handled event settles only after all of it is
// confirmed, and the handler has failed if any of it is not stored. [Bus.Close]
// waits for what is pending.
func (b *Bus) PublishAsync(ctx context.Context, events ...*Outgoing) *Pending {
	p := &Pending{}
	p.pending = p
	p.begin(ctx, b, len(events))
	handed := false
	defer func() {
		if !handed {
			p.unwind()
		}
	}()
	any := p.prepare(ctx, events, 0, len(events))
	handed = true
	if !any {
		p.conclude()
		return p
	}
	for i := range p.events {
		if e := &p.events[i]; e.w != nil {
			p.size += e.msg.Size()
		}
	}
	if err := b.pendings.enter(ctx, p); err != nil {
		p.refuse(err)
		return p
	}
	addAll(p.events, false)
	if p.delayed {
		addAll(p.events, true)
	}
	return p
}

// A Pending is what became, or will become, of events that were published by
// PublishAsync. Its methods are safe for concurrent use.
type Pending struct {
	publishing
	count, size int // what it takes of the room

	// Guarded by publishing.mu.
	ended  bool
	err    error
	signal chan struct{} // made when somebody asks for it

	// Guarded by pendings.mu.
	in         bool // the list
	prev, next *Pending
	until      time.Time // when it is looked at
	late       bool      // its deadline has passed
}

// Done returns a channel that is closed when it is known what became of the events.
func (p *Pending) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.signal == nil {
		p.signal = make(chan struct{})
		if p.ended {
			close(p.signal)
		}
	}
	return p.signal
}

// Err returns nil until Done is closed, and then nil when all events are stored, or
// a [*PublishError] that says of each what became of it.
func (p *Pending) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Results returns what became of each event, in the order of the call, and nil
// until Done is closed. It is not to be changed.
func (p *Pending) Results() []Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		return nil
	}
	return p.results
}

// Wait waits until it is known what became of the events and returns Err. When ctx
// ends first, its error is returned, with CodeTimeout or CodeCanceled, and the
// publishing goes on.
func (p *Pending) Wait(ctx context.Context) error {
	p.mu.Lock()
	ended, err := p.ended, p.err
	p.mu.Unlock()
	if ended {
		return err
	}
	select {
	case <-p.Done():
		return p.Err()
	case <-ctx.Done():
		return wrapf(ctx.Err(), "wait for a confirmation: the publishing goes on")
	}
}

// settled is called when all outcomes have come, on a goroutine that must not be
// kept waiting.
func (p *Pending) settled() {
	for i := range p.results {
		if p.results[i].State != Stored || p.events[i].rare != nil {
			go p.conclude() // it may ask the broker, and calls the user's functions
			return
		}
	}
	p.conclude()
}

// conclude makes the outcome known.
func (p *Pending) conclude() {
	err := p.outcome()
	p.mu.Lock()
	p.err, p.ended = err, true
	if p.signal != nil {
		close(p.signal)
	}
	p.mu.Unlock()
	p.bus.pendings.leave(p)
}

// refuse ends one that did not get in.
func (p *Pending) refuse(err error) {
	p.mu.Lock()
	for i := range p.results {
		if r := &p.results[i]; r.State == Unknown {
			r.State, r.Err = NotStored, err
		}
	}
	p.mu.Unlock()
	p.conclude()
}

// expire ends one whose deadline has passed: first with what was not sent, then,
// when the driver has had its say, with the rest.
func (p *Pending) expire(last bool) {
	err := wrapf(context.DeadlineExceeded, "not confirmed in time")
	if !last {
		p.takeBack(err)
		return
	}
	if p.giveUp(err) {
		p.conclude()
	}
}

// The pendings of a bus are the asynchronous publishes that are not confirmed yet.
type pendings struct {
	maxCount, maxSize int

	mu          sync.Mutex
	count, size int
	first, last *Pending // in the order of coming
	waiting     []*entrant
	closed      bool
	empty       chan struct{} // closed when the last one has left, after close
	timer       *time.Timer
	wakeAt      time.Time // zero: the timer is not set
}

// An entrant waits for room.
type entrant struct {
	p   *Pending
	in  chan struct{} // closed when it is in, or refused
	err error
}

func newPendings(count, size int) *pendings { return &pendings{maxCount: count, maxSize: size} }

// enter waits for room.
func (q *pendings) enter(ctx context.Context, p *Pending) error {
	p.count = p.left
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return errorf(CodeClosed, "the bus is closed")
	}
	if len(q.waiting) == 0 && q.fits(p) {
		q.add(p)
		q.mu.Unlock()
		return nil
	}
	e := &entrant{p: p, in: make(chan struct{})}
	q.waiting = append(q.waiting, e)
	q.mu.Unlock()
	timer := time.NewTimer(time.Until(p.deadline)) // monotonic
	defer timer.Stop()
	err := context.DeadlineExceeded
	select {
	case <-e.in:
		return e.err
	case <-timer.C:
	case <-ctx.Done():
		err = ctx.Err()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, e)
	if i < 0 { // it was let in meanwhile
		return e.err
	}
	q.waiting = slices.Delete(q.waiting, i, i+1)
	q.letIn()
	return wrapf(err, "publish asynchronously: %d events (%d bytes) are not confirmed yet, and there was no room for more in time", q.count, q.size)
}

func (q *pendings) fits(p *Pending) bool {
	return q.count == 0 || q.count+p.count <= q.maxCount && q.size+p.size <= q.maxSize
}

// add takes one in. The caller holds the lock.
func (q *pendings) add(p *Pending) {
	q.count += p.count
	q.size += p.size
	p.in, p.prev = true, q.last
	if q.last == nil {
		q.first = p
	} else {
		q.last.next = p
	}
	q.last = p
	p.until = p.deadline
	q.look(p.until)
}

// letIn takes in who waits, as far as there is room. The caller holds the lock.
func (q *pendings) letIn() {
	for len(q.waiting) > 0 && q.fits(q.waiting[0].p) {
		q.add(q.waiting[0].p)
		close(q.waiting[0].in)
		q.waiting = slices.Delete(q.waiting, 0, 1)
	}
}

// leave makes room.
func (q *pendings) leave(p *Pending) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !p.in {
		return
	}
	p.in = false
	q.count -= p.count
	q.size -= p.size
	if p.prev == nil {
		q.first = p.next
	} else {
		p.prev.next = p.next
	}
	if p.next == nil {
		q.last = p.prev
	} else {
		p.next.prev = p.prev
	}
	p.prev, p.next = nil, nil
	q.letIn()
	if q.empty != nil && q.first == nil {
		close(q.empty)
		q.empty = nil
	}
}

// look has the deadlines looked at by a time. The caller holds the lock.
func (q *pendings) look(at time.Time) {
	if !q.wakeAt.IsZero() && !at.Before(q.wakeAt) {
		return
	}
	q.wakeAt = at
	wait := max(0, time.Until(at)) // monotonic
	if q.timer == nil {
		q.timer = time.AfterFunc(wait, q.expire)
	} else {
		q.timer.Reset(wait)
	}
}

// expire ends those whose deadline has passed.
func (q *pendings) expire() {
	now := time.Now() // monotonic
	var late, last []*Pending
	q.mu.Lock()
	q.wakeAt = time.Time{}
	for p := q.first; p != nil; p = p.next {
		if !p.until.After(now) {
			if p.late {
				last = append(last, p)
				continue
			}
			late = append(late, p)
			p.late, p.until = true, now.Add(deadlineGrace)
		}
		q.look(p.until)
	}
	q.mu.Unlock()
	for _, p := range late {
		p.expire(false)
	}
	for _, p := range last {
		p.expire(true)
	}
}

// close refuses new ones and waits until none is left. When ctx ends first, it ends
// those that are left.
func (q *pendings) close(ctx context.Context) {
	q.mu.Lock()
	q.closed = true
	for _, e := range q.waiting {
		e.err = errorf(CodeClosed, "the bus is closed")
		close(e.in)
	}
	q.waiting = nil
	if q.first == nil {
		q.mu.Unlock()
		return
	}
	empty := make(chan struct{})
	q.empty = empty
	q.mu.Unlock()
	select {
	case <-empty:
		return
	case <-ctx.Done():
	}
	q.mu.Lock()
	now := time.Now() // monotonic
	for p := q.first; p != nil; p = p.next {
		if !p.late {
			p.until = now
		}
	}
	q.look(now)
	q.mu.Unlock()
	<-empty
}
