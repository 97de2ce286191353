package jetstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/posthorn/posthorn/driver"
)

// ResetGroup takes the partitions from whoever holds them, and frees them at
// their new positions.
func (d *jsDriver) ResetGroup(ctx context.Context, name string, topics []string, start driver.StartAt) error {
	spec, err := d.Group(ctx, name)
	if err != nil {
		return err
	}
	for _, topic := range topics {
		if _, ok := spec.Types[topic]; !ok {
			return fmt.Errorf("jetstream: group %q has no topic %q in its record: %w", name, topic, driver.ErrNotFound)
		}
	}
	err = d.eachPartition(ctx, topics, func(p driver.Partition) error {
		floor, err := d.startFloor(ctx, p, start)
		if err != nil {
			return err
		}
		return d.take(ctx, name, p, func(r *position) {
			r.Begin, r.Floor, r.Mark, r.Finished, r.Clean = floor, floor, floor, nil, true
		})
	})
	d.announce(name, "")
	if err != nil {
		return err
	}
	return d.syncs.wait(ctx)
}

// eachPartition calls f for all partitions of topics.
func (d *jsDriver) eachPartition(ctx context.Context, topics []string, f func(p driver.Partition) error) error {
	for _, topic := range topics {
		spec, err := d.topicRecord(ctx, topic)
		if err != nil {
			return err
		}
		for n := range spec.Partitions {
			if err := f(driver.Partition{Topic: topic, N: n}); err != nil {
				return fmt.Errorf("jetstream: partition %d of topic %q: %w", n, topic, err)
			}
		}
	}
	return nil
}

// take changes a position and takes it and its lane from its holder. Then it is
// free.
func (d *jsDriver) take(ctx context.Context, group string, p driver.Partition, change func(r *position)) error {
	for {
		var r position
		rev, err := d.getRecordNow(ctx, d.names.at(group, p), &r)
		if err != nil {
			return err
		}
		r.format, r.Member = format{stateFormat}, ""
		change(&r)
		if _, _, err = d.seize(ctx, group, p, rev, &r); !errors.Is(err, driver.ErrConflict) {
			return err
		}
	}
}

// RemoveGroup ends with the group's record as long as what is left would be in the
// way of a new group of the name: when it fails, it can be called again. Positions
// that are left, with a fence, are not taken for a new group's: see begin.
func (d *jsDriver) RemoveGroup(ctx context.Context, name string) error {
	if err := d.usable(); err != nil {
		return err
	}
	defer d.announce(name, "")
	for removed := false; !removed; {
		var r groupRecord
		rev, err := d.getRecordNow(ctx, d.names.group(name), &r)
		if err == nil && rev == 0 {
			err = noGroup(name)
		}
		if err == nil {
			err = d.removeLanes(ctx, name, r)
		}
		if err == nil {
			removed, err = d.deleteRecord(ctx, d.names.group(name), rev)
		}
		if err != nil {
			return fmt.Errorf("jetstream: removing group %q: %w", name, err)
		}
	}
	if err := d.removeRest(ctx, name); err != nil {
		return fmt.Errorf("jetstream: group %q is removed, but something of it is left: %w", name, err)
	}
	return d.syncs.wait(ctx)
}

// removeLanes takes all partitions from their holders and deletes the lanes.
func (d *jsDriver) removeLanes(ctx context.Context, name string, r groupRecord) error {
	stream := d.names.lane(name)
	if _, err := d.streamInfo(ctx, stream); errors.Is(err, driver.ErrNotFound) {
		return nil // removed by a call that was cut off
	} else if err != nil {
		return err
	}
	topics := slices.Sorted(maps.Keys(r.Spec.Types))
	err := d.eachPartition(ctx, topics, func(p driver.Partition) error {
		return d.take(ctx, name, p, func(*position) {})
	})
	if err != nil {
		return err
	}
	return d.deleteStream(ctx, stream)
}

// removeRest deletes what nobody looks for without the group's record.
func (d *jsDriver) removeRest(ctx context.Context, name string) error {
	for _, filter := range []string{d.names.allAts(name), d.names.members(name)} {
		if _, err := d.purge(ctx, d.names.state(), purgeRequest{Filter: filter}); err != nil {
			return err
		}
	}
	streams, err := d.streamNames(ctx)
	if err != nil {
		return err
	}
	for _, stream := range streams {
		if _, ok := d.names.parsePartition(stream); !ok {
			continue
		}
		if err := d.dropConsumers(ctx, stream, name); err != nil && !errors.Is(err, driver.ErrNotFound) {
			return err
		}
	}
	return nil
}
