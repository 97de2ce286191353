package engine

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
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
}

// DecodeDead reads the head of an entry.
func DecodeDead(head []byte) (DeadRecord, error) {
	r, err := decodeRecord(head)
	return DeadRecord{
		Attempts: r.Attempts, Boots: r.Boots, Errors: r.Errors, Code: r.Code, Member: r.Member, Bad: r.Bad,
		First: fromMillis(r.First), Died: fromMillis(r.Died), Stored: fromMillis(r.Stored), Order: r.Order,
	}, err
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
