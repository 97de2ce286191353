package delay

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// A load is an entry that is being moved.
type load struct {
	e driver.Entry
	// tried says that the event may have been stored: by us, or by a mover before
	// us that has claimed it.
	tried bool
}

var (
	errLapsed  = fmt.Errorf("the lease was not renewed: %w", driver.ErrUnavailable)
	errSilence = fmt.Errorf("the driver did not say what became of it: %w", driver.ErrUnavailable)
)

func aboutShelf(sh *shelf) string   { return fmt.Sprintf("partition %d", sh.n) }
func aboutEvent(name string) string { return "event " + name }

// publish moves a batch of a shelf: each of its items is either done with, or
// back in the index when it returns. What was published by the batch before and
// not deleted is deleted first, so that at most a batch of them is in memory.
func (s *shift) publish(sh *shelf, batch []*item) error {
	back := func(err error) error {
		for _, it := range batch {
			s.back(it)
		}
		return err
	}
	if err := s.delete(sh, sh.undeleted); err != nil {
		return back(err)
	}
	if len(batch) == 0 {
		return nil
	}
	if s.lapsed() {
		return back(errLapsed)
	}
	loads, err := s.load(batch)
	if err != nil {
		return back(err)
	}
	if loads, err = s.claim(loads); err != nil || len(loads) == 0 {
		return err
	}
	if s.lapsed() {
		return s.giveUp(loads, errLapsed)
	}
	stored, err := s.store(sh, loads)
	return cmp.Or(err, s.delete(sh, stored))
}

// lapsed tells whether another process may hold the lane by now.
func (s *shift) lapsed() bool {
	by := s.t.StartBy()
	return !by.IsZero() && time.Now().After(by) // monotonic
}

// load reads the entries of a batch, with bodies. What has been cancelled is
// forgotten, what is due later by now goes back.
func (s *shift) load(batch []*item) ([]*load, error) {
	names := make([]string, len(batch))
	for i, it := range batch {
		names[i] = it.name
	}
	entries, err := s.lane.Get(s.ctx, names)
	if err != nil {
		return nil, err
	}
	found := make(map[string]*driver.Entry, len(entries))
	for i := range entries {
		found[entries[i].Name] = &entries[i]
	}
	now := s.cfg.Now()
	var loads []*load
	for _, it := range batch {
		e := found[it.name]
		switch {
		case e == nil || e.State != driver.Due:
			s.done(it.name, it.rev)
		case e.Due.After(now):
			s.back(s.itemOf(e))
		default:
			loads = append(loads, &load{e: *e, tried: Claimed(e)})
		}
	}
	slices.SortFunc(loads, func(x, y *load) int {
		if c := x.e.Due.Compare(y.e.Due); c != 0 {
			return c
		}
		return cmp.Compare(orderOf(&x.e), orderOf(&y.e))
	})
	return loads, nil
}

// claim notes in the entries that they are being published, unless that is noted
// already. What somebody has changed meanwhile goes back, to be looked at again.
func (s *shift) claim(loads []*load) ([]*load, error) {
	var ops []driver.LaneOp
	var of []*load
	for _, l := range loads {
		if l.tried {
			continue
		}
		e := l.e
		h := decodeHead(e.Head)
		h.Mover = s.cfg.Member
		e.Head, e.Order = h.encode(), orderOf(&e)
		ops, of = append(ops, driver.LaneOp{Entry: &e}), append(of, l)
	}
	if err := s.compare(ops); err != nil {
		return nil, s.giveUp(loads, err)
	}
	changed := map[*load]bool{}
	for i, op := range ops {
		if op.Err != nil { // a conflict
			changed[of[i]] = true
			s.back(s.itemOf(&of[i].e))
			continue
		}
		of[i].e = *op.Entry
	}
	return slices.DeleteFunc(loads, func(l *load) bool { return changed[l] }), nil
}

// compare writes from outside, by revision: claims above all. Operations that found
// another revision have an Err afterwards; any other failure is returned.
func (s *shift) compare(ops []driver.LaneOp) error {
	if len(ops) == 0 {
		return nil
	}
	err := s.claims.Apply(s.ctx, ops)
	if err == nil {
		return nil
	}
	own := false
	for i := range ops {
		if e := ops[i].Err; e != nil {
			own = true
			if !errors.Is(e, driver.ErrConflict) {
				return e
			}
		}
	}
	if !own {
		return err
	}
	return nil
}

// store appends the events to their partition and returns those that are stored.
// The others go back. One that the broker refuses for what it is waits by itself,
// and is no reason to stop.
func (s *shift) store(sh *shelf, loads []*load) (stored []*load, err error) {
	outcomes := s.append(sh.n, loads)
	var unclaim []*load
	for i, l := range loads {
		o := outcomes[i]
		if o.State == driver.Stored {
			stored = append(stored, l)
			continue
		}
		switch {
		case o.State == driver.NotStored && (errors.Is(o.Err, driver.ErrTooLarge) || errors.Is(o.Err, driver.ErrInvalid)):
			s.refuse(l.e.Name)
			s.m.trouble(aboutEvent(l.e.Name), 1, o.Err, "the delayed event %s (id %s) of topic %s is refused by the broker; mend what is wrong, or cancel it",
				l.e.Msg.Type, l.e.Msg.ID, s.cfg.Topic.Name)
		case err == nil:
			err = cmp.Or(o.Err, errSilence)
		}
		if o.State == driver.NotStored && !l.tried {
			unclaim = append(unclaim, l)
		}
		s.back(s.itemOf(&l.e))
	}
	s.cfg.Moved(len(stored))
	s.unclaim(unclaim)
	return stored, err
}

func (s *shift) append(n int, loads []*load) []driver.Outcome {
	msgs := make([]driver.Message, len(loads))
	for i, l := range loads {
		msgs[i] = l.e.Msg
	}
	done := make(chan []driver.Outcome, 1)
	s.cfg.Driver.Append(driver.Partition{Topic: s.cfg.Topic.Name, N: n}, msgs, time.Now().Add(appendTimeout), // monotonic
		func(o []driver.Outcome) { done <- o })
	select {
	case o := <-done:
		return append(o, make([]driver.Outcome, max(len(loads)-len(o), 0))...)
	case <-s.ctx.Done():
		return make([]driver.Outcome, len(loads)) // unknown
	}
}

// unclaim takes claims back of events that were surely not stored, so that they
// can be cancelled. That this fails changes nothing else.
func (s *shift) unclaim(loads []*load) {
	var ops []driver.LaneOp
	for _, l := range loads {
		e := l.e
		h := decodeHead(e.Head)
		h.Mover = ""
		e.Head = h.encode()
		ops = append(ops, driver.LaneOp{Entry: &e})
	}
	if err := s.compare(ops); err != nil {
		s.cfg.Log.Debug("delayed events: claims were not taken back", "topic", s.cfg.Topic.Name, "error", err)
	}
}

// giveUp puts entries back that were claimed, perhaps, and not published.
func (s *shift) giveUp(loads []*load, err error) error {
	for _, l := range loads {
		s.back(s.itemOf(&l.e))
	}
	return err
}

// delete deletes the entries of what is stored. Those of which it is not known
// that they are gone stay with the shelf.
func (s *shift) delete(sh *shelf, loads []*load) error {
	sh.undeleted = nil
	if len(loads) == 0 {
		return nil
	}
	ops := make([]driver.LaneOp, len(loads))
	for i, l := range loads {
		ops[i] = driver.LaneOp{Entry: &driver.Entry{Name: l.e.Name}, Delete: true}
	}
	if err := s.lane.Apply(s.ctx, ops); err != nil && !slices.ContainsFunc(ops, func(o driver.LaneOp) bool { return o.Err != nil }) {
		sh.undeleted = loads
		return err
	}
	var err error
	for i, l := range loads {
		switch e := ops[i].Err; {
		case e == nil:
			s.done(l.e.Name, l.e.Rev)
		default:
			sh.undeleted, err = append(sh.undeleted, l), e
		}
	}
	return err
}

// refuse has a name wait, whatever is due when.
func (s *shift) refuse(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused[name] = s.cfg.Now().Add(refusedWait).UnixNano()
}

// done ends a name that was being moved, unless it was put again above the
// revision that was dealt with.
func (s *shift) done(name string, rev uint64) {
	s.m.calm(aboutEvent(name))
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.refused, name)
	again := s.busy[name]
	delete(s.busy, name)
	if again != nil && again.rev > rev {
		s.put(again)
	}
}

// back puts an item that was being moved back into the index.
func (s *shift) back(it *item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if again := s.busy[it.name]; again != nil && again.rev > it.rev {
		it = again
	}
	delete(s.busy, it.name)
	s.put(it)
}
