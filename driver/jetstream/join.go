package jetstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// Leases divides partitions among the members of groups that are in one process:
// who comes first holds, the others wait in a line.
type Leases struct {
	mu sync.Mutex
	m  map[string]chan struct{}
}

// NewLeases returns an empty registry. Drivers that serve the same store share
// one.
func NewLeases() *Leases { return &Leases{m: map[string]chan struct{}{}} }

// slot holds one while the lease is held. Waiting senders are served in turn.
func (l *Leases) slot(key string) chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.m[key] == nil {
		l.m[key] = make(chan struct{}, 1)
	}
	return l.m[key]
}

func (l *Leases) held(key string) bool { return len(l.slot(key)) > 0 }

// Join waits for each partition by itself.
func (d *jsDriver) Join(ctx context.Context, group string, topics []string, m driver.Member) error {
	spec, err := d.group(ctx, group)
	if err != nil {
		return err
	}
	var all []driver.Partition
	for _, topic := range topics {
		if _, ok := spec.Types[topic]; !ok {
			return fmt.Errorf("jetstream: group %q has no topic %q in its record: %w", group, topic, driver.ErrNotFound)
		}
		t, err := d.topic(ctx, topic)
		if err != nil {
			return err
		}
		for n := range t.Partitions {
			all = append(all, driver.Partition{Topic: topic, N: n})
		}
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var wg sync.WaitGroup
	for _, p := range all {
		wg.Go(func() {
			if err := d.hold(ctx, group, p, m); err != nil {
				end(err)
			}
		})
	}
	<-ctx.Done()
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// hold gets a partition and hands it over, again after it was lost, until ctx
// ends or the member has released it.
func (d *jsDriver) hold(ctx context.Context, group string, p driver.Partition, m driver.Member) error {
	slot := d.opts.Leases.slot(d.leaseKey(group, p))
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		select {
		case slot <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		released, err := d.tenure(ctx, group, p, m)
		<-slot
		switch {
		case released || ctx.Err() != nil:
			return nil
		case errors.Is(err, driver.ErrClosed) || errors.Is(err, driver.ErrMismatch):
			return err
		}
		d.env.Log.Warn("jetstream: no hold of a partition, trying again", "group", group, "topic", p.Topic, "partition", p.N, "err", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

// tenure runs one tenure to its end.
func (d *jsDriver) tenure(ctx context.Context, group string, p driver.Partition, m driver.Member) (released bool, err error) {
	t, err := d.takeOver(ctx, group, p)
	if err != nil {
		return false, err
	}
	defer t.close()
	m.Assigned(t)
	select {
	case <-t.ended:
		if t.lost == nil {
			return true, nil
		}
		m.Lost(t, t.lost)
		return false, t.lost
	case <-ctx.Done():
		return false, nil
	}
}
