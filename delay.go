package posthorn

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/internal/delay"
)

// maxDelay bounds how far ahead an event may be published: what is further away is
// a mistake in a unit.
const maxDelay = 10 * 365 * 24 * time.Hour

// After publishes the event when d has passed, counted from now, by the clock of
// this process. Until then the broker holds it, as durably as any event, and no
// group sees it; it survives restarts, and can be cancelled by [EventType.Cancel].
// It is never published early, and late by no more than about a second while a
// process runs that publishes what is due (see docs/delayed.md) and the broker
// answers.
// The event's time is that of publishing. An event whose id is waiting already is
// stored once, and the first one stands. d is at most 10 years; zero publishes at once.
func After(d time.Duration) PublishOption {
	return publishOption(func(o *Outgoing) {
		switch {
		case d < 0:
			o.fail(CodeInvalid, "After(%v): a delay cannot be negative", d)
		case d > maxDelay:
			o.fail(CodeInvalid, "After(%v): an event can be delayed by 10 years at most", d)
		}
		o.after, o.at = d, time.Time{}
	})
}

// At publishes the event at a time, by the clocks of the processes that publish
// what is due. All that is said of [After] holds; a time that is past publishes at
// once.
func At(t time.Time) PublishOption {
	return publishOption(func(o *Outgoing) {
		if t.IsZero() {
			o.fail(CodeInvalid, "At: the time is zero; leave the option out to publish at once")
		}
		o.after, o.at = 0, t
	})
}

// due returns when the event is to be published, and false when that time has been
// reached. What is published again keeps its time.
func (o *Outgoing) due(now time.Time) (due time.Time, later bool, err *Error) {
	if due = o.at; due.IsZero() {
		if o.after == 0 {
			return now, false, nil // whatever its time: that is of another clock than now
		}
		due = o.time.Add(o.after)
	}
	if !due.After(now) {
		return due, false, nil
	}
	switch {
	case due.Sub(now) > maxDelay:
		return due, true, errorf(CodeInvalid, "event type %q: At(%s): an event can be delayed by 10 years at most", o.def.name, due.Format(time.RFC3339))
	case !o.expires.IsZero() && !o.expires.After(due):
		return due, true, errorf(CodeInvalid, "event type %q: the event expires at %s, before it is due at %s; let it expire later",
			o.def.name, o.expires.Format(time.RFC3339), due.Format(time.RFC3339))
	}
	return due, true, nil
}

// Cancel takes back an event that was published with [After] or [At] and is not
// due yet, by its id. True says that it was waiting and will never be published;
// false, that nothing is waiting under the id: it has been published, is being
// published at this moment, was cancelled before or never existed. After an error
// it is not known; calling again tells, except that an event which is gone by then
// may have been cancelled by the first call. An event of another type is left
// alone; that of another service with the same id is not.
//
// It is safe for concurrent use. When ctx has no deadline, the bus's publish
// timeout bounds the call.
func (t *EventType[T]) Cancel(ctx context.Context, bus *Bus, id string) (bool, error) {
	return bus.cancel(ctx, t.def, id)
}

// Cancel is [EventType.Cancel] for an event type without a definition. Its topic
// is the one that the name says.
func (b *Bus) Cancel(ctx context.Context, name, id string) (bool, error) {
	return b.cancel(ctx, untyped(name, rawCodec{}), id)
}

// cancelTries bounds how often an entry is looked at that changes all the time.
const (
	cancelTries = 20
	cancelPause = 20 * time.Millisecond
)

func (b *Bus) cancel(ctx context.Context, d *typeDef, id string) (bool, error) {
	if err := b.declare(d); err != nil {
		return false, err
	}
	if id == "" {
		return false, errorf(CodeInvalid, "cancel an event of type %q: the id is empty", d.name)
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, b.opts.publishTimeout)
		defer cancel()
	}
	topic := d.topic.name
	lane := b.drv.Lane(delay.Topic(topic), delay.Partition(topic))
	for try := range cancelTries {
		// What was stored a moment ago a replica may not have yet; and somebody may
		// be changing the entry: both are worth another look.
		if try > 0 {
			select {
			case <-time.After(cancelPause):
			case <-ctx.Done():
				return false, wrapf(ctx.Err(), "cancel %s (id %s)", d.name, id)
			}
		}
		entries, err := lane.Get(ctx, []string{delay.Name(id)})
		switch {
		case errors.Is(err, driver.ErrNotFound):
			return false, nil // nothing was ever delayed in the topic
		case err != nil:
			return false, wrapf(err, "cancel %s (id %s)", d.name, id)
		case len(entries) == 0 && try == 0:
			continue
		case len(entries) == 0, entries[0].Msg.ID != id, entries[0].Msg.Type != d.name, !delay.Waits(&entries[0]):
			return false, nil
		}
		mark := delay.Cancelled(&entries[0])
		err = lane.Apply(ctx, []driver.LaneOp{{Entry: mark}})
		switch {
		case err == nil:
			if err := lane.Apply(ctx, []driver.LaneOp{{Entry: mark, Delete: true}}); err != nil {
				b.log.Debug("a delayed event is cancelled, and its entry is deleted later", "type", d.name, "id", id, "error", err)
			}
			return true, nil
		case !errors.Is(err, driver.ErrConflict):
			return false, &Error{Code: CodeUnknown, Text: "cancel " + d.name + " (id " + id + "): it may have been cancelled", Err: err}
		}
	}
	return false, errorf(CodeConflict, "cancel %s (id %s): somebody else changes it all the time; try again", d.name, id)
}

// delayed is what a bus has of a topic's delayed events: who stores them, and who
// publishes them when they are due.
type delayed struct {
	bus    *Bus
	topic  string
	lane   driver.Lane
	writer *writer
	mover  *delay.Mover
	stands atomic.Bool // the hidden topic and group were made, or found, by this bus
}

// openDelay makes what the delayed events of a topic need, and a mover that
// publishes them.
func (b *Bus) openDelay(ctx context.Context, ot *openTopic) (*delayed, error) {
	b.mu.Lock()
	d := b.delays[ot.spec.Name]
	b.mu.Unlock()
	if d != nil && d.stands.Load() {
		return d, nil
	}
	topic, group := delay.Specs(ot.spec)
	if _, err := b.drv.EnsureTopic(ctx, topic); err != nil {
		return nil, wrapf(err, "make the store of topic %s for delayed events", ot.spec.Name)
	}
	if _, err := b.drv.EnsureGroup(ctx, group); err != nil {
		return nil, wrapf(err, "make the store of topic %s for delayed events", ot.spec.Name)
	}
	d, err := b.keepDelay(ot)
	if err != nil {
		return nil, err
	}
	d.stands.Store(true)
	return d, nil
}

// keepDelay starts the mover of a topic, unless it runs.
func (b *Bus) keepDelay(ot *openTopic) (*delayed, error) {
	name := ot.spec.Name
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errorf(CodeClosed, "topic %q: the bus is closed", name)
	}
	if d := b.delays[name]; d != nil {
		return d, nil
	}
	d := &delayed{bus: b, topic: name, lane: b.drv.Lane(delay.Topic(name), delay.Partition(name))}
	d.writer = newWriter(b, delay.Partition(name))
	d.writer.store = d.store
	d.mover = delay.Start(delay.Config{
		Topic:   ot.spec,
		Driver:  b.drv,
		Member:  b.member,
		Log:     b.log,
		Alarm:   b.alarms.raise,
		Now:     b.clock.Sure,
		Moved:   func(n int) { b.count.moved.Add(int64(n)) },
		Explain: func(err error) error { return b.fullError(name, err) },
	})
	b.delays[name] = d
	return d, nil
}

// store puts a batch into the lane. It is called by one goroutine at a time.
func (d *delayed) store(batch []*pendingEvent, deadline time.Time) {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	// An entry may vanish between the conflict with it and the look at it, and one
	// that was cancelled is no hindrance.
	for range 3 {
		if batch = d.put(ctx, batch); len(batch) == 0 {
			return
		}
	}
	for _, e := range batch {
		e.p.settle(e.nth, driver.Outcome{Err: driver.ErrConflict})
	}
}

// put settles the events of a batch, except for those whose id stood in the lane
// and then did not, or was cancelled.
func (d *delayed) put(ctx context.Context, batch []*pendingEvent) (again []*pendingEvent) {
	ops := make([]driver.LaneOp, len(batch))
	for i, e := range batch {
		ops[i].Entry = delay.Entry(e.msg, e.rare.due)
		ops[i].Entry.Rev = e.rare.over
	}
	all := d.lane.Apply(ctx, ops)
	if slices.ContainsFunc(ops, func(o driver.LaneOp) bool { return o.Err != nil }) {
		all = nil // each says for itself
	}
	stands := d.standing(ctx, ops)
	for i, e := range batch {
		err := ops[i].Err
		if err == nil {
			err = all
		}
		if errors.Is(err, driver.ErrConflict) {
			s, ok := stands[ops[i].Entry.Name]
			if e.rare.over = s.cancelled; !ok || e.rare.over != 0 {
				again = append(again, e)
				continue
			}
			d.settle(e, s.outcome(e))
			continue
		}
		d.settle(e, outcomeOf(err))
	}
	return again
}

func (d *delayed) settle(e *pendingEvent, o driver.Outcome) {
	if o.State == driver.Stored {
		d.bus.count.delayed.Add(1)
	}
	e.p.settle(e.nth, o)
}

// A standing entry, or the error of looking for it.
type standing struct {
	id, source string
	cancelled  uint64 // the revision of one that was cancelled, and not deleted yet
	err        error
}

// standing looks at the entries that operations were in conflict with.
func (d *delayed) standing(ctx context.Context, ops []driver.LaneOp) map[string]standing {
	var names []string
	for i := range ops {
		if errors.Is(ops[i].Err, driver.ErrConflict) {
			names = append(names, ops[i].Entry.Name)
		}
	}
	if names == nil {
		return nil
	}
	found := map[string]standing{}
	entries, err := d.lane.Get(ctx, names)
	if err != nil {
		for _, n := range names {
			found[n] = standing{err: err}
		}
	}
	for i := range entries {
		e := &entries[i]
		s := standing{id: e.Msg.ID, source: e.Msg.Source}
		if e.State != driver.Due {
			s.cancelled = e.Rev
		}
		found[e.Name] = s
	}
	return found
}

// outcome is what becomes of an event whose id is waiting already.
func (s standing) outcome(e *pendingEvent) driver.Outcome {
	switch {
	case s.err != nil:
		return driver.Outcome{Err: s.err}
	case s.id != e.msg.ID || s.source != e.msg.Source:
		return driver.Outcome{State: driver.NotStored, Err: errorf(CodeConflict,
			"event type %q: a delayed event of service %s waits under the id %s; choose another id", e.msg.Type, s.source, e.msg.ID)}
	}
	return driver.Outcome{State: driver.Stored, Dup: true}
}

// outcomeOf is what an operation's error says of the event.
func outcomeOf(err error) driver.Outcome {
	if err == nil {
		return driver.Outcome{State: driver.Stored}
	}
	for _, never := range []error{driver.ErrNotFound, driver.ErrTooLarge, driver.ErrNoSpace, driver.ErrDenied, driver.ErrInvalid, driver.ErrMismatch, errors.ErrUnsupported} {
		if errors.Is(err, never) {
			return driver.Outcome{State: driver.NotStored, Err: err}
		}
	}
	return driver.Outcome{Err: err}
}

// findDelayed looks, from time to time, whether something is delayed in the topics
// that groups of this bus handle, and moves it then: who has published it may be
// gone.
func (b *Bus) findDelayed() {
	defer b.work.Done()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		<-b.done
		cancel()
	}()
	timer := time.NewTimer(findEvery)
	timer.Stop()
	defer timer.Stop()
	for {
		select {
		case <-b.handles:
		case <-timer.C:
		case <-b.done:
			return
		}
		if b.findDelays(ctx) {
			timer.Reset(findEvery)
		}
	}
}

// findEvery is how often topics are looked at in which nothing was ever delayed.
const findEvery = time.Minute

// findDelays starts the movers that are missing, and tells whether topics are left
// that need none yet.
func (b *Bus) findDelays(ctx context.Context) (left bool) {
	b.mu.Lock()
	var without []*openTopic
	for name, ot := range b.topics {
		if ot.handled && b.delays[name] == nil {
			without = append(without, ot)
		}
	}
	b.mu.Unlock()
	for _, ot := range without {
		_, err := b.drv.Group(ctx, delay.Topic(ot.spec.Name))
		if err == nil {
			_, err = b.keepDelay(ot)
		}
		if err != nil {
			left = true
		}
		if err != nil && !errors.Is(err, driver.ErrNotFound) && ctx.Err() == nil {
			b.log.Warn("delayed events: not known whether there are any; looking again soon", "topic", ot.spec.Name, "error", err)
		}
	}
	return left
}

// handlesTopics notes that a group of this bus handles topics.
func (b *Bus) handlesTopics(types map[string][]string) {
	b.mu.Lock()
	for topic := range types {
		if ot := b.topics[topic]; ot != nil {
			ot.handled = true
		}
	}
	b.mu.Unlock()
	select {
	case b.handles <- struct{}{}:
	default:
	}
}

func (b *Bus) stopMovers(ctx context.Context, all []*delayed) error {
	errs := make([]error, len(all))
	done := make(chan struct{}, len(all))
	for i, d := range all {
		go func() {
			if err := d.mover.Stop(ctx); err != nil {
				errs[i] = wrapf(err, "close")
			}
			done <- struct{}{}
		}()
	}
	for range all {
		<-done
	}
	return firstError(errs...)
}
