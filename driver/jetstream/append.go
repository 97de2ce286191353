package jetstream

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
)

// What may be under way in one partition. The server takes 10,000 messages into
// a stream's queue before it refuses.
const (
	maxBatches       = 256
	maxBatchMessages = 4096
	maxBatchBytes    = 8 << 20
)

// A writer appends to one partition.
type writer struct {
	d       *jsDriver
	stream  string
	subject string
	turn    chan struct{} // holds one while somebody sends
	freed   chan struct{} // holds one after something has ended

	mu       sync.Mutex
	batches  map[*batch]struct{}
	messages int
	bytes    int
	synced   uint64 // all up to here is durable

	headers *headerMap // for whom has the turn
	reply   []byte
}

func (d *jsDriver) writer(p driver.Partition) *writer {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.writers[p]
	if w == nil {
		w = &writer{
			d: d, stream: d.names.partition(p), subject: d.names.partitionSubject(p),
			turn: make(chan struct{}, 1), freed: make(chan struct{}, 1), batches: map[*batch]struct{}{}, headers: newHeaderMap(),
		}
		d.writers[p] = w
	}
	return w
}

// Append sends the messages as one fast-ingest batch (ADR-50 of NATS): one
// answer for all.
func (d *jsDriver) Append(p driver.Partition, msgs []driver.Message, deadline time.Time, done func([]driver.Outcome)) {
	if len(msgs) == 0 {
		done(nil)
		return
	}
	w := d.writer(p)
	b := &batch{w: w, msgs: msgs, out: make([]driver.Outcome, len(msgs)), done: done}
	for i := range msgs {
		b.bytes += msgs[i].Size()
	}
	if err := w.admit(b, deadline); err != nil {
		b.refuse(err)
		return
	}
	w.send(b, deadline)
	<-w.turn
}

// admit waits for the batch's turn and for room. After nil the turn is the
// caller's to give back.
func (w *writer) admit(b *batch, deadline time.Time) error {
	if err := w.d.usable(); err != nil {
		return err
	}
	select {
	case w.turn <- struct{}{}:
	default:
		if err := w.waitTurn(deadline); err != nil {
			return err
		}
	}
	if err := w.waitRoom(b, deadline); err != nil {
		<-w.turn
		return err
	}
	return nil
}

func (w *writer) waitTurn(deadline time.Time) error {
	t := time.NewTimer(time.Until(deadline))
	defer t.Stop()
	select {
	case w.turn <- struct{}{}:
		return nil
	case <-t.C:
		return w.late()
	}
}

func (w *writer) late() error {
	return fmt.Errorf("jetstream: stream %s takes no more until what is under way is confirmed, and the deadline has passed: %w",
		w.stream, driver.ErrUnavailable)
}

// waitRoom waits until the store has room and less than the limits is under way,
// and counts the batch in.
func (w *writer) waitRoom(b *batch, deadline time.Time) error {
	for {
		if err := w.d.usable(); err != nil {
			return err
		}
		full := w.d.room()
		if full == nil && w.reserve(b) {
			if !time.Now().Before(deadline) {
				w.release(b)
				return w.late()
			}
			return nil
		}
		wait := time.Until(deadline)
		if wait <= 0 {
			if full != nil {
				return full
			}
			return w.late()
		}
		if full != nil {
			wait = min(wait, 20*time.Millisecond)
		}
		t := time.NewTimer(wait)
		select {
		case <-w.freed:
		case <-t.C:
		}
		t.Stop()
	}
}

func (d *jsDriver) room() error {
	if d.opts.Room == nil {
		return nil
	}
	return d.opts.Room()
}

// reserve counts a batch in if there is room. A batch alone always has.
func (w *writer) reserve(b *batch) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.batches) > 0 && (len(w.batches) >= maxBatches || w.messages+len(b.msgs) > maxBatchMessages || w.bytes+b.bytes > maxBatchBytes) {
		return false
	}
	w.batches[b] = struct{}{}
	w.messages += len(b.msgs)
	w.bytes += b.bytes
	return true
}

func (w *writer) release(b *batch) {
	w.mu.Lock()
	delete(w.batches, b)
	w.messages -= len(b.msgs)
	w.bytes -= b.bytes
	w.mu.Unlock()
	select {
	case w.freed <- struct{}{}:
	default:
	}
}

// interrupt ends what is under way.
func (w *writer) interrupt() {
	w.mu.Lock()
	all := slices.Collect(maps.Keys(w.batches))
	w.mu.Unlock()
	for _, b := range all {
		b.interrupt()
	}
}

// drain waits until nothing is under way.
func (w *writer) drain(ctx context.Context) error {
	for {
		w.mu.Lock()
		n := len(w.batches)
		w.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-w.freed:
		case <-ctx.Done():
			return fmt.Errorf("jetstream: %d batches to %s are not confirmed: %w", n, w.stream, ctx.Err())
		}
	}
}

// cover notes that all up to seq is durable.
func (w *writer) cover(seq uint64) {
	w.mu.Lock()
	w.synced = max(w.synced, seq)
	w.mu.Unlock()
}

func (w *writer) covered() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.synced
}

// send publishes the messages. The caller has the turn.
func (w *writer) send(b *batch, deadline time.Time) {
	b.token = w.d.mux.add(b.receive)
	b.deadline = deadline
	b.timer = time.AfterFunc(time.Until(deadline), b.expire)
	last := len(b.msgs) - 1
	for i := range b.msgs {
		if err := w.publish(b, i, i == last); err != nil {
			b.sendFailed(i, err)
			return
		}
	}
	b.sendEnded()
}

// publish sends message i. One that is too large is left out.
func (w *writer) publish(b *batch, i int, last bool) error {
	m := &b.msgs[i]
	h := w.headers.encode(m)
	if size := wireSize(h) + len(m.Body); int64(size) > w.d.nc.MaxPayload() {
		b.leaveOut(i, fmt.Errorf("jetstream: a message of %d bytes is above the server's limit of %d: %w", size, w.d.nc.MaxPayload(), driver.ErrTooLarge))
		if last && b.count() > 0 {
			return w.d.nc.PublishRequest(w.subject, w.replyTo(b, b.count()+1, '3'), nil)
		}
		return nil
	}
	seq := b.take(i)
	op := byte('1')
	switch {
	case last:
		op = '2'
	case seq == 1:
		op = '0'
	}
	return w.d.nc.PublishMsg(&nats.Msg{Subject: w.subject, Reply: w.replyTo(b, seq, op), Header: h, Data: m.Body})
}

// replyTo is where the control data of a batch travels:
// <inbox>.<batch>.<flow>.<gap mode>.<sequence>.<operation>.$FI
func (w *writer) replyTo(b *batch, seq int, op byte) string {
	r := append(w.reply[:0], w.d.mux.prefix...)
	r = append(r, b.token...)
	r = append(r, ".65535.fail."...)
	r = strconv.AppendInt(r, int64(seq), 10)
	r = append(r, '.', op)
	r = append(r, ".$FI"...)
	w.reply = r
	return string(r)
}
