package posthorn

import (
	"fmt"
	"time"
)

// Meta is what an event carries beside its data, and what is known of its
// delivery. Handlers must not change it.
type Meta struct {
	// ID is unique together with Source. Ours are UUIDv7, or UUIDv8 when they are
	// derived from the event whose handler published them.
	ID string
	// Source is the service that published the event.
	Source string
	// Type is the event type's name; "" in a foreign message.
	Type string
	// Key is what the event is ordered by; "" without one.
	Key string
	// Time is when the event was made, by its publisher's clock.
	Time time.Time
	// ContentType is the media type of the data.
	ContentType string
	// SchemaVersion is the version of the type that the publisher used, from 1.
	SchemaVersion int
	// Schema is the CloudEvents attribute dataschema.
	Schema string
	// CorrelationID is shared by all events that stem from one first event. It is
	// that event's id.
	CorrelationID string
	// CausationID is the id of the event whose handler published this one; "" for
	// a first event.
	CausationID string
	// Expires is when the event loses its use; zero for never.
	Expires time.Time
	// Headers are the publisher's own headers; nil without any.
	Headers map[string]string

	// Group is the group that handles the event.
	Group string
	// Topic and Partition are where it is stored.
	Topic     string
	Partition int
	// Position orders the events of a partition. With a queue-shaped broker it
	// is only a handle.
	Position uint64
	// Stored is the broker's time of storing; zero if it has none.
	Stored time.Time
	// Attempt counts the starts of a handler for this event in this group, from
	// 1, across restarts.
	Attempt int
	// Fence is higher than that of any earlier holder of the partition: a system
	// that keeps the highest one it has seen can refuse a late effect.
	Fence uint64
}

// IdempotencyKey is the same for each attempt to handle the event in this
// group, and no other. Hand it to systems that take one.
func (m *Meta) IdempotencyKey() string { return m.Group + ":" + m.Source + ":" + m.ID }

// An Event is an event as a typed handler gets it.
type Event[T any] struct {
	Meta
	Data T
}

// A Delivery is an event, or a foreign message, as untyped handlers and
// middleware get it. Data is not to be changed, nor kept after the handler has
// returned.
type Delivery struct {
	Meta
	Data []byte
}

// Decode decodes the data by the codec that reads the event's content type:
// JSON or Protobuf. An error of it is a permanent one.
func (d *Delivery) Decode(into any) error {
	for _, c := range []Codec{JSON, Protobuf} {
		if c.Accepts(mediaType(d.ContentType)) {
			return d.decode(c, into)
		}
	}
	return Permanent(errorf(CodeUndecodable, "%s (id %s): no codec reads content type %q; read Data instead", d.Type, d.ID, d.ContentType))
}

func (d *Delivery) decode(c Codec, into any) error {
	if m := mediaType(d.ContentType); !c.Accepts(m) {
		return Permanent(errorf(CodeUndecodable, "%s (id %s): content type is %q, but the event type is defined with a codec for %q", d.Type, d.ID, d.ContentType, c.ContentType()))
	}
	if err := c.Unmarshal(d.Data, into); err != nil {
		return Permanent(&Error{Code: CodeUndecodable, Text: fmt.Sprintf("decode %s (id %s)", d.Type, d.ID), Err: err})
	}
	return nil
}
