package drivertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/posthorn/posthorn/driver"
)

var laneCases = []Case{
	{Name: "seam/lane-compare-and-set", Promise: "P4", Doc: "from outside an entry is new, or replaced whole at the revision that stands, or deleted at it; anything else is ErrConflict and changes nothing", run: laneCAS},
	{Name: "seam/lane-content", Promise: "P4", Doc: "every field of an entry comes back as it was put, of each state, also after a restart", run: laneContent},
	{Name: "seam/lane-scan", Promise: "P4", Doc: "Scan walks over all entries in the order of names, in pages, without bodies", run: laneScan},
	{Name: "seam/lane-scan-beside-writes", Promise: "P4", Doc: "a Scan beside puts and deletes has each entry that stands all the while, once, in a state that it had", run: laneScanBeside},
	{Name: "seam/lane-parked", Promise: "P5", Doc: "Parked returns one key's parked entries by their order, behind one, with bodies", run: laneParked},
	{Name: "seam/lane-apply", Promise: "P4", Doc: "Apply carries operations out in their order, each by itself; deleting what is not there succeeds", run: laneApply},
	{Name: "seam/lane-holder", Promise: "P4 P5", Doc: "the holder's operations are carried out whatever revision they name", run: laneHolder},
	{Name: "seam/lane-outside", Promise: "P4", Doc: "the lane from outside of a tenure is the same lane, kept apart by group and partition", run: laneOutside},
	{Name: "seam/lane-fenced", Promise: "P5", Doc: "what a holder that has lost its partition puts or deletes is refused with ErrLost, and changes nothing", run: laneFenced},
	{Name: "seam/lane-concurrent", Promise: "P4", Doc: "calls for different names may be concurrent", run: laneConcurrent},
	{Name: "seam/lane-largest", Promise: "P3", Doc: "the largest message that can be published fits the lane, with its head", run: laneLargest},
	{Name: "seam/watch", Promise: "P4", Doc: "Watch tells what stands, that this was all, and then what is put by anybody, without bodies, until its context ends", run: watches},
	{Name: "seam/watch-beside-writes", Promise: "P4", Doc: "Watch has told each entry that stands all the while, beside puts and deletes, when it says that this was all", run: watchesBeside},
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
	d, _, p, group := r.lane("cas")
	l := d.Lane(group, p)
	e := laneEntry(1, driver.Due)
	r.apply(l, put(&e)...)
	first := e.Rev
	if first == 0 {
		r.Fatalf("Apply did not set the revision")
	}
	conflict := func(what string, rev uint64, gone bool) {
		r.Helper()
		o := laneEntry(1, driver.Dead)
		o.Rev = rev
		ops := []driver.LaneOp{{Entry: &o, Delete: gone}}
		err := l.Apply(r.ctx, ops)
		if !errors.Is(err, driver.ErrConflict) || !errors.Is(ops[0].Err, driver.ErrConflict) {
			r.Errorf("%s: %v, want ErrConflict", what, err)
		}
	}
	conflict("a new entry of a name that exists", 0, false)
	conflict("another revision", first+1000, false)
	conflict("a delete of another revision", first+1000, true)
	if got := r.get(l, e.Name); len(got) != 1 || got[0].State != driver.Due || got[0].Rev != first {
		r.Errorf("a conflict has changed the entry: %+v", got)
	}
	e.State, e.Head = driver.Parked, []byte("second")
	r.apply(l, put(&e)...)
	if e.Rev == first {
		r.Errorf("the revision stays %d", first)
	}
	conflict("the revision before", first, false)
	conflict("a delete of the revision before", first, true)
	if got := r.get(l, e.Name); len(got) != 1 || got[0].State != driver.Parked || string(got[0].Head) != "second" || got[0].Rev != e.Rev {
		r.Errorf("the entry is %+v", got)
	}
	r.apply(l, driver.LaneOp{Entry: &driver.Entry{Name: e.Name, Rev: e.Rev}, Delete: true})
	conflict("a revision of what does not exist", e.Rev, false)
	conflict("a delete of a revision of what does not exist", e.Rev, true)
	e.Rev = 0
	r.apply(l, put(&e)...)
	r.apply(l, driver.LaneOp{Entry: &driver.Entry{Name: e.Name}, Delete: true})
	if es := r.scan(l, 10); len(es) > 0 {
		r.Errorf("%d entries are left, the first is %+v", len(es), es[0])
	}
}

func laneContent(r *rig) {
	d, l, p, group := r.lane("content")
	var want []driver.Entry
	for i, s := range []driver.EntryState{driver.Due, driver.Parked, driver.Dead, driver.Boot, driver.Discarded, driver.Note} {
		e := laneEntry(i, s)
		if s != driver.Boot {
			e.Msg.Headers = []driver.Attr{{Name: "x-h", Value: "ü %41"}, {Name: "Status", Value: "404"}}
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

// busyLane has entries stand in a lane whose holder goes on to put some of them
// anew, and to put and delete others, until stop; writes is how often by now.
func (r *rig) busyLane(l driver.Lane) (stands map[string]bool, writes func() int64, stop func()) {
	r.Helper()
	stands = map[string]bool{}
	var es []*driver.Entry
	for i := range 40 {
		e := laneEntry(i, driver.Due)
		es, stands[e.Name] = append(es, &e), true
	}
	r.apply(l, put(es...)...)
	stopped := make(chan struct{})
	var busy sync.WaitGroup
	var done atomic.Int64
	for w := range 2 {
		busy.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stopped:
					return
				default:
				}
				again, passing := *es[2*(i%20)+w], laneEntry(1000*(w+1)+i%5, driver.Parked)
				again.State = []driver.EntryState{driver.Dead, driver.Due}[i%2]
				if err := l.Apply(r.ctx, []driver.LaneOp{{Entry: &again}, {Entry: &passing}, {Entry: &passing, Delete: true}}); err != nil {
					r.Errorf("Apply: %v", err)
					return
				}
				done.Add(1)
			}
		})
	}
	r.eventually("the holder writes", func() bool { return done.Load() > 0 })
	return stands, done.Load, func() { close(stopped); busy.Wait() }
}

// laneScanBeside walks over a busy lane: who lists it, and who takes it from a
// holder that does not know yet, must not miss an entry.
func laneScanBeside(r *rig) {
	d, l, p, group := r.lane("scan-beside")
	stands, writes, stop := r.busyLane(l)
	defer stop()
	out := d.Lane(group, p)
	for walks := 0; (walks < 100 || writes() < 100) && !r.Failed(); walks++ {
		seen := map[string]bool{}
		for _, e := range r.scan(out, 1000) {
			if seen[e.Name] {
				r.Errorf("entry %s comes twice", e.Name)
			}
			seen[e.Name] = true
			if stands[e.Name] && e.State != driver.Dead && e.State != driver.Due {
				r.Errorf("entry %s is in state %d", e.Name, e.State)
			}
		}
		r.allSeen(stands, seen)
	}
}

func (r *rig) allSeen(stands, seen map[string]bool) {
	r.Helper()
	missing := 0
	for name := range stands {
		if !seen[name] {
			missing++
		}
	}
	if missing > 0 {
		r.Errorf("%d of %d entries are missing that stand all the while", missing, len(stands))
	}
}

// watchesBeside begins to watch a busy lane.
func watchesBeside(r *rig) {
	d, l, p, group := r.lane("watch-beside")
	stands, _, stop := r.busyLane(l)
	defer stop()
	for n := 0; n < 20 && !r.Failed(); n++ {
		ctx, cancel := context.WithCancel(r.ctx)
		told := make(chan string)
		ended := make(chan error, 1)
		go func() {
			ended <- d.Lane(group, p).Watch(ctx, func(e driver.Entry) {
				select {
				case told <- e.Name:
				case <-ctx.Done():
				}
			})
		}()
		seen := map[string]bool{}
		for all := false; !all; {
			select {
			case name := <-told:
				all = name == ""
				seen[name] = true
			case <-time.After(r.patience):
				cancel()
				r.Fatalf("Watch does not tell that this was all")
			}
		}
		cancel()
		<-ended
		r.allSeen(stands, seen)
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
	d, l, p, group := r.lane("apply")
	a, b, c := laneEntry(1, driver.Due), laneEntry(2, driver.Due), laneEntry(3, driver.Due)
	r.apply(l, put(&a, &b)...)
	out := d.Lane(group, p)
	stale := laneEntry(1, driver.Dead)
	stale.Rev = a.Rev + 1000
	ops := []driver.LaneOp{
		{Entry: &stale},
		{Entry: &c},
		{Entry: &driver.Entry{Name: b.Name}, Delete: true},
		{Entry: &driver.Entry{Name: driver.EntryName("nothing", 1, "s", "i")}, Delete: true},
	}
	err := out.Apply(r.ctx, ops)
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
	for i, l := range []driver.Lane{l, out} {
		what := []string{"the holder's", "from outside"}[i]
		// In their order: put and delete of one name in one batch.
		e, f := laneEntry(5, driver.Parked), laneEntry(5, driver.Parked)
		gone := driver.LaneOp{Entry: &driver.Entry{Name: e.Name}, Delete: true}
		r.apply(l, driver.LaneOp{Entry: &e}, gone, driver.LaneOp{Entry: &f}, gone)
		if es := r.get(l, e.Name); len(es) > 0 {
			r.Errorf("%s: a put and then a delete leave the entry", what)
		}
		r.apply(l, gone)
		if err := l.Apply(r.ctx, nil); err != nil {
			r.Errorf("%s: Apply of nothing: %v", what, err)
		}
		if es := r.get(l, a.Name, "no.such.name", e.Name, c.Name); len(es) != 2 {
			r.Errorf("%s: Get of two that exist and two that do not: %d", what, len(es))
		}
		if es, err := l.Parked(r.ctx, e.Key, 0, 10); err != nil || len(es) > 0 {
			r.Errorf("%s: Parked gives %d that were deleted, %v", what, len(es), err)
		}
	}
}

func laneHolder(r *rig) {
	_, l, _, _ := r.lane("holder")
	e := laneEntry(1, driver.Due)
	e.Rev = 12345
	r.apply(l, put(&e)...)
	rev := e.Rev
	for i, guess := range []uint64{0, rev, rev + 1000, 1} {
		e.Head, e.Rev = fmt.Appendf(nil, "head %d", i), guess
		r.apply(l, put(&e)...)
		got := r.get(l, e.Name)
		if len(got) != 1 || string(got[0].Head) != string(e.Head) || got[0].Rev != e.Rev || e.Rev == guess {
			r.Errorf("put with revision %d gave %d and stands as %+v", guess, e.Rev, got)
		}
	}
	r.apply(l, driver.LaneOp{Entry: &driver.Entry{Name: e.Name, Rev: 1}, Delete: true})
	if es := r.scan(l, 10); len(es) > 0 {
		r.Errorf("%d entries are left", len(es))
	}
	e.State, e.Rev = driver.Parked, 1
	r.apply(l, put(&e)...)
	if got := r.get(l, e.Name); len(got) != 1 || got[0].State != driver.Parked {
		r.Errorf("put again after a delete: %+v", got)
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
	if err := r.driver().Lane(group, p).Apply(r.ctx, put(&e)); !errors.Is(err, driver.ErrConflict) {
		r.Errorf("an edit from outside is overwritten from outside: %v", err)
	}
	if got := r.get(l, e.Name); len(got) != 1 || got[0].State != driver.Due {
		r.Errorf("the holder does not see what was put from outside: %+v", got)
	}
	fresh := laneEntry(2, driver.Due)
	r.apply(out, put(&fresh)...)
	if es := r.scan(l, 10); len(es) != 2 {
		r.Errorf("the holder sees %d entries of 2", len(es))
	}
	other := r.name("other")
	if _, err := d.EnsureGroup(r.ctx, driver.GroupSpec{Name: other, Types: map[string][]string{p.Topic: {"some.type"}}}); err != nil {
		r.Fatalf("EnsureGroup: %v", err)
	}
	if es := r.scan(d.Lane(other, p), 10); len(es) > 0 {
		r.Errorf("another group's lane has %d entries", len(es))
	}
}

// laneFenced takes the partition from a holder that need not have heard of it.
func laneFenced(r *rig) {
	d := r.driver()
	p, group := r.setUp(d, "lane-fenced")
	old := r.tenure(r.join(d, group, p.Topic)).Lane()
	stays, changes := laneEntry(1, driver.Due), laneEntry(2, driver.Due)
	r.apply(old, put(&stays, &changes)...)
	stop := make(chan struct{})
	var busy sync.WaitGroup
	for w := range 2 { // writes are under way when it is taken
		busy.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				e := laneEntry(1000*(w+1)+i%20, driver.Due)
				if err := old.Apply(r.ctx, []driver.LaneOp{{Entry: &e}, {Entry: &e, Delete: true}}); err != nil && !errors.Is(err, driver.ErrLost) {
					r.Errorf("while it loses the partition, the holder's Apply says %v", err)
				}
			}
		})
	}
	if err := r.driver().ResetGroup(r.ctx, group, []string{p.Topic}, driver.StartAt{}); err != nil {
		r.Fatalf("ResetGroup: %v", err)
	}
	out := d.Lane(group, p)
	before := r.scan(out, 100)
	changes.State = driver.Dead
	fresh := laneEntry(3, driver.Parked)
	for what, op := range map[string]driver.LaneOp{"put": {Entry: &changes}, "put of a new entry": {Entry: &fresh}, "delete": {Entry: &stays, Delete: true}} {
		ops := []driver.LaneOp{op}
		if err := old.Apply(r.ctx, ops); !errors.Is(err, driver.ErrLost) || !errors.Is(ops[0].Err, driver.ErrLost) {
			r.Errorf("%s by who has lost the partition: %v, want ErrLost", what, err)
		}
	}
	close(stop)
	busy.Wait()
	after := r.scan(out, 100)
	if !slices.EqualFunc(before, after, func(x, y driver.Entry) bool { return x.Name == y.Name && x.Rev == y.Rev && x.State == y.State }) {
		r.Errorf("the lane has changed: %d entries, then %d", len(before), len(after))
	}
	if got := r.get(out, stays.Name, changes.Name); len(got) != 2 || got[1].State != driver.Due {
		r.Errorf("what stood is now %+v", got)
	}
}

// A watcher notes what a Watch tells.
type watcher struct {
	mu    sync.Mutex
	all   []string // "<order> <state>", and "-" for the marker
	bad   []string
	ended chan error
}

func (r *rig) watch(ctx context.Context, l driver.Lane) *watcher {
	w := &watcher{ended: make(chan error, 1)}
	go func() {
		w.ended <- l.Watch(ctx, func(e driver.Entry) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if e.Name == "" {
				w.all = append(w.all, "-")
				return
			}
			w.all = append(w.all, fmt.Sprint(e.Order, " ", e.State))
			if len(e.Msg.Body) > 0 || e.Rev == 0 || string(e.Head) != fmt.Sprintf("head %d \x00\xff", e.Order) || e.Key != fmt.Sprint("k", e.Order%3) || e.State == driver.Due && e.Due.IsZero() {
				w.bad = append(w.bad, fmt.Sprintf("%+v", e))
			}
		})
	}()
	return w
}

func (w *watcher) seen() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.all)
}

func watches(r *rig) {
	d, l, p, group := r.lane("watch")
	out := d.Lane(group, p)
	gone := laneEntry(0, driver.Due)
	r.apply(l, put(&gone)...)
	r.apply(l, driver.LaneOp{Entry: &gone, Delete: true})
	var stands []string
	for i := 1; i <= 6; i++ {
		e := laneEntry(i, []driver.EntryState{driver.Due, driver.Parked, driver.Dead}[i%3])
		r.apply([]driver.Lane{l, out}[i%2], put(&e)...)
		stands = append(stands, fmt.Sprint(i, " ", e.State))
	}
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	watchers := map[string]*watcher{"the holder": r.watch(ctx, l), "from outside": r.watch(ctx, out), "from another driver": r.watch(ctx, r.driver().Lane(group, p))}
	want := slices.Concat(stands, []string{"-"})
	check := func(what string, sorted int) {
		r.Helper()
		for who, w := range watchers {
			var got []string
			r.eventuallyf(func() string { return fmt.Sprintf("%s: %s is told %v, want %v", what, who, got, want) }, func() bool {
				got = w.seen()
				slices.Sort(got[:min(sorted, len(got))]) // what stands comes in any order
				return slices.Equal(got, want)
			})
			w.mu.Lock()
			for _, b := range w.bad {
				r.Errorf("%s is told %s", who, b)
			}
			w.mu.Unlock()
		}
	}
	check("what stands", len(stands))
	next := func(l driver.Lane, i int, state driver.EntryState) driver.Entry {
		r.Helper()
		e := laneEntry(i, state)
		if es := r.get(out, e.Name); len(es) == 1 {
			e.Rev = es[0].Rev
		}
		r.apply(l, put(&e)...)
		want = append(want, fmt.Sprint(i, " ", state))
		check("what is put", len(stands))
		return e
	}
	next(l, 7, driver.Due)
	e := next(out, 8, driver.Parked)
	next(l, 8, driver.Due) // replaced
	next(r.driver().Lane(group, p), 2, driver.Due)
	r.apply(l, driver.LaneOp{Entry: &e, Delete: true})
	next(out, 9, driver.Boot)
	cancel()
	for who, w := range watchers {
		select {
		case err := <-w.ended:
			if !errors.Is(err, context.Canceled) {
				r.Errorf("the Watch of %s ended with %v, its context has ended", who, err)
			}
		case <-time.After(r.patience):
			r.Fatalf("the Watch of %s does not return when its context has ended", who)
		}
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
