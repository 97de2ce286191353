package posthorn

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/posthorn/posthorn/driver"
)

// PublishAll stores events of any types as one pipelined batch: it costs about
// one round trip, however many events there are. It returns nil when all are held
// as durably as the broker can be told to. Otherwise the error is a
// [*PublishError], which says of each event whether it is stored, not stored or
// unknown; nothing is retried, and calling again with the same events is safe.
//
// Events of one partition are stored in the order of the call. It is safe for
// concurrent use, except for one Outgoing in two calls at a time. When ctx has no
// deadline, the bus's publish timeout bounds the call.
func (b *Bus) PublishAll(ctx context.Context, events ...*Outgoing) error {
	if len(events) == 0 {
		return nil
	}
	b.callers.Add(1)
	defer b.callers.Add(-1)
	p := &publishing{done: make(chan struct{})}
	p.begin(ctx, b, len(events))
	defer p.unwind()
	// What comes first is on its way while the rest is encoded.
	p.left = 1 // until all is counted
	for from := 0; from < len(events); from += portion {
		to := min(from+portion, len(events))
		if p.prepare(ctx, events, from, to) {
			addAll(p.events[from:to], false)
		}
	}
	if p.delayed {
		addAll(p.events, true)
	}
	if !p.counted() {
		p.await(ctx)
	}
	return p.outcome()
}

// portion is how many events of a call are encoded before they are handed over.
const portion = 512

// Publish stores one event without a type definition. Its topic is the one that
// the name says, with the defaults. The data travels as it is when it is a
// []byte, as Protobuf when it is a proto.Message, and else as JSON. The event has
// a key only with [WithKey].
func (b *Bus) Publish(ctx context.Context, name string, data any, opts ...PublishOption) error {
	return b.PublishAll(ctx, newOutgoing(untyped(name, codecFor(data)), data, opts))
}

// untyped defines a type that is not kept.
func untyped(name string, c Codec) *typeDef {
	d := &typeDef{name: name, codec: c, version: 1, untyped: true}
	if d.err = checkName("event type", name, maxTypeName); d.err == nil {
		d.topic = DefineTopic(topicOf(name), TopicConfig{})
	}
	return d
}

func codecFor(data any) Codec {
	switch data.(type) {
	case []byte:
		return rawCodec{}
	case proto.Message:
		return Protobuf
	}
	return JSON
}

// A publishing is one call of PublishAll or PublishAsync.
type publishing struct {
	bus      *Bus
	scope    *scope         // of the handler that calls
	delayed  bool           // some of them are
	deadline time.Time      // monotonic
	events   []pendingEvent // one for each of the call
	pending  *Pending       // of an asynchronous one
	done     chan struct{}  // of one that is waited for: closed when all outcomes are known

	mu      sync.Mutex
	results []Result
	one     struct {
		event  [1]pendingEvent
		result [1]Result
	} // of a call with one event
	left      int  // so many outcomes are not known yet
	over      bool // nothing more is written down
	concluded bool // all have been told
}

// A pendingEvent is one that a writer has to store.
type pendingEvent struct {
	msg   driver.Message
	w     *writer // nil: it was refused before
	p     *publishing
	nth   int    // in the call
	scope *scope // in which it was counted
	rare  *rare  // what few have
	// Guarded by the writer.
	next  *pendingEvent // in its queue
	last  *pendingEvent // the last of those that were given to the writer with it
	batch uint64        // the number of the one that it was sent in
	tries int           // how often it was sent in vain
	why   error         // likewise, the last time
	sent  bool          // in batch
	taken bool          // it is not to be sent any more
}

// rare is what few events have.
type rare struct {
	due      time.Time // of a delayed one
	over     uint64    // likewise: the revision that it may replace
	onResult []func(Result)
}

func (e *pendingEvent) more() *rare {
	if e.rare == nil {
		e.rare = &rare{}
	}
	return e.rare
}

// begin gets a call of n events ready.
func (p *publishing) begin(ctx context.Context, b *Bus, n int) {
	if p.bus = b; n == 1 {
		p.events, p.results = p.one.event[:], p.one.result[:]
	} else {
		p.events, p.results = make([]pendingEvent, n), make([]Result, n)
	}
	if s := scopeOf(ctx); s != nil && s.bus == b {
		p.scope = s
	}
	p.deadline = time.Now().Add(b.opts.publishTimeout) // monotonic
	if d, ok := ctx.Deadline(); ok {
		p.deadline = d
	}
}

// prepare takes some of the events through the middleware and encodes them; what
// cannot be published is refused here, and has no writer. It tells whether any is to
// be sent.
func (p *publishing) prepare(ctx context.Context, events []*Outgoing, from, to int) bool {
	n := 0
	for i := from; i < to; i++ {
		o, r, e := events[i], &p.results[i], &p.events[i]
		r.State = NotStored
		if o == nil || o.def == nil {
			r.Err = errorf(CodeInvalid, "publish: event %d of the call is nil; make it with EventType.New", i)
			continue
		}
		e.p, e.nth = p, i
		r.Type = o.def.name
		err := p.take(ctx, e, o)
		r.ID = o.id
		if err != nil {
			r.Err, e.w = err, nil
			continue
		}
		r.State = Unknown
		n++
	}
	p.mu.Lock()
	p.left += n
	p.mu.Unlock()
	return n > 0
}

// counted says that all events were prepared, and returns whether all outcomes are
// known already.
func (p *publishing) counted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left--
	return p.left == 0
}

// spread tells whether the caller may have later events on their way in another batch.
// The caller holds the writer's lock.
func (e *pendingEvent) spread() bool {
	return e.p.pending != nil || len(e.p.events) > portion || e.last.batch != e.batch
}

// unwind ends what a panic of the user's code, in a codec or in middleware, has left
// open in a handler's scope.
func (p *publishing) unwind() {
	p.mu.Lock()
	ended := p.concluded
	p.over = true
	p.mu.Unlock()
	if ended {
		return
	}
	for i := range p.events {
		if e := &p.events[i]; e.scope != nil {
			e.scope.settled(p.results[i].ID, errorf(CodePanic, "publishing panicked"), true)
			e.scope.end()
		}
	}
}

// take gives one event its id, takes it through the middleware and finds its
// writer. The id comes first: it is what a refused event of a handler is known by.
func (p *publishing) take(ctx context.Context, e *pendingEvent, o *Outgoing) error {
	b, s := p.bus, p.scope
	if err := ctx.Err(); err != nil {
		return wrapf(err, "publish")
	}
	if s != nil {
		if err := s.begin(); err != nil {
			return err
		}
		e.scope = s
	}
	ot, err := p.topicFor(ctx, o.def)
	if err != nil {
		return err
	}
	cause, eerr := s.of(o)
	if eerr != nil {
		return eerr
	}
	body, derived, eerr := o.identify(b, cause)
	if eerr != nil {
		return eerr
	}
	if s != nil {
		s.sent(cause, o.id, derived)
	}
	st := step{e: e, topic: ot, cause: cause, body: body}
	if b.publisher == nil {
		return p.pass(ctx, &st, o)
	}
	return b.through(ctx, st, o)
}

// pass is the last step of publishing an event, behind all middleware: it makes
// the message and finds who stores it.
func (p *publishing) pass(ctx context.Context, st *step, o *Outgoing) error {
	e, r := st.e, &p.results[st.e.nth]
	m, merr := o.message(ctx, p.bus, st.cause, st.body)
	if merr != nil {
		return merr
	}
	r.Topic, r.Partition = o.def.topic.name, st.topic.partition(o.key, o.id)
	e.msg, e.w = m, st.topic.writers[r.Partition]
	if o.after == 0 && o.at.IsZero() {
		return nil
	}
	return p.delay(ctx, st, o)
}

// delay has an event that is to be published later wait.
func (p *publishing) delay(ctx context.Context, st *step, o *Outgoing) error {
	due, later, derr := o.due(p.bus.clock.Sure())
	switch {
	case derr != nil:
		return derr
	case !later:
		return nil
	}
	ctx, cancel := context.WithDeadline(ctx, p.deadline)
	defer cancel()
	d, err := p.bus.openDelay(ctx, st.topic)
	if err != nil {
		return err
	}
	st.e.w, st.e.more().due = d.writer, due
	p.delayed = true
	return nil
}

func (b *Bus) topicFor(ctx context.Context, d *typeDef) (*openTopic, error) {
	if err := b.declare(d); err != nil {
		return nil, err
	}
	return b.openTopic(ctx, d.topic)
}

// topicFor is that of the bus under the call's deadline, and remembers what was found
// for a type.
func (p *publishing) topicFor(ctx context.Context, d *typeDef) (*openTopic, error) {
	b := p.bus
	if ot, ok := b.known.Load(d); ok {
		return ot.(*openTopic), nil
	}
	ctx, cancel := context.WithDeadline(ctx, p.deadline)
	defer cancel()
	ot, err := b.topicFor(ctx, d)
	if err == nil && !d.untyped { // of those a call makes one each
		b.known.Store(d, ot)
	}
	return ot, err
}

// deadlineGrace is how long a publish waits, once its deadline has passed, for the
// driver's own word on what became of the events: it has the same deadline.
const deadlineGrace = 250 * time.Millisecond

// await waits for all outcomes, or until ctx ends or the deadline passes: then what
// no writer has sent yet is taken back.
func (p *publishing) await(ctx context.Context) {
	timer := time.NewTimer(time.Until(p.deadline)) // monotonic
	defer timer.Stop()
	err := context.DeadlineExceeded
	select {
	case <-p.done:
		return
	case <-timer.C:
	case <-ctx.Done():
		err = ctx.Err()
	}
	late := wrapf(err, "not confirmed in time")
	p.takeBack(late)
	if errors.Is(err, context.DeadlineExceeded) {
		timer.Reset(deadlineGrace)
		select {
		case <-p.done:
			return
		case <-timer.C:
		}
	}
	p.giveUp(late)
}

// takeBack keeps from being sent what no writer has sent yet.
func (p *publishing) takeBack(err error) {
	for i := range p.events {
		if e := &p.events[i]; e.w != nil && e.w.takeBack(e) {
			p.settle(e.nth, driver.Outcome{State: driver.NotStored, Err: err})
		}
	}
}

// addAll hands events to their writers, those of one writer together: either those
// that are delayed, or the others.
func addAll(events []pendingEvent, delayed bool) {
	var chains []chain
	var at map[*writer]int
	for i := range events {
		e := &events[i]
		if e.w == nil || (e.w.store != nil) != delayed {
			continue
		}
		if len(events) == 1 {
			e.w.add(chain{e, e, 1})
			return
		}
		k, ok := at[e.w]
		if !ok {
			if at == nil {
				at = map[*writer]int{}
			}
			k = len(chains)
			at[e.w], chains = k, append(chains, chain{})
		}
		chains[k].add(e)
	}
	for _, c := range chains {
		c.first.w.add(c)
	}
}

// settle writes the outcome of one event down.
func (p *publishing) settle(nth int, o driver.Outcome) {
	p.mu.Lock()
	if p.over {
		p.mu.Unlock()
		return
	}
	r := &p.results[nth]
	r.Position, r.Duplicate = o.Pos, o.Dup
	switch o.State {
	case driver.Stored:
		r.State = Stored
	case driver.NotStored:
		r.State, r.Err = NotStored, cmp.Or(o.Err, driver.ErrUnavailable)
	default:
		r.State, r.Err = Unknown, cmp.Or(o.Err, driver.ErrUnavailable)
	}
	p.left--
	all := p.left == 0
	p.mu.Unlock()
	switch {
	case !all:
	case p.pending != nil:
		p.pending.settled()
	default:
		close(p.done)
	}
}

// explain gives the driver's errors a code and a remedy. It runs on the caller's
// goroutine, since it may ask the broker who holds a full topic back.
// full remembers what it was told of a topic.
func (p *publishing) explain(r *Result, full map[string]error) map[string]error {
	var e *Error
	switch {
	case errors.As(r.Err, &e):
	case errors.Is(r.Err, driver.ErrTopicFull):
		if full == nil {
			full = map[string]error{}
		}
		if full[r.Topic] == nil {
			full[r.Topic] = p.bus.fullError(r.Topic, r.Err)
		}
		r.Err = full[r.Topic]
	default:
		r.Err = wrapf(r.Err, "store in topic %s", r.Topic)
	}
	return full
}

// giveUp leaves the events whose outcome has not come as unknown, and tells whether
// there were any.
func (p *publishing) giveUp(err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over || p.left == 0 {
		return false
	}
	p.over = true // what comes later is not written down
	for i := range p.results {
		if r := &p.results[i]; r.State == Unknown && r.Err == nil {
			r.Err = err
		}
	}
	return true
}

// outcome tells all who have to know what became of the events, and returns an
// error unless all are stored.
func (p *publishing) outcome() error {
	p.mu.Lock()
	p.over, p.concluded = true, true // from here on the results are this goroutine's
	p.mu.Unlock()
	var stored, notStored, unknown int64
	var full map[string]error
	for i := range p.results {
		r, e := &p.results[i], &p.events[i]
		switch r.State {
		case Stored:
			stored++
		case NotStored:
			notStored++
		default:
			unknown++
		}
		if r.Err != nil {
			full = p.explain(r, full)
		}
		if e.rare != nil {
			for _, f := range slices.Backward(e.rare.onResult) {
				f(*r)
			}
		}
		if s := e.scope; s != nil {
			s.settled(r.ID, r.Err, p.pending != nil)
			s.end()
		}
	}
	p.bus.count.outcomes(stored, notStored, unknown)
	if notStored+unknown == 0 {
		return nil
	}
	return &PublishError{Results: p.results}
}
