package posthorn

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"time"
)

// Defaults of a batch handler.
const (
	DefaultBatchSize = 32
	DefaultBatchWait = 100 * time.Millisecond
)

// A BatchOption configures a batch handler. Each [HandleOption] is one, too.
type BatchOption interface{ applyBatch(*handlerConfig) }

type batchOption func(*handlerConfig)

func (f batchOption) applyBatch(c *handlerConfig) { f(c) }

// BatchSize is how many events a batch holds at most. Each takes one of the
// group's slots while it waits and while it is handled, so it is at most
// GroupConfig.Concurrency; twice as much Concurrency lets a second batch gather
// while the first is handled. Default 32, and no more than Concurrency.
func BatchSize(n int) BatchOption {
	return batchOption(func(c *handlerConfig) { c.batchSize = n })
}

// BatchWait is for how long the first event of a batch waits for others. Default
// 100 ms.
func BatchWait(d time.Duration) BatchOption {
	return batchOption(func(c *handlerConfig) { c.batchWait = d })
}

// Verdicts is what a batch handler returns to say of each event what became of
// it: one entry an event, in the order of the events, each as the error that a
// [EventType.Handle] handler returns. A number other than that of the events is an
// error of each of them.
type Verdicts []error

func (v Verdicts) Error() string {
	var failed []string
	for i, err := range v {
		if err != nil {
			failed = append(failed, fmt.Sprintf("event %d: %v", i, err))
		}
	}
	return fmt.Sprintf("%d of %d events failed: %s", len(failed), len(v), strings.Join(failed, "; "))
}

// Unwrap returns the errors of the events that have one.
func (v Verdicts) Unwrap() []error {
	var errs []error
	for _, err := range v {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// HandleBatch subscribes a group to the event type and handles several events at a
// time: up to [BatchSize], or those that came within [BatchWait] of the first. A
// batch never holds two events of one key, so that each key keeps its order; it
// may hold events of several partitions. A stop, or a partition that goes to
// another member, lets what waits go ahead at once.
//
// fn's error is the verdict: nil settles all events, [Verdicts] says of each, any
// other error is that of every one, and so are a panic and the timeout. Each event
// has a retry budget, an attempt count and an end of its own, and may come again in
// other company, or alone: as it does when it may have killed its process.
//
// Middleware is called for each event by itself; what it puts into its context
// does not reach fn, whose context belongs to all of them. That context ends at the
// handler's timeout, which begins with fn, and when a partition of the batch is
// lost. What fn publishes with it names the event that it follows from, by
// [CausedBy]; once fn has returned, publishing with it is refused.
func (t *EventType[T]) HandleBatch(g *Group, fn func(ctx context.Context, events []*Event[T]) error, opts ...BatchOption) {
	cfg := handlerConfig{batch: true}
	for _, o := range opts {
		o.applyBatch(&cfg)
	}
	if cfg.batchSize == 0 {
		cfg.batchSize = min(DefaultBatchSize, orDefault(g.cfg.Concurrency, DefaultConcurrency))
	}
	cfg.batchWait = orDefault(cfg.batchWait, DefaultBatchWait)
	if fn == nil {
		g.addHandler(&handlerDef{def: t.def, cfg: cfg})
		return
	}
	c := &collector[T]{name: t.def.name, bus: g.bus, fn: fn, size: cfg.batchSize, wait: cfg.batchWait, timeout: g.timeoutOf(&cfg)}
	def := t.def
	g.addHandler(&handlerDef{def: def, cfg: cfg, flush: c.flush, h: func(ctx context.Context, d *Delivery) error {
		e := &Event[T]{Meta: d.Meta}
		if err := d.decode(def.codec, &e.Data); err != nil {
			return err
		}
		return c.join(ctx, e)
	}})
}

// checkBatch checks what only batch handlers have.
func (c *handlerConfig) checkBatch(g *Group, def *typeDef) error {
	slots := orDefault(g.cfg.Concurrency, DefaultConcurrency)
	switch {
	case !c.batch:
	case c.batchSize < 0:
		return errorf(CodeInvalid, "group %q: BatchSize(%d) of the handler of %q: a batch holds one event or more; leave it out for the default", g.name, c.batchSize, def.name)
	case c.batchWait < 0:
		return errorf(CodeInvalid, "group %q: BatchWait(%v) of the handler of %q is negative; leave it out for the default", g.name, c.batchWait, def.name)
	case c.batchSize > slots:
		return errorf(CodeInvalid, "group %q: BatchSize(%d) of the handler of %q can never be reached, since the group handles %d events at a time; "+
			"set GroupConfig.Concurrency to %d or more, or the batch size to %d or less", g.name, c.batchSize, def.name, slots, c.batchSize, slots)
	}
	return nil
}

// A collector gathers the events of one batch handler. Each event has a slot of
// the group, and a goroutine that waits for its verdict; the goroutine of the first
// one of a batch runs it.
type collector[T any] struct {
	name    string
	bus     *Bus
	fn      func(ctx context.Context, events []*Event[T]) error
	size    int
	wait    time.Duration
	timeout time.Duration

	mu   sync.Mutex
	open *batch[T] // takes more events; nil when none waits
}

type batch[T any] struct {
	members []member[T]
	ready   chan struct{} // closed when it takes no more
	done    chan struct{} // closed when each member has its verdict
}

type member[T any] struct {
	event   *Event[T]
	ctx     context.Context
	scope   *scope
	verdict error
}

// join hands an event over and returns its verdict.
func (c *collector[T]) join(ctx context.Context, e *Event[T]) error {
	s := scopeOf(ctx)
	if s == nil || s.item == nil {
		return errorf(CodeInvalid, "the batch handler of %s was called without the context that its middleware was given; hand that on, or one made from it", c.name)
	}
	b, n := c.enter(member[T]{event: e, ctx: ctx, scope: s})
	if s.item.Leaving() {
		c.flush()
	}
	if n == 0 {
		c.lead(ctx, b)
	} else {
		<-b.done
	}
	return b.members[n].verdict
}

// enter puts an event into the batch that waits, or into one of its own.
func (c *collector[T]) enter(m member[T]) (b *batch[T], n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b = c.open; b == nil || m.scope.item.Alone() {
		b = &batch[T]{ready: make(chan struct{}), done: make(chan struct{})}
	}
	m.scope.joined = m.ctx
	b.members = append(b.members, m)
	switch {
	case m.scope.item.Alone():
		close(b.ready)
	case len(b.members) == c.size:
		c.open = nil
		close(b.ready)
	default:
		c.open = b
	}
	return b, len(b.members) - 1
}

// flush lets what waits go ahead.
func (c *collector[T]) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open != nil {
		close(c.open.ready)
		c.open = nil
	}
}

// seal ends the gathering of a batch, if it has not ended.
func (c *collector[T]) seal(b *batch[T]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == b {
		close(b.ready)
		c.open = nil
	}
}

// lead waits until the batch is complete and runs it.
func (c *collector[T]) lead(ctx context.Context, b *batch[T]) {
	timer := time.NewTimer(c.wait)
	defer timer.Stop()
	select {
	case <-b.ready:
	case <-timer.C:
		c.seal(b)
	case <-ctx.Done(): // the others must not wait for longer
		c.seal(b)
	}
	c.run(b)
}

// run gives each member its verdict, also when the handler ends its goroutine.
func (c *collector[T]) run(b *batch[T]) {
	defer close(b.done)
	var live []*member[T]
	var events []*Event[T]
	for i := range b.members {
		m := &b.members[i]
		if m.ctx.Err() != nil {
			m.verdict = context.Cause(m.ctx)
			continue
		}
		live, events = append(live, m), append(events, m.event)
	}
	if len(live) == 0 {
		return
	}
	ctx, cancel := c.context(live)
	defer cancel()
	s := &scope{bus: c.bus, batch: map[place]*scope{}}
	for _, m := range live {
		s.batch[placeOf(&m.event.Meta)] = m.scope
	}
	var err error = errorf(CodePanic, "the batch handler of %s ended its goroutine, with %d events (runtime.Goexit; in a test: t.FailNow)", c.name, len(live))
	defer func() {
		verdicts := c.verdicts(err, len(live))
		unconfirmed := s.close(ctx)
		for i, m := range live {
			if m.verdict = verdicts[i]; m.verdict == nil {
				m.verdict = unconfirmed
			}
		}
	}()
	err = c.call(context.WithValue(ctx, scopeKey{}, s), events)
	if ctx.Err() != nil && errors.Is(err, context.DeadlineExceeded) {
		err = &Error{Code: CodeTimeout, Text: fmt.Sprintf("the batch handler of %s has not finished with %d events within %v", c.name, len(live), c.timeout), Err: err}
	}
}

// context is that of a batch. It ends with the first of the members' contexts.
func (c *collector[T]) context(live []*member[T]) (context.Context, context.CancelFunc) {
	deadline := time.Now().Add(c.timeout) // monotonic
	ctx, cancel := context.WithCancelCause(context.Background())
	ends := make([]func() bool, len(live))
	for i, m := range live {
		if d, ok := m.ctx.Deadline(); ok && d.Before(deadline) {
			deadline = d
		}
		ends[i] = context.AfterFunc(m.ctx, func() {
			if cause := context.Cause(m.ctx); !errors.Is(cause, context.DeadlineExceeded) { // that it has of its own
				cancel(cause)
			}
		})
	}
	ctx, stop := context.WithDeadline(ctx, deadline)
	return ctx, func() {
		for _, end := range ends {
			end()
		}
		stop()
		cancel(nil)
	}
}

func (c *collector[T]) call(ctx context.Context, events []*Event[T]) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errorf(CodePanic, "the batch handler of %s panicked, with %d events: %v\n%s", c.name, len(events), p, debug.Stack())
		}
	}()
	return c.fn(ctx, events)
}

// verdicts are those of n events.
func (c *collector[T]) verdicts(err error, n int) Verdicts {
	var each Verdicts
	if errors.As(err, &each) {
		if len(each) == n {
			return each
		}
		err = errorf(CodeInvalid, "the batch handler of %s returned %d verdicts for %d events; return one for each, in the order of the events", c.name, len(each), n)
	}
	each = make(Verdicts, n)
	for i := range each {
		each[i] = err
	}
	return each
}
