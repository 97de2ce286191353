package memory

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/posthorn/posthorn/driver"
)

// A group is a registered group.
type group struct {
	types map[string][]string
	at    map[driver.Partition]*place
}

// A place is where a group stands in a partition.
type place struct {
	part  *part
	check driver.Checkpoint
	fence uint64
	lane  *lane

	holder  *tenure
	waiting []*membership

	// Queue: what is settled above the floor, and what was handed out before.
	settled map[uint64]bool
	handed  map[uint64]bool
	// freed is closed, and replaced, when something becomes available again.
	freed chan struct{}
}

func (m *memory) EnsureGroup(ctx context.Context, want driver.GroupSpec) (driver.GroupSpec, error) {
	if err := m.check(ctx); err != nil {
		return want, err
	}
	s := m.store
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range want.Types {
		if s.topics[name] == nil {
			return want, fmt.Errorf("%w: topic %s", driver.ErrNotFound, name)
		}
	}
	g := s.groups[want.Name]
	if g == nil {
		g = &group{types: map[string][]string{}, at: map[driver.Partition]*place{}}
		s.groups[want.Name] = g
	}
	for name, types := range want.Types {
		for n, p := range s.topics[name].parts {
			id := driver.Partition{Topic: name, N: n}
			switch pl := g.at[id]; {
			case pl == nil:
				g.at[id] = newPlace(p, startOf(p, want.Start))
			case g.types[name] == nil: // it had left the topic; its lane stayed
				fresh := newPlace(p, startOf(p, want.Start))
				fresh.lane, fresh.fence = pl.lane, pl.fence
				g.at[id] = fresh
			}
		}
		for _, t := range types {
			if !slices.Contains(g.types[name], t) {
				g.types[name] = append(g.types[name], t)
			}
		}
	}
	return g.spec(want.Name), nil
}

func newPlace(p *part, floor uint64) *place {
	return &place{
		part:    p,
		check:   driver.Checkpoint{Floor: floor, Mark: floor, Clean: true},
		lane:    &lane{entries: map[string]*driver.Entry{}},
		settled: map[uint64]bool{},
		handed:  map[uint64]bool{},
		freed:   make(chan struct{}),
	}
}

func startOf(p *part, at driver.StartAt) uint64 {
	switch {
	case at.Now:
		return p.last()
	case at.Time.IsZero():
		return p.first - 1
	}
	for i, m := range p.msgs {
		if !m.at.Before(at.Time) {
			return p.first + uint64(i) - 1
		}
	}
	return p.last()
}

func (g *group) spec(name string) driver.GroupSpec {
	types := map[string][]string{}
	for topic, t := range g.types {
		types[topic] = slices.Clone(t)
	}
	return driver.GroupSpec{Name: name, Types: types}
}

func (m *memory) DropTypes(ctx context.Context, name string, types []string) error {
	if err := m.check(ctx); err != nil {
		return err
	}
	s := m.store
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groups[name]
	if g == nil {
		return fmt.Errorf("%w: group %s", driver.ErrNotFound, name)
	}
	for topic, have := range g.types {
		g.types[topic] = slices.DeleteFunc(have, func(t string) bool { return slices.Contains(types, t) })
	}
	maps.DeleteFunc(g.types, func(_ string, have []string) bool { return len(have) == 0 })
	return nil
}

func (m *memory) Groups(ctx context.Context) ([]driver.GroupSpec, error) {
	if err := m.check(ctx); err != nil {
		return nil, err
	}
	s := m.store
	s.mu.Lock()
	defer s.mu.Unlock()
	var specs []driver.GroupSpec
	for _, name := range sortedKeys(s.groups) {
		specs = append(specs, s.groups[name].spec(name))
	}
	return specs, nil
}

func (m *memory) Positions(ctx context.Context, name string) ([]driver.Position, error) {
	if err := m.check(ctx); err != nil {
		return nil, err
	}
	s := m.store
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groups[name]
	if g == nil {
		return nil, fmt.Errorf("%w: group %s", driver.ErrNotFound, name)
	}
	var all []driver.Position
	for id, pl := range g.at {
		floor := pl.check.Floor
		pos := driver.Position{Partition: id, First: pl.part.first, Last: pl.part.last(), Floor: floor, Fence: pl.fence, Held: pl.holder != nil}
		pos.Lag = pl.check.Lag(pos.First, pos.Last) - int64(len(pl.settled))
		if g.types[id.Topic] == nil {
			pos.Lag = 0 // only its lane is left
		}
		all = append(all, pos)
	}
	return all, nil
}
