package posthorn

import (
	"context"
	"iter"
	"slices"
	"time"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/internal/engine"
)

// A DeadLetter is an event that a group gave up on. Package deadletter lists, replays,
// edits and discards them.
type DeadLetter struct {
	// Meta is the event's. Attempt is how many there were, Position where the event
	// stood in its partition, Fence is not set.
	Meta
	// Data is the event's, as it was published. It belongs to the caller.
	Data []byte
	// Reason is why: CodeHandler, CodePermanent, CodePanic, CodeTimeout,
	// CodeUndecodable, CodeForeign, CodeTooLarge, CodeQuarantined, CodeNotFound,
	// or the code of the error that the handler returned.
	Reason Code
	// Errors are those of the attempts, oldest first, cut at 8 KiB in all.
	Errors []string
	// Attempts is how many times a handler was started for it.
	Attempts int
	// First is when it was first tried, Died when the group gave up on it.
	First, Died time.Time
	// Member is the process that gave up on it.
	Member string
	// Deaths are the earlier ones, oldest first, at most the last ten: after each it
	// was replayed, and Attempts was counted from 0 again. First and Errors go back to
	// the first attempt of all.
	Deaths []Death
	// Edited is when its data or headers were changed last, zero for never, and
	// EditedBy who did.
	Edited   time.Time
	EditedBy string
	// Attributes are its other CloudEvents attributes, traceparent for one; nil
	// without any.
	Attributes map[string]string
	// Entry names it among the dead letters of the group in its partition, and
	// Revision changes whenever it does.
	Entry    string
	Revision uint64
}

// A Death is one that a dead letter had before, and was replayed after.
type Death struct {
	Died     time.Time
	Reason   Code
	Attempts int
	Replayed time.Time
	By       string // who replayed it
}

// DeadLetters walks over the dead letters of a group: by topic and partition,
// and within these by key and position. It reads in pages and can be stopped at
// any time; ctx bounds the whole walk. An error ends the walk, but for a record that
// cannot be read (CodeUndecodable), which comes with its event. A group that is not
// registered is an error with CodeNotFound.
func (b *Bus) DeadLetters(ctx context.Context, group string) iter.Seq2[DeadLetter, error] {
	return func(yield func(DeadLetter, error) bool) {
		lanes, err := b.lanesOf(ctx, group)
		if err != nil {
			yield(DeadLetter{}, err)
			return
		}
		for _, p := range lanes {
			if !b.deadIn(ctx, group, p, yield) {
				return
			}
		}
	}
}

// lanesOf returns all partitions that the group has a lane beside.
func (b *Bus) lanesOf(ctx context.Context, group string) ([]driver.Partition, error) {
	if err := checkName("group", group, maxGroupName); err != nil {
		return nil, err
	}
	positions, err := b.drv.Positions(ctx, group)
	if err != nil {
		return nil, wrapf(err, "dead letters of group %q", group)
	}
	var lanes []driver.Partition
	for _, p := range positions {
		lanes = append(lanes, p.Partition)
	}
	slices.SortFunc(lanes, func(x, y driver.Partition) int {
		if x.Topic != y.Topic {
			if x.Topic < y.Topic {
				return -1
			}
			return 1
		}
		return x.N - y.N
	})
	return lanes, nil
}

func (b *Bus) deadIn(ctx context.Context, group string, p driver.Partition, yield func(DeadLetter, error) bool) bool {
	const page = 100
	lane := b.drv.Lane(group, p)
	for after := ""; ; {
		heads, next, err := lane.Scan(ctx, after, page)
		if err != nil {
			return yield(DeadLetter{}, wrapf(err, "dead letters of group %q", group)) && false
		}
		var names []string
		for _, e := range heads {
			if e.State == driver.Dead {
				names = append(names, e.Name)
			}
		}
		if len(names) > 0 {
			entries, err := lane.Get(ctx, names)
			if err != nil {
				return yield(DeadLetter{}, wrapf(err, "dead letters of group %q", group)) && false
			}
			for i := range entries {
				if !yield(deadLetter(group, p, &entries[i])) {
					return false
				}
			}
		}
		if after = next; after == "" {
			return true
		}
	}
}

func deadLetter(group string, p driver.Partition, e *driver.Entry) (DeadLetter, error) {
	d := DeadLetter{Data: e.Msg.Body}
	readMeta(&e.Msg, &d.Meta)
	d.Group, d.Topic, d.Partition, d.Position = group, p.Topic, p.N, e.Order
	d.Entry, d.Revision = e.Name, e.Rev
	for _, a := range e.Msg.Attrs {
		if d.Attributes == nil {
			d.Attributes = map[string]string{}
		}
		d.Attributes[a.Name] = a.Value
	}
	r, err := engine.DecodeDead(e.Head)
	if err != nil {
		return d, &Error{Code: CodeUndecodable, Text: "the record of dead letter " + e.Name, Err: err}
	}
	d.Reason, d.Errors, d.Attempts, d.Attempt = Code(r.Code), r.Errors, r.Attempts, r.Attempts
	d.First, d.Died, d.Member, d.Stored = r.First, r.Died, r.Member, r.Stored
	for _, l := range r.Lives {
		d.Deaths = append(d.Deaths, Death{Died: time.UnixMilli(l.Died).UTC(), Reason: Code(l.Code), Attempts: l.Attempts,
			Replayed: time.UnixMilli(l.Replayed).UTC(), By: l.By})
	}
	if r.Edit != nil {
		d.Edited, d.EditedBy = time.UnixMilli(r.Edit.At).UTC(), r.Edit.By
	}
	return d, nil
}
