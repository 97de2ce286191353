package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
)

// auditAtOnce is how many streams an audit looks at at a time.
const auditAtOnce = 4

// Audit looks at all that the records say is there.
func (d *jsDriver) Audit(ctx context.Context) error {
	if err := d.usable(); err != nil && !errors.Is(err, driver.ErrMismatch) {
		return err
	}
	if err := d.checkStore(ctx); err != nil {
		return err
	}
	topics, groups, err := d.declared(ctx)
	if err != nil {
		return err
	}
	want := []streamConfig{d.stateConfig()}
	for _, t := range topics {
		if !t.Ready {
			continue // being made
		}
		for n := range t.Spec.Partitions {
			want = append(want, d.partitionConfig(t.Spec, driver.Partition{Topic: t.Spec.Name, N: n}))
		}
	}
	for _, g := range groups {
		want = append(want, d.laneConfig(g.Name))
	}
	errs := make([]error, len(want)+1)
	turns := make(chan struct{}, auditAtOnce)
	var wg sync.WaitGroup
	for i, c := range want {
		wg.Go(func() {
			turns <- struct{}{}
			errs[i] = d.auditStream(ctx, c)
			<-turns
		})
	}
	wg.Wait()
	errs[len(want)] = errors.Join(d.auditPositions(ctx, topics, groups), d.auditTopics(ctx, topics))
	return errors.Join(errs...)
}

// declared reads the records of topics and groups.
func (d *jsDriver) declared(ctx context.Context) (topics map[string]topicRecord, groups []driver.GroupSpec, err error) {
	topics = map[string]topicRecord{}
	err = d.readAll(ctx, d.names.state(), d.names.topics(), false, func(m *nats.Msg) error {
		var r topicRecord
		if err := decodeRecord(m.Subject, m.Data, &r); err != nil {
			return err
		}
		topics[r.Spec.Name] = r
		return nil
	})
	if err == nil {
		groups, err = d.Groups(ctx)
	}
	return topics, groups, err
}

// auditStream looks at one stream.
func (d *jsDriver) auditStream(ctx context.Context, want streamConfig) error {
	info, err := d.streamInfo(ctx, want.Name)
	if errors.Is(err, driver.ErrNotFound) {
		d.streamMissing(want.Name)
		return nil
	}
	if err != nil {
		return err
	}
	d.alarms.clear("stream_missing", want.Name, "the stream is there again")
	if err := ours(info.Config, want); err != nil {
		d.alarms.raise("stream_changed", want.Name, err.Error())
		return nil
	}
	d.lookAt(info, want)
	return nil
}

func (d *jsDriver) streamMissing(name string) {
	why, _ := d.whyStream(name)
	d.alarms.raise("stream_missing", name, fmt.Sprintf(
		"stream %s is gone from %s; it %s: nothing goes on that needs it; restore it from a copy; "+
			"a service that is started without that makes it anew, empty, and says so", name, d.opts.Store, why))
}

// lookAt compares a stream that stands with what we made.
func (d *jsDriver) lookAt(info streamInfo, want streamConfig) {
	d.audit(info)
	name := info.Config.Name
	if diff := changes(info.Config, want); len(diff) > 0 {
		d.alarms.raise("stream_changed", name, fmt.Sprintf(
			"somebody has changed the settings of stream %s: %s: messages may go that a group has not handled; set them back (nats stream edit %s)",
			name, strings.Join(diff, "; "), name))
	} else {
		d.alarms.clear("stream_changed", name, "the settings are as they were made")
	}
	if declared := d.declaredReplicas(want); info.Config.Replicas < declared {
		d.alarms.raise("replicas_missing", name, fmt.Sprintf(
			"stream %s has %d replicas, and %d are declared: fewer servers may fail than was planned for; nats stream update %s --replicas=%d",
			name, info.Config.Replicas, declared, name, declared))
	} else {
		d.alarms.clear("replicas_missing", name, "there are as many replicas as declared")
	}
}

// declaredReplicas is how many copies a stream is to have at least.
func (d *jsDriver) declaredReplicas(want streamConfig) int {
	if want.Replicas > 0 {
		return want.Replicas
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return max(d.opts.Replicas, d.opts.MinReplicas, d.replicas)
}

// audit looks for messages that have gone without our doing. A partition holds
// events only and loses them only at its beginning, by Trim.
func (d *jsDriver) audit(info streamInfo) {
	name := info.Config.Name
	if _, ok := d.names.parsePartition(name); !ok {
		return
	}
	s := info.State
	var want uint64
	if s.Last >= s.First && s.Last > 0 {
		want = s.Last - s.First + 1
	}
	if s.Msgs == want && s.Deleted == 0 {
		d.alarms.clear("messages_missing", name, "none are missing among those that are kept now")
		return
	}
	d.alarms.raise("messages_missing", name, fmt.Sprintf(
		"stream %s holds %d messages between %d and %d, where %d should be: %d are missing, by damage or by somebody's hand; "+
			"groups pass over them; restore the store from a copy if they matter",
		name, s.Msgs, s.First, s.Last, want, want-min(s.Msgs, want)))
}

// auditTopics looks for streams whose topic has lost its record.
func (d *jsDriver) auditTopics(ctx context.Context, topics map[string]topicRecord) error {
	names, err := d.streamNames(ctx)
	if err != nil {
		if errors.Is(err, driver.ErrDenied) {
			return nil // a right that nothing else needs
		}
		return err
	}
	for _, name := range names {
		p, ok := d.names.parsePartition(name)
		if !ok || p.N != 0 {
			continue
		}
		if _, ok := topics[p.Topic]; ok {
			d.alarms.clear("topic_missing", p.Topic, "there is a record again")
			continue
		}
		var r topicRecord // it may have been written since the list was made, or be on its way
		info, err := d.streamInfo(ctx, name)
		if rev, rerr := d.getRecordNow(ctx, d.names.topic(p.Topic), &r); err != nil || rerr != nil || rev != 0 || info.State.Last == 0 {
			continue
		}
		d.alarms.raise("topic_missing", p.Topic, fmt.Sprintf(
			"the record of topic %q (%s) is gone, and its streams stand: it cannot be opened before a service declares it with as many partitions as it has, or %s is restored from a copy",
			p.Topic, d.names.topic(p.Topic), d.names.state()))
	}
	return nil
}

// auditPositions looks for groups that have lost their positions.
func (d *jsDriver) auditPositions(ctx context.Context, topics map[string]topicRecord, groups []driver.GroupSpec) error {
	for _, g := range groups {
		there := map[driver.Partition]bool{}
		err := d.readAll(ctx, d.names.state(), d.names.allAts(g.Name), true, func(m *nats.Msg) error {
			if p, ok := d.names.parseAt(m.Subject); ok {
				there[p] = true
			}
			return nil
		})
		if err != nil {
			return err
		}
		for topic := range g.Types {
			d.auditGroup(ctx, g.Name, topics[topic].Spec, there)
		}
	}
	return nil
}

func (d *jsDriver) auditGroup(ctx context.Context, group string, topic driver.TopicSpec, there map[driver.Partition]bool) {
	for n := range topic.Partitions {
		p := driver.Partition{Topic: topic.Name, N: n}
		thing := fmt.Sprintf("%s at %s/%d", group, p.Topic, p.N)
		if there[p] {
			d.alarms.clear("position_missing", thing, "there is a position again")
			continue
		}
		var r position // it may have been written, or its topic dropped, since the list was made
		if rev, err := d.getRecordNow(ctx, d.names.at(group, p), &r); err != nil || rev != 0 {
			continue
		}
		if spec, err := d.group(ctx, group); err != nil || spec.Types[topic.Name] == nil {
			continue
		}
		d.alarms.raise("position_missing", thing, fmt.Sprintf(
			"the record of where group %q is in partition %d of topic %q is gone (%s): whoever takes the partition next starts with the first message that is kept "+
				"and handles again what was handled; to start elsewhere: posthorn groups reset", group, p.N, p.Topic, d.names.at(group, p)))
	}
}

// suspectGone looks at a stream that does not answer, and raises the alarm if it
// has been deleted.
func (d *jsDriver) suspectGone(stream string) {
	d.mu.Lock()
	_, busy := d.looking[stream]
	if busy || d.closed {
		d.mu.Unlock()
		return
	}
	d.looking[stream] = struct{}{}
	d.looks.Add(1)
	d.mu.Unlock()
	go func() {
		defer d.looks.Done()
		ctx, cancel := context.WithTimeout(context.Background(), createTry)
		defer cancel()
		if _, err := d.streamInfo(ctx, stream); errors.Is(err, driver.ErrNotFound) {
			d.streamMissing(stream)
		}
		d.mu.Lock()
		delete(d.looking, stream)
		d.mu.Unlock()
	}()
}
