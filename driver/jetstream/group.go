package jetstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
)

// EnsureGroup writes where the group begins before it writes that the group is
// there: who finds the group finds its positions. After that it tells the
// partitions, whose holders are refused what they record without the new types.
func (d *jsDriver) EnsureGroup(ctx context.Context, want driver.GroupSpec) (driver.GroupSpec, error) {
	if err := d.usable(); err != nil {
		return want, err
	}
	if want.Name == "" {
		return want, fmt.Errorf("jetstream: a group without a name: %w", driver.ErrInvalid)
	}
	if err := d.ensureStream(ctx, d.laneConfig(want.Name)); err != nil {
		return want, err
	}
	changed, created := false, false
	r, err := updateRecord(ctx, d, d.names.group(want.Name), func(r *groupRecord, exists bool) (bool, error) {
		created = !exists
		for topic := range want.Types {
			if _, ok := r.Spec.Types[topic]; ok {
				continue
			}
			if err := d.begin(ctx, want.Name, topic, want.Start, r.Spec.Version+1); err != nil {
				return false, err
			}
		}
		changed = r.merge(want)
		return changed, nil
	})
	if err == nil && created { // it may have been removed meanwhile, its lanes first
		err = d.ensureStream(ctx, d.laneConfig(want.Name))
	}
	if err == nil {
		err = d.tell(ctx, r, slices.Collect(maps.Keys(want.Types)))
	}
	if err == nil {
		err = d.syncs.wait(ctx)
	}
	if err != nil {
		return want, fmt.Errorf("jetstream: group %q: %w", want.Name, err)
	}
	if changed {
		d.announce(want.Name, "")
	}
	if changed && !created {
		d.heard(ctx, want.Name, r.Spec.Version)
	}
	return r.Spec, nil
}

// heardEvery is how often heard looks.
const heardEvery = 10 * time.Millisecond

// heard waits until the members that are alive know of a version of the group's
// record, for as long as the longest of their leases. One that does not know would
// lose nothing, since its checkpoints are refused: but it may pass over an event of
// a new type and handle a later one of its key before it comes back to it.
func (d *jsDriver) heard(ctx context.Context, group string, version int) {
	begun := time.Now() // monotonic
	for {
		info, err := d.streamInfo(ctx, d.names.state())
		if err != nil {
			return
		}
		all, err := d.roster(ctx, group, info.State.Last)
		if err != nil {
			return
		}
		behind, lease := "", time.Duration(0)
		for id, l := range all.members {
			if l.r.Knows < version {
				behind, lease = id, max(lease, l.r.Lease)
			}
		}
		if behind == "" {
			return
		}
		if time.Since(begun) > lease { // monotonic
			d.env.Log.Warn("jetstream: a member has not heard of the new types; events of one key may be handled out of order until it has",
				"group", group, "member", behind)
			return
		}
		select {
		case <-time.After(heardEvery):
		case <-ctx.Done():
			return
		}
	}
}

// announce lets the group's members look for what has changed, at once. It may be
// lost: they find it at their next beat.
func (d *jsDriver) announce(group, who string) {
	_ = d.nc.Publish(d.names.news(group), []byte(who))
}

// merge adds what is wanted and tells whether that changed anything.
func (r *groupRecord) merge(want driver.GroupSpec) bool {
	changed := r.Format == 0
	r.Format, r.Spec.Name = stateFormat, want.Name
	if r.Spec.Types == nil {
		r.Spec.Types = map[string][]string{}
	}
	if r.Grew == nil {
		r.Grew = map[string]int{}
	}
	next := r.Spec.Version + 1
	for topic, types := range want.Types {
		have, ok := r.Spec.Types[topic]
		all := slices.Concat(have, types)
		slices.Sort(all)
		all = slices.Compact(all)
		if !ok || len(all) != len(have) {
			r.Spec.Types[topic], r.Grew[topic], r.Spec.Version = all, next, next
			changed = true
		}
	}
	return changed
}

// tell raises the version in the positions of topics to where types were added
// last, so that a holder who does not know of them is refused. When there is
// nothing new, an earlier call may still have been cut off before this.
func (d *jsDriver) tell(ctx context.Context, r groupRecord, topics []string) error {
	info, err := d.streamInfo(ctx, d.names.state())
	if err != nil {
		return err
	}
	for _, topic := range topics {
		grew := r.Grew[topic]
		var behind []driver.Partition
		_, err := d.getLast(ctx, d.names.state(), []string{d.names.ats(r.Spec.Name, topic)}, info.State.Last, func(m *nats.Msg) error {
			var at position
			subject := first(m.Header["Nats-Subject"])
			if err := decodeRecord(subject, m.Data, &at); err != nil {
				return err
			}
			if p, ok := d.names.parseAt(subject); ok && at.Version < grew {
				behind = append(behind, p)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, p := range behind {
			_, err := updateRecord(ctx, d, d.names.at(r.Spec.Name, p), func(at *position, exists bool) (bool, error) {
				write := exists && at.Version < grew
				at.Version = max(at.Version, grew)
				return write, nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// begin writes where a group begins in each partition of a topic. What an
// attempt that was interrupted has written stands: it was earlier.
func (d *jsDriver) begin(ctx context.Context, group, topic string, start driver.StartAt, version int) error {
	spec, err := d.topic(ctx, topic)
	if err != nil {
		return err
	}
	for n := range spec.Partitions {
		p := driver.Partition{Topic: topic, N: n}
		floor, err := d.startFloor(ctx, p, start)
		if err != nil {
			return err
		}
		fresh := position{format: format{stateFormat}, Begin: floor, Floor: floor, Mark: floor, Clean: true, Version: version}
		_, err = d.putRecord(ctx, d.names.at(group, p), 0, fresh)
		if errors.Is(err, driver.ErrConflict) {
			err = d.beginAgain(ctx, group, p, fresh)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// beginAgain replaces what was left of a group, or of its subscription to a topic,
// that was removed: a position that somebody has held, though the group has not
// the topic. If it has it by now, somebody else has begun, and the position is
// in use.
func (d *jsDriver) beginAgain(ctx context.Context, group string, p driver.Partition, fresh position) error {
	var left position
	rev, err := d.getRecordNow(ctx, d.names.at(group, p), &left)
	if err != nil || left.Fence == 0 {
		return err
	}
	var r groupRecord
	if _, err = d.getRecordNow(ctx, d.names.group(group), &r); err != nil {
		return err
	}
	if _, ok := r.Spec.Types[p.Topic]; ok {
		return nil
	}
	fresh.Fence = left.Fence
	if _, err = d.putRecord(ctx, d.names.at(group, p), rev, fresh); errors.Is(err, driver.ErrConflict) {
		return nil // as above
	}
	return err
}

// startFloor is the position before the first one that the group gets.
func (d *jsDriver) startFloor(ctx context.Context, p driver.Partition, start driver.StartAt) (uint64, error) {
	info, err := d.streamInfo(ctx, d.names.partition(p))
	if err != nil {
		return 0, err
	}
	switch {
	case start.Now:
		return info.State.Last, nil
	case start.Time.IsZero():
		return max(info.State.First, 1) - 1, nil
	}
	seq, ok, err := d.firstSince(ctx, p, start.Time)
	if err != nil {
		return 0, err
	}
	if !ok {
		// Nothing is that young. What has come since the question stands above
		// the last one that was seen before it.
		return info.State.Last, nil
	}
	return seq - 1, nil
}

// DropTypes removes types from the record. The record changes first: positions
// without a group disturb nobody.
func (d *jsDriver) DropTypes(ctx context.Context, group string, types []string) error {
	if err := d.usable(); err != nil {
		return err
	}
	var left []string
	_, err := updateRecord(ctx, d, d.names.group(group), func(r *groupRecord, exists bool) (bool, error) {
		if !exists {
			return false, fmt.Errorf("jetstream: group %q: %w", group, driver.ErrNotFound)
		}
		before := r.Spec.Version
		left = r.drop(types)
		return r.Spec.Version != before, nil
	})
	for _, topic := range left {
		if err == nil {
			_, err = d.purge(ctx, d.names.state(), purgeRequest{Filter: d.names.ats(group, topic)})
		}
	}
	if err != nil {
		return err
	}
	d.announce(group, "")
	return d.syncs.wait(ctx)
}

// drop removes types and returns the topics that have none left.
func (r *groupRecord) drop(types []string) (left []string) {
	next := r.Spec.Version + 1
	for topic, have := range r.Spec.Types {
		kept := slices.DeleteFunc(slices.Clone(have), func(t string) bool { return slices.Contains(types, t) })
		if len(kept) == len(have) {
			continue
		}
		r.Spec.Version = next
		if len(kept) == 0 {
			delete(r.Spec.Types, topic)
			delete(r.Grew, topic)
			left = append(left, topic)
		} else {
			r.Spec.Types[topic] = kept
		}
	}
	return left
}

func (d *jsDriver) group(ctx context.Context, name string) (driver.GroupSpec, error) {
	var r groupRecord
	rev, err := d.getRecord(ctx, d.names.group(name), &r)
	if err == nil && rev == 0 {
		err = noGroup(name)
	}
	return r.Spec, err
}

func (d *jsDriver) Groups(ctx context.Context) ([]driver.GroupSpec, error) {
	var all []driver.GroupSpec
	err := d.readAll(ctx, d.names.state(), d.names.groups(), false, func(m *nats.Msg) error {
		var r groupRecord
		if err := decodeRecord(m.Subject, m.Data, &r); err != nil {
			return err
		}
		all = append(all, r.Spec)
		return nil
	})
	return all, err
}

func (d *jsDriver) Positions(ctx context.Context, group string) ([]driver.Position, error) {
	spec, err := d.group(ctx, group)
	if err != nil {
		return nil, err
	}
	var all []driver.Position
	for _, topic := range slices.Sorted(maps.Keys(spec.Types)) {
		t, err := d.topicRecord(ctx, topic) // who looks makes nothing that is missing
		if err != nil {
			return nil, err
		}
		for n := range t.Partitions {
			p, err := d.position(ctx, group, driver.Partition{Topic: topic, N: n})
			if err != nil {
				return nil, err
			}
			all = append(all, p)
		}
	}
	return all, nil
}

func (d *jsDriver) position(ctx context.Context, group string, p driver.Partition) (driver.Position, error) {
	var r position
	if _, err := d.getRecord(ctx, d.names.at(group, p), &r); err != nil {
		return driver.Position{}, err
	}
	info, err := d.streamInfo(ctx, d.names.partition(p))
	if err != nil {
		return driver.Position{}, err
	}
	s := info.State
	pos := driver.Position{
		Partition: p, First: max(s.First, 1), Last: s.Last, Floor: r.Floor, Fence: r.Fence, Member: r.Member,
		Begin: r.Begin, Mark: r.Mark, Finished: r.Finished,
	}
	c := driver.Checkpoint{Floor: r.Floor, Finished: r.Finished}
	pos.Lag = c.Lag(pos.First, pos.Last)
	return pos, nil
}

// lowerPositions takes back positions that lie above the end of their stream. The
// store is an older copy then, and what is published to the topic from now on
// would stand below them and be passed over: so it is done before a topic is
// first published to, and not only when a partition is taken over.
func (d *jsDriver) lowerPositions(ctx context.Context, topic driver.TopicSpec) error {
	groups, err := d.Groups(ctx)
	if err != nil {
		return err
	}
	for _, g := range groups {
		if _, ok := g.Types[topic.Name]; !ok {
			continue
		}
		for n := range topic.Partitions {
			if err := d.lowerPosition(ctx, g.Name, driver.Partition{Topic: topic.Name, N: n}); err != nil {
				return err
			}
		}
	}
	return nil
}

// lowerPosition reads the record before the stream: the stream has grown since, if
// anything, so that a holder at work is never taken for one that is ahead.
func (d *jsDriver) lowerPosition(ctx context.Context, group string, p driver.Partition) error {
	_, err := updateRecord(ctx, d, d.names.at(group, p), func(r *position, exists bool) (bool, error) {
		info, err := d.streamInfo(ctx, d.names.partition(p))
		replaced := r.replaced(info)
		if err != nil || !exists || !replaced && max(r.Floor, r.Seen) <= info.State.Last {
			return false, err
		}
		start := d.startOf(group, info, *r)
		r.Begin = min(r.Begin, info.State.Last)
		r.Floor, r.Mark, r.Finished, r.Seen = start.Floor, start.Mark, start.Finished, info.State.Last
		if replaced {
			r.Begin, r.Seen, r.Made = start.Floor, start.Floor, info.Created
		}
		return true, nil
	})
	return err
}
