package posthorn

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// A TopicStatus is a topic as it stands on the broker.
type TopicStatus struct {
	Name string
	// Settings are those that are stored. MaxBytes 0 is no cap, and Replicas 0 as many
	// as the broker has, up to 3.
	Settings TopicConfig
	// Partitions are the topic's, by number.
	Partitions []TopicPartition
	// Events counts what is kept, Bytes about what it takes on the broker; -1 when
	// the broker does not say.
	Events, Bytes int64
	// Oldest is when the oldest event that is kept was stored; zero without any, or
	// when the broker does not say.
	Oldest time.Time
	// Groups are the groups that are subscribed to events of the topic.
	Groups []string
	// Trouble says what is missing of the topic on the broker; "" for nothing. Then
	// what it holds is not known.
	Trouble string
}

// A TopicPartition is what a partition of a topic holds.
type TopicPartition struct {
	Partition   int
	First, Last uint64 // positions: the first event that is kept and the last that was stored
	Bytes       int64  // -1 when the broker does not say
}

// hidden tells whether a topic or group is one of our own, beside users': its name
// is outside of their grammar.
func hidden(name string) bool { return strings.HasPrefix(name, "_") }

// Topics returns all topics on the broker, by name.
func (b *Bus) Topics(ctx context.Context) ([]TopicStatus, error) {
	specs, err := b.topicSpecs(ctx)
	if err != nil {
		return nil, err
	}
	groups, err := b.drv.Groups(ctx)
	if err != nil {
		return nil, wrapf(err, "list the groups")
	}
	var all []TopicStatus
	for _, spec := range specs {
		t, err := b.topicStatus(ctx, spec, groups)
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return all, nil
}

// topicSpecs returns the users' topics, by name.
func (b *Bus) topicSpecs(ctx context.Context) ([]driver.TopicSpec, error) {
	specs, err := b.drv.Topics(ctx)
	if err != nil {
		return nil, wrapf(err, "list the topics")
	}
	specs = slices.DeleteFunc(specs, func(s driver.TopicSpec) bool { return hidden(s.Name) })
	slices.SortFunc(specs, func(x, y driver.TopicSpec) int { return strings.Compare(x.Name, y.Name) })
	return specs, nil
}

func (b *Bus) topicStatus(ctx context.Context, spec driver.TopicSpec, groups []driver.GroupSpec) (TopicStatus, error) {
	t := TopicStatus{Name: spec.Name, Settings: settingsOf(spec)}
	t.Settings.Dedup = cmp.Or(spec.Dedup, b.drv.Caps().DedupWindow)
	for _, g := range groups {
		if _, ok := g.Types[spec.Name]; ok && !hidden(g.Name) {
			t.Groups = append(t.Groups, g.Name)
		}
	}
	slices.Sort(t.Groups)
	extents, err := b.drv.Extents(ctx, spec.Name)
	if errors.Is(err, driver.ErrNotFound) {
		t.Bytes, t.Trouble = -1, trimPrefix(err)
		return t, nil
	}
	if err != nil {
		return t, wrapf(err, "topic %q", spec.Name)
	}
	for n, e := range extents {
		t.Partitions = append(t.Partitions, TopicPartition{Partition: n, First: e.First, Last: e.Last, Bytes: e.Bytes})
		if e.Bytes < 0 || t.Bytes < 0 {
			t.Bytes = -1
		} else {
			t.Bytes += e.Bytes
		}
		if e.Last < e.First {
			continue
		}
		t.Events += int64(e.Last - e.First + 1)
		first, err := b.drv.Read(ctx, driver.Partition{Topic: spec.Name, N: n}, e.First-1, 1, false)
		if err != nil && !isUnsupported(err) {
			return t, wrapf(err, "topic %q", spec.Name)
		}
		if len(first) > 0 && (t.Oldest.IsZero() || first[0].Stored.Before(t.Oldest)) {
			t.Oldest = first[0].Stored
		}
	}
	return t, nil
}

func settingsOf(s driver.TopicSpec) TopicConfig {
	return TopicConfig{Partitions: s.Partitions, Unordered: s.Unordered, StrictOrder: s.Strict, Keep: s.Keep, MaxBytes: s.MaxBytes, Replicas: s.Replicas, Dedup: s.Dedup}
}

func byPartition(x, y driver.Partition) int {
	return cmp.Or(strings.Compare(x.Topic, y.Topic), x.N-y.N)
}
