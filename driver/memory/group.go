package memory

import (
	"context"
	"fmt"
	"slices"

	"github.com/posthorn/posthorn/driver"
)

// A group is a registered group.
type group struct {
	spec    driver.GroupSpec
	at      map[driver.Partition]*place
	members []*membership // in the order they joined
	removed bool
	// changed is closed, and replaced, when the record, a member or a holder has
	// changed.
	changed chan struct{}
	changes int // of the record
}

// poke wakes the group's members.
func (g *group) poke() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// recorded is called after each change of the record.
func (g *group) recorded() {
	g.changes++
	g.poke()
}

// record is the record as it stands.
func (g *group) record() driver.GroupSpec {
	spec := g.spec
	spec.Types = map[string][]string{}
	for topic, t := range g.spec.Types {
		spec.Types[topic] = slices.Clone(t)
	}
	return spec
}

// A place is where a group stands in a partition.
type place struct {
	part  *part
	check driver.Checkpoint
	begin uint64 // where it began, or was last reset to
	fence uint64
	lane  *lane
	// version is the record's as of which a holder must have been told.
	version int
	holder  *tenure

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
	fresh := g == nil
	if fresh {
		g = &group{spec: driver.GroupSpec{Name: want.Name, Types: map[string][]string{}}, at: map[driver.Partition]*place{}, changed: make(chan struct{})}
		s.groups[want.Name] = g
	}
	var grown []string // topics
	for name, types := range want.Types {
		have, ok := g.spec.Types[name]
		if !ok {
			s.begin(g, name, want.Start)
		}
		for _, t := range types {
			if !slices.Contains(have, t) {
				have = append(have, t)
			}
		}
		if !ok || len(have) > len(g.spec.Types[name]) {
			g.spec.Types[name], grown = have, append(grown, name)
		}
	}
	if len(grown) > 0 {
		g.spec.Version++
		for id, pl := range g.at {
			if slices.Contains(grown, id.Topic) {
				pl.version = g.spec.Version
			}
		}
	}
	if fresh || len(grown) > 0 {
		g.recorded()
	}
	return g.record(), nil
}

// begin sets where a group begins in a topic that is new to it.
func (s *store) begin(g *group, topic string, start driver.StartAt) {
	for n, p := range s.topics[topic].parts {
		id := driver.Partition{Topic: topic, N: n}
		fresh := newPlace(p, startOf(p, start))
		if old := g.at[id]; old != nil { // the group had left the topic; its lane stayed
			old.end(driver.ErrLost)
			fresh.lane, fresh.fence = old.lane, old.fence
		}
		g.at[id] = fresh
	}
}

func newPlace(p *part, floor uint64) *place {
	return &place{
		part:    p,
		check:   driver.Checkpoint{Floor: floor, Mark: floor, Clean: true},
		begin:   floor,
		lane:    newLane(),
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

// open locks the store and finds a group.
func (m *memory) open(ctx context.Context, name string) (g *group, unlock func(), err error) {
	if err := m.check(ctx); err != nil {
		return nil, nil, err
	}
	m.store.mu.Lock()
	if g = m.store.groups[name]; g == nil {
		m.store.mu.Unlock()
		return nil, nil, fmt.Errorf("%w: group %s is not registered", driver.ErrNotFound, name)
	}
	return g, m.store.mu.Unlock, nil
}

func (m *memory) DropTypes(ctx context.Context, name string, types []string) error {
	g, unlock, err := m.open(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	changed := false
	for topic, have := range g.spec.Types {
		left := slices.DeleteFunc(slices.Clone(have), func(t string) bool { return slices.Contains(types, t) })
		if len(left) < len(have) {
			g.spec.Types[topic], changed = left, true
		}
		if len(left) == 0 {
			delete(g.spec.Types, topic)
		}
	}
	if changed {
		g.spec.Version++
		g.recorded()
	}
	return nil
}

func (m *memory) Group(ctx context.Context, name string) (driver.GroupSpec, error) {
	g, unlock, err := m.open(ctx, name)
	if err != nil {
		return driver.GroupSpec{}, err
	}
	defer unlock()
	return g.record(), nil
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
		specs = append(specs, s.groups[name].record())
	}
	return specs, nil
}

func (m *memory) PauseGroup(ctx context.Context, name, why string) (driver.GroupSpec, error) {
	g, unlock, err := m.open(ctx, name)
	if err != nil {
		return driver.GroupSpec{}, err
	}
	defer unlock()
	if g.spec.Paused = why; why == "" {
		g.spec.Resumes++
	}
	g.recorded()
	return g.record(), nil
}

func (m *memory) NudgeGroup(ctx context.Context, name string) error {
	g, unlock, err := m.open(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	g.spec.Nudges++
	g.recorded()
	return nil
}

func (m *memory) ResetGroup(ctx context.Context, name string, topics []string, start driver.StartAt) error {
	g, unlock, err := m.open(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	for _, topic := range topics {
		if g.spec.Types[topic] == nil {
			return fmt.Errorf("%w: topic %s is not in the record of group %s", driver.ErrNotFound, topic, name)
		}
	}
	for id, pl := range g.at {
		if slices.Contains(topics, id.Topic) {
			pl.end(fmt.Errorf("%w: group %s was reset", driver.ErrLost, name))
			floor := startOf(pl.part, start)
			pl.fence++
			pl.check = driver.Checkpoint{Floor: floor, Mark: floor, Clean: true}
			pl.begin = floor
			clear(pl.settled)
			clear(pl.handed)
		}
	}
	g.poke()
	return nil
}

func (m *memory) RemoveGroup(ctx context.Context, name string) error {
	g, unlock, err := m.open(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	delete(m.store.groups, name)
	g.removed = true
	for _, pl := range g.at {
		pl.end(fmt.Errorf("%w: group %s was removed", driver.ErrLost, name))
		pl.lane.told()
	}
	g.recorded()
	return nil
}

func (m *memory) Positions(ctx context.Context, name string) ([]driver.Position, error) {
	g, unlock, err := m.open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var all []driver.Position
	for id, pl := range g.at {
		floor := pl.check.Floor
		pos := driver.Position{Partition: id, First: pl.part.first, Last: pl.part.last(), Floor: floor, Fence: pl.fence}
		if !m.store.queue {
			pos.Begin, pos.Mark, pos.Finished = pl.begin, pl.check.Mark, slices.Clone(pl.check.Finished)
		}
		if pl.holder != nil {
			pos.Member = pl.holder.of.driver.env.Member
		}
		pos.Lag = pl.check.Lag(pos.First, pos.Last) - int64(len(pl.settled))
		if g.spec.Types[id.Topic] == nil {
			pos.Lag = 0 // only its lane is left
		}
		all = append(all, pos)
	}
	return all, nil
}
