package drivertest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/posthorn/posthorn/driver"
)

var adminCases = []Case{
	{Name: "seam/topics", Promise: "P12", Doc: "Topics lists all topics as they stand, for anybody", run: topicsList},
	{Name: "seam/extents", Promise: "P12", Doc: "Extents tells what each partition of a topic holds", run: extents},
	{Name: "seam/group-get", Promise: "P2", Doc: "Group returns the record as it stands now, and Version counts the changes of its types", run: groupGet},
	{Name: "seam/pause", Promise: "P6", Doc: "PauseGroup writes why, counts the resumes, and the members are told", run: pauses},
	{Name: "seam/reset", Promise: "P11", Doc: "ResetGroup sets the position to the beginning, now or a time; who holds the partition loses it, with its fence, and other topics and groups are not touched", run: resets},
	{Name: "seam/remove", Promise: "P2", Doc: "RemoveGroup ends the group with its positions and its lanes; its members lose what they hold, and Join ends with ErrNotFound", run: removes},
	{Name: "seam/read", Promise: "P12", Doc: "Read returns what stands above a position, whole and in order, and touches nobody's progress", run: reads},
	{Name: "seam/read-from", Promise: "P12", Doc: "ReadFrom returns the position before the first message that was stored at or after a time", run: readsFrom},
}

func topicsList(r *rig) {
	d := r.driver()
	want := map[string]driver.TopicSpec{}
	for i := range 4 {
		spec := driver.TopicSpec{Name: r.name(fmt.Sprint("listed.", i)), Hash: driver.HashFNV1a, Partitions: 1 + i%2, Keep: time.Hour, Unordered: i%2 == 0}
		stands, err := d.EnsureTopic(r.ctx, spec)
		if err != nil {
			r.Fatalf("EnsureTopic: %v", err)
		}
		want[spec.Name] = stands
	}
	for _, d := range []driver.Driver{d, r.driver()} {
		topics, err := d.Topics(r.ctx)
		if err != nil {
			r.Fatalf("Topics: %v", err)
		}
		got := map[string]driver.TopicSpec{}
		for _, t := range topics {
			if _, ours := want[t.Name]; ours {
				got[t.Name] = t
			}
		}
		if !maps.Equal(got, want) {
			r.Errorf("Topics lists %v, want %v", got, want)
		}
	}
}

func extents(r *rig) {
	d := r.driver()
	p := r.makeTopic(d, "extents", 2)
	r.store(d, p, messages(0, 5)...)
	pos := r.where(d, p, 5)
	for _, d := range []driver.Driver{d, r.driver()} {
		es, err := d.Extents(r.ctx, p.Topic)
		if err != nil || len(es) != 2 {
			r.Fatalf("Extents: %v, %v", es, err)
		}
		if e := es[0]; !r.caps.Queue && (e.First != pos[0] || e.Last != pos[4]) || e.Bytes == 0 {
			r.Errorf("5 messages at %v: %+v", pos, e)
		}
		if e := es[1]; !r.caps.Queue && e.First != e.Last+1 {
			r.Errorf("an empty partition: %+v", e)
		}
	}
	if _, err := d.Extents(r.ctx, r.name("nowhere")); !errors.Is(err, driver.ErrNotFound) {
		r.Errorf("Extents of a topic that does not exist: %v", err)
	}
}

// ensure registers a group or adds to it.
func (r *rig) ensure(d driver.Driver, group string, types map[string][]string) driver.GroupSpec {
	r.Helper()
	spec, err := d.EnsureGroup(r.ctx, driver.GroupSpec{Name: group, Types: types})
	if err != nil {
		r.Fatalf("EnsureGroup: %v", err)
	}
	return spec
}

// group reads a group's record.
func (r *rig) group(d driver.Driver, name string) driver.GroupSpec {
	r.Helper()
	spec, err := d.Group(r.ctx, name)
	if err != nil {
		r.Fatalf("Group: %v", err)
	}
	return spec
}

func groupGet(r *rig) {
	d, other := r.driver(), r.driver()
	a, b := r.makeTopic(d, "a", 1), r.makeTopic(d, "b", 1)
	name := r.name("g")
	for _, d := range []driver.Driver{d, other} {
		if _, err := d.Group(r.ctx, name); !errors.Is(err, driver.ErrNotFound) {
			r.Errorf("Group of a group that is not registered: %v", err)
		}
	}
	last := -1
	check := func(what string, changed bool, want string) {
		r.Helper()
		for _, d := range []driver.Driver{d, other} {
			g := r.group(d, name)
			for _, t := range g.Types {
				slices.Sort(t)
			}
			if got := fmt.Sprint(g.Types[a.Topic], g.Types[b.Topic], len(g.Types)); g.Name != name || got != want {
				r.Errorf("%s: the record is %+v, want %s", what, g, want)
			}
			if d == other {
				last = g.Version
			} else if changed && g.Version <= last || !changed && g.Version != last {
				r.Errorf("%s: version %d follows %d", what, g.Version, last)
			}
		}
	}
	r.ensure(d, name, map[string][]string{a.Topic: {"one"}})
	check("new", true, "[one] [] 1")
	r.ensure(d, name, map[string][]string{a.Topic: {"one"}})
	check("nothing new", false, "[one] [] 1")
	r.ensure(other, name, map[string][]string{a.Topic: {"two"}})
	check("a type more", true, "[one two] [] 1")
	r.ensure(other, name, map[string][]string{b.Topic: {"three"}})
	check("a topic more", true, "[one two] [three] 2")
	if err := d.DropTypes(r.ctx, name, []string{"one", "three"}); err != nil {
		r.Fatalf("DropTypes: %v", err)
	}
	check("dropped", true, "[two] [] 1")
	if _, err := d.PauseGroup(r.ctx, name, "why"); err != nil {
		r.Fatalf("PauseGroup: %v", err)
	}
	check("paused", false, "[two] [] 1")
}

func pauses(r *rig) {
	d := r.driver()
	p, group := r.setUp(d, "pause")
	h := r.join(d, group, p.Topic)
	t := r.tenure(h)
	resumes := 0
	set := func(why string) {
		r.Helper()
		if why == "" {
			resumes++
		}
		is := func(g driver.GroupSpec) bool {
			return g.Name == group && g.Paused == why && g.Resumes == resumes && len(g.Types) == 1
		}
		g, err := r.driver().PauseGroup(r.ctx, group, why)
		if err != nil || !is(g) {
			r.Errorf("PauseGroup(%q) for the resume %d: %+v, %v", why, resumes, g, err)
		}
		for _, d := range []driver.Driver{d, r.driver()} {
			if g := r.group(d, group); !is(g) {
				r.Errorf("after PauseGroup(%q), Group is %+v", why, g)
			}
		}
		r.eventuallyf(func() string { return fmt.Sprintf("the member is told of %q and resume %d", why, resumes) }, func() bool { return h.told(is) })
	}
	set("a reason")
	set("another reason")
	set("")
	set("") // it counts, too
	set("again")
	if g := r.ensure(d, group, map[string][]string{p.Topic: {"some.type"}}); g.Paused != "again" {
		r.Errorf("EnsureGroup ends a pause: %+v", g)
	}
	r.store(d, p, message(0))
	r.settle(t, r.fetch(t, 1)...) // the driver goes on: the core starts nothing
	if _, err := d.PauseGroup(r.ctx, r.name("nobody"), "why"); !errors.Is(err, driver.ErrNotFound) {
		r.Errorf("PauseGroup of a group that does not exist: %v", err)
	}
}

func resets(r *rig) {
	d, admin := r.driver(), r.driver()
	p, group := r.setUp(d, "reset")
	q := r.makeTopic(d, "other", 1)
	r.ensure(d, group, map[string][]string{q.Topic: {"some.type"}})
	r.store(d, p, messages(0, 5)...)
	time.Sleep(20 * time.Millisecond) // the times of storing differ
	at := time.Now()
	time.Sleep(20 * time.Millisecond)
	r.store(d, p, messages(5, 10)...)
	r.store(d, q, messages(20, 22)...)
	bystander := r.name("bystander")
	r.ensure(d, bystander, map[string][]string{p.Topic: {"some.type"}})
	floor := func(group string, p driver.Partition) driver.Position {
		r.Helper()
		ps, err := admin.Positions(r.ctx, group)
		if err != nil {
			r.Fatalf("Positions: %v", err)
		}
		i := slices.IndexFunc(ps, func(at driver.Position) bool { return at.Partition == p })
		if i < 0 {
			r.Fatalf("Positions lacks %v: %v", p, ps)
		}
		return ps[i]
	}
	side := r.join(d, bystander, p.Topic)
	sideT := r.tenure(side)
	r.settle(sideT, r.fetch(sideT, 3)...)
	h := r.join(d, group, p.Topic, q.Topic)
	t, otherT := r.tenure(h), r.tenure(h)
	if t.Partition() != p {
		t, otherT = otherT, t
	}
	r.settle(t, r.fetch(t, 7)...)
	r.settle(otherT, r.fetch(otherT, 1)...)
	stays := laneEntry(1, driver.Dead)
	r.apply(t.Lane(), put(&stays)...)
	count := 10
	for _, s := range []struct {
		name string
		at   driver.StartAt
		from int // the first message that comes again; -1: none does
	}{{"beginning", driver.StartAt{}, 0}, {"now", driver.StartAt{Now: true}, -1}, {"time", driver.StartAt{Time: at}, 5}, {"beginning again", driver.StartAt{}, 0}} {
		if s.from < 0 {
			s.from = count
		} else if !r.caps.ReadFrom {
			continue
		}
		if err := admin.ResetGroup(r.ctx, group, []string{p.Topic}, s.at); err != nil {
			r.Fatalf("ResetGroup to %s: %v", s.name, err)
		}
		if at := floor(group, p); at.Lag != int64(count-s.from) || at.Fence <= t.Fence() {
			r.Errorf("reset to %s: %+v, want a lag of %d and a fence above %d", s.name, at, count-s.from, t.Fence())
		}
		err := t.Release(r.ctx, t.Start())
		if !r.caps.Queue {
			err = errors.Join(err, t.Checkpoint(r.ctx, driver.Checkpoint{Floor: t.Start().Floor, Mark: t.Start().Mark}))
		}
		if !errors.Is(err, driver.ErrLost) {
			r.Errorf("reset to %s: the old holder's record: %v, want ErrLost", s.name, err)
		}
		r.loses(h)
		old := t.Fence()
		if t = r.tenure(h); t.Partition() != p || t.Fence() <= old {
			r.Errorf("reset to %s: the member gets %v with fence %d, it had fence %d before the reset", s.name, t.Partition(), t.Fence(), old)
		}
		r.store(d, p, message(count))
		count++
		want := ids(asDeliveries(messages(s.from, count)))
		if got := ids(r.fetch(t, count-s.from)); got != want {
			r.Errorf("reset to %s gave %s, want %s", s.name, got, want)
		}
		if es := r.scan(t.Lane(), 10); len(es) != 1 {
			r.Errorf("reset to %s: the lane has %d entries", s.name, len(es))
		}
	}
	r.settle(otherT, r.fetch(otherT, 1)...)
	r.settle(sideT, r.fetch(sideT, 1)...)
	if at := floor(bystander, p); at.Lag != int64(count-4) || at.Fence != sideT.Fence() {
		r.Errorf("another group on the topic was touched: %+v", at)
	}
	if err := admin.ResetGroup(r.ctx, group, []string{r.name("nowhere")}, driver.StartAt{}); !errors.Is(err, driver.ErrNotFound) {
		r.Errorf("ResetGroup on a topic that the group does not have: %v", err)
	}
	if err := admin.ResetGroup(r.ctx, r.name("nobody"), []string{p.Topic}, driver.StartAt{}); !errors.Is(err, driver.ErrNotFound) {
		r.Errorf("ResetGroup of a group that does not exist: %v", err)
	}
}

func asDeliveries(ms []driver.Message) []driver.Delivery {
	var ds []driver.Delivery
	for _, m := range ms {
		ds = append(ds, driver.Delivery{Msg: m})
	}
	return ds
}

func removes(r *rig) {
	d, admin := r.driver(), r.driver()
	p, group := r.setUp(d, "remove")
	r.store(d, p, messages(0, 10)...)
	h := r.join(d, group, p.Topic)
	t := r.tenure(h)
	r.settle(t, r.fetch(t, 4)...)
	dead := laneEntry(1, driver.Dead)
	r.apply(t.Lane(), put(&dead)...)
	if err := admin.RemoveGroup(r.ctx, group); err != nil {
		r.Fatalf("RemoveGroup: %v", err)
	}
	if !r.caps.Queue {
		if err := t.Checkpoint(r.ctx, t.Start()); !errors.Is(err, driver.ErrLost) {
			r.Errorf("the holder's Checkpoint: %v, want ErrLost", err)
		}
	}
	e := laneEntry(2, driver.Due)
	if err := t.Lane().Apply(r.ctx, put(&e)); !errors.Is(err, driver.ErrLost) {
		r.Errorf("the holder's Apply: %v, want ErrLost", err)
	}
	r.loses(h)
	select {
	case err := <-h.left:
		if !errors.Is(err, driver.ErrNotFound) {
			r.Errorf("Join of a group that was removed ends with %v, want ErrNotFound", err)
		}
		h.left <- nil
	case <-time.After(r.patience):
		r.Fatalf("Join of a group that was removed does not end")
	}
	for _, d := range []driver.Driver{d, admin, r.driver()} {
		if _, err := d.Group(r.ctx, group); !errors.Is(err, driver.ErrNotFound) {
			r.Errorf("Group: %v, want ErrNotFound", err)
		}
		if _, err := d.Positions(r.ctx, group); !errors.Is(err, driver.ErrNotFound) {
			r.Errorf("Positions: %v, want ErrNotFound", err)
		}
		if _, err := d.Members(r.ctx, group); !errors.Is(err, driver.ErrNotFound) {
			r.Errorf("Members: %v, want ErrNotFound", err)
		}
		if err := d.RemoveGroup(r.ctx, group); !errors.Is(err, driver.ErrNotFound) {
			r.Errorf("RemoveGroup again: %v, want ErrNotFound", err)
		}
		groups, err := d.Groups(r.ctx)
		if err != nil || slices.ContainsFunc(groups, func(g driver.GroupSpec) bool { return g.Name == group }) {
			r.Errorf("Groups still lists it, or: %v", err)
		}
	}
	spec := driver.GroupSpec{Name: group, Types: map[string][]string{p.Topic: {"some.type"}}, Start: driver.StartAt{Now: true}}
	if _, err := d.EnsureGroup(r.ctx, spec); err != nil {
		r.Fatalf("EnsureGroup: %v", err)
	}
	r.store(d, p, message(10))
	t = r.tenure(r.join(d, group, p.Topic))
	if s := ids(r.fetch(t, 1)); s != "10" {
		r.Errorf("a new group of the name, from now on, got %s", s)
	}
	if es := r.scan(t.Lane(), 10); len(es) > 0 {
		r.Errorf("a new group of the name has %d entries in its lane", len(es))
	}
}

// canRead tells whether the driver serves Read; a queue need not.
func (r *rig) canRead(d driver.Driver, p driver.Partition) bool {
	r.Helper()
	_, err := d.Read(r.ctx, p, 0, 1, false)
	if errors.Is(err, errors.ErrUnsupported) && r.caps.Queue {
		r.Logf("Read is not served: %v", err)
		return false
	}
	return true
}

func reads(r *rig) {
	d := r.driver()
	p, group := r.setUp(d, "read")
	if !r.canRead(d, p) {
		return
	}
	read := func(d driver.Driver, above uint64, limit int) []driver.Delivery {
		r.Helper()
		got, err := d.Read(r.ctx, p, above, limit, true)
		if err != nil {
			r.Fatalf("Read above %d: %v", above, err)
		}
		return got
	}
	if got := read(d, 0, 10); len(got) > 0 {
		r.Errorf("an empty partition gave %d", len(got))
	}
	want := messages(0, 30)
	want[3].Headers = []driver.Attr{{Name: "X-H", Value: "ü %41"}, {Name: "Status", Value: "404"}}
	want[3].Attrs = []driver.Attr{{Name: "correlationid", Value: "c d"}}
	want[4].Body = nil
	want[5] = driver.Message{Body: []byte("foreign")}
	for i := 10; i < 26; i++ {
		want[i].Body = bytes.Repeat([]byte{byte('a' + i)}, 400<<10) // more than one answer holds
	}
	r.store(d, p, want...)
	for _, d := range []driver.Driver{d, r.driver()} {
		got := read(d, 0, 100)
		if len(got) != len(want) {
			r.Fatalf("Read gave %d of %d", len(got), len(want))
		}
		for i, g := range got {
			r.sameMessage(fmt.Sprint("message ", i), g.Msg, want[i])
			if g.Bad != nil || g.Stored.IsZero() || i > 0 && g.Pos <= got[i-1].Pos {
				r.Errorf("message %d: position %d, stored %v, bad %v", i, g.Pos, g.Stored, g.Bad)
			}
		}
		if s := ids(read(d, got[5].Pos, 3)); s != "6 7 8" {
			r.Errorf("three above the sixth: %s", s)
		}
		if got := read(d, got[29].Pos, 10); len(got) > 0 {
			r.Errorf("above the last there are %d", len(got))
		}
		bare, err := d.Read(r.ctx, p, 0, 10, false)
		if err != nil || len(bare) != 10 || bare[0].Msg.ID != want[0].ID {
			r.Errorf("without bodies: %d, %v", len(bare), err)
		}
		bare[0].Msg.Key = "changed" // it is the caller's
	}
	if !r.caps.Queue {
		pos := read(d, 0, 30)
		if _, err := d.Trim(r.ctx, p, pos[28].Pos, time.Time{}); err != nil {
			r.Fatalf("Trim: %v", err)
		}
		if s := ids(read(d, 0, 10)); s != "28 29" {
			r.Errorf("after a Trim: %s", s)
		}
	}
	for _, p := range []driver.Partition{{Topic: r.name("nowhere")}, {Topic: p.Topic, N: 1}} {
		if _, err := d.Read(r.ctx, p, 0, 10, true); !errors.Is(err, driver.ErrNotFound) {
			r.Errorf("Read of %v, which does not exist: %v", p, err)
		}
	}
	t := r.tenure(r.join(d, group, p.Topic))
	if r.caps.Queue {
		if s := ids(r.fetch(t, 1)); s != "0" {
			r.Errorf("after a Read the group got %s", s)
		}
	} else if s := ids(r.fetch(t, 2)); s != "28 29" {
		r.Errorf("after a Read the group got %s", s)
	}
}

func readsFrom(r *rig) {
	d := r.driver()
	p, _ := r.setUp(d, "read-from")
	if !r.canRead(d, p) {
		return
	}
	from := func(t time.Time) uint64 {
		r.Helper()
		above, err := d.ReadFrom(r.ctx, p, t)
		if err != nil {
			r.Fatalf("ReadFrom: %v", err)
		}
		return above
	}
	read := func(what string, above uint64, want string) {
		r.Helper()
		got, err := d.Read(r.ctx, p, above, 100, false)
		if s := ids(got); err != nil || s != want {
			r.Errorf("%s: read %q, %v; want %q", what, s, err, want)
		}
	}
	read("empty", from(time.Now()), "")
	r.store(d, p, messages(0, 4)...)
	time.Sleep(20 * time.Millisecond) // the times of storing differ
	at := time.Now()
	time.Sleep(20 * time.Millisecond)
	r.store(d, p, messages(4, 8)...)
	read("long ago", from(time.Now().Add(-time.Hour)), "0 1 2 3 4 5 6 7")
	read("a zero time", from(time.Time{}), "0 1 2 3 4 5 6 7")
	read("between", from(at), "4 5 6 7")
	got, err := d.Read(r.ctx, p, 0, 100, false)
	if err != nil || len(got) != 8 {
		r.Fatalf("Read: %d, %v", len(got), err)
	}
	if above := from(got[4].Stored); above >= got[4].Pos {
		r.Errorf("from the time of the fifth: %d, and it stands at %d", above, got[4].Pos)
	}
	future := from(time.Now().Add(time.Hour))
	read("the future", future, "")
	r.store(d, p, message(8))
	read("the future, when something has come", future, "8")
	if _, err := d.ReadFrom(r.ctx, driver.Partition{Topic: r.name("nowhere")}, at); !errors.Is(err, driver.ErrNotFound) {
		r.Errorf("ReadFrom of a topic that does not exist: %v", err)
	}
}
