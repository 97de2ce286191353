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

// apiError is how the server refuses something.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *apiError) Error() string { return fmt.Sprintf("%s (%d)", e.Description, e.ErrCode) }

// Numbers of refusals, as the server gives them.
const (
	codeConsumerNotFound = 10014
	codeNoResources      = 10023
	codeNoStorage        = 10047
	codeMessageTooLarge  = 10054
	codeStreamExists     = 10058
	codeStreamNotFound   = 10059
	codeWrongLast        = 10071
	codeStoreFailed      = 10077
	codeHeadersTooLarge  = 10097
	codeUnknownBatch     = 10208
	maxBytesText         = "maximum bytes exceeded"
)

// Unwrap tells what the refusal means.
func (e *apiError) Unwrap() error {
	switch e.ErrCode {
	case codeStreamNotFound, codeConsumerNotFound:
		return driver.ErrNotFound
	case codeMessageTooLarge, codeHeadersTooLarge:
		return driver.ErrTooLarge
	case codeWrongLast:
		return driver.ErrConflict
	case codeNoResources, codeNoStorage:
		return driver.ErrNoSpace
	case codeStreamExists:
		return driver.ErrMismatch
	case codeStoreFailed:
		if e.Description == maxBytesText {
			return driver.ErrTopicFull
		}
	}
	return driver.ErrUnavailable
}

// request sends a request and decodes the answer. A refusal is an *apiError.
func (d *jsDriver) request(ctx context.Context, subject string, req, resp any) error {
	var body []byte
	if req != nil {
		var err error
		if body, err = json.Marshal(req); err != nil {
			return err
		}
	}
	msg, err := d.call(ctx, &nats.Msg{Subject: subject, Data: body})
	if err != nil {
		return err
	}
	var refused struct{ Error *apiError }
	if err := json.Unmarshal(msg.Data, &refused); err != nil {
		return fmt.Errorf("jetstream: answer of %s: %w", subject, err)
	}
	if refused.Error != nil {
		return fmt.Errorf("jetstream: %s: %w", subject, refused.Error)
	}
	if resp == nil {
		return nil
	}
	return json.Unmarshal(msg.Data, resp)
}

// call sends a message and waits for the answer.
func (d *jsDriver) call(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	ctx, cancel := d.waiting(ctx)
	defer cancel()
	msg, err := d.nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return nil, d.unavailable(m.Subject, err)
	}
	return msg, nil
}

type streamConfig struct {
	Name           string            `json:"name"`
	Description    string            `json:"description,omitempty"`
	Subjects       []string          `json:"subjects"`
	Retention      string            `json:"retention"`
	MaxConsumers   int               `json:"max_consumers"`
	MaxMsgs        int64             `json:"max_msgs"`
	MaxBytes       int64             `json:"max_bytes"`
	MaxAge         int64             `json:"max_age"`
	MaxPerSubject  int64             `json:"max_msgs_per_subject"`
	MaxMsgSize     int32             `json:"max_msg_size"`
	Discard        string            `json:"discard"`
	Storage        string            `json:"storage"`
	Replicas       int               `json:"num_replicas"`
	Duplicates     time.Duration     `json:"duplicate_window,omitempty"`
	AllowDirect    bool              `json:"allow_direct"`
	AllowBatched   bool              `json:"allow_batched,omitempty"`
	Metadata       map[string]string `json:"metadata,omitempty"`
	MirrorDirect   bool              `json:"mirror_direct"`
	AllowRollupHdr bool              `json:"allow_rollup_hdrs"`
}

// fileStream is what all our streams have in common: nothing goes by itself.
func fileStream(name, why string, replicas int, subjects ...string) streamConfig {
	return streamConfig{
		Name: name, Description: why, Subjects: subjects,
		Retention: "limits", MaxConsumers: -1, MaxMsgs: -1, MaxBytes: -1, MaxPerSubject: -1, MaxMsgSize: -1,
		Discard: "new", Storage: "file", Replicas: max(replicas, 1), AllowDirect: true,
	}
}

type streamState struct {
	Msgs     uint64            `json:"messages"`
	Bytes    uint64            `json:"bytes"`
	First    uint64            `json:"first_seq"`
	Last     uint64            `json:"last_seq"`
	Deleted  int               `json:"num_deleted"`
	Subjects map[string]uint64 `json:"subjects"`
}

type streamInfo struct {
	Config streamConfig `json:"config"`
	State  streamState  `json:"state"`
	Total  int          `json:"total"`
}

func (d *jsDriver) streamInfo(ctx context.Context, stream string) (streamInfo, error) {
	var info streamInfo
	err := d.request(ctx, "$JS.API.STREAM.INFO."+stream, nil, &info)
	return info, err
}

// ensureStream creates a stream unless it stands.
func (d *jsDriver) ensureStream(ctx context.Context, c streamConfig) error {
	err := d.request(ctx, "$JS.API.STREAM.CREATE."+c.Name, c, nil)
	if refused := (*apiError)(nil); errors.As(err, &refused) && refused.ErrCode == codeStreamExists {
		return nil // made by another version of us, with other settings: what stands wins
	}
	return err
}

type purgeRequest struct {
	Filter string `json:"filter,omitempty"`
	Seq    uint64 `json:"seq,omitempty"`
}

func (d *jsDriver) purge(ctx context.Context, stream string, req purgeRequest) (int64, error) {
	var resp struct{ Purged int64 }
	err := d.request(ctx, "$JS.API.STREAM.PURGE."+stream, req, &resp)
	return resp.Purged, err
}

type consumerConfig struct {
	Name          string        `json:"name"`
	Durable       string        `json:"durable_name,omitempty"`
	Description   string        `json:"description,omitempty"`
	Deliver       string        `json:"deliver_policy"`
	Start         uint64        `json:"opt_start_seq,omitempty"`
	Ack           string        `json:"ack_policy"`
	AckWait       time.Duration `json:"ack_wait,omitempty"`
	MaxDeliver    int           `json:"max_deliver,omitempty"`
	Filter        string        `json:"filter_subject,omitempty"`
	Replay        string        `json:"replay_policy"`
	MaxWaiting    int           `json:"max_waiting,omitempty"`
	MaxAckPending int           `json:"max_ack_pending,omitempty"`
	HeadersOnly   bool          `json:"headers_only,omitempty"`
	Inactive      time.Duration `json:"inactive_threshold,omitempty"`
	Replicas      int           `json:"num_replicas"`
	Memory        bool          `json:"mem_storage"`
}

type consumerInfo struct {
	Name    string `json:"name"`
	Pending uint64 `json:"num_pending"`
}

func (d *jsDriver) createConsumer(ctx context.Context, stream string, c consumerConfig) (consumerInfo, error) {
	req := struct {
		Stream string         `json:"stream_name"`
		Config consumerConfig `json:"config"`
		Action string         `json:"action"`
	}{stream, c, "create"}
	subject := "$JS.API.CONSUMER.CREATE." + stream + "." + c.Name
	if c.Filter != "" {
		subject += "." + c.Filter
	}
	var info consumerInfo
	err := d.request(ctx, subject, req, &info)
	return info, err
}

// deleteConsumer succeeds when the consumer does not exist.
func (d *jsDriver) deleteConsumer(ctx context.Context, stream, name string) error {
	err := d.request(ctx, "$JS.API.CONSUMER.DELETE."+stream+"."+name, nil, nil)
	if errors.Is(err, driver.ErrNotFound) {
		return nil
	}
	return err
}

// listNames walks over the pages of a list.
func (d *jsDriver) listNames(ctx context.Context, subject, field string) ([]string, error) {
	var all []string
	for {
		var page map[string]json.RawMessage
		if err := d.request(ctx, subject, map[string]int{"offset": len(all)}, &page); err != nil {
			return nil, err
		}
		var names []string
		var total int
		if raw, ok := page[field]; ok {
			if err := json.Unmarshal(raw, &names); err != nil {
				return nil, err
			}
		}
		if err := json.Unmarshal(page["total"], &total); err != nil {
			return nil, err
		}
		all = append(all, names...)
		if len(names) == 0 || len(all) >= total {
			return all, nil
		}
	}
}

func (d *jsDriver) consumerNames(ctx context.Context, stream string) ([]string, error) {
	return d.listNames(ctx, "$JS.API.CONSUMER.NAMES."+stream, "consumers")
}

func (d *jsDriver) streamNames(ctx context.Context) ([]string, error) {
	return d.listNames(ctx, "$JS.API.STREAM.NAMES", "streams")
}

// A pubAck answers a message that was published.
type pubAck struct {
	Type      string    `json:"type"` // of a batch's other answers: ack, gap, err
	Seq       uint64    `json:"seq"`
	Duplicate bool      `json:"duplicate"`
	Count     int       `json:"count"`
	Error     *apiError `json:"error"`
}

// parseAck decodes an answer. Nobody at the subject is an answer too: surely not
// stored.
func parseAck(m *nats.Msg) (pubAck, error) {
	if status(m) == "503" {
		return pubAck{}, &apiError{Code: 503, Description: "no stream takes this subject now"}
	}
	var a pubAck
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return a, fmt.Errorf("answer %q: %w", m.Data, err)
	}
	return a, nil
}

// status returns the status of a message that is not data, "" otherwise.
func status(m *nats.Msg) string {
	if len(m.Header) == 0 {
		return ""
	}
	return first(m.Header["Status"])
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

// sequence is where a message that was read directly stands.
func sequence(m *nats.Msg) uint64 {
	n, _ := strconv.ParseUint(first(m.Header["Nats-Sequence"]), 10, 64)
	return n
}
