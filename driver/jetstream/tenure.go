package jetstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// A tenure holds a partition. The record's revision is its fence: whoever takes
// over raises the number in the record, and the server refuses the old holder's
// next write.
type tenure struct {
	d      *jsDriver
	group  string
	p      driver.Partition
	fence  uint64
	start  driver.Checkpoint
	lane   *lane
	stream string

	feed *feed // for Fetch

	mu      sync.Mutex
	rev     uint64 // of the record
	covered uint64 // all up to here is durable

	once  sync.Once
	ended chan struct{}
	lost  error // why it ended, nil after Release
}

var _ driver.Tenure = (*tenure)(nil)

// takeOver raises the fence in the group's record and makes the tenure's consumer.
func (d *jsDriver) takeOver(ctx context.Context, group string, p driver.Partition) (*tenure, error) {
	stream := d.names.partition(p)
	info, err := d.streamInfo(ctx, stream)
	if err != nil {
		return nil, err
	}
	d.audit(info)
	var r position
	rev, err := d.getRecord(ctx, d.names.at(group, p), &r)
	if err != nil {
		return nil, err
	}
	if rev == 0 {
		r = d.recordMissing(group, p, info)
	}
	start := d.startOf(group, info, r)
	r.Fence++
	r.Floor, r.Mark, r.Finished, r.Clean = start.Floor, start.Mark, start.Finished, false
	r.Seen, r.Member = min(r.Seen, info.State.Last), d.env.Service
	if rev, err = d.putRecord(ctx, d.names.at(group, p), rev, r); err != nil {
		return nil, err
	}
	if err := d.syncs.wait(ctx); err != nil {
		return nil, err
	}
	t := &tenure{
		d: d, group: group, p: p, fence: r.Fence, start: start, stream: stream, rev: rev,
		lane: d.lane(group, p), ended: make(chan struct{}),
	}
	t.lane.ended = t.ended
	if err := t.dropOlder(ctx); err != nil {
		return nil, err
	}
	t.feed = newFeed(d, stream, d.names.consumer(group, r.Fence), group, start.Floor)
	return t, nil
}

// recordMissing is where a group starts that has lost its record.
func (d *jsDriver) recordMissing(group string, p driver.Partition, info streamInfo) position {
	first := max(info.State.First, 1)
	d.env.Alarm(driver.Alarm{Code: "position_missing", Thing: group, Text: fmt.Sprintf(
		"the position of group %q in stream %s is gone; it starts at %d, the first that is kept, and handles again what it had handled",
		group, info.Config.Name, first)})
	return position{format: format{stateFormat}, Floor: first - 1, Mark: info.State.Last}
}

// startOf is the record's checkpoint, unless the stream ends before a message
// that the group has seen. Then positions will come again, for other messages:
// what is finished above the floor is forgotten. Nothing above the stream's last
// message can have been started.
func (d *jsDriver) startOf(group string, info streamInfo, r position) driver.Checkpoint {
	last := info.State.Last
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
	names, err := t.d.consumerNames(ctx, t.stream)
	if err != nil {
		return err
	}
	for _, name := range names {
		group, _, ok := t.d.names.parseConsumer(name)
		if !ok || group != t.group {
			continue
		}
		if err := t.d.deleteConsumer(ctx, t.stream, name); err != nil {
			return err
		}
	}
	return nil
}

func (t *tenure) Partition() driver.Partition { return t.p }
func (t *tenure) Fence() uint64               { return t.fence }
func (t *tenure) Start() driver.Checkpoint    { return t.start }
func (t *tenure) StartBy() time.Time          { return time.Time{} }
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
	return t.feed.fetch(ctx, into, maxBytes, t.ended)
}

func (t *tenure) over() error {
	if t.lost != nil {
		return t.lost
	}
	return fmt.Errorf("jetstream: partition %d of topic %q was released: %w", t.p.N, t.p.Topic, driver.ErrLost)
}

func (t *tenure) Checkpoint(ctx context.Context, c driver.Checkpoint) error {
	c.Clean = false
	return t.record(ctx, c)
}

// record makes what was handed out durable, then the record, then tells the
// consumer.
func (t *tenure) record(ctx context.Context, c driver.Checkpoint) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-t.ended:
		return t.over()
	default:
	}
	if err := t.cover(ctx); err != nil {
		return err
	}
	if err := t.write(ctx, c); err != nil {
		return err
	}
	if err := t.d.syncs.wait(ctx); err != nil {
		return err
	}
	t.feed.ack(c.Floor)
	return nil
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

func (t *tenure) write(ctx context.Context, c driver.Checkpoint) error {
	r := position{
		format: format{stateFormat}, Fence: t.fence, Floor: c.Floor, Mark: c.Mark,
		Seen: t.feed.handedOut(), Finished: c.Finished, Clean: c.Clean, Member: t.d.env.Service,
	}
	subject := t.d.names.at(t.group, t.p)
	rev, err := t.d.putRecord(ctx, subject, t.rev, r)
	if errors.Is(err, driver.ErrConflict) {
		if rev, err = t.afterUnknown(ctx, subject, r); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	t.rev = rev
	return nil
}

// afterUnknown is for a revision that is not the expected one: somebody else has
// taken the partition, or it is our own write that was not answered.
func (t *tenure) afterUnknown(ctx context.Context, subject string, r position) (uint64, error) {
	var stands position
	rev, err := t.d.getRecord(ctx, subject, &stands)
	if err != nil {
		return 0, err
	}
	if rev != 0 && stands.Fence == t.fence {
		if rev, err = t.d.putRecord(ctx, subject, rev, r); !errors.Is(err, driver.ErrConflict) {
			return rev, err
		}
	}
	err = fmt.Errorf("jetstream: partition %d of topic %q has gone from tenure %d to %d of group %q: %w",
		t.p.N, t.p.Topic, t.fence, stands.Fence, t.group, driver.ErrLost)
	t.end(err)
	return 0, err
}

func (t *tenure) Release(ctx context.Context, c driver.Checkpoint) error {
	if err := t.record(ctx, c); err != nil {
		if !errors.Is(err, driver.ErrLost) {
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
	})
}

// close ends a tenure that nobody has released.
func (t *tenure) close() {
	t.end(nil)
	t.feed.close()
}
