package jetstream

import (
	"context"
	"math"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
)

// A cluster takes a while to agree on a message, and refuses copies of it until it
// has. A single server does not know this. So copies that one driver sends never
// meet: those in one batch are sent once, and a batch waits for one with the same
// id. Copies of two processes may meet; then the server is asked what became of
// the other. Nothing is sent again.

// findTwins notes the ids, and the messages whose id stands before in the batch.
func (b *batch) findTwins() {
	b.ids, b.twins = make(map[string]int, len(b.msgs)), map[int]int{}
	for i := range b.msgs {
		if b.msgs[i].Type == "" {
			continue // foreign: it has no id
		}
		id := messageID(&b.msgs[i])
		if first, ok := b.ids[id]; ok {
			b.twins[i] = first
		} else {
			b.ids[id] = i
		}
	}
}

// concludeTwins gives copies the outcome of what they are copies of.
func (b *batch) concludeTwins() {
	for i, first := range b.twins {
		b.out[i] = b.out[first]
		b.out[i].Dup = b.out[i].State == driver.Stored
	}
}

// lookForCopies asks what became of copies that were on their way, and ends the
// batch then. The caller holds the lock.
func (b *batch) lookForCopies() {
	if b.looking {
		return
	}
	b.looking = true
	refused := map[int]driver.Outcome{} // by sequence
	for seq := 1; seq <= b.n; seq++ {
		if o := b.at(seq); o.State == driver.NotStored {
			refused[seq] = *o
		}
	}
	go func() {
		ctx, cancel := context.WithDeadline(context.Background(), b.deadline)
		defer cancel()
		for seq, o := range refused {
			o = b.w.findCopy(ctx, b.message(seq), o)
			b.mu.Lock()
			if !b.ended {
				*b.at(seq) = o
			}
			b.mu.Unlock()
		}
		b.mu.Lock()
		b.busy = false
		b.durable = b.syncErr == nil // findCopy has seen to its own, and the rest was known before
		b.settle()
	}()
}

// message is the one with a sequence.
func (b *batch) message(seq int) *driver.Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.index != nil {
		return &b.msgs[b.index[seq-1]]
	}
	return &b.msgs[seq-1]
}

// copyPause is how long to wait until a copy may have been agreed on.
const copyPause = 5 * time.Millisecond

// findCopy asks whether a message stands that we were refused to store: a write
// that can never succeed is answered with the copy, if there is one.
func (w *writer) findCopy(ctx context.Context, m *driver.Message, refused driver.Outcome) driver.Outcome {
	if m.Type == "" {
		return refused
	}
	probe := nats.Header{headerMsgID: {messageID(m)}, "Nats-Expected-Last-Subject-Sequence": {strconv.FormatUint(math.MaxInt64, 10)}}
	for {
		answer, err := w.d.call(ctx, &nats.Msg{Subject: w.subject, Header: probe})
		if err != nil {
			return refused
		}
		ack, err := parseAck(answer)
		switch {
		case err != nil:
			return refused
		case ack.Error == nil && ack.Duplicate && ack.Seq > 0:
			if err := w.d.syncs.wait(ctx); err != nil {
				return driver.Outcome{State: driver.Unknown, Err: err}
			}
			return driver.Outcome{State: driver.Stored, Pos: ack.Seq, Dup: true}
		case ack.Error == nil || ack.Error.ErrCode != codeIDBusy && ack.Error.ErrCode != codeWrongLastBusy:
			return refused
		}
		select {
		case <-time.After(copyPause):
		case <-ctx.Done():
			return refused
		}
	}
}
