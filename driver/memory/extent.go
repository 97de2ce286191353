package memory

import (
	"context"
	"fmt"

	"github.com/posthorn/posthorn/driver"
)

func (m *memory) Extents(ctx context.Context, name string) ([]driver.Extent, error) {
	if err := m.check(ctx); err != nil {
		return nil, err
	}
	s := m.store
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.topics[name]
	if t == nil {
		return nil, fmt.Errorf("%w: topic %s", driver.ErrNotFound, name)
	}
	var all []driver.Extent
	for _, p := range t.parts {
		e := driver.Extent{First: p.first, Last: p.last()}
		for i := range p.msgs {
			e.Bytes += int64(p.msgs[i].msg.Size())
		}
		all = append(all, e)
	}
	return all, nil
}

// Plan names what would be made; nobody could make it by hand.
func (m *memory) Plan(_ context.Context, topics []driver.TopicSpec, groups []driver.GroupSpec) ([]driver.Planned, error) {
	var all []driver.Planned
	for _, t := range topics {
		all = append(all, driver.Planned{Thing: driver.Thing{Kind: "topic", Name: t.Name, Why: fmt.Sprintf("%d partitions in memory", t.Partitions)}})
	}
	for _, g := range groups {
		all = append(all, driver.Planned{Thing: driver.Thing{Kind: "group", Name: g.Name, Why: "positions and lanes in memory"}})
	}
	return all, nil
}
