package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
)

// The state stream holds one record a subject. A record is changed by comparing
// its revision, the sequence that it stands at.

// stateFormat is written into each record. A record of a higher format is refused.
const stateFormat = 1

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
}

// A position is where a group stands in a partition.
type position struct {
	format
	Fence    uint64 `json:"fence"` // of the last tenure
	Floor    uint64 `json:"floor"`
	Mark     uint64 `json:"mark"`
	Seen     uint64 `json:"seen"` // the last message that had been handed out
	Finished []byte `json:"finished,omitempty"`
	Clean    bool   `json:"clean,omitempty"`
	Member   string `json:"member,omitempty"` // the service that holds it, or did
}

func (d *jsDriver) stateConfig() streamConfig {
	c := fileStream(d.names.state(), "Posthorn: what is declared, and how far each group is", 0, d.names.stateSubjects())
	c.MaxPerSubject, c.Discard = 1, "old"
	return c
}

// getRecord reads a record and returns its revision. One that does not exist has
// revision 0.
func (d *jsDriver) getRecord(ctx context.Context, subject string, into any) (uint64, error) {
	m, err := d.call(ctx, &nats.Msg{Subject: "$JS.API.DIRECT.GET." + d.names.state() + "." + subject})
	if err != nil {
		return 0, err
	}
	switch s := status(m); s {
	case "":
		return sequence(m), decodeRecord(subject, m.Data, into)
	case "404":
		return 0, nil
	default:
		return 0, fmt.Errorf("jetstream: reading %s: status %s: %w", subject, s, driver.ErrUnavailable)
	}
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
	m, err := d.call(ctx, &nats.Msg{Subject: subject, Data: data, Header: nats.Header{
		"Nats-Expected-Last-Subject-Sequence": {strconv.FormatUint(rev, 10)},
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

// updateRecord reads a record, lets change it and writes it back until nobody
// interferes. change returns whether there is anything to write.
func updateRecord[T any](ctx context.Context, d *jsDriver, subject string, change func(r *T, exists bool) (bool, error)) (T, error) {
	for {
		var r T
		rev, err := d.getRecord(ctx, subject, &r)
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
	}
}
