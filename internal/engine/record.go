package engine

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// recordFormat is the number of the format below. Readers take any number up to
// theirs, and newer ones too as long as the fields they know still mean the same:
// a change that breaks that is a new field.
const recordFormat = 1

// maxErrors bounds the chain of errors in a record, in bytes.
const maxErrors = 8 << 10

// maxAttempts is more than there can be: what says so is damaged.
const maxAttempts = 1 << 30

// A record is the head of a lane entry: what is known of a message beside
// itself. It is JSON; docs/wire.md describes it.
type record struct {
	Format   int      `json:"v"`
	Attempts int      `json:"a,omitempty"` // that ended, with an error or with their process
	Boots    int      `json:"n,omitempty"` // of these, starts that ended with their process
	Errors   []string `json:"e,omitempty"` // of the attempts, oldest first
	Code     string   `json:"c,omitempty"` // of the last error
	First    int64    `json:"f,omitempty"` // first attempt, Unix milliseconds
	Died     int64    `json:"d,omitempty"` // when the group gave up, Unix milliseconds
	Stored   int64    `json:"s,omitempty"` // by the broker, Unix milliseconds
	Order    uint64   `json:"o,omitempty"` // the position in the partition
	Member   string   `json:"m,omitempty"` // who saw it last
	Bad      string   `json:"b,omitempty"` // why the attributes could not be read
	Lives    []Life   `json:"l,omitempty"` // what it died of before, oldest first
	Edit     *Edit    `json:"w,omitempty"` // of its data or headers, the last
	Reason   string   `json:"r,omitempty"` // why it was discarded
	By       string   `json:"y,omitempty"` // who discarded it
	Cut      bool     `json:"u,omitempty"` // data and headers are left out: they do not fit into the lane
}

// A Life is what a message had behind it when it was replayed.
type Life struct {
	Attempts int    `json:"a,omitempty"`
	Code     string `json:"c,omitempty"` // of the last error
	Died     int64  `json:"d,omitempty"` // Unix milliseconds
	Replayed int64  `json:"t,omitempty"` // Unix milliseconds
	By       string `json:"y,omitempty"`
}

// maxLives is how many a record keeps, the last ones.
const maxLives = 10

// An Edit says that a message is not as it was published.
type Edit struct {
	At int64  `json:"t,omitempty"` // Unix milliseconds
	By string `json:"y,omitempty"`
}

func (r record) encode() []byte {
	r.Format = recordFormat
	b, _ := json.Marshal(r)
	return b
}

func decodeRecord(head []byte) (record, error) {
	var r record
	if len(head) == 0 {
		return r, fmt.Errorf("lane record: empty")
	}
	if err := json.Unmarshal(head, &r); err != nil {
		return r, fmt.Errorf("lane record: %w", err)
	}
	if r.Format < 1 || r.Attempts < 0 || r.Attempts > maxAttempts || r.Boots < 0 || r.Boots > maxAttempts {
		return r, fmt.Errorf("lane record: format %d, %d attempts, %d boots", r.Format, r.Attempts, r.Boots)
	}
	return r, nil
}

// fail notes a failed attempt.
func (r *record) fail(v Verdict, started time.Time) {
	r.Attempts++
	r.note(v, started)
}

// note adds an error without counting an attempt.
func (r *record) note(v Verdict, at time.Time) {
	if r.First == 0 {
		r.First = at.UnixMilli()
	}
	r.Code = v.Code
	text := "unknown error"
	if v.Err != nil {
		text = strings.ToValidUTF8(v.Err.Error(), "\uFFFD")
	}
	if len(text) > maxErrors/2 {
		text = strings.ToValidUTF8(text[:maxErrors/2], "") + " (cut)"
	}
	r.Errors = append(r.Errors, text)
	total := 0
	for _, e := range r.Errors {
		total += len(e)
	}
	// The first error says how it began, the last ones how it ended: what is cut
	// comes out of the middle.
	for total > maxErrors && len(r.Errors) > 2 {
		total -= len(r.Errors[1])
		r.Errors = append(r.Errors[:1], r.Errors[2:]...)
	}
}

// A DeadRecord is what an entry says, a dead letter's above all.
type DeadRecord struct {
	Attempts, Boots     int
	Errors              []string
	Code, Member, Bad   string
	First, Died, Stored time.Time
	Order               uint64
	Lives               []Life
	Edit                *Edit
	Reason, By          string
}

// DecodeDead reads the head of an entry.
func DecodeDead(head []byte) (DeadRecord, error) {
	r, err := decodeRecord(head)
	return DeadRecord{
		Attempts: r.Attempts, Boots: r.Boots, Errors: r.Errors, Code: r.Code, Member: r.Member, Bad: r.Bad,
		First: fromMillis(r.First), Died: fromMillis(r.Died), Stored: fromMillis(r.Stored), Order: r.Order,
		Lives: r.Lives, Edit: r.Edit, Reason: r.Reason, By: r.By,
	}, err
}

// Replayed makes of a dead letter an entry that is due at a time, with all attempts
// before it again. What it died of stays with it.
func Replayed(e driver.Entry, by string, at time.Time) (*driver.Entry, error) {
	r, err := decodeRecord(e.Head)
	if err != nil {
		return nil, err
	}
	if r.Cut {
		return nil, fmt.Errorf("its data did not fit into the lane and is not here; the event is kept at position %d of its partition as long as the topic keeps it", r.Order)
	}
	r.Lives = append(r.Lives, Life{Attempts: r.Attempts, Code: r.Code, Died: r.Died, Replayed: at.UnixMilli(), By: by})
	r.Lives = r.Lives[max(0, len(r.Lives)-maxLives):]
	r.Attempts, r.Boots, r.Died = 0, 0, 0
	e.State, e.Due, e.Head = driver.Due, at, r.encode()
	return &e, nil
}

// replayed tells whether an entry was replayed, and nobody has tried it since.
func (r *record) replayed() bool { return len(r.Lives) > 0 && r.Attempts == 0 && r.Died == 0 }

// IsReplayed tells whether an entry was replayed, and nobody has tried it since.
func IsReplayed(e *driver.Entry) bool {
	r, err := decodeRecord(e.Head)
	return err == nil && e.State == driver.Due && r.replayed()
}

// Edited notes that a dead letter's message was changed.
func Edited(e driver.Entry, by string, at time.Time) (*driver.Entry, error) {
	r, err := decodeRecord(e.Head)
	if err != nil {
		return nil, err
	}
	r.Edit = &Edit{At: at.UnixMilli(), By: by}
	r.Cut = r.Cut && len(e.Msg.Body) == 0
	e.Head = r.encode()
	return &e, nil
}

// Discard makes of a dead letter an entry that the holder of the lane deletes.
func Discard(e driver.Entry, by, reason string) *driver.Entry {
	r, _ := decodeRecord(e.Head) // one that cannot be read can be discarded
	r.Reason, r.By = reason, by
	e.State, e.Due, e.Head = driver.Discarded, time.Time{}, r.encode()
	e.Msg.Attrs, e.Msg.Headers, e.Msg.Body = nil, nil, nil
	return &e
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
