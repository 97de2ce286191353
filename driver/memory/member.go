package memory

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// A membership is one Join. The store guards it.
type membership struct {
	m       driver.Member
	driver  *memory
	g       *group
	started time.Time
	told    int      // changes of the record
	topics  []string // that it can take
	// leaving: it has released a partition without being asked. It gets no more.
	leaving bool
	busy    map[driver.Partition]bool // of which it has a tenure, or has not been told its end
	holds   sync.WaitGroup
}

func (m *memory) Join(ctx context.Context, name string, member driver.Member) error {
	g, unlock, err := m.open(ctx, name)
	if err != nil {
		return err
	}
	me := &membership{m: member, driver: m, g: g, started: m.env.Now(), told: -1, busy: map[driver.Partition]bool{}}
	unlock()
	err = me.run(ctx)
	m.store.mu.Lock()
	defer m.store.mu.Unlock()
	g.members = slices.DeleteFunc(g.members, func(o *membership) bool { return o == me })
	g.poke()
	return err
}

// run takes and sheds until ctx ends or the group is removed.
func (me *membership) run(ctx context.Context) error {
	defer me.holds.Wait()
	for ctx.Err() == nil {
		if err := me.tell(); err != nil {
			return err
		}
		select {
		case <-me.divide(ctx):
		case <-ctx.Done():
		}
	}
	return nil
}

// tell tells the member the record until it has not changed meanwhile. From the
// first time on it is a member among others.
func (me *membership) tell() error {
	s, g := me.driver.store, me.g
	s.mu.Lock()
	defer s.mu.Unlock()
	for me.told != g.changes {
		if g.removed {
			return fmt.Errorf("%w: group %s was removed", driver.ErrNotFound, g.spec.Name)
		}
		told, spec := g.changes, g.record()
		s.mu.Unlock()
		topics := me.m.Subscribed(spec)
		s.mu.Lock()
		me.told, me.topics = told, topics
		if !slices.Contains(g.members, me) {
			g.members = append(g.members, me)
		}
		g.poke()
	}
	return nil
}

// divide takes what is free and this member's, and sheds what is another's. It
// returns what is closed at the next change.
func (me *membership) divide(ctx context.Context) <-chan struct{} {
	s, g := me.driver.store, me.g
	s.mu.Lock()
	defer s.mu.Unlock()
	if me.told != g.changes || ctx.Err() != nil {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	for id, owner := range g.division() {
		switch pl := g.at[id]; {
		case pl.holder == nil && owner == me && !me.busy[id]:
			t := s.assign(id, pl, me)
			me.busy[id] = true
			me.holds.Go(func() { me.hold(ctx, t) })
		case pl.holder != nil && pl.holder.of == me && owner != me && (owner != nil || !me.can(id)):
			pl.holder.revoke()
		}
	}
	return g.changed
}

// assign begins a tenure.
func (s *store) assign(id driver.Partition, pl *place, me *membership) *tenure {
	pl.fence++
	t := &tenure{store: s, id: id, place: pl, of: me, fence: pl.fence, start: pl.check, version: pl.version,
		shed: make(chan struct{}), ended: make(chan struct{})}
	t.start.Mark = min(t.start.Mark, pl.part.last())
	t.next = pl.check.Floor + 1
	pl.check.Clean = false
	pl.holder = t
	return t
}

// hold is one tenure, from Assigned to its end.
func (me *membership) hold(ctx context.Context, t *tenure) {
	me.m.Assigned(t)
	select {
	case <-t.shed:
		me.revoke(ctx, t)
	case <-t.ended:
	case <-ctx.Done():
	}
	s := me.driver.store
	s.mu.Lock()
	lost := t.lost
	if t.place.holder == t { // not released: as if the member had died
		t.place.end(driver.ErrLost)
		if ctx.Err() == nil {
			lost = t.lost
		}
	}
	s.mu.Unlock()
	if lost != nil {
		me.m.Lost(t, lost)
	}
	s.mu.Lock()
	delete(me.busy, t.id)
	me.g.poke()
	s.mu.Unlock()
}

// revoke asks for the partition until it is released or taken away.
func (me *membership) revoke(ctx context.Context, t *tenure) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-t.ended:
			cancel()
		case <-ctx.Done():
		}
	})
	me.m.Revoke(ctx, t)
	cancel()
	wg.Wait()
}

// revoke has the holder asked for the partition, once.
func (t *tenure) revoke() {
	select {
	case <-t.shed:
	default:
		close(t.shed)
	}
}

// released is called with the store locked.
func (me *membership) released(t *tenure) {
	select {
	case <-t.shed:
	default:
		me.leaving = true
	}
	me.g.poke()
}

// division says who is to have each partition. Who holds one keeps it as long as
// nobody who can take it has two less.
func (g *group) division() map[driver.Partition]*membership {
	owners := map[driver.Partition]*membership{}
	load := map[*membership]int{}
	parts := g.partitions()
	give := func(id driver.Partition, to *membership) {
		if from := owners[id]; from != nil {
			load[from]--
		}
		owners[id] = to
		load[to]++
	}
	for _, id := range parts {
		if t := g.at[id].holder; t != nil && t.of.takes(id) {
			give(id, t.of)
		}
	}
	for _, id := range parts {
		if owners[id] == nil {
			if to := g.idlest(id, load); to != nil {
				give(id, to)
			}
		}
	}
	for moved := true; moved; {
		moved = false
		for _, id := range parts {
			if to := g.idlest(id, load); to != nil && load[owners[id]] >= load[to]+2 {
				give(id, to)
				moved = true
			}
		}
	}
	return owners
}

// partitions returns those that members have or can have, in order.
func (g *group) partitions() []driver.Partition {
	var ids []driver.Partition
	for id, pl := range g.at {
		if g.spec.Types[id.Topic] != nil || pl.holder != nil {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(x, y driver.Partition) int {
		return cmp.Or(strings.Compare(x.Topic, y.Topic), cmp.Compare(x.N, y.N))
	})
	return ids
}

// idlest is who can take a partition and has the least.
func (g *group) idlest(id driver.Partition, load map[*membership]int) *membership {
	var best *membership
	for _, m := range g.members {
		if m.takes(id) && (best == nil || load[m] < load[best]) {
			best = m
		}
	}
	return best
}

func (me *membership) takes(id driver.Partition) bool { return !me.leaving && me.can(id) }

func (me *membership) can(id driver.Partition) bool {
	return me.g.spec.Types[id.Topic] != nil && slices.Contains(me.topics, id.Topic)
}

// Members asks each for its status.
func (m *memory) Members(ctx context.Context, name string) ([]driver.MemberInfo, error) {
	g, unlock, err := m.open(ctx, name)
	if err != nil {
		return nil, err
	}
	members := slices.Clone(g.members)
	infos := make([]driver.MemberInfo, len(members))
	for i, me := range members {
		env := me.driver.env
		infos[i] = driver.MemberInfo{Name: env.Member, Service: env.Service, Topics: slices.Clone(me.topics), Started: me.started, Beat: m.env.Now()}
	}
	unlock()
	for i, me := range members {
		infos[i].Status = me.m.Status()
	}
	return infos, nil
}
