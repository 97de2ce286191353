package deadletter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"slices"
	"strings"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/internal/bridge"
	"github.com/posthorn/posthorn/internal/engine"
)

// A Change says what an edit changes. The event keeps its id, source, type, key and
// time, so that all that knows of it knows it still.
type Change struct {
	// By names who does it, and Reason says why, for the notes. Default of By: this
	// opening of the bus.
	By, Reason string
	// Data is the new data; nil leaves it as it is.
	Data []byte
	// ContentType is the new one; "" leaves it as it is.
	ContentType string
	// Headers are set; with an empty value they are removed.
	Headers map[string]string
	// Check is asked whether the edited event is as it has to be; its error refuses the
	// edit. Default: data whose content type is JSON has to be JSON.
	Check func(Letter) error
}

// Edit changes a dead letter's data or headers. It stays a dead letter, and is
// replayed as any other one. Its note keeps the event as it was. The letter has to be
// as [List] or [Get] returned it: when somebody has replayed, edited or discarded it
// since, it is an error with CodeConflict. With Revision set to 0 it may have been
// edited since. What Check refuses, a header that an event
// may not have and a change that changes nothing are errors with CodeInvalid; data
// above the limit is one with CodeTooLarge. It returns the letter as it stands.
func Edit(ctx context.Context, bus *posthorn.Bus, letter Letter, c Change) (Letter, error) {
	b := bridge.Of(bus)
	w := &walk{b: b, q: Query{Groups: []string{letter.Group}, Topics: []string{letter.Topic}}}
	p := driver.Partition{Topic: letter.Topic, N: letter.Partition}
	var notes []oldNote
	err := w.groups(ctx, func(driver.GroupSpec) error {
		return w.lanes(ctx, letter.Group, func(at driver.Partition, e *driver.Entry) {
			if at == p {
				notes = append(notes, oldNoteOf(e))
			}
		}, func(driver.Partition, []driver.Entry) error { return nil })
	})
	if err != nil {
		return letter, err
	}
	if c.By == "" {
		c.By = b.Member
	}
	if c.Check == nil {
		c.Check = checkJSON
	}
	for try := 1; ; try++ {
		edited, err := c.try(ctx, b, p, letter, notes)
		if posthorn.CodeOf(err) != posthorn.CodeConflict || try == conflictTries {
			return edited, err
		}
		select { // what answered may be a replica that is behind
		case <-time.After(conflictPause):
		case <-ctx.Done():
			return letter, err
		}
	}
}

// try edits a letter as it stands.
func (c *Change) try(ctx context.Context, b bridge.Bus, p driver.Partition, letter Letter, notes []oldNote) (Letter, error) {
	lane := b.Driver.Lane(letter.Group, p)
	entries, err := lane.Get(ctx, []string{letter.Entry})
	if err != nil {
		return letter, b.Wrap(err, "edit "+letter.ID)
	}
	if len(entries) == 0 || entries[0].State != driver.Dead || letter.Revision != 0 && entries[0].Rev != letter.Revision {
		return letter, changed(letter)
	}
	old := entries[0]
	e, err := c.apply(b, old)
	if err != nil {
		return letter, err
	}
	l, _ := b.Letter(letter.Group, p, e)
	if err := c.Check(l.(Letter)); err != nil {
		return letter, &posthorn.Error{Code: posthorn.CodeInvalid, Text: "edit " + letter.ID, Err: err}
	}
	note := &notebook{lane: lane, head: noteHead{Action: ActionEdit, By: c.By, Reason: c.Reason, Query: "id " + letter.ID, IDs: []string{letter.ID},
		Matched: 1, Size: old.Msg.Size(), Head: old.Head, Order: old.Order, Entry: old.Name}, entry: driver.Entry{Msg: old.Msg}}
	if err := note.begin(ctx, b.Now(), notes); err != nil {
		return letter, b.Wrap(err, fmt.Sprintf("edit %s: nothing was done, since no note of it can be kept", letter.ID))
	}
	err = lane.Apply(ctx, []driver.LaneOp{{Entry: e}})
	switch {
	case errors.Is(err, driver.ErrConflict):
		note.head.Skipped, err = 1, changed(letter)
	case err != nil:
		err = b.Wrap(err, fmt.Sprintf("edit %s: it may have been edited", letter.ID))
	default:
		note.head.Done = 1
	}
	if e := note.end(ctx, b.Now(), err); e != nil {
		b.Log.Warn("dead letters: the note of an edit does not say how it ended", "group", letter.Group, "id", letter.ID, "error", e)
	}
	if err != nil {
		return letter, err
	}
	l, err = b.Letter(letter.Group, p, e)
	return l.(Letter), err
}

func changed(l Letter) error {
	return errorf(posthorn.CodeConflict, "dead letter %s of group %q was replayed, edited or discarded since it was read; look at it again", l.ID, l.Group)
}

// apply makes the edited entry.
func (c *Change) apply(b bridge.Bus, old driver.Entry) (*driver.Entry, error) {
	id := old.Msg.ID
	if len(c.Reason) > maxReason {
		return nil, errorf(posthorn.CodeInvalid, "edit %s: the reason is %d bytes long; at most %d are allowed", id, len(c.Reason), maxReason)
	}
	if c.Data == nil && c.ContentType == "" && len(c.Headers) == 0 {
		return nil, errorf(posthorn.CodeInvalid, "edit %s: neither data nor headers are given", id)
	}
	if len(c.Data) > b.MaxPayload {
		return nil, errorf(posthorn.CodeTooLarge, "edit %s: the data is %d bytes, the limit is %d", id, len(c.Data), b.MaxPayload)
	}
	e, err := engine.Edited(old, c.By, b.Now())
	if err != nil {
		return nil, &posthorn.Error{Code: posthorn.CodeUndecodable, Text: "edit " + id, Err: err}
	}
	if c.Data != nil {
		e.Msg.Body = c.Data
	}
	if c.ContentType != "" {
		if _, _, err := mime.ParseMediaType(c.ContentType); err != nil {
			return nil, errorf(posthorn.CodeInvalid, "edit %s: the content type %q cannot be read: %v", id, c.ContentType, err)
		}
		e.Msg.ContentType = c.ContentType
	}
	e.Msg.Headers = slices.Clone(e.Msg.Headers)
	for name, value := range c.Headers {
		e.Msg.Headers = slices.DeleteFunc(e.Msg.Headers, func(h driver.Attr) bool { return strings.EqualFold(h.Name, name) })
		if value != "" {
			h := driver.Attr{Name: name, Value: value}
			if err := b.Headers([]driver.Attr{h}); err != nil {
				return nil, err
			}
			e.Msg.Headers = append(e.Msg.Headers, h)
		}
	}
	slices.SortFunc(e.Msg.Headers, func(x, y driver.Attr) int { return strings.Compare(x.Name, y.Name) })
	return e, b.Headers(e.Msg.Headers)
}

// checkJSON refuses data that is said to be JSON and is none.
func checkJSON(l Letter) error {
	media, _, _ := mime.ParseMediaType(l.ContentType)
	if media != "application/json" && !strings.HasSuffix(media, "+json") || json.Valid(l.Data) {
		return nil
	}
	var into any
	return fmt.Errorf("the data is not JSON, as its content type %s says: %w", l.ContentType, json.Unmarshal(l.Data, &into))
}
