package posthorn

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"go.opentelemetry.io/otel/trace"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/internal/engine"
)

// A scope stands in a handler's context. It gives what the handler publishes its
// ids and its context, and sees to it that the event settles only after all
// of that is confirmed.
//
// That of a batch handler does so by the scopes of the batch's events: what it
// counts itself is only what is under way.
type scope struct {
	meta   *Meta // nil in a batch handler
	bus    *Bus
	item   *engine.Item     // likewise
	joined context.Context  // the one with which the event came into a batch
	batch  map[place]*scope // of a batch handler: its events

	mu      sync.Mutex
	closed  bool
	pending int
	idle    chan struct{} // closed when pending comes down to 0 after close; made on demand
	next    map[string]int
	open    map[string]*derivedID // by id: published and not confirmed
	refused error                 // why an asynchronous publish came to nothing
	causes  map[string]*scope     // of a batch handler, by id: whose open it is in
}

// A place tells deliveries apart.
type place struct {
	topic     string
	partition int
	position  uint64
	id        string
}

func placeOf(m *Meta) place { return place{m.Topic, m.Partition, m.Position, m.ID} }

// of returns the scope of the event that o follows from: nil outside of handlers.
func (s *scope) of(o *Outgoing) (*scope, *Error) {
	switch {
	case o.err != nil:
		return nil, o.err
	case s == nil && o.cause != nil:
		return nil, errorf(CodeInvalid, "event type %q: CausedBy is for events that a handler publishes, on its own bus and with its context", o.def.name)
	case s == nil:
		return nil, nil
	case s.batch != nil && o.cause == nil:
		return nil, errorf(CodeInvalid, "event type %q: a batch handler publishes it without its cause; name the event of the batch that it follows from, with posthorn.CausedBy(e)", o.def.name)
	case s.batch != nil:
		if cause := s.batch[placeOf(o.cause)]; cause != nil {
			return cause, nil
		}
		return nil, errorf(CodeInvalid, "event type %q: CausedBy names an event that is not of this batch (%s, id %s)", o.def.name, o.cause.Type, o.cause.ID)
	case o.cause != nil && placeOf(o.cause) != placeOf(s.meta):
		return nil, errorf(CodeInvalid, "event type %q: CausedBy names an event (%s, id %s) that is not the handled one (id %s)", o.def.name, o.cause.Type, o.cause.ID, s.meta.ID)
	}
	return s, nil
}

// traced is the context whose span an event belongs to that is published with
// ctx. The batch handler's own has none unless the handler begins one.
func (s *scope) traced(ctx context.Context) context.Context {
	if s == nil || s.joined == nil || trace.SpanContextFromContext(ctx).IsValid() {
		return ctx
	}
	return s.joined
}

// what names what is handled.
func (s *scope) what() string {
	if s.batch != nil {
		return fmt.Sprintf("a batch of %d events", len(s.batch))
	}
	return fmt.Sprintf("%s (id %s)", s.meta.Type, s.meta.ID)
}

// A derivedID is an id that a handler's event got by its number or name.
type derivedID struct {
	id     string
	typ    string
	hash   [32]byte
	failed error
	busy   bool
}

type scopeKey struct{}

func scopeOf(ctx context.Context) *scope {
	s, _ := ctx.Value(scopeKey{}).(*scope)
	return s
}

// derive returns the id for an event that the handler publishes. An event
// that failed and is published again, with equal data, gets its old id again.
func (s *scope) derive(o *Outgoing, body []byte) (*derivedID, *Error) {
	hash := bodyHash(o.key, body)
	s.mu.Lock()
	defer s.mu.Unlock()
	typ, nth := o.def.name, ""
	if o.name != "" {
		nth = "name:" + o.name
	} else {
		for _, d := range s.open {
			if d.typ == typ && d.hash == hash && d.failed != nil && !d.busy {
				return d, nil
			}
		}
		if s.next == nil {
			s.next = map[string]int{}
		}
		s.next[typ]++
		nth = strconv.Itoa(s.next[typ])
	}
	return &derivedID{id: deriveID(s.meta.Source, s.meta.ID, s.meta.Group, typ, nth), typ: typ, hash: hash}, nil
}

// begin counts a publish; it is refused once the handler has returned.
func (s *scope) begin() *Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errorf(CodeClosed, "publish with the context of a handler that has returned, of %s; "+
			"publish before the handler returns, or with another context", s.what())
	}
	s.pending++
	return nil
}

// sent notes that an id is on its way, which belongs to the scope cause.
func (s *scope) sent(cause *scope, id string, d *derivedID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cause != s {
		if s.causes == nil {
			s.causes = map[string]*scope{}
		}
		s.causes[id] = cause
		cause.sent(cause, id, d)
		return
	}
	if d == nil {
		d = &derivedID{id: id}
	}
	d.busy = true
	if s.open == nil {
		s.open = map[string]*derivedID{}
	}
	s.open[id] = d
}

// settled notes what became of an event. One that nobody waits for fails the
// handler even if it never got as far as an id.
func (s *scope) settled(id string, err error, async bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cause := s.causes[id]; cause != nil {
		cause.settled(id, err, async)
		return
	}
	d := s.open[id]
	switch {
	case err == nil:
		delete(s.open, id)
	case d != nil:
		d.busy, d.failed = false, err
	case async && s.refused == nil:
		s.refused = err
	}
}

func (s *scope) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending--
	if s.pending == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// close refuses further publishing, waits for what is under way and returns an
// error when any of it is not confirmed.
func (s *scope) close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	var idle chan struct{}
	if s.pending > 0 {
		idle = make(chan struct{})
		s.idle = idle
	}
	s.mu.Unlock()
	if idle != nil {
		select {
		case <-idle:
		case <-ctx.Done():
			return wrapf(ctx.Err(), "the handler of %s returned while an event it published was not confirmed", s.what())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused != nil {
		return wrapf(s.refused, "the handler of %s succeeded, but an event that it published asynchronously is not stored", s.what())
	}
	for id, d := range s.open {
		return wrapf(d.failed, "the handler of %s succeeded, but an event that it published (id %s) is not stored", s.what(), id)
	}
	return nil
}

// shut refuses further publishing.
func (s *scope) shut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// inherit adds the registered headers of the handled event to those of an event
// that its handler publishes.
func (s *scope) inherit(registered []string, headers []driver.Attr) []driver.Attr {
	for _, name := range registered {
		v, ok := lookupHeader(s.meta.Headers, name)
		if !ok {
			continue
		}
		own := false
		for _, h := range headers {
			own = own || strings.EqualFold(h.Name, name)
		}
		if !own {
			headers = append(headers[:len(headers):len(headers)], driver.Attr{Name: name, Value: v})
		}
	}
	return headers
}

func lookupHeader(headers map[string]string, name string) (string, bool) {
	if v, ok := headers[name]; ok {
		return v, true
	}
	for n, v := range headers {
		if strings.EqualFold(n, name) {
			return v, true
		}
	}
	return "", false
}
