package drivertest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/posthorn/posthorn/driver"
)

var laneCases = []Case{
	{Name: "seam/lane-compare-and-set", Promise: "P4", Doc: "an entry is new, or replaced whole at the revision that stands; anything else is ErrConflict and changes nothing", run: laneCAS},
	{Name: "seam/lane-content", Promise: "P4", Doc: "every field of an entry comes back as it was put, of each state, also after a restart", run: laneContent},
	{Name: "seam/lane-scan", Promise: "P4", Doc: "Scan walks over all entries in the order of names, in pages, without bodies", run: laneScan},
	{Name: "seam/lane-parked", Promise: "P5", Doc: "Parked returns one key's parked entries by their order, behind one, with bodies", run: laneParked},
	{Name: "seam/lane-apply", Promise: "P4", Doc: "Apply carries operations out in their order, each by itself; deleting what is not there succeeds", run: laneApply},
	{Name: "seam/lane-outside", Promise: "P4", Doc: "the lane from outside of a tenure is the same lane, kept apart by group and partition", run: laneOutside},
	{Name: "seam/lane-concurrent", Promise: "P4", Doc: "calls for different names may be concurrent", run: laneConcurrent},
	{Name: "seam/lane-largest", Promise: "P3", Doc: "the largest message that can be published fits the lane, with its head", run: laneLargest},
}

func laneEntry(i int, state driver.EntryState) driver.Entry {
	m := message(i)
	e := driver.Entry{State: state, Key: m.Key, Order: uint64(i), Head: fmt.Appendf(nil, "head %d \x00\xff", i), Msg: m}
	if state == driver.Due {
		e.Due = time.Date(2030, 1, 2, 3, 4, 5, i*1000*1000, time.UTC)
	}
	if state == driver.Boot {
		e.Msg = driver.Message{}
	}
	e.Name = driver.EntryName(e.Key, e.Order, m.Source, m.ID)
	return e
}

// lane opens a driver and the lane of a new topic's partition.
func (r *rig) lane(name string) (driver.Driver, driver.Lane, driver.Partition, string) {
	r.Helper()
	d := r.driver()
	p, group := r.setUp(d, name)
	return d, r.tenure(r.join(d, group, p.Topic)).Lane(), p, group
}

func put(es ...*driver.Entry) []driver.LaneOp {
	var ops []driver.LaneOp
	for _, e := range es {
		ops = append(ops, driver.LaneOp{Entry: e})
	}
	return ops
}

func (r *rig) apply(l driver.Lane, ops ...driver.LaneOp) {
	r.Helper()
	if err := l.Apply(r.ctx, ops); err != nil {
		r.Fatalf("Apply: %v", err)
	}
}

// scan reads all of a lane in pages.
func (r *rig) scan(l driver.Lane, page int) []driver.Entry {
	r.Helper()
	var all []driver.Entry
	after := ""
	for range 10_000 {
		es, next, err := l.Scan(r.ctx, after, page)
		if err != nil {
			r.Fatalf("Scan: %v", err)
		}
		if len(es) > page {
			r.Errorf("Scan gave %d entries, at most %d were asked for", len(es), page)
		}
		all = append(all, es...)
		if after = next; next == "" {
			return all
		}
	}
	r.Fatalf("Scan does not end")
	return nil
}

func (r *rig) get(l driver.Lane, names ...string) []driver.Entry {
	r.Helper()
	es, err := l.Get(r.ctx, names)
	if err != nil {
		r.Fatalf("Get: %v", err)
	}
	return es
}

func laneCAS(r *rig) {
	_, l, _, _ := r.lane("cas")
	e := laneEntry(1, driver.Due)
	r.apply(l, put(&e)...)
	first := e.Rev
	if first == 0 {
		r.Fatalf("Apply did not set the revision")
	}
	conflict := func(what string, rev uint64) {
		r.Helper()
		o := laneEntry(1, driver.Dead)
		o.Rev = rev
		ops := put(&o)
		err := l.Apply(r.ctx, ops)
		if !errors.Is(err, driver.ErrConflict) || !errors.Is(ops[0].Err, driver.ErrConflict) {
			r.Errorf("%s: %v, want ErrConflict", what, err)
		}
	}
	conflict("a new entry of a name that exists", 0)
	conflict("another revision", first+1000)
	if got := r.get(l, e.Name); len(got) != 1 || got[0].State != driver.Due || got[0].Rev != first {
		r.Errorf("a conflict has changed the entry: %+v", got)
	}
	e.State, e.Head = driver.Parked, []byte("second")
	r.apply(l, put(&e)...)
	if e.Rev == first {
		r.Errorf("the revision stays %d", first)
	}
	conflict("the revision before", first)
	if got := r.get(l, e.Name); len(got) != 1 || got[0].State != driver.Parked || string(got[0].Head) != "second" || got[0].Rev != e.Rev {
		r.Errorf("the entry is %+v", got)
	}
	r.apply(l, driver.LaneOp{Entry: &driver.Entry{Name: e.Name}, Delete: true})
	conflict("a revision of what does not exist", e.Rev)
	e.Rev = 0
	r.apply(l, put(&e)...)
}

func laneContent(r *rig) {
	d, l, p, group := r.lane("content")
	var want []driver.Entry
	for i, s := range []driver.EntryState{driver.Due, driver.Parked, driver.Dead, driver.Boot} {
		e := laneEntry(i, s)
		if s != driver.Boot {
			e.Msg.Headers = []driver.Attr{{Name: "x-h", Value: "ü %41"}}
			e.Msg.Attrs = []driver.Attr{{Name: "correlationid", Value: "c d"}}
		}
		r.apply(l, put(&e)...)
		want = append(want, e)
	}
	foreign := laneEntry(9, driver.Dead)
	foreign.Key, foreign.Msg = "", driver.Message{Body: []byte{0, 1, 2, 255}}
	foreign.Name = driver.EntryName("", foreign.Order, "", "")
	r.apply(l, put(&foreign)...)
	want = append(want, foreign)
	check := func(l driver.Lane) {
		r.Helper()
		for _, w := range want {
			got := r.get(l, w.Name)
			if len(got) != 1 {
				r.Errorf("%s (%v): %d entries", w.Name, w.State, len(got))
				continue
			}
			g := got[0]
			if g.Name != w.Name || g.State != w.State || !g.Due.Equal(w.Due) || g.Key != w.Key || g.Order != w.Order || g.Rev != w.Rev || string(g.Head) != string(w.Head) {
				r.Errorf("got %+v, want %+v", g, w)
			}
			r.sameMessage(w.State.String(), g.Msg, w.Msg)
		}
	}
	check(l)
	check(d.Lane(group, p))
	check(r.driver().Lane(group, p))
}

func laneScan(r *rig) {
	_, l, _, _ := r.lane("scan")
	if es := r.scan(l, 10); len(es) > 0 {
		r.Errorf("an empty lane has %d entries", len(es))
	}
	var names []string
	var es []*driver.Entry
	for i := range 57 {
		e := laneEntry((i*31)%57, []driver.EntryState{driver.Due, driver.Parked, driver.Dead, driver.Boot}[i%4])
		names, es = append(names, e.Name), append(es, &e)
	}
	r.apply(l, put(es...)...)
	slices.Sort(names)
	for _, page := range []int{1, 10, 57, 1000} {
		var got []string
		for _, e := range r.scan(l, page) {
			got = append(got, e.Name)
			if len(e.Msg.Body) > 0 {
				r.Errorf("Scan gave a body")
			}
			if i := slices.IndexFunc(es, func(w *driver.Entry) bool { return w.Name == e.Name }); i >= 0 {
				if w := es[i]; e.State != w.State || e.Key != w.Key || e.Order != w.Order || !e.Due.Equal(w.Due) || e.Rev != w.Rev || string(e.Head) != string(w.Head) {
					r.Errorf("Scan gave %+v, want %+v", e, *w)
				}
			}
		}
		if !slices.Equal(got, names) {
			r.Errorf("in pages of %d, Scan gave %d names, sorted %v; want %d", page, len(got), slices.IsSorted(got), len(names))
		}
	}
}

func laneParked(r *rig) {
	_, l, _, _ := r.lane("parked")
	var es []*driver.Entry
	for _, i := range []int{9, 3, 30, 0, 12, 6, 4, 7, 15, 300} { // of key k0: all but 4 and 7
		e := laneEntry(i, driver.Parked)
		es = append(es, &e)
	}
	due, dead := laneEntry(18, driver.Due), laneEntry(21, driver.Dead)
	r.apply(l, put(append(es, &due, &dead)...)...)
	orders := func(after uint64, most int) string {
		r.Helper()
		got, err := l.Parked(r.ctx, "k0", after, most)
		if err != nil {
			r.Fatalf("Parked: %v", err)
		}
		var s []string
		for _, e := range got {
			s = append(s, fmt.Sprint(e.Order))
			if e.Key != "k0" || e.State != driver.Parked || string(e.Msg.Body) != fmt.Sprintf("body %d", e.Order) || e.Rev == 0 || len(e.Head) == 0 {
				r.Errorf("Parked gave %+v", e)
			}
		}
		return strings.Join(s, " ")
	}
	for _, c := range []struct {
		after uint64
		most  int
		want  string
	}{{0, 100, "3 6 9 12 15 30 300"}, {0, 2, "3 6"}, {6, 3, "9 12 15"}, {7, 1, "9"}, {30, 10, "300"}, {300, 10, ""}} {
		if got := orders(c.after, c.most); got != c.want {
			r.Errorf("Parked behind %d, at most %d: %q, want %q", c.after, c.most, got, c.want)
		}
	}
	if got, err := l.Parked(r.ctx, "no such key", 0, 10); err != nil || len(got) > 0 {
		r.Errorf("Parked of an unknown key: %d, %v", len(got), err)
	}
}

func laneApply(r *rig) {
	_, l, _, _ := r.lane("apply")
	a, b, c := laneEntry(1, driver.Due), laneEntry(2, driver.Due), laneEntry(3, driver.Due)
	r.apply(l, put(&a, &b)...)
	stale := laneEntry(1, driver.Dead)
	stale.Rev = a.Rev + 1000
	ops := []driver.LaneOp{
		{Entry: &stale},
		{Entry: &c},
		{Entry: &driver.Entry{Name: b.Name}, Delete: true},
		{Entry: &driver.Entry{Name: driver.EntryName("nothing", 1, "s", "i")}, Delete: true},
	}
	err := l.Apply(r.ctx, ops)
	if !errors.Is(err, driver.ErrConflict) || !errors.Is(ops[0].Err, driver.ErrConflict) {
		r.Errorf("Apply with one conflict: %v, the operation says %v", err, ops[0].Err)
	}
	for i, o := range ops[1:] {
		if o.Err != nil {
			r.Errorf("operation %d: %v", i+1, o.Err)
		}
	}
	var got []uint64
	for _, e := range r.scan(l, 10) {
		got = append(got, e.Order)
	}
	slices.Sort(got)
	if !slices.Equal(got, []uint64{1, 3}) {
		r.Errorf("left are %v, want 1 and 3", got)
	}
	// In their order: put and delete of one name in one batch.
	d := laneEntry(5, driver.Parked)
	r.apply(l, driver.LaneOp{Entry: &d}, driver.LaneOp{Entry: &driver.Entry{Name: d.Name}, Delete: true})
	if es := r.get(l, d.Name); len(es) > 0 {
		r.Errorf("a put and then a delete leave the entry")
	}
	if err := l.Apply(r.ctx, nil); err != nil {
		r.Errorf("Apply of nothing: %v", err)
	}
	if es := r.get(l, a.Name, "no.such.name", c.Name); len(es) != 2 {
		r.Errorf("Get of two that exist and one that does not: %d", len(es))
	}
}

func laneOutside(r *rig) {
	d, l, p, group := r.lane("outside")
	e := laneEntry(1, driver.Dead)
	r.apply(l, put(&e)...)
	out := d.Lane(group, p)
	got := r.get(out, e.Name)
	if len(got) != 1 || got[0].Rev != e.Rev {
		r.Fatalf("from outside: %+v", got)
	}
	got[0].State = driver.Due
	r.apply(out, put(&got[0])...)
	e.State = driver.Parked // by the revision that stood before
	if err := l.Apply(r.ctx, put(&e)); !errors.Is(err, driver.ErrConflict) {
		r.Errorf("an edit from outside is overwritten: %v", err)
	}
	other := r.name("other")
	if _, err := d.EnsureGroup(r.ctx, driver.GroupSpec{Name: other, Types: map[string][]string{p.Topic: {"some.type"}}}); err != nil {
		r.Fatalf("EnsureGroup: %v", err)
	}
	if es := r.scan(d.Lane(other, p), 10); len(es) > 0 {
		r.Errorf("another group's lane has %d entries", len(es))
	}
}

func laneConcurrent(r *rig) {
	_, l, _, _ := r.lane("concurrent")
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 20 {
				e := laneEntry(w*100+i, driver.Due)
				if err := l.Apply(r.ctx, put(&e)); err != nil {
					r.Errorf("put: %v", err)
				}
				e.State = driver.Dead
				if err := l.Apply(r.ctx, put(&e)); err != nil {
					r.Errorf("put again: %v", err)
				}
				if i%2 == 0 {
					if err := l.Apply(r.ctx, []driver.LaneOp{{Entry: &e, Delete: true}}); err != nil {
						r.Errorf("delete: %v", err)
					}
				}
				if _, _, err := l.Scan(r.ctx, "", 5); err != nil {
					r.Errorf("scan: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if es := r.scan(l, 7); len(es) != 80 {
		r.Errorf("%d entries are left, want 80", len(es))
	}
}

func laneLargest(r *rig) {
	_, l, _, _ := r.lane("largest")
	e := laneEntry(1, driver.Dead)
	e.Msg.Body = make([]byte, r.caps.MaxMessage-(e.Msg.Size()-len(e.Msg.Body)))
	e.Head = make([]byte, 16<<10) // errors are cut at 8 KiB
	r.apply(l, put(&e)...)
	if got := r.get(l, e.Name); len(got) != 1 || len(got[0].Msg.Body) != len(e.Msg.Body) || len(got[0].Head) != len(e.Head) {
		r.Errorf("the largest message did not come back whole")
	}
}
