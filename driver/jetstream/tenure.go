package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
)

// A tenure holds a partition. The record's revision is its fence: whoever takes
// over raises the number in the record, and the server refuses the old holder's
// next write. The lane has a message of its own for the same purpose.
type tenure struct {
	d      *jsDriver
	group  string
	member string // its id
	p      driver.Partition
	fence  uint64
	start  driver.Checkpoint
	lane   *lane
	stream string
	by     *atomic.Pointer[time.Time] // of the membership
	onEnd  func(*tenure)              // called once, on any goroutine

	feed *feed // for Fetch

	mu      sync.Mutex
	rev     uint64    // of the record
	version int       // in the record
	begin   uint64    // in the record
	made    time.Time // in the record
	covered uint64    // all up to here is durable

	once  sync.Once
	ended chan struct{}
	lost  error // why it ended, nil after Release
}

var _ driver.Tenure = (*tenure)(nil)

// A standing is a position's record as it was read.
type standing struct {
	rev uint64 // 0: there is none
	r   position
}

// takeOver raises the fence in the position's record, which must still be what
// was read, then the lane's, and makes the tenure's consumer. ErrConflict:
// somebody has written the record.
func (m *membership) takeOver(ctx context.Context, p driver.Partition, at standing) (_ *tenure, err error) {
	d := m.d
	t := &tenure{
		d: d, group: m.group, member: m.id, p: p, stream: d.names.partition(p), by: &m.startBy, onEnd: m.tenureEnded,
		lane: d.lane(m.group, p), ended: make(chan struct{}),
	}
	subject := d.names.at(m.group, p)
	if at.rev == 0 {
		if at.rev, err = d.getRecordNow(ctx, subject, &at.r); err != nil {
			return nil, err
		}
	}
	info, err := d.streamInfo(ctx, t.stream)
	if err != nil {
		return nil, err
	}
	d.audit(info)
	r := at.r
	if at.rev == 0 {
		r = d.recordMissing(m.group, p, info)
	}
	t.start = d.startOf(m.group, info, r)
	r.Floor, r.Mark, r.Finished, r.Clean = t.start.Floor, t.start.Mark, t.start.Finished, false
	r.Begin, r.Seen, r.Member = min(r.Begin, info.State.Last), min(r.Seen, info.State.Last), m.id
	if r.replaced(info) {
		r.Begin, r.Seen = t.start.Floor, t.start.Floor
	}
	r.Made = info.Created
	t.begin, t.made = r.Begin, r.Made
	t.version = r.Version
	var fenceSeq uint64
	if t.rev, fenceSeq, err = d.seize(ctx, m.group, p, at.rev, &r); err != nil {
		if t.rev != 0 {
			t.undo(ctx, r)
		}
		return nil, err
	}
	t.fence = r.Fence
	t.lane.holder, t.lane.ended = t, t.ended
	t.lane.fence, t.lane.fenceSeq = d.names.fence(m.group, p), fenceSeq
	t.lane.sawPut(fenceSeq)
	if err := t.open(ctx); err != nil {
		t.undo(ctx, r)
		return nil, err
	}
	t.feed = newFeed(d, t.stream, d.names.consumer(m.group, r.Fence), m.group, t.start.Floor)
	t.feed.check = t.verify
	return t, nil
}

// open makes the takeover durable and ends what is left of earlier tenures.
func (t *tenure) open(ctx context.Context) error {
	if err := t.d.syncs.wait(ctx); err != nil {
		return err
	}
	return t.dropOlder(ctx)
}

// seize replaces a position's record, which must still have the revision rev, by r
// with a higher fence, and then raises the fence of the lane. From then on the
// server refuses whatever the tenures before it write. ErrConflict: somebody has
// written the record. Another error comes with a revision if the record was
// written.
func (d *jsDriver) seize(ctx context.Context, group string, p driver.Partition, rev uint64, r *position) (newRev, fenceSeq uint64, err error) {
	for {
		// The lane's fence is read before the record is written: who comes in
		// between is seen by one or the other.
		old, laneRev, err := d.getFence(ctx, group, p)
		if err != nil {
			return 0, 0, err
		}
		r.Fence = max(r.Fence, old.Fence) + 1
		if rev, err = d.putRecord(ctx, d.names.at(group, p), rev, r); err != nil {
			return 0, 0, err
		}
		fenceSeq, err = d.raiseFence(ctx, group, p, laneRev, fenceRecord{Fence: r.Fence, Member: r.Member})
		if !errors.Is(err, driver.ErrConflict) {
			return rev, fenceSeq, err
		}
	}
}

// getFence reads the lane's fence message. It has the revision 0 when there is
// none.
func (d *jsDriver) getFence(ctx context.Context, group string, p driver.Partition) (r fenceRecord, rev uint64, err error) {
	subject := d.names.fence(group, p)
	_, err = d.getLast(ctx, d.names.lane(group), []string{subject}, 0, func(m *nats.Msg) error {
		rev = sequence(m)
		return decodeRecord(subject, m.Data, &r)
	})
	return r, rev, err
}

// raiseFence replaces the lane's fence message.
func (d *jsDriver) raiseFence(ctx context.Context, group string, p driver.Partition, rev uint64, r fenceRecord) (uint64, error) {
	r.format = format{stateFormat}
	data, err := json.Marshal(r)
	if err != nil {
		return 0, err
	}
	for {
		seq, err := d.put(ctx, d.names.fence(group, p), rev, data)
		if refused := (*apiError)(nil); errors.As(err, &refused) && refused.ErrCode == codeWrongLastBusy {
			continue // the old holder is writing at this very moment
		}
		return seq, err
	}
}

// undo frees a partition again that nobody has begun to work on.
func (t *tenure) undo(ctx context.Context, r position) {
	r.Member, r.Clean = "", t.start.Clean
	if _, err := t.d.putRecord(ctx, t.d.names.at(t.group, t.p), t.rev, r); err != nil {
		t.d.env.Log.Debug("jetstream: freeing a partition", "group", t.group, "topic", t.p.Topic, "partition", t.p.N, "err", err)
	}
}

// recordMissing is where a group starts that has lost its record.
func (d *jsDriver) recordMissing(group string, p driver.Partition, info streamInfo) position {
	first := max(info.State.First, 1)
	d.env.Alarm(driver.Alarm{Code: "position_missing", Thing: group, Text: fmt.Sprintf(
		"the position of group %q in stream %s is gone; it starts at %d, the first that is kept, and handles again what it had handled",
		group, info.Config.Name, first)})
	return position{format: format{stateFormat}, Begin: first - 1, Floor: first - 1, Mark: info.State.Last}
}

// startOf is the record's checkpoint, unless the stream ends before a message
// that the group has seen. Then positions will come again, for other messages:
// what is finished above the floor is forgotten. Nothing above the stream's last
// message can have been started.
func (d *jsDriver) startOf(group string, info streamInfo, r position) driver.Checkpoint {
	last := info.State.Last
	if r.replaced(info) {
		floor := max(info.State.First, 1) - 1
		d.env.Alarm(driver.Alarm{Code: "stream_replaced", Thing: info.Config.Name, Text: fmt.Sprintf(
			"stream %s was deleted and made anew since group %q was in it at %d: what it held then and the group had not handled is lost, "+
				"unless there is a copy of it; the group starts at %d, the first that is kept", info.Config.Name, group, r.Floor, floor+1)})
		return driver.Checkpoint{Floor: floor, Mark: last}
	}
	if max(r.Floor, r.Seen) <= last {
		return driver.Checkpoint{Floor: r.Floor, Mark: max(r.Floor, min(r.Mark, last)), Finished: r.Finished, Clean: r.Clean}
	}
	d.env.Alarm(driver.Alarm{Code: "position_ahead", Thing: group, Text: fmt.Sprintf(
		"group %q has settled all up to %d in stream %s and seen %d, but its last message is %d: the store is an older copy; "+
			"what that lacks must be published again; the group goes on behind %d",
		group, r.Floor, info.Config.Name, max(r.Floor, r.Seen), last, min(r.Floor, last))})
	return driver.Checkpoint{Floor: min(r.Floor, last), Mark: last, Clean: r.Clean}
}

// dropOlder deletes the consumers of earlier tenures.
func (t *tenure) dropOlder(ctx context.Context) error {
	return t.d.dropConsumers(ctx, t.stream, t.group)
}

// dropConsumers deletes a group's consumers on a stream.
func (d *jsDriver) dropConsumers(ctx context.Context, stream, of string) error {
	names, err := d.consumerNames(ctx, stream)
	if err != nil {
		return err
	}
	for _, name := range names {
		group, _, ok := d.names.parseConsumer(name)
		if !ok || group != of {
			continue
		}
		if err := d.deleteConsumer(ctx, stream, name); err != nil {
			return err
		}
	}
	return nil
}

func (t *tenure) Partition() driver.Partition { return t.p }
func (t *tenure) Fence() uint64               { return t.fence }
func (t *tenure) Start() driver.Checkpoint    { return t.start }
func (t *tenure) StartBy() time.Time          { return *t.by.Load() }
func (t *tenure) Lane() driver.Lane           { return t.lane }

func (t *tenure) Settle(context.Context, []driver.Settlement) error {
	return fmt.Errorf("jetstream: a log is settled by checkpoints: %w", errors.ErrUnsupported)
}

func (t *tenure) Fetch(ctx context.Context, into []driver.Delivery, maxBytes int) (int, error) {
	select {
	case <-t.ended:
		return 0, t.over()
	default:
	}
	n, err := t.feed.fetch(ctx, into, maxBytes, t.ended)
	if errors.Is(err, driver.ErrLost) {
		t.end(err)
	}
	return n, err
}

func (t *tenure) over() error {
	if t.lost != nil {
		return t.lost
	}
	return fmt.Errorf("jetstream: partition %d of topic %q was released: %w", t.p.N, t.p.Topic, driver.ErrLost)
}

func (t *tenure) Checkpoint(ctx context.Context, c driver.Checkpoint) error {
	c.Clean = false
	return t.record(ctx, c, t.member)
}

// record makes what was handed out durable, then the record. member holds the partition from then on.
func (t *tenure) record(ctx context.Context, c driver.Checkpoint, member string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-t.ended:
		return t.over()
	default:
	}
	for sure := false; !sure; sure = !t.feed.doubted() {
		if err := t.sameStream(ctx); err != nil {
			return err
		}
		if err := t.cover(ctx); err != nil {
			return err
		}
	}
	if err := t.write(ctx, c, member); err != nil {
		return err
	}
	return t.d.syncs.wait(ctx)
}

// sameStream ends the tenure when its positions may be of messages that a server has
// lost: recorded, they would have what came there since passed over.
func (t *tenure) sameStream(ctx context.Context) error {
	if !t.feed.doubted() {
		return nil
	}
	err := t.feed.sameStream(ctx)
	if errors.Is(err, driver.ErrLost) {
		t.end(err)
	}
	return err
}

// cover waits until all that was handed out is durable: messages can be read
// before that, and a position above what a power cut leaves would skip what is
// stored after it.
func (t *tenure) cover(ctx context.Context) error {
	handed := t.feed.handedOut()
	if t.covered = max(t.covered, t.d.writer(t.p).covered()); t.covered >= handed {
		return nil
	}
	if err := t.d.syncs.wait(ctx); err != nil {
		return err
	}
	t.covered = handed
	return nil
}

// write replaces the record. A revision that is not the expected one means that
// somebody else has the partition, or that types were added, or that our own
// write before was not answered.
func (t *tenure) write(ctx context.Context, c driver.Checkpoint, member string) error {
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	r := position{
		format: format{stateFormat}, Fence: t.fence, Floor: c.Floor, Mark: c.Mark,
		Seen: t.feed.handedOut(), Finished: c.Finished, Clean: c.Clean, Member: member, Version: t.version, Begin: t.begin, Made: t.made,
	}
	subject := t.d.names.at(t.group, t.p)
	for {
		rev, err := t.d.putRecord(ctx, subject, t.rev, r)
		if err == nil {
			t.rev = rev
			return nil
		}
		if !errors.Is(err, driver.ErrConflict) {
			return err
		}
		stands, err := t.standing(ctx, member)
		if err != nil {
			return err
		}
		t.rev = stands.rev
		if stands.r.Version > t.version {
			t.version = stands.r.Version
			return fmt.Errorf("jetstream: partition %d of topic %q: group %q has version %d: %w",
				t.p.N, t.p.Topic, t.group, t.version, driver.ErrSubscription)
		}
	}
}

// standing reads the record, and ends the tenure unless it is its own. released
// is who may be in it besides: nobody, when a release is under way.
func (t *tenure) standing(ctx context.Context, released string) (standing, error) {
	var at standing
	var err error
	at.rev, err = t.d.getRecordNow(ctx, t.d.names.at(t.group, t.p), &at.r)
	if err != nil {
		return at, err
	}
	if at.rev != 0 && at.r.Fence == t.fence && (at.r.Member == t.member || at.r.Member == released) {
		return at, nil
	}
	err = fmt.Errorf("jetstream: partition %d of topic %q has gone from tenure %d to %d of group %q: %w",
		t.p.N, t.p.Topic, t.fence, at.r.Fence, t.group, driver.ErrLost)
	t.end(err)
	return at, err
}

// verify returns an error unless the tenure stands on record.
func (t *tenure) verify(ctx context.Context) error {
	_, err := t.standing(ctx, t.member)
	return err
}

// Release frees the partition. When that fails the tenure is over all the same,
// and the membership frees it later.
func (t *tenure) Release(ctx context.Context, c driver.Checkpoint) error {
	if err := t.record(ctx, c, ""); err != nil {
		if !errors.Is(err, driver.ErrLost) && !errors.Is(err, driver.ErrSubscription) {
			t.end(nil)
		}
		return err
	}
	t.end(nil)
	return t.d.deleteConsumer(ctx, t.stream, t.feed.consumer)
}

func (t *tenure) end(err error) {
	t.once.Do(func() {
		t.lost = err
		close(t.ended)
		t.onEnd(t)
	})
}

// close ends a tenure that nobody has released.
func (t *tenure) close() {
	t.end(nil)
	t.feed.close()
}
