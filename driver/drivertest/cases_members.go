package drivertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
)

var memberCases = []Case{
	{Name: "seam/members", Promise: "P12", Doc: "Members tells who is at work in a group, with what they tell of themselves", run: membersList},
	{Name: "seam/shares", Promise: "P5", Doc: "members divide the partitions, each about its share, shed when somebody joins and take when somebody leaves; no partition has two holders at a time", run: shares},
	{Name: "seam/subscription", Promise: "P2", Doc: "after types were added to a topic that the group has, the holder's next record is refused once, with ErrSubscription, and records nothing", needs: needsLog, run: subscriptionGrows},
	{Name: "members/order-across-members", Promise: "P5", Doc: "while members come and go under load, events of one key are handled one at a time and in order across all of them, and once", run: orderAcrossMembers},
	{Name: "members/hand-over", Promise: "P4 P8", Doc: "a member that leaves hands over what is in its lanes and windows: nothing is lost, and nothing handled twice", run: handOver},
	{Name: "members/kill", Promise: "P2 P5", Doc: "what a killed member had comes again to the others, in order", run: killMember},
	{Name: "members/poison", Promise: "P3 P6", Doc: "a message that kills its process, among many in flight and three members, is quarantined, and no other is", run: poisonAmongMembers},
	{Name: "members/rolling-deploy", Promise: "P2", Doc: "beside members that know a new type, one that does not know it loses and dead-letters none of it, and each type keeps the order of its keys", run: rollingDeploy},
}

func membersList(r *rig) {
	drivers := []driver.Driver{r.driver(), r.driver(), r.driver()}
	p := r.makeTopic(drivers[0], "members", 2)
	group := r.name("g")
	r.ensure(drivers[0], group, map[string][]string{p.Topic: {"some.type"}})
	list := func() []driver.MemberInfo {
		r.Helper()
		ms, err := drivers[2].Members(r.ctx, group)
		if err != nil {
			r.Fatalf("Members: %v", err)
		}
		return ms
	}
	if ms := list(); len(ms) > 0 {
		r.Errorf("before anybody has joined there are %+v", ms)
	}
	var holders []*holder
	for i, d := range drivers[:2] {
		h := &holder{topics: []string{p.Topic}}
		h.tell(driver.Status{InFlight: i + 1, Paused: "told", Lacks: []string{"a.type"},
			Blocked: []driver.Blocked{{Topic: p.Topic, N: 1, Pos: 7, ID: "id", Type: "type", Key: "k", For: time.Minute, Attempts: 3, Why: "why"}}})
		holders = append(holders, r.joinAs(d, group, h))
	}
	tenures := []driver.Tenure{r.tenure(holders[0]), r.tenure(holders[1])}
	var ms []driver.MemberInfo
	r.eventuallyf(func() string { return fmt.Sprintf("both tell their status: %+v", ms) }, func() bool {
		if ms = list(); len(ms) != 2 {
			return false
		}
		slices.SortFunc(ms, func(a, b driver.MemberInfo) int { return a.Status.InFlight - b.Status.InFlight })
		return ms[0].Status.InFlight == 1 && ms[1].Status.InFlight == 2
	})
	names := map[string]bool{}
	for _, m := range ms {
		names[m.Name] = true
		s := m.Status
		if m.Name == "" || m.Service != "suite" || !slices.Equal(m.Topics, []string{p.Topic}) || time.Since(m.Started).Abs() > time.Minute || time.Since(m.Beat).Abs() > time.Minute {
			r.Errorf("a member is %+v", m)
		}
		if s.Paused != "told" || len(s.Lacks) != 1 || len(s.Blocked) != 1 || s.Blocked[0].Key != "k" || s.Blocked[0].For != time.Minute || s.Blocked[0].Pos != 7 {
			r.Errorf("its status is %+v", s)
		}
	}
	ps, err := drivers[2].Positions(r.ctx, group)
	if err != nil || len(ps) != 2 || !names[ps[0].Member] || !names[ps[1].Member] || ps[0].Member == ps[1].Member {
		r.Errorf("Positions names other members than Members: %+v, %v; %v", ps, err, names)
	}
	holders[0].tell(driver.Status{InFlight: 9})
	r.eventually("a new status is told", func() bool {
		return slices.ContainsFunc(list(), func(m driver.MemberInfo) bool { return m.Status.InFlight == 9 })
	})
	for i, h := range holders {
		if err := tenures[i].Release(r.ctx, tenures[i].Start()); err != nil && !errors.Is(err, driver.ErrLost) {
			r.Errorf("Release: %v", err)
		}
		r.gone(h)
		if ms := list(); len(ms) != 1-i {
			r.Errorf("after %d of 2 have left there are %+v", i+1, ms)
		}
	}
	if _, err := drivers[2].Members(r.ctx, r.name("nobody")); !errors.Is(err, driver.ErrNotFound) {
		r.Errorf("Members of a group that does not exist: %v", err)
	}
}

// A ledger notes who holds what.
type ledger struct {
	mu     sync.Mutex
	holder map[driver.Partition]*sharer
	fence  map[driver.Partition]uint64
	wrong  []string
}

// A sharer is a member that notes what it holds, and releases what it is asked for.
type sharer struct {
	holder
	l       *ledger
	n       int
	leaving bool // what it holds may go to others at any time
}

func (s *sharer) Assigned(t driver.Tenure) {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	p := t.Partition()
	if o := s.l.holder[p]; o != nil && !o.leaving {
		s.l.wrong = append(s.l.wrong, fmt.Sprintf("member %d gets partition %d, which member %d holds", s.n, p.N, o.n))
	}
	if t.Fence() <= s.l.fence[p] {
		s.l.wrong = append(s.l.wrong, fmt.Sprintf("partition %d has fence %d after %d", p.N, t.Fence(), s.l.fence[p]))
	}
	s.l.holder[p], s.l.fence[p] = s, t.Fence()
	s.tenures <- t
}

// Revoke notes it before the release, after which somebody else may have it at once.
func (s *sharer) Revoke(ctx context.Context, t driver.Tenure) { s.release(ctx, t) }

func (s *sharer) release(ctx context.Context, t driver.Tenure) {
	s.l.mu.Lock()
	if s.l.holder[t.Partition()] != s || s.l.fence[t.Partition()] != t.Fence() {
		s.l.mu.Unlock()
		return
	}
	delete(s.l.holder, t.Partition())
	s.l.mu.Unlock()
	if err := t.Release(ctx, t.Start()); err != nil && !errors.Is(err, driver.ErrLost) {
		s.l.mu.Lock()
		s.l.wrong = append(s.l.wrong, fmt.Sprintf("Release of partition %d by member %d: %v", t.Partition().N, s.n, err))
		s.l.mu.Unlock()
	}
}

func (s *sharer) Lost(t driver.Tenure, err error) {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if s.l.holder[t.Partition()] == s {
		delete(s.l.holder, t.Partition())
		s.l.wrong = append(s.l.wrong, fmt.Sprintf("member %d loses partition %d: %v", s.n, t.Partition().N, err))
	}
}

// counts is how many partitions each member holds.
func (l *ledger) counts() map[int]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := map[int]int{}
	for _, s := range l.holder {
		n[s.n]++
	}
	return n
}

func shares(r *rig) {
	const partitions = 8
	d := r.driver()
	p := r.makeTopic(d, "shares", partitions)
	group := r.name("g")
	r.ensure(d, group, map[string][]string{p.Topic: {"some.type"}})
	l := &ledger{holder: map[driver.Partition]*sharer{}, fence: map[driver.Partition]uint64{}}
	var all []*sharer
	left := map[*sharer]bool{}
	joins := func() {
		s := &sharer{l: l, n: len(all)}
		s.topics = []string{p.Topic}
		s.tenures, s.left = make(chan driver.Tenure, 1024), make(chan error, 1)
		ctx, cancel := context.WithCancel(r.ctx)
		s.leave = cancel
		d := r.driver()
		go func() { s.left <- d.Join(ctx, group, s) }()
		r.mu.Lock()
		r.holders = append(r.holders, &s.holder)
		r.mu.Unlock()
		all = append(all, s)
	}
	divided := func(what string) {
		r.Helper()
		members := 0
		for _, s := range all {
			if !left[s] {
				members++
			}
		}
		var counts map[int]int
		r.eventuallyf(func() string {
			return fmt.Sprintf("%s: %d partitions are divided among %d: %v", what, partitions, members, counts)
		}, func() bool {
			counts = l.counts()
			sum := 0
			for _, s := range all {
				n := counts[s.n]
				sum += n
				if left[s] && n > 0 || !left[s] && (n < partitions/members || n > (partitions+members-1)/members) {
					return false
				}
			}
			return sum == partitions
		})
	}
	joins()
	divided("the first joins")
	joins()
	divided("the second joins")
	joins()
	divided("the third joins")
	leaves := func(s *sharer, clean bool) {
		r.Helper()
		l.mu.Lock()
		s.leaving = true
		l.mu.Unlock()
		for clean && len(s.tenures) > 0 {
			s.release(r.ctx, <-s.tenures)
		}
		r.gone(&s.holder)
		left[s] = true
	}
	leaves(all[0], true)
	divided("the first leaves")
	joins()
	divided("a fourth joins")
	leaves(all[1], false)
	divided("the second leaves without a release")
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.wrong {
		r.Errorf("%s", w)
	}
}

func subscriptionGrows(r *rig) {
	d, other := r.driver(), r.driver()
	p, group := r.setUp(d, "subscription")
	q := r.makeTopic(d, "beside", 1)
	third := r.makeTopic(d, "third", 1)
	r.ensure(d, group, map[string][]string{q.Topic: {"other.type"}})
	r.store(d, p, messages(0, 10)...)
	h := r.join(d, group, p.Topic, q.Topic)
	t, beside := r.tenure(h), r.tenure(h)
	if t.Partition() != p {
		t, beside = beside, t
	}
	got := r.fetch(t, 10)
	at := func(i int) driver.Checkpoint { return driver.Checkpoint{Floor: got[i].Pos, Mark: got[i].Pos} }
	floor := func(want uint64, what string) {
		r.Helper()
		ps, err := other.Positions(r.ctx, group)
		if err != nil {
			r.Fatalf("Positions: %v", err)
		}
		for _, pos := range ps {
			if pos.Partition == p && (pos.Floor != want || pos.Member == "") {
				r.Errorf("%s: floor %d held by %q, want %d and held", what, pos.Floor, pos.Member, want)
			}
		}
	}
	fine := func(what string, t driver.Tenure, c driver.Checkpoint) {
		r.Helper()
		if err := t.Checkpoint(r.ctx, c); err != nil {
			r.Errorf("%s: Checkpoint: %v", what, err)
		}
	}
	refused := func(what string, err error) {
		r.Helper()
		if !errors.Is(err, driver.ErrSubscription) {
			r.Errorf("%s: %v, want ErrSubscription", what, err)
		}
	}
	fine("nothing added", t, at(0))
	r.ensure(other, group, map[string][]string{p.Topic: {"some.type"}})
	fine("nothing new", t, at(1))
	r.ensure(other, group, map[string][]string{third.Topic: {"third.type"}})
	fine("a topic that is new to the group", t, at(2))
	r.ensure(other, group, map[string][]string{p.Topic: {"new.type"}})
	refused("a Checkpoint after a new type", t.Checkpoint(r.ctx, at(3)))
	floor(got[2].Pos, "after ErrSubscription")
	fine("another topic has grown", beside, beside.Start())
	fine("the next one", t, at(3))
	floor(got[3].Pos, "the next one")
	fine("and the next", t, at(4))
	r.eventually("the member is told", func() bool {
		return h.told(func(g driver.GroupSpec) bool { return slices.Contains(g.Types[p.Topic], "new.type") })
	})
	if _, err := other.PauseGroup(r.ctx, group, "a pause adds nothing"); err != nil {
		r.Errorf("PauseGroup: %v", err)
	}
	if err := other.DropTypes(r.ctx, group, []string{"new.type"}); err != nil {
		r.Errorf("DropTypes: %v", err)
	}
	fine("a type less", t, at(5))
	r.ensure(other, group, map[string][]string{p.Topic: {"one"}})
	r.ensure(other, group, map[string][]string{p.Topic: {"two"}})
	release := at(6)
	release.Clean = true
	refused("a Release after new types", t.Release(r.ctx, release))
	floor(got[5].Pos, "after a Release with ErrSubscription")
	e := laneEntry(1, driver.Due)
	r.apply(t.Lane(), put(&e)...)
	r.store(d, p, message(10))
	if s := ids(r.fetch(t, 1)); s != "10" {
		r.Errorf("after a Release with ErrSubscription the tenure got %s", s)
	}
	if err := t.Release(r.ctx, release); err != nil {
		r.Errorf("Release again: %v", err)
	}
	r.gone(h)
	h = r.join(other, group, p.Topic)
	t = r.tenure(h)
	if s := t.Start(); s.Floor != got[6].Pos || !s.Clean {
		r.Errorf("the next holder starts at %+v, want %d", s, got[6].Pos)
	}
	if !h.told(func(g driver.GroupSpec) bool { return len(g.Types[p.Topic]) == 3 }) {
		r.Errorf("the next holder has not been told of all types when it gets the partition: %+v", h.specs)
	}
	fine("the next holder", t, at(7))
}

// across holds the starts of a group, over all members, against the order of
// keys, where nothing fails, is killed or repeated.
func (l *opLog) across(group string) []string {
	running, last := map[string]int{}, map[string]int{}
	var wrong []string
	for _, o := range l.all(func(o op) bool { return o.group == group }) {
		switch o.what {
		case opStart:
			if running[o.key] > 0 {
				wrong = append(wrong, fmt.Sprintf("started beside another one of its key: %v", o))
			}
			if o.n <= last[o.key] {
				wrong = append(wrong, fmt.Sprintf("started behind item %d of its key: %v", last[o.key], o))
			}
			last[o.key] = o.n
			running[o.key]++
		case opEnd, opEffect:
			running[o.key]--
		}
	}
	return wrong
}

// effectsOn waits until a member has had effects since a moment.
func (n *node) effectsOn(group string, least int) {
	n.r.Helper()
	n.r.eventuallyf(func() string { return fmt.Sprintf("member %d handles %d", n.n, least) }, func() bool {
		return len(n.r.log.all(func(o op) bool { return o.what == opEffect && o.group == group && o.bus == n.n })) >= least
	})
}

// load publishes until stop is closed, not far ahead of a group.
func (n *node) load(made itemType, group string, keys []string, stop <-chan struct{}) (total func() int) {
	published := 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-n.r.ctx.Done():
				return
			default:
			}
			if published-n.r.log.count(opEffect, group) > 300 {
				time.Sleep(time.Millisecond)
				continue
			}
			if err := n.tryPublish(made, n.r.items(20, keys...)...); err != nil {
				n.r.Errorf("publish: %v", err)
				return
			}
			published += 20
		}
	}()
	return func() int {
		<-done
		return published
	}
}

// some handles some events slowly.
func some(_ context.Context, e *posthorn.Event[item]) error {
	if e.Data.N%7 == 0 {
		time.Sleep(time.Millisecond)
	}
	return nil
}

func orderAcrossMembers(r *rig) {
	made := r.kind(r.topic("across", 8), "made")
	first := r.open()
	g1 := first.listen("g", quick(), some, made)
	stop := make(chan struct{})
	var once sync.Once
	end := func() { once.Do(func() { close(stop) }) }
	defer end()
	total := r.open().load(made, "g", keys(24), stop)
	first.effectsOn("g", 20)
	var joined []*node
	for range 2 {
		n := r.open()
		n.listen("g", quick(), some, made)
		n.effectsOn("g", 20)
		joined = append(joined, n)
	}
	r.stop(g1)
	first.close()
	last := r.open()
	last.listen("g", quick(), some, made)
	last.effectsOn("g", 20)
	joined[0].close()
	before := r.log.count(opEffect, "g")
	r.eventually("the others go on", func() bool { return r.log.count(opEffect, "g") > before+100 })
	end()
	n := total()
	last.ended("g")
	last.settled("g")
	r.onceEach("g", n)
	for i, w := range r.log.across("g") {
		if r.Errorf("%s", w); i == 5 {
			break
		}
	}
}

func handOver(r *rig) {
	made := r.kind(r.topic("over", 4), "made")
	cfg := quick()
	cfg.Concurrency = 8
	cfg.Window = 64 // what is hot spills to the lane
	handler := func(n *node) itemFunc {
		return func(ctx context.Context, e *posthorn.Event[item]) error {
			switch {
			case e.Data.N%11 == 0 && e.Attempt < 5: // it makes late attempts
				return errHandler
			case e.Key == "hot":
				time.Sleep(time.Millisecond)
			}
			return nil
		}
	}
	total := 0
	var nodes []*node
	for range 2 {
		n := r.open()
		n.listen("g", cfg, handler(n), made)
		nodes = append(nodes, n)
	}
	for range 3 {
		for range 5 {
			nodes[1].publish(made, r.items(40, "hot")...)
			nodes[1].publish(made, r.items(20, keys(20)...)...)
			total += 60
		}
		before := r.log.count(opEffect, "g")
		r.eventually("there is work under way", func() bool { return r.log.count(opEffect, "g") > before+20 })
		nodes[0].close()
		n := r.open()
		n.listen("g", cfg, handler(n), made)
		nodes = []*node{nodes[1], n}
	}
	nodes[0].ended("g")
	nodes[0].settled("g")
	r.onceEach("g", total)
}

func killMember(r *rig) {
	made := r.kind(r.topic("killed", 4), "made")
	var nodes []*node
	for range 3 {
		n := r.open()
		n.listen("g", quick(), some, made)
		nodes = append(nodes, n)
	}
	survivor := nodes[2]
	stop := make(chan struct{})
	var once sync.Once
	end := func() { once.Do(func() { close(stop) }) }
	defer end()
	total := r.open().load(made, "g", keys(12), stop)
	for _, n := range nodes[:2] {
		n.effectsOn("g", 10)
		n.kill()
		before := r.log.count(opEffect, "g")
		r.eventually("the others go on", func() bool { return r.log.count(opEffect, "g") > before+100 })
	}
	end()
	total()
	survivor.ended("g")
	survivor.settled("g")
}

// divided waits until each member of a group has its share of the partitions.
func (r *rig) divided(group string, nodes ...*node) {
	r.Helper()
	d := r.driver()
	r.eventually("the partitions are divided among the members", func() bool {
		ps, err := d.Positions(r.ctx, r.name(group))
		if err != nil {
			return false
		}
		held := map[string]int{}
		for _, p := range ps {
			held[p.Member]++
		}
		low, high := len(ps), 0
		for _, n := range held {
			low, high = min(low, n), max(high, n)
		}
		return held[""] == 0 && len(held) == len(nodes) && high-low <= 1
	})
}

func poisonAmongMembers(r *rig) {
	const boots, neighbours = 2, 64
	made := r.kind(r.topic("poison", 4), "made")
	cfg := quick()
	cfg.Boots = boots
	cfg.Concurrency = 2 * neighbours
	items := r.items(neighbours, keys(neighbours)...)
	bad := r.items(1, "poison")[0]
	killed := make(chan *node, boots+5)
	alone := make(chan struct{}) // closed after the first kill
	member := func() *node {
		n := r.open()
		n.listen("g", cfg, func(ctx context.Context, e *posthorn.Event[item]) error {
			if e.Data.N != bad.N {
				return n.block(ctx, alone)
			}
			select {
			case <-alone:
			default: // the first time many others are in flight, here and elsewhere
				if !r.wait(func() bool { return r.log.runningNow("g") > neighbours }) {
					return errors.New("the others do not run")
				}
			}
			n.cutOff()
			killed <- n
			return errKilled
		}, made)
		return n
	}
	var nodes []*node
	for range 3 {
		nodes = append(nodes, member())
	}
	r.divided("g", nodes...) // or the poison would wait for those that wait for its partition to move
	nodes[0].publish(made, append(append(items[:neighbours/2:neighbours/2], bad), items[neighbours/2:]...)...)
	living := func() *node { return nodes[slices.IndexFunc(nodes, func(n *node) bool { return !n.dead() })] }
	kills := 0
	r.eventually("the poison is a dead letter", func() bool {
		select {
		case n := <-killed:
			n.bury()
			if kills++; kills == 1 {
				close(alone)
			}
			nodes = append(nodes, member())
			return false
		default:
			return len(living().deadLetters("g")) > 0
		}
	})
	n := living()
	n.publish(made, r.items(20, keys(10)...)...)
	n.recordDead("g")
	n.ended("g")
	n.settled("g")
	if dead := n.deadLetters("g"); len(dead) != 1 || dead[0].Reason != posthorn.CodeQuarantined || dead[0].Key != "poison" {
		r.Errorf("dead letters after a poisonous message: %v", reasons(dead))
	}
	// The first start is not counted by a boot: only a suspect's is.
	if kills < boots || kills > boots+1 {
		r.Errorf("the poison killed %d processes, want %d or %d", kills, boots, boots+1)
	}
}

func rollingDeploy(r *rig) {
	topic := r.topic("deploy", 4)
	known, added := r.kind(topic, "known"), r.kind(topic, "added")
	var old []*node
	for range 2 {
		n := r.open()
		n.listen("g", quick(), some, known)
		old = append(old, n)
	}
	total := 0
	// The keys differ: what a member handles before it has heard of the new type may
	// stand behind an event of that type, which another one handles later.
	newKeys := []string{"new-0", "new-1", "new-2", "new-3", "new-4", "new-5"}
	isKnown := map[int]bool{}
	publish := func(n *node) {
		for range 5 {
			n.publish(added, r.items(20, newKeys...)...)
			items := r.items(20, keys(12)...)
			n.publish(known, items...)
			for _, it := range items {
				isKnown[it.N] = true
			}
			total += 40
		}
	}
	// So the old one has come past what it does not know, before it goes.
	handled := func() bool {
		return !slices.ContainsFunc(r.log.missing("g"), func(n int) bool { return isKnown[n] })
	}
	r.eventually("both are at work", func() bool { // or they would begin with what is on record later
		st, err := old[0].bus.GroupStatus(r.ctx, r.name("g"))
		return err == nil && len(st.Members) == 2 && st.Members[0].Holds > 0 && st.Members[1].Holds > 0
	})
	for range 5 { // before anybody subscribes to it, the new type is nobody's
		old[0].publish(known, r.items(20, keys(12)...)...)
		total += 20
	}
	var fresh []*node
	for _, o := range old {
		n := r.open()
		n.listen("g", quick(), some, known, added)
		publish(n)
		fresh = append(fresh, n)
		publish(o)
		r.eventually("what all know is handled", handled)
		o.close()
		publish(n)
	}
	fresh[0].ended("g")
	fresh[0].settled("g")
	r.onceEach("g", total)
	if dead := fresh[0].deadLetters("g"); len(dead) > 0 {
		r.Errorf("%d events are dead letters: %v", len(dead), reasons(dead))
	}
	for _, w := range r.log.across("g") {
		r.Errorf("%s", w)
	}
}
