package posthorn

import (
	"context"
	"fmt"
	"reflect"
)

// An EventType is a named, versioned contract for events whose data is a T. It
// is made by [Define], usually once, in a package that all services concerned
// import. It is safe for concurrent use and belongs to no bus.
type EventType[T any] struct {
	def *typeDef
	key func(T) string
}

// typeDef is what is known of an event type without its T.
type typeDef struct {
	name    string
	topic   *Topic
	codec   Codec
	version int
	schema  string
	keyed   bool
	keyFn   any
	goType  reflect.Type
	err     *Error
	untyped bool // published or handled without a definition
}

// A TypeOption configures an event type.
type TypeOption interface{ applyType(*typeDef) }

type typeOption func(*typeDef)

func (f typeOption) applyType(d *typeDef) { f(d) }

// In stores events of the type in a declared topic. Without it the topic is the
// one that the type's name says, with the defaults: the name up to its last dot,
// a version at its end left out, so that "order.placed" and "order.cancelled.v2"
// are both in "order".
func In(t *Topic) TypeOption {
	return typeOption(func(d *typeDef) {
		if t == nil {
			d.fail("In(nil)")
			return
		}
		d.topic = t
	})
}

// Key says by what events are ordered: events whose keys are equal are handled
// one at a time, in the order they were stored in. An empty key is refused when
// the event is published. T must be the T of the event type. Without Key, events
// are spread over the partitions and have no order.
func Key[T any](key func(T) string) TypeOption {
	return typeOption(func(d *typeDef) {
		if key == nil {
			d.fail("Key(nil)")
			return
		}
		d.keyed, d.keyFn = true, key
	})
}

// Encode sets the codec. Default: [JSON].
func Encode(c Codec) TypeOption {
	return typeOption(func(d *typeDef) {
		if c == nil {
			d.fail("Encode(nil)")
			return
		}
		d.codec = c
	})
}

// Version is the schema version that published events carry, from 1. Raise it with
// each compatible change. A change that breaks readers wants a new type name,
// "order.placed.v2", beside the old one. Default: 1.
func Version(n int) TypeOption {
	return typeOption(func(d *typeDef) {
		if n < 1 {
			d.fail(fmt.Sprintf("Version(%d): versions begin at 1", n))
			return
		}
		d.version = n
	})
}

// Schema sets the CloudEvents attribute dataschema: a URI that names the schema
// of the data. Default: none.
func Schema(uri string) TypeOption {
	return typeOption(func(d *typeDef) { d.schema = uri })
}

// Define declares an event type. It never fails and keeps no global: what is
// wrong with the definition comes out of Publish and Run, with CodeInvalid, and
// what is at odds with another definition of the name on the same bus with
// CodeConflict.
func Define[T any](name string, opts ...TypeOption) *EventType[T] {
	d := &typeDef{name: name, codec: JSON, version: 1, goType: reflect.TypeFor[T]()}
	t := &EventType[T]{def: d}
	if err := checkName("event type", name, maxTypeName); err != nil {
		d.err = err
		return t
	}
	for _, o := range opts {
		o.applyType(d)
	}
	if d.topic == nil {
		d.topic = DefineTopic(topicOf(name), TopicConfig{})
	}
	if d.err == nil && d.topic.err != nil {
		d.err = d.topic.err
	}
	if d.keyFn != nil {
		key, ok := d.keyFn.(func(T) string)
		if !ok {
			d.fail(fmt.Sprintf("Key is given a %T, but the event's data is %v", d.keyFn, d.goType))
		}
		t.key = key
	}
	return t
}

func (d *typeDef) fail(what string) {
	if d.err == nil {
		d.err = errorf(CodeInvalid, "event type %q: %s", d.name, what)
	}
}

// differs names the first setting in which two definitions of one name differ.
// The Go types may differ: two services in one process may each have their own.
func (d *typeDef) differs(o *typeDef) string {
	switch {
	case d.topic.name != o.topic.name:
		return fmt.Sprintf("topic (%s and %s)", o.topic.name, d.topic.name)
	case d.topic.cfg != o.topic.cfg:
		return "the settings of the topic " + d.topic.name
	case d.codec.ContentType() != o.codec.ContentType():
		return fmt.Sprintf("codec (%s and %s)", o.codec.ContentType(), d.codec.ContentType())
	case d.version != o.version:
		return fmt.Sprintf("version (%d and %d)", o.version, d.version)
	case d.keyed != o.keyed:
		return "key (one has it, one has not)"
	}
	return ""
}

// Name returns the name of the event type.
func (t *EventType[T]) Name() string { return t.def.name }

// Topic returns the topic that events of the type are stored in. It is nil when
// the type's name is not valid.
func (t *EventType[T]) Topic() *Topic { return t.def.topic }

// New makes an event that is ready to be published, by [Bus.PublishAll]. It gets
// its id when it is first published and keeps it, so that publishing it again
// after an unknown outcome is safe.
func (t *EventType[T]) New(data T, opts ...PublishOption) *Outgoing {
	o := newOutgoing(t.def, data, opts)
	if t.key != nil && o.key == "" {
		o.key = t.key(data)
	}
	return o
}

// Publish stores one event and returns nil when it is held as durably as the
// broker can be told to. Otherwise the error is a [*PublishError]. It is safe for
// concurrent use; concurrent calls share round trips and syncs. When ctx has no
// deadline, the bus's publish timeout bounds the call.
func (t *EventType[T]) Publish(ctx context.Context, bus *Bus, data T, opts ...PublishOption) error {
	return bus.PublishAll(ctx, t.New(data, opts...))
}

// PublishAsync publishes one event and does not wait for its confirmation: see
// [Bus.PublishAsync].
func (t *EventType[T]) PublishAsync(ctx context.Context, bus *Bus, data T, opts ...PublishOption) *Pending {
	return bus.PublishAsync(ctx, t.New(data, opts...))
}

// Handle subscribes a group to the event type. fn is called for each event, by
// up to GroupConfig.Concurrency goroutines at a time, and its error is the
// verdict: nil settles the event, an error tries again within the retry budget,
// [Permanent], [RetryAfter] and [Skip] say more. ctx ends at the handler's
// timeout. Handle is called before the group is started; what is wrong comes out
// of its start.
func (t *EventType[T]) Handle(g *Group, fn func(ctx context.Context, e *Event[T]) error, opts ...HandleOption) {
	if fn == nil {
		g.add(t.def, nil, opts)
		return
	}
	def := t.def
	g.add(def, func(ctx context.Context, d *Delivery) error {
		e := &Event[T]{Meta: d.Meta}
		if err := d.decode(def.codec, &e.Data); err != nil {
			return err
		}
		return fn(ctx, e)
	}, opts)
}
