package memory

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// A store is what several drivers of one name share. Its mutex guards all of it.
type store struct {
	name  string
	queue bool
	users int // guarded by storesMu

	mu     sync.Mutex
	topics map[string]*topic
	groups map[string]*group
}

func newStore(name string, queue bool) *store {
	return &store{name: name, queue: queue, topics: map[string]*topic{}, groups: map[string]*group{}}
}

type topic struct {
	spec  driver.TopicSpec
	parts []*part
	bytes int64
}

// A part is a partition: messages of consecutive positions.
type part struct {
	first uint64 // the position of msgs[0]
	msgs  []stored
	ids   map[string]seen
	// news is closed, and replaced, when something is appended.
	news chan struct{}
}

type stored struct {
	msg driver.Message
	at  time.Time
}

type seen struct {
	pos uint64
	at  time.Time
}

func (p *part) last() uint64 { return p.first + uint64(len(p.msgs)) - 1 }

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (m *memory) EnsureTopic(ctx context.Context, want driver.TopicSpec) (driver.TopicSpec, error) {
	if err := m.check(ctx); err != nil {
		return want, err
	}
	s := m.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.topics[want.Name]; t != nil {
		return t.spec, nil
	}
	if want.Dedup == 0 {
		want.Dedup = dedupWindow
	}
	want.Replicas = 1
	t := &topic{spec: want}
	for range want.Partitions {
		t.parts = append(t.parts, &part{first: 1, ids: map[string]seen{}, news: make(chan struct{})})
	}
	s.topics[want.Name] = t
	return want, nil
}

func (m *memory) Topics(ctx context.Context) ([]driver.TopicSpec, error) {
	if err := m.check(ctx); err != nil {
		return nil, err
	}
	s := m.store
	s.mu.Lock()
	defer s.mu.Unlock()
	var specs []driver.TopicSpec
	for _, name := range sortedKeys(s.topics) {
		specs = append(specs, s.topics[name].spec)
	}
	return specs, nil
}

func (m *memory) Read(ctx context.Context, p driver.Partition, above uint64, limit int, bodies bool) ([]driver.Delivery, error) {
	if err := m.check(ctx); err != nil {
		return nil, err
	}
	s := m.store
	s.mu.Lock()
	defer s.mu.Unlock()
	_, part, err := s.part(p)
	if err != nil {
		return nil, err
	}
	var all []driver.Delivery
	for pos := max(above+1, part.first); pos <= part.last() && len(all) < limit; pos++ {
		m := part.msgs[pos-part.first]
		d := driver.Delivery{Pos: pos, Stored: m.at, Msg: m.msg}
		if !bodies {
			d.Msg.Body = nil
		}
		d.Msg = clone(&d.Msg)
		all = append(all, d)
	}
	return all, nil
}

func (m *memory) ReadFrom(ctx context.Context, p driver.Partition, t time.Time) (uint64, error) {
	if err := m.check(ctx); err != nil {
		return 0, err
	}
	s := m.store
	s.mu.Lock()
	defer s.mu.Unlock()
	_, part, err := s.part(p)
	if err != nil {
		return 0, err
	}
	return startOf(part, driver.StartAt{Time: t}), nil
}

func (s *store) part(p driver.Partition) (*topic, *part, error) {
	t := s.topics[p.Topic]
	if t == nil || p.N < 0 || p.N >= len(t.parts) {
		return nil, nil, fmt.Errorf("%w: partition %d of topic %s", driver.ErrNotFound, p.N, p.Topic)
	}
	return t, t.parts[p.N], nil
}

// Ready is true: Append stores at once.
func (m *memory) Ready(driver.Partition) bool { return true }

func (m *memory) Append(p driver.Partition, msgs []driver.Message, deadline time.Time, done func([]driver.Outcome)) {
	outcomes := make([]driver.Outcome, len(msgs))
	defer func() { done(outcomes) }()
	refuse := func(err error) {
		for i := range outcomes {
			outcomes[i] = driver.Outcome{State: driver.NotStored, Err: err}
		}
	}
	if err := m.check(context.Background()); err != nil {
		refuse(err)
		return
	}
	s := m.store
	s.mu.Lock()
	defer s.mu.Unlock()
	t, part, err := s.part(p)
	if err != nil {
		refuse(err)
		return
	}
	now := m.env.Now()
	for i := range msgs {
		outcomes[i] = t.append(part, &msgs[i], now)
	}
	close(part.news)
	part.news = make(chan struct{})
}

func (t *topic) append(p *part, msg *driver.Message, now time.Time) driver.Outcome {
	size := int64(msg.Size())
	if size > maxMessage {
		return driver.Outcome{State: driver.NotStored, Err: driver.ErrTooLarge}
	}
	id := msg.Source + "\x00" + msg.ID
	if old, ok := p.ids[id]; ok && msg.ID != "" && now.Sub(old.at) < t.spec.Dedup { // foreign messages have no id
		return driver.Outcome{State: driver.Stored, Pos: old.pos, Dup: true}
	}
	if t.spec.MaxBytes > 0 && t.bytes+size > t.spec.MaxBytes {
		return driver.Outcome{State: driver.NotStored, Err: driver.ErrTopicFull}
	}
	p.msgs = append(p.msgs, stored{msg: clone(msg), at: now})
	t.bytes += size
	pos := p.last()
	p.ids[id] = seen{pos: pos, at: now}
	if pos%4096 == 0 { // from time to time, so that ids do not pile up
		for k, v := range p.ids {
			if now.Sub(v.at) >= t.spec.Dedup {
				delete(p.ids, k)
			}
		}
	}
	return driver.Outcome{State: driver.Stored, Pos: pos}
}

func clone(m *driver.Message) driver.Message {
	c := *m
	c.Attrs = slices.Clone(m.Attrs)
	c.Headers = slices.Clone(m.Headers)
	c.Body = slices.Clone(m.Body)
	return c
}

func (m *memory) Trim(ctx context.Context, p driver.Partition, below uint64, before time.Time) (int64, error) {
	if err := m.check(ctx); err != nil {
		return 0, err
	}
	s := m.store
	s.mu.Lock()
	defer s.mu.Unlock()
	t, part, err := s.part(p)
	if err != nil {
		return 0, err
	}
	n := 0
	for n < len(part.msgs) && part.first+uint64(n) < below && (before.IsZero() || part.msgs[n].at.Before(before)) {
		t.bytes -= int64(part.msgs[n].msg.Size())
		n++
	}
	part.msgs = slices.Clone(part.msgs[n:])
	part.first += uint64(n)
	return int64(n), nil
}
