package jetstream

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
)

// refusalGrace is how long a batch that ended early waits for the server to
// refuse the rest by name, which it does at once.
const refusalGrace = 2 * time.Second

// A batch is one Append under way. Its messages have sequences from 1, without
// those that were left out. Each is in the end stored, refused by name, or
// unknown.
type batch struct {
	w        *writer
	msgs     []driver.Message
	out      []driver.Outcome
	done     func([]driver.Outcome)
	bytes    int
	plain    bool   // one message, published as any
	acks     string // where serve takes the acknowledgements that it passes on; empty: they come to us
	token    string
	begun    time.Time
	deadline time.Time
	timer    *time.Timer

	ids   map[string]int // of a cluster only: where each id stands first
	twins map[int]int    // messages whose id stands before, and where

	mu      sync.Mutex
	index   []int // of the messages that were sent; nil: all, as they are
	n       int   // how many were sent
	sent    bool  // all that will be
	late    bool  // the timer has gone off
	acked   bool  // the server has told how many it has stored
	stored  int   // the first so many
	durable bool  // what is stored has been synced
	syncErr error // or will not be
	refused int   // so many were refused by name
	cause   error // of the first refusal
	denied  error // the right to publish is missing
	busy    bool  // an id was refused because a copy is on its way
	looking bool  // for such copies
	ended   bool
}

// take counts message i as sent and returns its sequence.
func (b *batch) take(i int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.index != nil {
		b.index = append(b.index, i)
	}
	b.n++
	return b.n
}

func (b *batch) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n
}

// leaveOut says that message i is not sent.
func (b *batch) leaveOut(i int, o driver.Outcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.out[i] = o
	if b.index == nil {
		b.index = make([]int, b.n, len(b.msgs))
		for j := range b.index {
			b.index[j] = j
		}
	}
}

// at is the outcome of the message with a sequence.
func (b *batch) at(seq int) *driver.Outcome {
	if b.index != nil {
		return &b.out[b.index[seq-1]]
	}
	return &b.out[seq-1]
}

// sendFailed says that message i could not be sent, nor any after it. Those
// before it may have been stored: their batch was not ended, and nobody tells.
func (b *batch) sendFailed(i int, err error) {
	err = b.w.d.unavailable("publishing to "+b.w.stream, err)
	b.mu.Lock()
	for j := i; j < len(b.msgs); j++ {
		b.out[j] = driver.Outcome{State: driver.NotStored, Err: err}
	}
	if b.n > 0 && (b.index == nil && b.n-1 == i || b.index != nil && b.index[b.n-1] == i) {
		b.n-- // message i had been counted
	}
	b.sent = true
	b.settle()
}

// sendEnded says that all messages have been sent or left out.
func (b *batch) sendEnded() {
	b.mu.Lock()
	b.sent = true
	b.settle()
}

// refuse ends a batch that was not let in.
func (b *batch) refuse(err error) {
	for i := range b.out {
		b.out[i] = driver.Outcome{State: driver.NotStored, Err: err}
	}
	b.done(b.out)
}

// receive handles an answer of the server.
func (b *batch) receive(m *nats.Msg) {
	if flowControl(m.Data) {
		return // batches are small enough without
	}
	ack, err := parseAck(m)
	if strings.HasSuffix(m.Subject, pingReply) {
		b.pinged(ack, err)
		return
	}
	if refused := (*apiError)(nil); errors.As(err, &refused) {
		ack.Error = refused // nobody listens
		b.w.d.suspectGone(b.w.stream)
	} else if err != nil {
		return
	}
	seq := 1
	if b.plain {
		ack.Count = 1
	} else {
		seq = replySequence(m.Subject)
	}
	b.mu.Lock()
	switch {
	case b.ended || ack.Type == "gap":
	case ack.Type == "err":
		b.refuseLocked(int(ack.Seq), ack.Error)
	case ack.Error != nil:
		b.refuseLocked(seq, ack.Error)
	case !b.acked:
		b.ackLocked(ack)
		b.mu.Unlock()
		if b.acks != "" {
			b.synced(ack.Seq, nil)
			return
		}
		b.w.d.syncs.after(func(err error) { b.synced(ack.Seq, err) })
		return
	}
	b.settle()
}

// pingReply ends the subject of an answer to a ping.
const pingReply = "." + string(opPing) + ".$FI"

// silent tells whether the server has said nothing of the batch for long.
func (b *batch) silent() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return (!b.plain || b.acks != "") && b.sent && !b.acked && !b.ended && time.Since(b.begun) >= b.w.patience() // monotonic
}

// pinged is the answer to a ping.
func (b *batch) pinged(ack pubAck, err error) {
	switch {
	case b.acks != "":
		// The stream may have acknowledged and forgotten the batch while serve waits
		// for its disk. That there is no stream is another matter.
		if err != nil {
			b.w.mistrust()
			b.w.d.suspectGone(b.w.stream)
			b.unsynced(fmt.Errorf("jetstream: stream %s: no answer: %w: %w", b.w.stream, errSilent, driver.ErrUnavailable))
		}
	case err == nil && ack.Error != nil && ack.Error.ErrCode == codeUnknownBatch:
		b.forgotten()
	}
}

// forgotten says that the server knows of no such batch: its answer is on the way,
// or will never come.
func (b *batch) forgotten() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sent && !b.acked && !b.ended {
		b.timer.Reset(min(refusalGrace, max(0, time.Until(b.deadline)))) // monotonic
	}
}

// replySequence reads the sequence out of a reply subject.
func replySequence(subject string) int {
	s := strings.TrimSuffix(subject, ".$FI")
	s = s[:max(strings.LastIndexByte(s, '.'), 0)]
	n, _ := strconv.Atoi(s[strings.LastIndexByte(s, '.')+1:])
	return n
}

func (b *batch) refuseLocked(seq int, refusal *apiError) {
	if seq < 1 || seq > b.n || refusal == nil || b.at(seq).State != driver.Unknown {
		return
	}
	var err error = refusal
	if refusal.Code == codeNobody {
		err = fmt.Errorf("%w: %w", refusal, driver.ErrNotNow)
	}
	if refusal.ErrCode == codeUnknownBatch && b.cause != nil {
		err = fmt.Errorf("not stored because one before it was not: %w", b.cause)
	} else if b.cause == nil {
		b.cause = err
	}
	b.busy = b.busy || refusal.ErrCode == codeIDBusy
	b.refused++
	*b.at(seq) = driver.Outcome{State: driver.NotStored, Err: fmt.Errorf("jetstream: stream %s: %w", b.w.stream, err)}
}

// ackLocked notes that the first ack.Count messages are stored. Where each of
// them stands is known only of one alone: others may have been stored between
// them, and copies are counted and not stored.
func (b *batch) ackLocked(ack pubAck) {
	b.acked = true
	b.stored = min(max(ack.Count, 0), b.n)
	for seq := 1; seq <= b.stored; seq++ {
		b.at(seq).State = driver.Stored
	}
	b.w.tookAny(b.stored > 0)
	if b.n == 1 && b.stored == 1 {
		b.at(1).Pos, b.at(1).Dup = ack.Seq, ack.Duplicate
	}
	if b.stored+b.refused < b.n {
		b.timer.Reset(min(refusalGrace, max(0, time.Until(b.deadline)))) // monotonic
	}
}

// synced is called when what was acknowledged has become durable, or with the
// reason why that will not be known.
func (b *batch) synced(seq uint64, err error) {
	if err == nil {
		b.w.cover(seq)
	}
	b.mu.Lock()
	b.durable, b.syncErr = err == nil, err
	b.settle()
}

// unsynced is called when it will not be known whether what was stored is durable.
func (b *batch) unsynced(err error) {
	b.mu.Lock()
	if !b.durable {
		b.syncErr = err
	}
	b.settle()
}

// expire ends the batch with what is known.
func (b *batch) expire() {
	b.mu.Lock()
	b.late = true
	b.settle()
}

// interrupt ends the batch unless it has been acknowledged: no answer will come.
func (b *batch) interrupt() {
	b.mu.Lock()
	b.late = b.late || !b.acked
	b.settle()
}

// deny ends the batch: the server has said that we may not publish there.
func (b *batch) deny(err error) {
	b.mu.Lock()
	b.denied = err
	b.late = b.late || !b.acked
	b.settle()
}

// settle ends the batch if all is known, or its time is up. While messages are
// being sent it never does: they would change hands under the sender. The caller
// holds the lock; settle gives it back.
func (b *batch) settle() {
	known := b.stored+b.refused == b.n && (!b.acked || b.durable) || b.syncErr != nil
	if b.ended || !b.sent || !known && !b.late {
		b.mu.Unlock()
		return
	}
	if b.busy && !b.late {
		b.lookForCopies()
		b.mu.Unlock()
		return
	}
	b.ended = true
	b.concludeLocked()
	b.mu.Unlock()
	b.timer.Stop()
	b.w.d.mux.remove(b.token)
	b.w.release(b)
	b.done(b.out)
}

// concludeLocked says of each message what is true.
func (b *batch) concludeLocked() {
	for seq := 1; seq <= b.n; seq++ {
		o := b.at(seq)
		switch {
		case o.State == driver.Stored && !b.durable:
			*o = driver.Outcome{State: driver.Unknown, Err: b.doubt("stored, but not known to be on the disk")}
		case o.State == driver.Unknown && b.denied != nil && !b.w.tookAny(false):
			// The right was missing from the beginning.
			*o = driver.Outcome{State: driver.NotStored, Err: b.doubt("refused")}
		case o.State == driver.Unknown:
			o.Err = b.doubt("no answer")
		}
	}
	b.concludeTwins()
}

func (b *batch) doubt(what string) error {
	switch {
	case b.syncErr != nil:
		return b.syncErr
	case b.denied != nil:
		return fmt.Errorf("jetstream: stream %s: %s: %w", b.w.stream, what, b.denied)
	case b.cause != nil:
		return fmt.Errorf("jetstream: stream %s: %s; one before it was refused: %w", b.w.stream, what, b.cause)
	}
	if err := b.w.d.room(); err != nil {
		return fmt.Errorf("jetstream: stream %s: %s by the deadline: %w", b.w.stream, what, err)
	}
	return fmt.Errorf("jetstream: stream %s: %s: %w", b.w.stream, what, driver.ErrUnavailable)
}
