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
	ids      map[string]int // of messages under way; of a cluster only
	messages int
	bytes    int
	synced   uint64 // all up to here is durable
	took     bool   // the server has stored something of ours
	probing  bool   // probe is about to be called
	direct   bool   // the stream was away: acknowledgements come to us, who are told if it still is

	// For whom has the turn.
	headers *headerMap
	reply   []byte
	msg     nats.Msg
}

func (d *jsDriver) writer(p driver.Partition) *writer {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.writers[p]
	if w == nil {
		w = &writer{
			d: d, stream: d.names.partition(p), subject: d.names.partitionSubject(p),
			turn: make(chan struct{}, 1), freed: make(chan struct{}, 1), batches: map[*batch]struct{}{}, ids: map[string]int{}, headers: newHeaderMap(),
		}
		d.writers[p] = w
	}
	return w
}

// Append sends the messages as one fast-ingest batch (ADR-50 of NATS): one
// answer for all. One message alone is published plainly, which costs the server
// less, unless it is a cluster, where a leader's silence has to be told (see probe).
func (d *jsDriver) Append(p driver.Partition, msgs []driver.Message, deadline time.Time, done func([]driver.Outcome)) {
	if len(msgs) == 0 {
		done(nil)
		return
	}
	w := d.writer(p)
	b := &batch{w: w, msgs: msgs, out: make([]driver.Outcome, len(msgs)), done: done}
	if d.clustered {
		b.findTwins()
	}
	b.plain = len(msgs) == 1 && !d.clustered
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

// Ready tells whether nothing has to be waited for.
func (d *jsDriver) Ready(p driver.Partition) bool {
	if d.room() != nil {
		return false
	}
	w := d.writer(p)
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.turn) == 0 && (len(w.batches) == 0 ||
		!d.clustered && len(w.batches) < maxBatches && w.messages <= maxBatchMessages/2 && w.bytes <= maxBatchBytes/2)
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
	t := time.NewTimer(time.Until(deadline)) // monotonic
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
			if !time.Now().Before(deadline) { // monotonic
				w.release(b)
				return w.late()
			}
			return nil
		}
		wait := time.Until(deadline) // monotonic
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

// room returns why events must wait now, if so.
func (d *jsDriver) room() error {
	if err := d.gone(); err != nil {
		return err
	}
	if d.opts.Room == nil {
		return nil
	}
	return d.opts.Room()
}

// reserve counts a batch in if there is room. A batch alone always has.
func (w *writer) reserve(b *batch) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range b.ids {
		if _, busy := w.ids[id]; busy {
			return false
		}
	}
	if len(w.batches) > 0 && (len(w.batches) >= maxBatches || w.messages+len(b.msgs) > maxBatchMessages || w.bytes+b.bytes > maxBatchBytes) {
		return false
	}
	w.batches[b] = struct{}{}
	maps.Copy(w.ids, b.ids)
	w.messages += len(b.msgs)
	w.bytes += b.bytes
	w.probeLater()
	return true
}

// How often the server is asked for batches that it is silent about: where one that
// is lost is a matter of clusters, and where nobody else tells us that the stream is
// away, since the acknowledgement was to go to serve.
const (
	probeEvery    = 2 * time.Second
	probePassedOn = 250 * time.Millisecond
)

func (w *writer) patience() time.Duration {
	if w.d.opts.acks != nil && w.d.opts.acks() != "" {
		return probePassedOn
	}
	return probeEvery
}

// mistrust has the acknowledgements come to us from now on, until there is one.
func (w *writer) mistrust() {
	w.mu.Lock()
	w.direct = true
	w.mu.Unlock()
}

// ackSubject is where serve takes acknowledgements, or empty when they come to us.
func (w *writer) ackSubject() string {
	if w.d.opts.acks == nil {
		return ""
	}
	w.mu.Lock()
	direct := w.direct
	w.mu.Unlock()
	if direct {
		return ""
	}
	return w.d.opts.acks()
}

// probeLater has the batches under way looked at. The caller holds the lock.
func (w *writer) probeLater() {
	if !w.probing && len(w.batches) > 0 {
		w.probing = true
		time.AfterFunc(w.patience(), w.probe)
	}
}

// probe asks for each batch that has waited for long whether the server knows of
// it. A leader that is killed takes what was on its way to it along, and its
// successor says nothing of that unless it is asked.
func (w *writer) probe() {
	for _, b := range w.underWay() {
		if b.silent() {
			_ = w.d.nc.PublishRequest(w.subject, w.d.mux.prefix+b.token+".65535.fail."+strconv.Itoa(max(b.count(), 1))+pingReply, nil)
		}
	}
	w.mu.Lock()
	w.probing = false
	w.probeLater()
	w.mu.Unlock()
}

func (w *writer) release(b *batch) {
	w.mu.Lock()
	delete(w.batches, b)
	for id := range b.ids {
		delete(w.ids, id)
	}
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
	for _, b := range w.underWay() {
		b.interrupt()
	}
}

// deny ends what is under way because it is not allowed.
func (w *writer) deny(err error) {
	for _, b := range w.underWay() {
		b.deny(err)
	}
}

func (w *writer) underWay() []*batch {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Keys(w.batches))
}

// tookAny tells whether the server has stored anything of ours, and notes that it
// has.
func (w *writer) tookAny(now bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.took = w.took || now
	w.direct = w.direct && !now
	return w.took
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
	b.token, b.acks = w.d.mux.add(b.receive), w.ackSubject()
	b.begun, b.deadline = time.Now(), deadline               // monotonic
	b.timer = time.AfterFunc(time.Until(deadline), b.expire) // monotonic
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
	if _, ok := b.twins[i]; ok {
		b.leaveOut(i, driver.Outcome{})
		return w.endBatch(b, last)
	}
	h := w.headers.encode(m)
	if size := w.headers.size + len(m.Body); int64(size) > w.d.nc.MaxPayload() {
		b.leaveOut(i, driver.Outcome{State: driver.NotStored, Err: fmt.Errorf(
			"jetstream: a message of %d bytes is above the server's limit of %d: %w", size, w.d.nc.MaxPayload(), driver.ErrTooLarge)})
		return w.endBatch(b, last)
	}
	seq := b.take(i)
	w.msg = nats.Msg{Subject: w.subject, Header: h, Data: m.Body} // which the client copies
	switch {
	case b.plain:
		w.msg.Reply = string(w.replyHead(b))
	case last:
		w.msg.Reply = w.replyTo(b, seq, opCommit)
	case seq == 1:
		w.msg.Reply = w.replyTo(b, seq, opStart)
	default:
		w.msg.Reply = w.replyTo(b, seq, opAppend)
	}
	return w.d.nc.PublishMsg(&w.msg)
}

// endBatch ends a batch whose last message was left out.
func (w *writer) endBatch(b *batch, last bool) error {
	if !last || b.count() == 0 {
		return nil
	}
	return w.d.nc.PublishRequest(w.subject, w.replyTo(b, b.count()+1, opEnd), nil)
}

// Operations of fast ingest.
const (
	opStart  = '0'
	opAppend = '1'
	opCommit = '2' // with this message
	opEnd    = '3' // without one
	opPing   = '4'
)

// replyTo is where the control data of a batch travels:
// <inbox>.<batch>.<flow>.<gap mode>.<sequence>.<operation>.$FI
func (w *writer) replyTo(b *batch, seq int, op byte) string {
	r := append(w.replyHead(b), ".65535.fail."...)
	r = strconv.AppendInt(r, int64(seq), 10)
	r = append(r, '.', op)
	r = append(r, ".$FI"...)
	w.reply = r
	return string(r)
}

// replyHead is where the batch is acknowledged: at our inbox, or at serve.
func (w *writer) replyHead(b *batch) []byte {
	r := w.reply[:0]
	if b.acks == "" {
		r = append(r, w.d.mux.prefix...)
	} else {
		r = append(append(append(r, b.acks...), w.d.mux.box...), '.')
	}
	r = append(r, b.token...)
	w.reply = r
	return r
}
