package memory

import (
	"context"
	"fmt"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// A membership is one Join. Members do not share partitions: the first one has
// them all, the next one gets them when it leaves.
type membership struct {
	m      driver.Member
	driver *memory
}

func (m *memory) Join(ctx context.Context, name string, topics []string, member driver.Member) error {
	if err := m.check(ctx); err != nil {
		return err
	}
	me := &membership{m: member, driver: m}
	s := m.store
	s.mu.Lock()
	g := s.groups[name]
	if g == nil {
		s.mu.Unlock()
		return fmt.Errorf("%w: group %s", driver.ErrNotFound, name)
	}
	var mine []*place
	for id, pl := range g.at {
		for _, t := range topics {
			if id.Topic == t && g.types[t] != nil {
				mine = append(mine, pl)
				pl.waiting = append(pl.waiting, me)
				s.assign(id, pl)
			}
		}
	}
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, pl := range mine {
		pl.forget(me)
		if t := pl.holder; t != nil && t.of == me { // not released: as if the member had died
			t.end()
		}
	}
	return nil
}

func (pl *place) forget(me *membership) {
	for i, w := range pl.waiting {
		if w == me {
			pl.waiting = append(pl.waiting[:i], pl.waiting[i+1:]...)
			return
		}
	}
}

// assign gives a free partition to who has waited longest.
func (s *store) assign(id driver.Partition, pl *place) {
	if pl.holder != nil || len(pl.waiting) == 0 {
		return
	}
	me := pl.waiting[0]
	pl.waiting = pl.waiting[1:]
	pl.fence++
	t := &tenure{store: s, id: id, place: pl, of: me, fence: pl.fence, start: pl.check}
	t.start.Mark = min(t.start.Mark, pl.part.last())
	t.next = pl.check.Floor + 1
	pl.check.Clean = false
	pl.holder = t
	me.m.Assigned(t)
}

// A tenure is one holder's time.
type tenure struct {
	store *store
	id    driver.Partition
	place *place
	of    *membership
	fence uint64
	start driver.Checkpoint
	next  uint64 // to hand out
}

var _ driver.Tenure = (*tenure)(nil)

func (t *tenure) Partition() driver.Partition { return t.id }
func (t *tenure) Fence() uint64               { return t.fence }
func (t *tenure) Start() driver.Checkpoint    { return t.start }
func (t *tenure) StartBy() time.Time          { return time.Time{} }
func (t *tenure) Lane() driver.Lane           { return &laneOf{store: t.store, lane: t.place.lane, holder: t} }

// held is called with the store locked.
func (t *tenure) held() error {
	if t.place.holder != t {
		return driver.ErrLost
	}
	return nil
}

// end gives the partition to the next member.
func (t *tenure) end() {
	t.place.holder = nil
	t.store.assign(t.id, t.place)
}

func (t *tenure) Fetch(ctx context.Context, into []driver.Delivery, maxBytes int) (int, error) {
	s, pl := t.store, t.place
	for {
		s.mu.Lock()
		if err := t.held(); err != nil {
			s.mu.Unlock()
			return 0, err
		}
		n := t.take(into, maxBytes)
		news := pl.part.news
		s.mu.Unlock()
		if n > 0 {
			return n, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (t *tenure) take(into []driver.Delivery, maxBytes int) int {
	p := t.place.part
	t.next = max(t.next, p.first)
	n, bytes := 0, 0
	for n < len(into) && t.next <= p.last() && (n == 0 || bytes < maxBytes) {
		pos := t.next
		t.next++
		if t.place.settled[pos] {
			continue
		}
		m := p.msgs[pos-p.first]
		into[n] = driver.Delivery{Pos: pos, Stored: m.at, Msg: m.msg}
		if t.store.queue {
			into[n].Again = t.place.handed[pos]
			t.place.handed[pos] = true
		}
		bytes += len(m.msg.Body)
		n++
	}
	return n
}

func (t *tenure) Checkpoint(ctx context.Context, c driver.Checkpoint) error {
	s := t.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := t.held(); err != nil {
		return err
	}
	c.Finished = append([]byte(nil), c.Finished...)
	c.Clean = false
	t.place.check = c
	return nil
}

func (t *tenure) Settle(ctx context.Context, settlements []driver.Settlement) error {
	s := t.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := t.held(); err != nil {
		return err
	}
	for _, x := range settlements {
		t.place.settle(x)
		if x.GiveBack && x.Pos < t.next {
			t.next = x.Pos
		}
	}
	return nil
}

func (pl *place) settle(x driver.Settlement) {
	if x.GiveBack || x.Pos <= pl.check.Floor {
		return
	}
	pl.settled[x.Pos] = true
	delete(pl.handed, x.Pos)
	for pl.settled[pl.check.Floor+1] {
		pl.check.Floor++
		delete(pl.settled, pl.check.Floor)
	}
}

func (t *tenure) Release(ctx context.Context, c driver.Checkpoint) error {
	s := t.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := t.held(); err != nil {
		return err
	}
	if s.queue {
		if c.Clean { // nothing was being handled: what comes again was never started
			clear(t.place.handed)
		}
		t.place.check.Clean = c.Clean
	} else {
		c.Finished = append([]byte(nil), c.Finished...)
		t.place.check = c
	}
	t.end()
	return nil
}
