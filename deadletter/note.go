package deadletter

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/internal/bridge"
)

// What a note is about.
const (
	ActionReplay  = "replay"
	ActionEdit    = "edit"
	ActionDiscard = "discard"
)

// A Note says who did what to a group's dead letters, and when.
type Note struct {
	Group  string
	Action string // ActionReplay, ActionEdit or ActionDiscard
	By     string
	Reason string
	// Query says in words which dead letters were meant, IDs are the first of them, at
	// most 20.
	Query string
	IDs   []string
	// Began is when it was begun, Ended when it was done or stopped. Ended is zero while
	// it goes on, and for good when its process was killed.
	Began, Ended time.Time
	// Matched is how many were meant. Of these, Done were replayed, edited or discarded,
	// Skipped were none any more, or had expired, and Failed could not be.
	Matched, Done, Skipped, Failed int
	// Error says why it stopped before its end; "" when it did not.
	Error string
	// Original is the event as it was before an edit; nil for other actions.
	Original *Letter
}

// How much of notes is kept in a lane, at the most: the oldest go first.
const (
	maxNotes     = 100
	maxNoteBytes = 8 << 20 // of originals
	maxNoteIDs   = 20
)

// noteFormat is the number of the format of noteHead. A field never changes its
// meaning.
const noteFormat = 1

// A noteHead is the head of a note's entry. It is JSON; docs/wire.md describes it.
type noteHead struct {
	Format  int      `json:"v"`
	Action  string   `json:"a"`
	By      string   `json:"y,omitempty"`
	Reason  string   `json:"r,omitempty"`
	Query   string   `json:"q,omitempty"`
	IDs     []string `json:"i,omitempty"`
	Began   int64    `json:"t"`           // Unix milliseconds
	Ended   int64    `json:"e,omitempty"` // Unix milliseconds
	Matched int      `json:"n"`
	Done    int      `json:"d"`
	Skipped int      `json:"s,omitempty"`
	Failed  int      `json:"f,omitempty"`
	Error   string   `json:"x,omitempty"`
	Size    int      `json:"z,omitempty"` // of the event beside it, in bytes
	Head    []byte   `json:"h,omitempty"` // of the entry that the event was in
	Order   uint64   `json:"o,omitempty"` // of the entry
	Entry   string   `json:"w,omitempty"` // its name
}

// A notebook is the note of one action in one lane, as it is being kept.
type notebook struct {
	lane  driver.Lane
	head  noteHead
	entry driver.Entry
}

// begin writes a note, and drops the oldest in the lane.
func (n *notebook) begin(ctx context.Context, now time.Time, old []oldNote) error {
	n.head.Format, n.head.Began = noteFormat, now.UnixMilli()
	n.entry.Name = fmt.Sprintf("NOTE.%016x.%s", now.UnixNano(), rand.Text()[:16]) // they sort by time
	n.entry.State = driver.Note
	ops := []driver.LaneOp{{Entry: n.put()}}
	for _, name := range tooOld(old, n.head.Size) {
		ops = append(ops, driver.LaneOp{Entry: &driver.Entry{Name: name}, Delete: true})
	}
	err := n.lane.Apply(ctx, ops)
	n.entry.Rev = ops[0].Entry.Rev
	return err
}

func (n *notebook) put() *driver.Entry {
	e := n.entry
	e.Head, _ = json.Marshal(n.head)
	return &e
}

// end writes how it ended, also when what it was for was interrupted.
func (n *notebook) end(ctx context.Context, now time.Time, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	n.head.Ended = now.UnixMilli()
	if why != nil {
		n.head.Error = fmt.Sprintf("%.1000s", strings.TrimPrefix(why.Error(), "posthorn: "))
	}
	return n.lane.Apply(ctx, []driver.LaneOp{{Entry: n.put()}})
}

// endTime bounds what is done after an interruption.
const endTime = 5 * time.Second

// An oldNote is a note that stands in a lane.
type oldNote struct {
	name string
	size int
}

func oldNoteOf(e *driver.Entry) oldNote {
	var h noteHead
	_ = json.Unmarshal(e.Head, &h) // one that cannot be read takes little room
	return oldNote{name: e.Name, size: max(h.Size, 0)}
}

// tooOld names the notes that have to go, to make room for one more.
func tooOld(old []oldNote, size int) (names []string) {
	slices.SortFunc(old, func(x, y oldNote) int { return strings.Compare(x.name, y.name) })
	for _, o := range old {
		size += o.size
	}
	for left := len(old); left >= maxNotes || size > maxNoteBytes && left > 0; left-- {
		size -= old[0].size
		names, old = append(names, old[0].name), old[1:]
	}
	return names
}

// Log returns the notes of what was done to a group's dead letters, the oldest first.
// The last 100 are kept in each partition, and up to 8 MiB of originals of what was
// edited. A group that is not registered is an error with CodeNotFound.
func Log(ctx context.Context, bus *posthorn.Bus, group string) ([]Note, error) {
	w := &walk{b: bridge.Of(bus), q: Query{Groups: []string{group}}}
	type found struct {
		p driver.Partition
		e driver.Entry
	}
	var all []found
	err := w.groups(ctx, func(driver.GroupSpec) error {
		return w.lanes(ctx, group, func(p driver.Partition, e *driver.Entry) { all = append(all, found{p, *e}) },
			func(driver.Partition, []driver.Entry) error { return nil })
	})
	slices.SortFunc(all, func(x, y found) int { return strings.Compare(x.e.Name, y.e.Name) })
	var notes []Note
	for _, x := range all {
		n, e := w.note(ctx, group, x.p, &x.e)
		if err = cmp.Or(err, e); err != nil {
			return nil, err
		}
		notes = append(notes, n)
	}
	return notes, err
}

// note reads one. One that cannot be read says so.
func (w *walk) note(ctx context.Context, group string, p driver.Partition, e *driver.Entry) (Note, error) {
	var h noteHead
	if err := json.Unmarshal(e.Head, &h); err != nil {
		return Note{Group: group, Error: "the note " + e.Name + " cannot be read: " + err.Error()}, nil
	}
	n := Note{Group: group, Action: h.Action, By: h.By, Reason: h.Reason, Query: h.Query, IDs: h.IDs, Began: timeOf(h.Began), Ended: timeOf(h.Ended),
		Matched: h.Matched, Done: h.Done, Skipped: h.Skipped, Failed: h.Failed, Error: h.Error}
	if h.Action != ActionEdit {
		return n, nil
	}
	whole, err := w.b.Driver.Lane(group, p).Get(ctx, []string{e.Name})
	if err != nil {
		return n, w.b.Wrap(err, fmt.Sprintf("notes of group %q", group))
	}
	if len(whole) == 1 {
		old := driver.Entry{Name: h.Entry, State: driver.Dead, Order: h.Order, Head: h.Head, Msg: whole[0].Msg}
		l, _ := w.b.Letter(group, p, &old)
		original := l.(Letter)
		n.Original = &original
	}
	return n, nil
}

func timeOf(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
