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
	// news is closed, and replaced, when an entry is put, or the lane removed.
	news chan struct{}
}

func newLane() *lane { return &lane{entries: map[string]*driver.Entry{}, news: make(chan struct{})} }

func (l *lane) told() {
	close(l.news)
	l.news = make(chan struct{})
}

// laneOf is a lane as somebody sees it: its holder, or anybody from outside.
type laneOf struct {
	driver *memory
	group  string
	p      driver.Partition
	holder *tenure // nil from outside
	lane   *lane   // the holder's
}

var _ driver.Lane = (*laneOf)(nil)

func (m *memory) Lane(name string, p driver.Partition) driver.Lane {
	return &laneOf{driver: m, group: name, p: p}
}

// open locks the store and finds the lane.
func (l *laneOf) open(ctx context.Context) (lane *lane, unlock func(), err error) {
	if err := l.driver.check(ctx); err != nil {
		return nil, nil, err
	}
	s := l.driver.store
	s.mu.Lock()
	if lane = l.lane; l.holder != nil {
		err = l.holder.held()
	} else if g := s.groups[l.group]; g == nil || g.at[l.p] == nil {
		err = fmt.Errorf("%w: the lane of group %s beside partition %d of topic %s", driver.ErrNotFound, l.group, l.p.N, l.p.Topic)
	} else {
		lane = g.at[l.p].lane
	}
	if err != nil {
		s.mu.Unlock()
		return nil, nil, err
	}
	return lane, s.mu.Unlock, nil
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
	lane, unlock, err := l.open(ctx)
	if err != nil {
		return nil, "", err
	}
	defer unlock()
	names := sortedKeys(lane.entries)
	i, found := slices.BinarySearch(names, after)
	if found {
		i++
	}
	var entries []driver.Entry
	for _, name := range names[i:] {
		if len(entries) == max {
			return entries, entries[max-1].Name, nil
		}
		entries = append(entries, copyEntry(lane.entries[name], false))
	}
	return entries, "", nil
}

func (l *laneOf) Get(ctx context.Context, names []string) ([]driver.Entry, error) {
	lane, unlock, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var entries []driver.Entry
	for _, name := range names {
		if e := lane.entries[name]; e != nil {
			entries = append(entries, copyEntry(e, true))
		}
	}
	return entries, nil
}

func (l *laneOf) Parked(ctx context.Context, key string, after uint64, max int) ([]driver.Entry, error) {
	lane, unlock, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var found []*driver.Entry
	for _, e := range lane.entries {
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
	lane, unlock, err := l.open(ctx)
	if err != nil {
		for i := range ops {
			ops[i].Err = err
		}
		return err
	}
	defer unlock()
	var first error
	for i := range ops {
		if ops[i].Err = lane.apply(&ops[i], l.holder != nil); ops[i].Err != nil && first == nil {
			first = ops[i].Err
		}
	}
	lane.told()
	return first
}

// Watch looks through all entries whenever one has been put: lanes are short.
func (l *laneOf) Watch(ctx context.Context, f func(driver.Entry)) error {
	var seen uint64
	for first := true; ; first = false {
		lane, unlock, err := l.open(ctx)
		if err != nil {
			return err
		}
		entries, news := lane.since(seen), lane.news
		unlock()
		for _, e := range entries {
			f(e)
			seen = e.Rev
		}
		if first {
			f(driver.Entry{})
		}
		select {
		case <-news:
		case <-l.ended():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ended is closed when its holder has lost it.
func (l *laneOf) ended() <-chan struct{} {
	if l.holder == nil {
		return nil
	}
	return l.holder.ended
}

// since returns the entries above a revision, in the order they were put.
func (l *lane) since(rev uint64) []driver.Entry {
	var found []driver.Entry
	for _, e := range l.entries {
		if e.Rev > rev {
			found = append(found, copyEntry(e, false))
		}
	}
	slices.SortFunc(found, func(x, y driver.Entry) int { return cmp.Compare(x.Rev, y.Rev) })
	return found
}

// apply carries one operation out. A holder's are not compared.
func (l *lane) apply(op *driver.LaneOp, holder bool) error {
	var stands uint64
	if old := l.entries[op.Entry.Name]; old != nil {
		stands = old.Rev
	}
	compare := !holder && (!op.Delete || op.Entry.Rev != 0)
	if compare && op.Entry.Rev != stands {
		return fmt.Errorf("%w: lane entry %s has revision %d, not %d", driver.ErrConflict, op.Entry.Name, stands, op.Entry.Rev)
	}
	if op.Delete {
		delete(l.entries, op.Entry.Name)
		return nil
	}
	l.rev++
	op.Entry.Rev = l.rev
	e := copyEntry(op.Entry, true)
	l.entries[op.Entry.Name] = &e
	return nil
}
