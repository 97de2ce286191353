package posthorn

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// An Outgoing is an event that is to be published. It is made by
// [EventType.New], and is what publishing middleware gets. It may be published
// again, by one call at a time, and keeps its id.
type Outgoing struct {
	def     *typeDef
	data    any
	id      string
	key     string
	name    string // given name within a handler
	time    time.Time
	expires time.Time
	after   time.Duration // delayed by
	at      time.Time     // or until
	corr    string
	headers []driver.Attr
	lent    bool // the headers are a message's: not to be changed in place
	err     *Error

	step     *step // while it goes through the middleware
	onResult []func(Result)
}

// ID returns the event's id; "" before it was published, unless it was given one.
func (o *Outgoing) ID() string { return o.id }

// Type returns the name of the event's type.
func (o *Outgoing) Type() string { return o.def.name }

// Key returns what the event is ordered by; "" without a key.
func (o *Outgoing) Key() string { return o.key }

// Data returns the event's data as it was given. It is not to be changed.
func (o *Outgoing) Data() any { return o.data }

// A PublishOption says something about one event that is published.
type PublishOption interface{ applyPublish(*Outgoing) }

type publishOption func(*Outgoing)

func (f publishOption) applyPublish(o *Outgoing) { f(o) }

// WithID sets the event's id, instead of a new UUID. Events of one source and id
// are the same event: the broker stores it once within its de-duplication window.
func WithID(id string) PublishOption {
	return publishOption(func(o *Outgoing) {
		if id == "" || len(id) > 128 || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			o.fail(CodeInvalid, "WithID(%q): an id is 1 to 128 bytes without spaces or control characters", id)
			return
		}
		o.id = id
	})
}

// WithKey sets the key of an event that is published without a type definition,
// or replaces the one that the type's Key computes.
func WithKey(key string) PublishOption {
	return publishOption(func(o *Outgoing) {
		if key == "" {
			o.fail(CodeInvalid, "WithKey(\"\"): a key cannot be empty; leave the option out for an event without one")
			return
		}
		o.key = key
	})
}

// WithHeader adds a header. Names are letters, digits, '-', '_' and '.', at most
// 64 bytes; all headers together are at most 8 KiB.
func WithHeader(name, value string) PublishOption {
	return publishOption(func(o *Outgoing) {
		if err := checkHeader(name, value); err != nil {
			o.fail(err.Code, "%s", err.Text)
			return
		}
		o.setHeader(name, value)
	})
}

// ExpiresAt says when the event loses its use: a group that comes to it later
// counts it as expired and does not handle it.
func ExpiresAt(t time.Time) PublishOption {
	return publishOption(func(o *Outgoing) { o.expires = t })
}

// WithCorrelationID joins the event to others that were not published by a
// handler of this one's chain. Within a handler the chain's id is the default.
func WithCorrelationID(id string) PublishOption {
	return publishOption(func(o *Outgoing) { o.corr = id })
}

// Named names an event among those of its type that a handler publishes, in place
// of its number: its id is then derived from the name, so that a handler that
// publishes in no fixed order repeats its ids all the same. Outside of a handler
// it is refused.
func Named(name string) PublishOption {
	return publishOption(func(o *Outgoing) {
		if name == "" {
			o.fail(CodeInvalid, "Named(\"\"): a name cannot be empty")
			return
		}
		o.name = name
	})
}

func newOutgoing(def *typeDef, data any, opts []PublishOption) *Outgoing {
	o := &Outgoing{def: def, data: data}
	if def.err != nil {
		o.err = def.err
		return o
	}
	for _, opt := range opts {
		opt.applyPublish(o)
	}
	return o
}

func (o *Outgoing) fail(code Code, format string, args ...any) {
	if o.err == nil {
		o.err = errorf(code, "event type %q: "+format, append([]any{o.def.name}, args...)...)
	}
}

func (o *Outgoing) setHeader(name, value string) {
	if o.lent {
		o.headers, o.lent = slices.Clone(o.headers), false
	}
	for i, h := range o.headers {
		if strings.EqualFold(h.Name, name) {
			o.headers[i].Value = value
			return
		}
	}
	o.headers = append(o.headers, driver.Attr{Name: name, Value: value})
}

// identify encodes the data and gives the event its id and time, unless it has
// them. The scope is that of the handler it is published from, or nil. derived is
// the entry in the scope that has to be settled with the outcome, or nil.
func (o *Outgoing) identify(b *Bus, s *scope) (body []byte, derived *derivedID, err *Error) {
	switch {
	case o.err != nil:
		return nil, nil, o.err
	case o.def.keyed && o.key == "":
		return nil, nil, errorf(CodeInvalid, "event type %q: the event's key is empty; events of this type are ordered by key, so each needs one", o.def.name)
	case o.name != "" && s == nil:
		return nil, nil, errorf(CodeInvalid, "event type %q: Named(%q) is for events that a handler publishes with its context; use WithID here", o.def.name, o.name)
	case strings.IndexByte(o.key, 0) >= 0 || len(o.key) > 1024:
		return nil, nil, errorf(CodeInvalid, "event type %q: the key is %d bytes long or holds NUL; at most 1024 bytes without NUL are allowed", o.def.name, len(o.key))
	}
	body, e := o.def.codec.Marshal(o.data)
	if e != nil {
		return nil, nil, &Error{Code: CodeInvalid, Text: fmt.Sprintf("event type %q: encode the data", o.def.name), Err: e}
	}
	if len(body) > b.opts.maxPayload {
		return nil, nil, errorf(CodeTooLarge, "event type %q: the data is %d bytes, the limit is %d; store it elsewhere and publish where, or raise the limit with posthorn.MaxPayload",
			o.def.name, len(body), b.opts.maxPayload)
	}
	if o.id == "" {
		if s != nil {
			if derived, err = s.derive(o, body); err != nil {
				return nil, nil, err
			}
			o.id = derived.id
		} else {
			o.id = newID(b.now())
		}
	}
	if o.time.IsZero() {
		o.time = b.now().UTC()
	}
	return body, derived, nil
}

// message makes what is stored.
func (o *Outgoing) message(ctx context.Context, b *Bus, s *scope, body []byte) (m driver.Message, err *Error) {
	if o.err != nil { // of what the middleware has set
		return m, o.err
	}
	m = driver.Message{
		ID:          o.id,
		Source:      b.opts.service,
		Type:        o.def.name,
		Key:         o.key,
		Time:        o.time.Format(time.RFC3339Nano),
		ContentType: o.def.codec.ContentType(),
		Body:        body,
	}
	o.addAttrs(ctx, b, s, &m)
	if n := headerBytes(m.Headers); n > maxHeaderBytes {
		return m, errorf(CodeTooLarge, "event type %q: its headers are %d bytes, the limit is %d; move some into the data", o.def.name, n, maxHeaderBytes)
	}
	if size, most := m.Size(), b.drv.Caps().MaxMessage; most > 0 && size > most {
		return m, errorf(CodeTooLarge, "event type %q: the event is %d bytes with its attributes, the broker takes %d", o.def.name, size, most)
	}
	return m, nil
}

func (o *Outgoing) addAttrs(ctx context.Context, b *Bus, s *scope, m *driver.Message) {
	corr := o.corr
	if s != nil {
		if corr == "" {
			corr = s.meta.CorrelationID
		}
		m.Attrs = append(m.Attrs, driver.Attr{Name: attrCausation, Value: s.meta.ID})
	} else if corr == "" {
		corr = correlationOf(ctx)
	}
	if corr != "" && corr != o.id {
		m.Attrs = append(m.Attrs, driver.Attr{Name: attrCorrelation, Value: corr})
	}
	if o.def.schema != "" {
		m.Attrs = append(m.Attrs, driver.Attr{Name: attrSchema, Value: o.def.schema})
	}
	if o.def.version > 1 {
		m.Attrs = append(m.Attrs, driver.Attr{Name: attrVersion, Value: strconv.Itoa(o.def.version)})
	}
	if !o.expires.IsZero() {
		m.Attrs = append(m.Attrs, driver.Attr{Name: attrExpiry, Value: o.expires.UTC().Format(time.RFC3339Nano)})
	}
	m.Attrs = appendTrace(ctx, m.Attrs)
	m.Headers, o.lent = o.headers, true
	if s != nil {
		m.Headers = s.inherit(b.opts.propagate, m.Headers)
	}
}

func headerBytes(headers []driver.Attr) int {
	n := 0
	for _, h := range headers {
		n += len(h.Name) + len(h.Value)
	}
	return n
}

func bodyHash(key string, body []byte) [32]byte {
	h := sha256.New()
	h.Write([]byte(key))
	h.Write([]byte{0})
	h.Write(body)
	return [32]byte(h.Sum(nil))
}
