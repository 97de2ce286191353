package deadletter

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/posthorn/posthorn"
)

// A Record is a dead letter in JSON: the whole event, and all that is known of its end.
type Record struct {
	Group       string            `json:"group"`
	ID          string            `json:"id"`
	Source      string            `json:"source"`
	Type        string            `json:"type"`
	Key         string            `json:"key"`
	Topic       string            `json:"topic"`
	Partition   int               `json:"partition"`
	Position    uint64            `json:"position"`
	Time        *time.Time        `json:"time,omitempty"`
	Stored      *time.Time        `json:"stored,omitempty"`
	ContentType string            `json:"content_type,omitempty"`
	Attributes  map[string]string `json:"attributes,omitempty"`
	Headers     map[string]string `json:"headers,omitempty"`
	Data        json.RawMessage   `json:"data,omitempty"`
	Base64      []byte            `json:"data_base64,omitempty"`
	Reason      posthorn.Code     `json:"reason"`
	Errors      []string          `json:"errors"`
	Attempts    int               `json:"attempts"`
	First       *time.Time        `json:"first,omitempty"`
	Died        *time.Time        `json:"died,omitempty"`
	Member      string            `json:"member,omitempty"`
	Deaths      []DeathRecord     `json:"deaths,omitempty"`
	Edited      *time.Time        `json:"edited,omitempty"`
	EditedBy    string            `json:"edited_by,omitempty"`
	Revision    uint64            `json:"revision"`
}

// A DeathRecord is an earlier death of a dead letter in JSON.
type DeathRecord struct {
	Died     *time.Time    `json:"died,omitempty"`
	Reason   posthorn.Code `json:"reason"`
	Attempts int           `json:"attempts"`
	Replayed *time.Time    `json:"replayed,omitempty"`
	By       string        `json:"by"`
}

// RecordOf is a dead letter as it is exported. Data that is JSON stands in it as it
// is, any other in base64.
func RecordOf(l Letter) Record {
	r := Record{Group: l.Group, ID: l.ID, Source: l.Source, Type: l.Type, Key: l.Key, Topic: l.Topic, Partition: l.Partition, Position: l.Position,
		Time: optional(l.Time), Stored: optional(l.Stored), ContentType: l.ContentType, Attributes: l.Attributes, Headers: l.Headers,
		Reason: l.Reason, Errors: append([]string{}, l.Errors...), Attempts: l.Attempts, First: optional(l.First), Died: optional(l.Died), Member: l.Member,
		Edited: optional(l.Edited), EditedBy: l.EditedBy, Revision: l.Revision}
	if json.Valid(l.Data) {
		r.Data = l.Data
	} else {
		r.Base64 = l.Data
	}
	for _, d := range l.Deaths {
		r.Deaths = append(r.Deaths, DeathRecord{Died: optional(d.Died), Reason: d.Reason, Attempts: d.Attempts, Replayed: optional(d.Replayed), By: d.By})
	}
	return r
}

func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// Export writes dead letters as JSON, one [Record] a line, and returns how many it
// wrote. Nothing is changed. A record that cannot be read comes with its event.
func Export(ctx context.Context, bus *posthorn.Bus, q Query, w io.Writer) (n int, err error) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for l, err := range List(ctx, bus, q) {
		if err != nil && l.Entry == "" {
			return n, err
		}
		if err := enc.Encode(RecordOf(l)); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
