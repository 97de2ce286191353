package posthorn

import (
	"cmp"
	"context"
	"errors"
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
	p := &publishing{bus: b, results: make([]Result, len(events)), done: make(chan struct{})}
	if s := scopeOf(ctx); s != nil && s.bus == b {
		p.scope = s
	}
	return p.run(ctx, events)
}

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

// A publishing is one call of PublishAll.
type publishing struct {
	bus   *Bus
	scope *scope
	done  chan struct{} // closed when all outcomes are known

	mu      sync.Mutex
	results []Result
	left    int
	over    bool // the call returns: what comes later is not written down
}

func (p *publishing) run(ctx context.Context, events []*Outgoing) error {
	b := p.bus
	if p.scope != nil {
		if err := p.scope.begin(); err != nil {
			return p.refuseAll(events, err)
		}
		defer p.scope.end()
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, b.opts.publishTimeout)
		defer cancel()
	}
	if err := ctx.Err(); err != nil {
		return p.refuseAll(events, wrapf(err, "publish"))
	}
	p.send(ctx, p.prepare(ctx, events))
	return p.outcome()
}

func (p *publishing) refuseAll(events []*Outgoing, err error) error {
	for i, o := range events {
		p.results[i] = Result{State: NotStored, Err: err}
		if o != nil && o.def != nil {
			p.results[i].ID, p.results[i].Type = o.id, o.def.name
		}
	}
	return p.outcome()
}

// A pendingEvent is one that a writer has to store.
type pendingEvent struct {
	msg      driver.Message
	due      time.Time // of a delayed one
	over     uint64    // likewise: the revision that it may replace
	deadline time.Time
	w        *writer
	p        *publishing
	nth      int // in the call
	// Guarded by the writer.
	sent  bool           // in batch
	batch uint64         // the number of the one that it was sent in
	taken bool           // the call has ended before it was sent
	tries int            // how often it was sent in vain
	why   driver.Outcome // likewise, the last time
	last  *pendingEvent  // the last of those that the call has given to the writer with it
}

// prepare encodes the events; what cannot be published is refused here.
func (p *publishing) prepare(ctx context.Context, events []*Outgoing) []pendingEvent {
	pending := make([]pendingEvent, 0, len(events))
	deadline, _ := ctx.Deadline()
	for i, o := range events {
		r := &p.results[i]
		if o == nil || o.def == nil {
			*r = Result{State: NotStored, Err: errorf(CodeInvalid, "publish: event %d of the call is nil; make it with EventType.New", i)}
			continue
		}
		*r = Result{ID: o.id, Type: o.def.name, State: NotStored}
		ot, err := p.bus.topicFor(ctx, o.def)
		if err != nil {
			r.Err = err
			continue
		}
		r.Topic = o.def.topic.name
		cause, eerr := p.scope.of(o)
		if eerr != nil {
			r.Err = eerr
			continue
		}
		m, derived, eerr := o.encode(ctx, p.bus, cause)
		r.ID = o.id
		if eerr != nil {
			r.Err = eerr
			continue
		}
		if p.scope != nil {
			p.scope.sent(cause, o.id, derived)
		}
		r.Partition = ot.partition(o.key, o.id)
		w, due, err := p.writerFor(ctx, ot, o, r.Partition)
		if err != nil {
			r.Err = err
			continue
		}
		r.State = Unknown
		pending = append(pending, pendingEvent{msg: m, due: due, deadline: deadline, w: w, p: p, nth: i})
	}
	return pending
}

// writerFor chooses who stores an event: its partition's writer, or that of the
// topic's delayed events.
func (p *publishing) writerFor(ctx context.Context, ot *openTopic, o *Outgoing, partition int) (*writer, time.Time, error) {
	due, later, derr := o.due(p.bus.clock.Sure())
	switch {
	case derr != nil:
		return nil, due, derr
	case !later:
		return ot.writers[partition], due, nil
	}
	d, err := p.bus.openDelay(ctx, ot)
	if err != nil {
		return nil, due, err
	}
	return d.writer, due, nil
}

func (b *Bus) topicFor(ctx context.Context, d *typeDef) (*openTopic, error) {
	if err := b.declare(d); err != nil {
		return nil, err
	}
	return b.openTopic(ctx, d.topic)
}

// deadlineGrace is how long a publish waits, once its deadline has passed, for the
// driver's own word on what became of the events: it has the same deadline.
const deadlineGrace = 250 * time.Millisecond

// send hands the events to their writers and waits for all outcomes, or until
// ctx ends: then what no writer has sent yet is taken back.
func (p *publishing) send(ctx context.Context, pending []pendingEvent) {
	if len(pending) == 0 {
		return
	}
	p.left = len(pending)
	addAll(pending)
	select {
	case <-p.done:
		return
	case <-ctx.Done():
	}
	err := wrapf(ctx.Err(), "not confirmed in time")
	for i := range pending {
		if pending[i].w.takeBack(&pending[i]) {
			p.settle(pending[i].nth, driver.Outcome{State: driver.NotStored, Err: err})
		}
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		timer := time.NewTimer(deadlineGrace)
		defer timer.Stop()
		select {
		case <-p.done:
			return
		case <-timer.C:
		}
	}
	p.giveUp(err)
}

// addAll hands events to their writers, those of one writer together.
func addAll(pending []pendingEvent) {
	if len(pending) == 1 {
		pending[0].w.add(&pending[0])
		return
	}
	byWriter := map[*writer][]*pendingEvent{}
	var order []*writer
	for i := range pending {
		w := pending[i].w
		if byWriter[w] == nil {
			order = append(order, w)
		}
		byWriter[w] = append(byWriter[w], &pending[i])
	}
	for _, w := range order {
		w.add(byWriter[w]...)
	}
}

// settle writes the outcome of one event down.
func (p *publishing) settle(nth int, o driver.Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
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
	if p.left--; p.left == 0 {
		close(p.done)
	}
}

// explain gives the driver's errors a code and a remedy. It runs on the caller's
// goroutine, since it may ask the broker who holds a full topic back.
func (p *publishing) explain(r *Result, full map[string]error) {
	var e *Error
	switch {
	case r.Err == nil || errors.As(r.Err, &e):
	case errors.Is(r.Err, driver.ErrTopicFull):
		if full[r.Topic] == nil {
			full[r.Topic] = p.bus.fullError(r.Topic, r.Err)
		}
		r.Err = full[r.Topic]
	default:
		r.Err = wrapf(r.Err, "store in topic %s", r.Topic)
	}
}

// giveUp leaves the events whose outcome has not come as unknown.
func (p *publishing) giveUp(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	for i := range p.results {
		if r := &p.results[i]; r.State == Unknown && r.Err == nil {
			r.Err = err
		}
	}
}

func (p *publishing) outcome() error {
	p.mu.Lock()
	p.over = true // from here on the results are this goroutine's
	p.mu.Unlock()
	c := &p.bus.count
	failed := false
	full := map[string]error{}
	for i := range p.results {
		r := &p.results[i]
		switch r.State {
		case Stored:
			c.published.Add(1)
		case NotStored:
			c.notStored.Add(1)
			failed = true
		default:
			c.unknown.Add(1)
			failed = true
		}
		p.explain(r, full)
		if p.scope != nil && r.ID != "" {
			p.scope.settled(r.ID, r.Err)
		}
	}
	if !failed {
		return nil
	}
	return &PublishError{Results: p.results}
}
