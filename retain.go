package posthorn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// retainEvery bounds how often retention runs.
const (
	retainAtLeast = time.Minute
	retainAtMost  = time.Second
)

// retain deletes, from time to time, what is older than its topic keeps and
// settled by every registered group.
func (b *Bus) retain() {
	defer b.work.Done()
	timer := time.NewTimer(retainAtMost)
	defer timer.Stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		<-b.done
		cancel()
	}()
	for {
		select {
		case <-timer.C:
		case <-b.done:
			return
		}
		every := retainAtLeast
		for _, spec := range b.specs() {
			every = min(every, max(spec.Keep/10, retainAtMost))
			if _, err := b.trimTopic(ctx, spec, b.now().Add(-spec.Keep)); err != nil && ctx.Err() == nil {
				b.log.Warn("retention: a topic could not be trimmed; it is tried again", "topic", spec.Name, "error", err)
			}
		}
		timer.Reset(every)
	}
}

func (b *Bus) specs() []driver.TopicSpec {
	b.mu.Lock()
	defer b.mu.Unlock()
	var specs []driver.TopicSpec
	for _, t := range b.topics {
		specs = append(specs, t.spec)
	}
	return specs
}

// trimTopic deletes what all groups have settled and was stored before a time, or
// whatever its age when that is zero. A topic that no group is registered for is
// trimmed by age alone.
func (b *Bus) trimTopic(ctx context.Context, spec driver.TopicSpec, before time.Time) (int64, error) {
	floors, err := b.lowestFloors(ctx, spec)
	if err != nil {
		return 0, err
	}
	var trimmed int64
	for n := range spec.Partitions {
		below := ^uint64(0)
		if floors[n] != nil {
			below = floors[n].Floor + 1
		} else if before.IsZero() {
			continue // nobody has settled it, so only its age can end it
		}
		k, err := b.drv.Trim(ctx, driver.Partition{Topic: spec.Name, N: n}, below, before)
		trimmed += k
		if err != nil {
			return trimmed, err
		}
	}
	return trimmed, nil
}

type floorOf struct {
	driver.Position
	group string
}

// lowestFloors finds which group holds each partition back; nil for none.
func (b *Bus) lowestFloors(ctx context.Context, spec driver.TopicSpec) (map[int]*floorOf, error) {
	groups, err := b.drv.Groups(ctx)
	if err != nil {
		return nil, err
	}
	floors := map[int]*floorOf{}
	for _, g := range groups {
		if _, ok := g.Types[spec.Name]; !ok {
			continue
		}
		positions, err := b.drv.Positions(ctx, g.Name)
		if err != nil {
			return nil, err
		}
		for _, p := range positions {
			if p.Topic == spec.Name && (floors[p.N] == nil || p.Floor < floors[p.N].Floor) {
				floors[p.N] = &floorOf{Position: p, group: g.Name}
			}
		}
	}
	return floors, nil
}

// fullError says of a full topic which group holds it back. It also has what can
// go deleted at once, for whoever publishes next.
func (b *Bus) fullError(topic string, cause error) error {
	b.mu.Lock()
	ot := b.topics[topic]
	closed := b.closed
	b.mu.Unlock()
	text := fmt.Sprintf("topic %q is full", topic)
	if ot != nil && !closed {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if n, err := b.trimTopic(ctx, ot.spec, time.Time{}); err == nil && n > 0 {
			b.log.Warn("a topic has reached its size: what all groups have settled was deleted before its time", "topic", topic, "deleted", n)
			text += "; room was made just now, publish again"
		} else if who := b.holdsBack(ctx, ot.spec); who != "" {
			text += "; " + who
		}
	}
	return &Error{Code: CodeTopicFull, Text: text, Err: errors.Unwrap(cause)}
}

func (b *Bus) holdsBack(ctx context.Context, spec driver.TopicSpec) string {
	floors, err := b.lowestFloors(ctx, spec)
	if err != nil {
		return ""
	}
	var worst *floorOf
	for _, f := range floors {
		if worst == nil || f.Lag > worst.Lag {
			worst = f
		}
	}
	if worst == nil || worst.Lag == 0 {
		return "nothing of it can be deleted"
	}
	return fmt.Sprintf("group %q holds it back: it has %d unsettled events in partition %d; start or mend it, or raise MaxBytes", worst.group, worst.Lag, worst.N)
}
