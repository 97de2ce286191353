package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
)

// The state stream holds one record a subject. A record is changed by comparing
// its revision, the sequence that it stands at.

// stateFormat is written into each record. A record of a higher format is refused.
const stateFormat = 1

// Headers by which the server compares before it stores.
const (
	headerExpect   = "Nats-Expected-Last-Subject-Sequence"
	headerExpectOf = "Nats-Expected-Last-Subject-Sequence-Subject"
)

// headerRollup has the server purge what stood at the subject before. A limit of
// one message a subject would not do: after a crash the server knows what was
// purged and not what a limit has removed, so that a record which was replaced and
// then deleted would be there again as it was before it was replaced.
const (
	headerRollup  = "Nats-Rollup"
	rollupSubject = "sub"
)

type format struct {
	Format int `json:"format"`
}

type topicRecord struct {
	format
	Spec driver.TopicSpec `json:"spec"`
	// Ready says that all streams have been made once: one that is missing has
	// been lost.
	Ready bool `json:"ready"`
}

type groupRecord struct {
	format
	Spec driver.GroupSpec `json:"spec"`
	// Grew is, for each topic, the version that added types to it last.
	Grew map[string]int `json:"grew,omitempty"`
}

// A position is where a group stands in a partition.
type position struct {
	format
	Fence    uint64 `json:"fence"` // of the last tenure
	Begin    uint64 `json:"begin"` // what stands up to here was before the group began, or was last reset
	Floor    uint64 `json:"floor"`
	Mark     uint64 `json:"mark"`
	Seen     uint64 `json:"seen"` // the last message that had been handed out
	Finished []byte `json:"finished,omitempty"`
	Clean    bool   `json:"clean,omitempty"`
	// Member holds it, or did and has not released it.
	Member string `json:"member,omitempty"`
	// Version is the group's version that the partition has been told of.
	Version int `json:"version,omitempty"`
	// Made is when the stream was created that the positions are of; zero: not
	// known.
	Made time.Time `json:"made,omitzero"`
}

// replaced tells whether the stream was deleted and made anew since the record was
// written: its positions say nothing then.
func (r *position) replaced(info streamInfo) bool {
	return !r.Made.IsZero() && !r.Made.Equal(info.Created)
}

// A memberRecord is a member's sign of life, written again at each of its beats.
type memberRecord struct {
	format
	Service string        `json:"service"`
	Topics  []string      `json:"topics"` // that it can take
	Lease   time.Duration `json:"lease"`
	Started time.Time     `json:"started"` // by its own wall clock
	Nonce   string        `json:"nonce"`   // nobody else writes it
	Beats   uint64        `json:"beats"`
	Moves   uint64        `json:"moves"` // counts what it has given back
	Knows   int           `json:"knows"` // the version of the group's record that it was told of
	Status  driver.Status `json:"status"`
}

// A fenceRecord is the message that the lane writes of a tenure are held against.
type fenceRecord struct {
	format
	Fence  uint64 `json:"fence"`
	Member string `json:"member"`
}

func (d *jsDriver) stateConfig() streamConfig {
	c := fileStream(d.names.state(), "Posthorn: what is declared, and how far each group is", 0, d.names.stateSubjects())
	c.Discard, c.AllowRollupHdr = "old", true
	return c
}

// getRecord reads a record and returns its revision. One that does not exist has
// revision 0.
func (d *jsDriver) getRecord(ctx context.Context, subject string, into any) (uint64, error) {
	m, err := d.callSurely(ctx, &nats.Msg{Subject: "$JS.API.DIRECT.GET." + d.names.state() + "." + subject})
	if err != nil {
		return 0, err
	}
	switch s := status(m); s {
	case "":
		return sequence(m), decodeRecord(subject, m.Data, into)
	case "404":
		if d.clustered { // not yet there, perhaps, where it was looked for
			return d.getRecordNow(ctx, subject, into)
		}
		return 0, nil
	default:
		return 0, fmt.Errorf("jetstream: reading %s: status %s: %w", subject, s, driver.ErrUnavailable)
	}
}

// getRecordNow is getRecord, but asks the leader: a replica may be behind.
func (d *jsDriver) getRecordNow(ctx context.Context, subject string, into any) (uint64, error) {
	var resp struct {
		Message struct {
			Seq  uint64 `json:"seq"`
			Data []byte `json:"data"`
		} `json:"message"`
	}
	err := d.request(ctx, "$JS.API.STREAM.MSG.GET."+d.names.state(), map[string]string{"last_by_subj": subject}, &resp)
	if refused := (*apiError)(nil); errors.As(err, &refused) && refused.ErrCode == codeNoMessage {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return resp.Message.Seq, decodeRecord(subject, resp.Message.Data, into)
}

func decodeRecord(subject string, data []byte, into any) error {
	var f format
	if err := json.Unmarshal(data, &f); err != nil {
		return fmt.Errorf("jetstream: record %s: %w", subject, err)
	}
	if f.Format != stateFormat {
		return fmt.Errorf("jetstream: record %s has format %d, this version knows %d: use the version that wrote it: %w",
			subject, f.Format, stateFormat, driver.ErrMismatch)
	}
	return json.Unmarshal(data, into)
}

// putRecord replaces a record that still has the revision, 0 for one that must
// not exist, and returns the new one. ErrConflict: somebody else was there first.
// It is not durable yet.
func (d *jsDriver) putRecord(ctx context.Context, subject string, rev uint64, record any) (uint64, error) {
	data, err := json.Marshal(record)
	if err != nil {
		return 0, err
	}
	return d.put(ctx, subject, rev, data)
}

// put is putRecord for what is encoded, in any stream.
func (d *jsDriver) put(ctx context.Context, subject string, rev uint64, data []byte) (uint64, error) {
	m, err := d.callSurely(ctx, &nats.Msg{Subject: subject, Data: data, Header: nats.Header{
		headerExpect: {strconv.FormatUint(rev, 10)},
		headerRollup: {rollupSubject},
	}})
	if err != nil {
		return 0, err
	}
	ack, err := parseAck(m)
	if err == nil && ack.Error != nil {
		err = ack.Error
	}
	if err != nil {
		return 0, fmt.Errorf("jetstream: record %s: %w", subject, err)
	}
	return ack.Seq, nil
}

// deleteRecord deletes a record that still has the revision, and tells whether
// it did.
func (d *jsDriver) deleteRecord(ctx context.Context, subject string, rev uint64) (bool, error) {
	n, err := d.purge(ctx, d.names.state(), purgeRequest{Filter: subject, Seq: rev + 1})
	return n > 0, err
}

// updateRecord reads a record, lets change it and writes it back until nobody
// interferes. change returns whether there is anything to write.
func updateRecord[T any](ctx context.Context, d *jsDriver, subject string, change func(r *T, exists bool) (bool, error)) (T, error) {
	get := d.getRecord
	for {
		var r T
		rev, err := get(ctx, subject, &r)
		if err != nil {
			return r, err
		}
		write, err := change(&r, rev != 0)
		if err != nil || !write {
			return r, err
		}
		if _, err = d.putRecord(ctx, subject, rev, &r); !errors.Is(err, driver.ErrConflict) {
			return r, err
		}
		get = d.getRecordNow
	}
}
