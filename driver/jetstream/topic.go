package jetstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/posthorn/posthorn/driver"
)

const (
	defaultDedup  = 2 * time.Minute
	maxPartitions = 1024
)

// EnsureTopic writes the topic's record first and makes the streams after it: one
// that was interrupted is completed by the next.
func (d *jsDriver) EnsureTopic(ctx context.Context, want driver.TopicSpec) (driver.TopicSpec, error) {
	if err := d.usable(); err != nil {
		return want, err
	}
	if want.Name == "" || want.Partitions < 1 || want.Partitions > maxPartitions {
		return want, fmt.Errorf("jetstream: topic %q with %d partitions: a topic has a name and 1 to %d partitions: %w",
			want.Name, want.Partitions, maxPartitions, driver.ErrInvalid)
	}
	if spec, ok := d.knownTopic(want.Name); ok {
		return spec, nil
	}
	subject := d.names.topic(want.Name)
	if err := d.mayMake(ctx, want); err != nil {
		return want, fmt.Errorf("jetstream: topic %q: %w", want.Name, err)
	}
	r, err := updateRecord(ctx, d, subject, func(r *topicRecord, exists bool) (bool, error) {
		if !exists {
			*r = topicRecord{format: format{stateFormat}, Spec: want}
		}
		return !exists, nil
	})
	if err != nil {
		return want, err
	}
	if err := d.openTopic(ctx, r); err != nil {
		return want, fmt.Errorf("jetstream: topic %q: %w", want.Name, err)
	}
	return r.Spec, nil
}

// mayMake makes the first stream of a topic that is new, before anything is
// written down: a declaration that the server refuses must not stand.
func (d *jsDriver) mayMake(ctx context.Context, want driver.TopicSpec) error {
	var r topicRecord
	if rev, err := d.getRecord(ctx, d.names.topic(want.Name), &r); err != nil || rev != 0 {
		return err
	}
	stream := func(n int) streamConfig { return d.partitionConfig(want, driver.Partition{Topic: want.Name, N: n}) }
	info, made, err := d.openStream(ctx, stream(0))
	if err != nil || made || info.State.Last == 0 {
		return err
	}
	if rev, err := d.getRecordNow(ctx, d.names.topic(want.Name), &r); err != nil || rev != 0 {
		return err // it was being made
	}
	_, last := d.streamInfo(ctx, stream(want.Partitions-1).Name)
	_, over := d.streamInfo(ctx, stream(want.Partitions).Name)
	if last == nil && errors.Is(over, driver.ErrNotFound) {
		d.alarms.raise("topic_missing", want.Name, fmt.Sprintf(
			"the record of topic %q (%s) is gone, and its %d streams hold events: it is written again as it is declared", want.Name, d.names.topic(want.Name), want.Partitions))
		return nil
	}
	return fmt.Errorf("its record (%s) is gone, and its streams (%s and others) are not the %d that are declared: declare as many as there are, or restore %s from a copy: %w",
		d.names.topic(want.Name), info.Config.Name, want.Partitions, d.names.state(), driver.ErrMismatch)
}

func (d *jsDriver) knownTopic(name string) (driver.TopicSpec, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	spec, ok := d.topics[name]
	return spec, ok
}

// topic returns a topic that must exist.
func (d *jsDriver) topic(ctx context.Context, name string) (driver.TopicSpec, error) {
	if spec, ok := d.knownTopic(name); ok {
		return spec, nil
	}
	var r topicRecord
	rev, err := d.getRecord(ctx, d.names.topic(name), &r)
	if err == nil && rev == 0 {
		err = fmt.Errorf("jetstream: topic %q: %w", name, driver.ErrNotFound)
	}
	if err != nil {
		return driver.TopicSpec{}, err
	}
	return r.Spec, d.openTopic(ctx, r)
}

// openTopic makes the streams that are not there, looks at those that are, and
// remembers that it did.
func (d *jsDriver) openTopic(ctx context.Context, r topicRecord) error {
	errs := make([]error, r.Spec.Partitions)
	var wg sync.WaitGroup
	turns := make(chan struct{}, 4)
	for n := range r.Spec.Partitions {
		wg.Go(func() {
			turns <- struct{}{}
			errs[n] = d.openPartition(ctx, r, n)
			<-turns
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if r.Ready {
		if err := d.lowerPositions(ctx, r.Spec); err != nil {
			return err
		}
	} else if err := d.topicReady(ctx, r.Spec.Name); err != nil {
		return err
	}
	if err := d.syncs.wait(ctx); err != nil {
		return err
	}
	d.mu.Lock()
	d.topics[r.Spec.Name] = r.Spec
	d.mu.Unlock()
	return nil
}

func (d *jsDriver) topicReady(ctx context.Context, name string) error {
	_, err := updateRecord(ctx, d, d.names.topic(name), func(r *topicRecord, exists bool) (bool, error) {
		write := exists && !r.Ready
		r.Ready = true
		return write, nil
	})
	return err
}

func (d *jsDriver) openPartition(ctx context.Context, r topicRecord, n int) error {
	p := driver.Partition{Topic: r.Spec.Name, N: n}
	info, made, err := d.openStream(ctx, d.partitionConfig(r.Spec, p))
	switch {
	case err != nil:
		return err
	case !made:
		d.lookAt(info, d.partitionConfig(r.Spec, p))
	case r.Ready:
		d.env.Alarm(driver.Alarm{Code: "messages_missing", Thing: d.names.partition(p), Text: fmt.Sprintf(
			"stream %s of topic %q is gone: what it held is lost unless there is a copy of the store; it is made anew, empty",
			d.names.partition(p), p.Topic)})
	}
	return nil
}

func (d *jsDriver) partitionConfig(spec driver.TopicSpec, p driver.Partition) streamConfig {
	c := fileStream(d.names.partition(p), fmt.Sprintf("Posthorn: the events of topic %s, partition %d of %d", spec.Name, p.N, spec.Partitions),
		spec.Replicas, d.names.partitionSubject(p))
	c.AllowBatched = true
	c.Duplicates = defaultDedup
	if spec.Dedup > 0 {
		c.Duplicates = spec.Dedup
	}
	if spec.MaxBytes > 0 {
		c.MaxBytes = max(spec.MaxBytes/int64(spec.Partitions), 1)
	}
	c.Metadata = map[string]string{topicMetadata: spec.Name}
	return c
}
