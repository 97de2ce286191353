package memory

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/posthorn/posthorn/driver"
)

// A lane holds entries by name. It is guarded by the store.
type lane struct {
	entries map[string]*driver.Entry
	rev     uint64
}

// laneOf is a lane as somebody sees it: its holder, or anybody from outside.
type laneOf struct {
	store  *store
	lane   *lane
	holder *tenure // nil from outside
}

var _ driver.Lane = (*laneOf)(nil)

func (m *memory) Lane(name string, p driver.Partition) driver.Lane {
	s := m.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.groups[name]; g != nil && g.at[p] != nil {
		return &laneOf{store: s, lane: g.at[p].lane}
	}
	return &laneOf{store: s, lane: &lane{entries: map[string]*driver.Entry{}}}
}

func (l *laneOf) lock() (unlock func(), err error) {
	l.store.mu.Lock()
	if l.holder != nil {
		if err := l.holder.held(); err != nil {
			l.store.mu.Unlock()
			return nil, err
		}
	}
	return l.store.mu.Unlock, nil
}

func copyEntry(e *driver.Entry, body bool) driver.Entry {
	c := *e
	c.Head = slices.Clone(e.Head)
	if body {
		c.Msg = clone(&e.Msg)
	} else {
		c.Msg.Body = nil
	}
	return c
}

func (l *laneOf) Scan(ctx context.Context, after string, max int) ([]driver.Entry, string, error) {
	unlock, err := l.lock()
	if err != nil {
		return nil, "", err
	}
	defer unlock()
	names := sortedKeys(l.lane.entries)
	i, found := slices.BinarySearch(names, after)
	if found {
		i++
	}
	var entries []driver.Entry
	for _, name := range names[i:] {
		if len(entries) == max {
			return entries, entries[max-1].Name, nil
		}
		entries = append(entries, copyEntry(l.lane.entries[name], false))
	}
	return entries, "", nil
}

func (l *laneOf) Get(ctx context.Context, names []string) ([]driver.Entry, error) {
	unlock, err := l.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	var entries []driver.Entry
	for _, name := range names {
		if e := l.lane.entries[name]; e != nil {
			entries = append(entries, copyEntry(e, true))
		}
	}
	return entries, nil
}

func (l *laneOf) Parked(ctx context.Context, key string, after uint64, max int) ([]driver.Entry, error) {
	unlock, err := l.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	var found []*driver.Entry
	for _, e := range l.lane.entries {
		if e.State == driver.Parked && e.Key == key && e.Order > after {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, func(x, y *driver.Entry) int { return cmp.Compare(x.Order, y.Order) })
	var entries []driver.Entry
	for _, e := range found[:min(max, len(found))] {
		entries = append(entries, copyEntry(e, true))
	}
	return entries, nil
}

func (l *laneOf) Apply(ctx context.Context, ops []driver.LaneOp) error {
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	var first error
	for i := range ops {
		if ops[i].Err = l.lane.apply(&ops[i]); ops[i].Err != nil && first == nil {
			first = ops[i].Err
		}
	}
	return first
}

func (l *lane) apply(op *driver.LaneOp) error {
	if op.Delete {
		delete(l.entries, op.Entry.Name)
		return nil
	}
	var stands uint64
	if old := l.entries[op.Entry.Name]; old != nil {
		stands = old.Rev
	}
	if op.Entry.Rev != stands {
		return fmt.Errorf("%w: lane entry %s has revision %d, not %d", driver.ErrConflict, op.Entry.Name, stands, op.Entry.Rev)
	}
	l.rev++
	op.Entry.Rev = l.rev
	e := copyEntry(op.Entry, true)
	l.entries[op.Entry.Name] = &e
	return nil
}
