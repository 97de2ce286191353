package memory

import (
	"context"
	"fmt"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// A tenure is one holder's time.
type tenure struct {
	store *store
	id    driver.Partition
	place *place
	of    *membership
	fence uint64
	start driver.Checkpoint
	next  uint64 // to hand out
	// version is the record's as of which the holder knows.
	version int
	shed    chan struct{} // closed when somebody else is to have it
	ended   chan struct{} // closed when it is not held any more
	lost    error         // why it ended, nil after Release
}

var _ driver.Tenure = (*tenure)(nil)

func (t *tenure) Partition() driver.Partition { return t.id }
func (t *tenure) Fence() uint64               { return t.fence }
func (t *tenure) Start() driver.Checkpoint    { return t.start }
func (t *tenure) StartBy() time.Time          { return time.Time{} }
func (t *tenure) Lane() driver.Lane {
	return &laneOf{driver: t.of.driver, group: t.of.g.spec.Name, p: t.id, lane: t.place.lane, holder: t}
}

// held is called with the store locked.
func (t *tenure) held() error {
	switch {
	case t.place.holder == t:
		return nil
	case t.lost != nil:
		return t.lost
	}
	return driver.ErrLost
}

// end takes the place from its holder, if it has one. With nil it was released.
func (pl *place) end(why error) {
	if t := pl.holder; t != nil {
		pl.holder, t.lost = nil, why
		close(t.ended)
	}
}

// informed tells of types that the holder does not know of, once.
func (t *tenure) informed() error {
	if t.version >= t.place.version {
		return nil
	}
	t.version = t.place.version
	return fmt.Errorf("%w: group %s has version %d", driver.ErrSubscription, t.of.g.spec.Name, t.version)
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
		case <-t.ended:
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
	if err := t.informed(); err != nil {
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
		if c.Clean {
			// Nothing was being handled: what this tenure had fetched, and comes again, was
			// never started. It knows nothing of what it had not come to.
			for pos := range t.place.handed {
				if pos < t.next {
					delete(t.place.handed, pos)
				}
			}
		}
		t.place.check.Clean = c.Clean
	} else {
		if err := t.informed(); err != nil {
			return err
		}
		c.Finished = append([]byte(nil), c.Finished...)
		t.place.check = c
	}
	t.place.end(nil)
	t.of.released(t)
	return nil
}
