package posthorn

import (
	"context"
	"strconv"
	"strings"
	"sync"

	"github.com/posthorn/posthorn/driver"
)

// A scope stands in a handler's context. It gives what the handler publishes its
// ids and its context, and sees to it that the event settles only after all
// of that is confirmed.
type scope struct {
	meta *Meta
	bus  *Bus

	mu      sync.Mutex
	closed  bool
	pending int
	idle    chan struct{} // closed when pending comes down to 0 after close; made on demand
	next    map[string]int
	open    map[string]*derivedID // by id: published and not confirmed
	refused error                 // why an asynchronous publish came to nothing
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
		return errorf(CodeClosed, "publish with the context of a handler that has returned (%s, id %s, group %s); "+
			"publish before the handler returns, or with another context", s.meta.Type, s.meta.ID, s.meta.Group)
	}
	s.pending++
	return nil
}

// sent notes that an id is on its way.
func (s *scope) sent(id string, d *derivedID) {
	s.mu.Lock()
	defer s.mu.Unlock()
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
			return wrapf(ctx.Err(), "the handler of %s (id %s) returned while an event it published was not confirmed", s.meta.Type, s.meta.ID)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused != nil {
		return wrapf(s.refused, "the handler of %s (id %s) succeeded, but an event that it published asynchronously is not stored", s.meta.Type, s.meta.ID)
	}
	for id, d := range s.open {
		return wrapf(d.failed, "the handler of %s (id %s) succeeded, but an event that it published (id %s) is not stored", s.meta.Type, s.meta.ID, id)
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
