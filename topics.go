package posthorn

import (
	"context"
	"sync"

	"github.com/posthorn/posthorn/driver"
)

// An openTopic is a topic as it stands on the broker.
type openTopic struct {
	spec    driver.TopicSpec
	writers []*writer // one a partition
	handled bool      // by a group of this bus; guarded by the bus

	mu       sync.Mutex
	declared []*Topic // compared already
}

// openTopic opens a topic, creating it when it does not exist.
func (b *Bus) openTopic(ctx context.Context, t *Topic) (*openTopic, error) {
	if t.err != nil {
		return nil, t.err
	}
	b.mu.Lock()
	ot := b.topics[t.name]
	b.mu.Unlock()
	if ot == nil {
		// Two callers may both come here: creating is idempotent, and the first
		// to have finished wins.
		stands, err := b.drv.EnsureTopic(ctx, t.spec())
		if err != nil {
			return nil, wrapf(err, "open topic %q", t.name)
		}
		if ot, err = b.keepTopic(t.name, stands); err != nil {
			return nil, err
		}
	}
	return ot, ot.check(b, t)
}

func (b *Bus) keepTopic(name string, stands driver.TopicSpec) (*openTopic, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errorf(CodeClosed, "topic %q: the bus is closed", name)
	}
	if ot := b.topics[name]; ot != nil {
		return ot, nil
	}
	ot := &openTopic{spec: stands}
	for n := range stands.Partitions {
		ot.writers = append(ot.writers, newWriter(b, driver.Partition{Topic: name, N: n}))
	}
	b.topics[name] = ot
	return ot, nil
}

// check holds a declaration against what stands, once.
func (ot *openTopic) check(b *Bus, t *Topic) error {
	ot.mu.Lock()
	defer ot.mu.Unlock()
	for _, d := range ot.declared {
		if d == t {
			return nil
		}
	}
	warnings, err := t.compare(ot.spec)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		b.log.Warn(w)
	}
	ot.declared = append(ot.declared, t)
	return nil
}

// partition chooses where an event goes. One without a key goes by its id, so that
// a repetition meets the first copy, which the broker recognises by partition.
func (ot *openTopic) partition(key, id string) int {
	if key == "" {
		key = id
	}
	return driver.PartitionOf(key, len(ot.writers))
}
