package jetstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
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
	codeAccountLimit     = 10002
	codeNoPeers          = 10005 // for so many replicas
	codeNotAvailable     = 10008 // while a leader is elected
	codeNotLeader        = 10009
	codeConsumerNotFound = 10014
	codeNoResources      = 10023
	codeNoAccount        = 10035
	codeNotForAccount    = 10039
	codeNoStorage        = 10047
	codeMessageTooLarge  = 10054
	codeStreamExists     = 10058
	codeStreamNotFound   = 10059
	codeNoMessage        = 10037
	codeSubjectOverlap   = 10065
	codeWrongLast        = 10071
	codeNotClustered     = 10074
	codeNotEnabled       = 10076
	codeStoreFailed      = 10077
	codeHeadersTooLarge  = 10097
	codeWrongLastBusy    = 10164 // another write that compares is under way
	codeIDBusy           = 10158 // a message with this id is on its way
	codeUnknownBatch     = 10208
	codeNobody           = 503 // of the connection's own
	maxBytesText         = "maximum bytes exceeded"
)

// Unwrap tells what the refusal means.
func (e *apiError) Unwrap() error {
	switch e.ErrCode {
	case codeStreamNotFound, codeConsumerNotFound, codeNoMessage:
		return driver.ErrNotFound
	case codeMessageTooLarge, codeHeadersTooLarge:
		return driver.ErrTooLarge
	case codeWrongLast, codeWrongLastBusy:
		return driver.ErrConflict
	case codeNoResources, codeNoStorage, codeAccountLimit:
		return driver.ErrNoSpace
	case codeStreamExists, codeSubjectOverlap, codeNoPeers, codeNotClustered, codeNotEnabled, codeNotForAccount, codeNoAccount:
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
	begun := time.Now() // monotonic
	for {
		data, err := d.requestOnce(ctx, subject, body)
		if err == nil && resp != nil {
			err = json.Unmarshal(data, resp)
		}
		if err == nil || !d.passes(ctx, subject, err) || time.Since(begun) > electionWait { // monotonic
			return err
		}
		select {
		case <-time.After(electionPause):
		case <-ctx.Done():
			return err
		}
	}
}

// While a cluster elects a leader, requests are refused or not answered at all.
const (
	electionWait  = 10 * time.Second
	electionPause = 50 * time.Millisecond
	readTry       = 3 * time.Second // for one attempt at what only reads
)

// passes tells whether a request may be repeated because a cluster had nobody to
// answer it: it was not carried out, or only reads.
func (d *jsDriver) passes(ctx context.Context, subject string, err error) bool {
	if !d.clustered || ctx.Err() != nil {
		return false
	}
	refused := (*apiError)(nil)
	if errors.As(err, &refused) {
		return refused.ErrCode == codeNotAvailable || refused.ErrCode == codeNotLeader
	}
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, context.DeadlineExceeded) && reads(subject)
}

// reads tells whether a request changes nothing.
func reads(subject string) bool {
	for _, prefix := range []string{"$JS.API.STREAM.INFO.", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.MSG.GET.", "$JS.API.CONSUMER.NAMES."} {
		if strings.HasPrefix(subject, prefix) {
			return true
		}
	}
	return false
}

// requestOnce returns the answer. A refusal is an *apiError.
func (d *jsDriver) requestOnce(ctx context.Context, subject string, body []byte) ([]byte, error) {
	if d.clustered && reads(subject) {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, readTry)
		defer cancel()
	}
	msg, err := d.call(ctx, &nats.Msg{Subject: subject, Data: body})
	if err != nil {
		return nil, err
	}
	var refused struct{ Error *apiError }
	if err := json.Unmarshal(msg.Data, &refused); err != nil {
		return nil, fmt.Errorf("jetstream: answer of %s: %w", subject, err)
	}
	if refused.Error != nil {
		if code := refused.Error.ErrCode; code == codeNotEnabled || code == codeNotForAccount || code == codeNoAccount {
			return nil, d.noJetStream(refused.Error)
		}
		return nil, fmt.Errorf("jetstream: %s: %w", subject, refused.Error)
	}
	return msg.Data, nil
}

// callSurely is call, and tries again while nobody is there to answer: a message
// that nobody takes was not carried out.
func (d *jsDriver) callSurely(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	begun := time.Now() // monotonic
	for {
		msg, err := d.call(ctx, m)
		if err == nil || !d.clustered || !errors.Is(err, nats.ErrNoResponders) || time.Since(begun) > electionWait { // monotonic
			return msg, err
		}
		select {
		case <-time.After(electionPause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// call sends a message and waits for the answer.
func (d *jsDriver) call(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	if ctx.Value(pastGate{}) == nil {
		if err := d.gone(); err != nil {
			return nil, err
		}
		d.mu.Lock()
		foreign := d.foreign
		d.mu.Unlock()
		if foreign != nil {
			return nil, foreign
		}
	}
	ctx, cancel := d.waiting(ctx, m.Subject)
	defer cancel()
	msg, err := d.nc.RequestMsgWithContext(ctx, m)
	switch {
	case err == nil:
		return msg, nil
	case errors.Is(err, nats.ErrNoResponders) && strings.HasPrefix(m.Subject, "$JS.API.STREAM."):
		return nil, d.noJetStream(err)
	}
	return nil, d.unavailable(m.Subject, why(ctx, err))
}

// pastGate is a context's value that lets a request pass though the store is not
// known to be the one that was opened: to find that out.
type pastGate struct{}

func (d *jsDriver) noJetStream(err error) error {
	return fmt.Errorf("jetstream: the server at %s has no JetStream for us: start it with -js, or with a jetstream block in its configuration, "+
		"and allow it for the account: %w: %w", d.opts.Store, driver.ErrUnavailable, err)
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
		Discard: "new", Storage: "file", Replicas: replicas, AllowDirect: true,
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
	Created time.Time    `json:"created"`
	Now     time.Time    `json:"ts"` // by the server\'s clock
	Config  streamConfig `json:"config"`
	State   streamState  `json:"state"`
	Total   int          `json:"total"`
}

func (d *jsDriver) streamInfo(ctx context.Context, stream string) (streamInfo, error) {
	var info streamInfo
	err := d.request(ctx, "$JS.API.STREAM.INFO."+stream, nil, &info)
	return info, err
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
	Name        string        `json:"name"`
	Durable     string        `json:"durable_name,omitempty"`
	Description string        `json:"description,omitempty"`
	Deliver     string        `json:"deliver_policy"`
	Start       uint64        `json:"opt_start_seq,omitempty"`
	Ack         string        `json:"ack_policy"`
	Filter      string        `json:"filter_subject,omitempty"`
	Replay      string        `json:"replay_policy"`
	MaxWaiting  int           `json:"max_waiting,omitempty"`
	HeadersOnly bool          `json:"headers_only,omitempty"`
	Inactive    time.Duration `json:"inactive_threshold,omitempty"`
	Replicas    int           `json:"num_replicas"`
	Memory      bool          `json:"mem_storage"`
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

// deleteStream succeeds when the stream does not exist.
func (d *jsDriver) deleteStream(ctx context.Context, name string) error {
	err := d.request(ctx, "$JS.API.STREAM.DELETE."+name, nil, nil)
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
	Purged    int64     `json:"purged"` // of the answer to a purge
	Error     *apiError `json:"error"`
}

// parseAck decodes an answer. Nobody at the subject is an answer too: surely not
// stored.
func parseAck(m *nats.Msg) (pubAck, error) {
	if status(m) == "503" {
		return pubAck{}, &apiError{Code: codeNobody, Description: "no stream takes this subject now"}
	}
	if a, ok := plainAck(m.Data); ok {
		return a, nil
	}
	var a pubAck
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return a, fmt.Errorf("answer %q: %w", m.Data, err)
	}
	return a, nil
}

// plainAck reads the answers that nearly all are, {"stream":"S","seq":1} and
// {"stream":"S","seq":9,"batch":"B","count":3}, without the reflection that JSON
// takes otherwise.
func plainAck(data []byte) (a pubAck, ok bool) {
	rest, ok := bytes.CutPrefix(data, []byte(`{"stream":"`))
	if !ok {
		return a, false
	}
	if _, rest, ok = bytes.Cut(rest, []byte(`","seq":`)); !ok {
		return a, false
	}
	if a.Seq, rest, ok = leadingNumber(rest); !ok {
		return a, false
	}
	if batch, isBatch := bytes.CutPrefix(rest, []byte(`,"batch":"`)); isBatch {
		if _, rest, ok = bytes.Cut(batch, []byte(`","count":`)); !ok {
			return a, false
		}
		var n uint64
		if n, rest, ok = leadingNumber(rest); !ok {
			return a, false
		}
		a.Count = int(n)
	}
	return a, string(rest) == "}"
}

// leadingNumber reads the digits at the beginning.
func leadingNumber(b []byte) (n uint64, rest []byte, ok bool) {
	i := 0
	for ; i < len(b) && i < 18 && '0' <= b[i] && b[i] <= '9'; i++ {
		n = n*10 + uint64(b[i]-'0')
	}
	return n, b[i:], i > 0
}

// status returns the status of a message that is not data, "" otherwise. Data may
// have a header of this name: it is known by its reply, from a consumer, or by its
// sequence, when it was read directly.
func status(m *nats.Msg) string {
	if len(m.Header) == 0 || len(m.Header["Nats-Sequence"]) > 0 || strings.HasPrefix(m.Reply, "$JS.ACK.") {
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
