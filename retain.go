package posthorn

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// Retention looks at a partition again after a tenth of what its topic keeps, within
// these bounds, and not before its first message is old enough to go.
const (
	retainAtLeast = 10 * time.Minute
	retainAtMost  = time.Second
)

// A keeper is what retention knows of the topics of a bus. One goroutine has it.
type keeper struct {
	bus  *Bus
	next map[driver.Partition]time.Time // when to look at it, monotonic
}

// retain deletes, from time to time, what is older than its topic keeps and
// settled by every registered group.
func (b *Bus) retain() {
	defer b.work.Done()
	ctx, cancel := b.untilClosed()
	defer cancel()
	k := &keeper{bus: b, next: map[driver.Partition]time.Time{}}
	timer := time.NewTimer(retainAtMost)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		for _, spec := range b.specs() {
			if err := k.topic(ctx, spec); err != nil && ctx.Err() == nil {
				b.log.Warn("retention: a topic could not be trimmed; it is tried again", "topic", spec.Name, "error", err)
			}
		}
		timer.Reset(retainAtMost)
	}
}

// topic trims the partitions of a topic whose time has come. It asks the broker
// nothing while there are none.
func (k *keeper) topic(ctx context.Context, spec driver.TopicSpec) error {
	now, before := time.Now(), k.bus.clock.Sure().Add(-spec.Keep) // monotonic
	every := min(retainAtLeast, max(spec.Keep/10, retainAtMost))
	var old []int
	for n := range spec.Partitions {
		p := driver.Partition{Topic: spec.Name, N: n}
		if k.next[p].IsZero() { // spread, so that not all are looked at at once
			k.next[p] = now.Add(rand.N(every))
		}
		if now.Before(k.next[p]) {
			continue
		}
		k.next[p] = now.Add(every/2 + rand.N(every/2))
		age, known, err := k.oldest(ctx, p, before)
		switch {
		case err != nil:
			return err
		case !known || age >= 0:
			old = append(old, n)
		case now.Add(-age).After(k.next[p]):
			k.next[p] = now.Add(-age)
		}
	}
	if len(old) == 0 {
		return nil
	}
	_, err := k.bus.trimTopic(ctx, spec, before, old)
	return err
}

// oldest tells by how much the first message of a partition is older than before;
// an empty one will not have any for as long as the topic keeps. known is false
// where the broker does not tell.
func (k *keeper) oldest(ctx context.Context, p driver.Partition, before time.Time) (age time.Duration, known bool, err error) {
	first, err := k.bus.drv.Read(ctx, p, 0, 1, false)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return 0, false, nil
	case err != nil:
		return 0, false, err
	case len(first) == 0:
		return before.Sub(k.bus.clock.Sure()), true, nil
	case first[0].Stored.IsZero():
		return 0, false, nil
	}
	return before.Sub(first[0].Stored), true, nil
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

// trimTopic deletes in these partitions what all groups have settled and was stored
// before a time, or whatever its age when that is zero. A topic that no group is
// registered for is trimmed by age alone.
func (b *Bus) trimTopic(ctx context.Context, spec driver.TopicSpec, before time.Time, partitions []int) (int64, error) {
	floors, err := b.lowestFloors(ctx, spec)
	if err != nil {
		return 0, err
	}
	var trimmed int64
	for _, n := range partitions {
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
		if n, err := b.trimTopic(ctx, ot.spec, time.Time{}, all(ot.spec.Partitions)); err == nil && n > 0 {
			b.log.Warn("a topic has reached its size: what all groups have settled was deleted before its time", "topic", topic, "deleted", n)
			text += "; room was made just now, publish again"
		} else if who := b.holdsBack(ctx, ot.spec); who != "" {
			text += "; " + who
		}
	}
	return &Error{Code: CodeTopicFull, Text: text, Err: errors.Unwrap(cause)}
}

// all numbers partitions.
func all(n int) []int {
	ns := make([]int, n)
	for i := range ns {
		ns[i] = i
	}
	return ns
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
