// Package delay publishes events when they are due.
//
// An event that is published for later is an entry of a lane, put there from
// outside of any tenure, by its id. The lane is that of a hidden group, beside the
// one partition of a hidden topic that nothing is ever appended to: so that whoever
// holds this partition is the one who moves what is due, and all that holds for
// members of a group, leases, shedding, takeover, holds for movers.
//
// A mover keeps an index of names and due times. What is due it loads, claims,
// appends to the topic's partition under the event's own id, and deletes. A claim
// is written by revision, as a cancellation is: one of the two wins, so that a
// cancellation tells the truth. From then on nobody but holders of the lane touches
// the entry. Two movers at once, of which one has lost its lease without knowing,
// append copies of one id, which the broker recognises.
package delay

import (
	"encoding/json"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// prefix begins the names of hidden topics and groups. It is outside of the users'
// grammar of names.
const prefix = "_delay."

// Topic is the name of the hidden topic and of the hidden group of a topic.
func Topic(topic string) string { return prefix + topic }

// Partition is the partition whose lane holds what is delayed in a topic.
func Partition(topic string) driver.Partition { return driver.Partition{Topic: Topic(topic)} }

// Specs are the hidden topic and the hidden group of a topic.
func Specs(of driver.TopicSpec) (driver.TopicSpec, driver.GroupSpec) {
	name := Topic(of.Name)
	t := driver.TopicSpec{Name: name, Hash: driver.HashFNV1a, Partitions: 1, Replicas: of.Replicas, Keep: time.Hour}
	g := driver.GroupSpec{Name: name, Types: map[string][]string{name: {"delayed"}}, Start: driver.StartAt{Now: true}}
	return t, g
}

// Name is the name of an event's entry. It is made of the id alone, so that an
// event is found, and a repetition of it met, whatever its key is.
func Name(id string) string { return driver.EntryName(id, 0, "", id) }

// headFormat is the number of the format of heads. A reader takes higher ones too:
// a field never changes its meaning.
const headFormat = 1

// A head is the head of an entry.
type head struct {
	Format int    `json:"v"`
	Size   int    `json:"s,omitempty"` // of the message, in bytes
	Mover  string `json:"m,omitempty"` // the member that has claimed it, to publish it now
}

func (h head) encode() []byte {
	h.Format = headFormat
	b, _ := json.Marshal(h)
	return b
}

// unknownSize is what a message is taken to have whose head cannot be read.
const unknownSize = 64 << 10

func decodeHead(b []byte) head {
	var h head
	if err := json.Unmarshal(b, &h); err != nil || h.Size <= 0 {
		h.Size = unknownSize
	}
	return h
}

// Entry is the entry of an event that is due at a time.
func Entry(m driver.Message, due time.Time) *driver.Entry {
	return &driver.Entry{
		Name:  Name(m.ID),
		State: driver.Due,
		Due:   due.Round(0).UTC(),
		Key:   m.Key,
		Head:  head{Size: m.Size()}.encode(),
		Msg:   m,
	}
}

// Cancelled is what takes the place of an entry whose event is not to be published.
// It is put by revision, as a claim is, and then deleted: a broker may let a deletion
// and a put by revision pass each other, of two puts one wins.
func Cancelled(e *driver.Entry) *driver.Entry {
	m := e.Msg
	m.Attrs, m.Headers, m.Body = nil, nil, nil
	return &driver.Entry{Name: e.Name, State: driver.Dead, Key: e.Key, Order: e.Order, Rev: e.Rev, Head: head{}.encode(), Msg: m}
}

// Waits tells whether an entry's event waits to be published: it is not cancelled,
// and no mover has claimed it.
func Waits(e *driver.Entry) bool { return e.State == driver.Due && !Claimed(e) }

// Claimed tells whether a mover is publishing an entry's event, or was when it
// died: it cannot be cancelled any more.
func Claimed(e *driver.Entry) bool { return decodeHead(e.Head).Mover != "" }
