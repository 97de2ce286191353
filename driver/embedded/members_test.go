package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/embedded"
	"github.com/posthorn/posthorn/driver/jetstream"
)

// patience is how long the tests of members wait for what must happen.
const patience = 60 * time.Second

func within(t *testing.T, what func() string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %v still not: %s", patience, what())
		}
	}
}

// A crew is a group's members, and what each of them holds. It notes when two
// hold the same, and when a fence does not ascend.
type crew struct {
	t *testing.T

	mu     sync.Mutex
	holder map[driver.Partition]*hand
	fence  map[driver.Partition]uint64
	wrong  []string
}

func newCrew(t *testing.T) *crew {
	c := &crew{t: t, holder: map[driver.Partition]*hand{}, fence: map[driver.Partition]uint64{}}
	t.Cleanup(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, w := range c.wrong {
			t.Error(w)
		}
	})
	return c
}

// A hand is a member that holds what it is given until it is asked for it.
type hand struct {
	c     *crew
	n     int
	can   func(driver.GroupSpec) []string
	clean bool // what it releases is
	leave context.CancelFunc
	left  chan struct{} // closed when it has
	err   error         // with which

	mu     sync.Mutex
	told   int // version of the group's record
	holds  map[driver.Partition]driver.Tenure
	starts map[driver.Partition]driver.Checkpoint
	lost   map[driver.Partition]error
	given  int
}

func (h *hand) Status() driver.Status { return driver.Status{InFlight: h.n} }

func (h *hand) Subscribed(spec driver.GroupSpec) []string {
	h.mu.Lock()
	h.told = spec.Version
	h.mu.Unlock()
	if h.can == nil {
		return slices.Collect(maps.Keys(spec.Types))
	}
	return h.can(spec)
}

func (h *hand) Assigned(t driver.Tenure) {
	p := t.Partition()
	h.c.mu.Lock()
	if by := h.c.holder[p]; by != nil {
		h.c.wrong = append(h.c.wrong, fmt.Sprintf("member %d got %+v, which member %d holds", h.n, p, by.n))
	}
	if t.Fence() <= h.c.fence[p] {
		h.c.wrong = append(h.c.wrong, fmt.Sprintf("the fence of %+v goes from %d to %d", p, h.c.fence[p], t.Fence()))
	}
	if late := time.Since(t.StartBy()); late > 0 {
		h.c.wrong = append(h.c.wrong, fmt.Sprintf("%+v may not be worked on since %v when it is assigned", p, late))
	}
	h.c.holder[p], h.c.fence[p] = h, t.Fence()
	h.c.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.holds[p], h.starts[p] = t, t.Start()
	h.given++
}

// drop forgets a tenure before others can get it.
func (h *hand) drop(t driver.Tenure) bool {
	p := t.Partition()
	h.mu.Lock()
	mine := h.holds[p] == t
	if mine {
		delete(h.holds, p)
	}
	h.mu.Unlock()
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	if mine && h.c.holder[p] == h {
		delete(h.c.holder, p)
	}
	return mine
}

func (h *hand) Revoke(ctx context.Context, t driver.Tenure) {
	if !h.drop(t) {
		return
	}
	c := t.Start()
	c.Clean = h.clean
	err := t.Release(ctx, c)
	if errors.Is(err, driver.ErrSubscription) {
		err = t.Release(ctx, c)
	}
	if err != nil && !errors.Is(err, driver.ErrLost) && ctx.Err() == nil {
		h.c.t.Errorf("member %d releases %+v: %v", h.n, t.Partition(), err)
	}
}

func (h *hand) Lost(t driver.Tenure, err error) {
	h.drop(t)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lost[t.Partition()] = err
}

func (h *hand) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.holds)
}

func (h *hand) tenures() []driver.Tenure {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Values(h.holds))
}

// join makes a driver a member, until the end of the test or until leave.
func (c *crew) join(d driver.Driver, group string, n int, set func(*hand)) *hand {
	ctx, cancel := context.WithCancel(context.Background())
	h := &hand{c: c, n: n, clean: true, leave: cancel, left: make(chan struct{}), holds: map[driver.Partition]driver.Tenure{},
		starts: map[driver.Partition]driver.Checkpoint{}, lost: map[driver.Partition]error{}}
	if set != nil {
		set(h)
	}
	go func() {
		defer close(h.left)
		h.err = d.Join(ctx, group, h)
	}()
	c.t.Cleanup(func() {
		for _, t := range h.tenures() {
			h.drop(t) // who is still there gets it at once
		}
		cancel()
		<-h.left
	})
	return h
}

// retire releases all and leaves, as a stop does.
func (h *hand) retire() {
	h.c.t.Helper()
	for _, t := range h.tenures() {
		h.Revoke(context.Background(), t)
	}
	h.leave()
	h.c.gone(h, nil)
}

func (c *crew) gone(h *hand, want error) {
	c.t.Helper()
	select {
	case <-h.left:
		if !errors.Is(h.err, want) {
			c.t.Errorf("member %d leaves with %v, want %v", h.n, h.err, want)
		}
	case <-time.After(patience):
		c.t.Fatalf("member %d does not leave", h.n)
	}
	for _, t := range h.tenures() {
		h.drop(t)
	}
}

// shares waits until the members hold so many, in some order.
func (c *crew) shares(hands []*hand, want ...int) {
	c.t.Helper()
	var got []int
	within(c.t, func() string { return fmt.Sprintf("shares %v; they are %v", want, got) }, func() bool {
		got = nil
		for _, h := range hands {
			got = append(got, h.count())
		}
		slices.Sort(got)
		return slices.Equal(got, want)
	})
}

// even is how n partitions are divided among k.
func even(n, k int) []int {
	var s []int
	for i := range k {
		s = append(s, (n+i)/k)
	}
	return s
}

func TestMembersDivide(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.topic("order", 8)
	b.topic("stock", 3)
	b.group("g", driver.StartAt{}, "order", "stock")
	c := newCrew(t)
	var hands []*hand
	for n := range 8 { // they come one by one
		d := open(t, b.dir, embedded.Options{})
		hands = append(hands, c.join(d, "g", n, nil))
		c.shares(hands, even(11, n+1)...)
	}
	for len(hands) > 1 { // and go, the first ones first
		hands[0].retire()
		hands = hands[1:]
		c.shares(hands, even(11, len(hands))...)
	}
	for _, s := range hands[0].starts {
		if !s.Clean {
			t.Errorf("handed over cleanly, and the start is %+v", s)
		}
	}
	if n := hands[0].given; n > 11+20 {
		t.Errorf("the last one was given %d partitions in all", n)
	}
}

// TestMembersAtOnce has all come and go at the same time.
func TestMembersAtOnce(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.topic("order", 16)
	b.group("g", driver.StartAt{}, "order")
	c := newCrew(t)
	var beds []*bed
	for range 6 {
		beds = append(beds, open(t, b.dir, embedded.Options{}))
	}
	for range 3 {
		var hands []*hand
		for n, d := range beds {
			hands = append(hands, c.join(d, "g", n, nil))
		}
		c.shares(hands, even(16, 6)...)
		var wg sync.WaitGroup
		for _, h := range hands[1:] {
			wg.Go(h.retire)
		}
		wg.Wait()
		c.shares(hands[:1], 16)
		hands[0].retire()
	}
}

func TestMembersTakeWhatTheyCan(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.topic("order", 6)
	b.topic("stock", 4)
	b.group("g", driver.StartAt{}, "order", "stock")
	c := newCrew(t)
	only := func(topics ...string) func(*hand) {
		return func(h *hand) { h.can = func(driver.GroupSpec) []string { return topics } }
	}
	// One can take orders only: what it lacks of stock it is given of orders.
	old := c.join(b, "g", 0, only("order", "unknown"))
	young := c.join(open(t, b.dir, embedded.Options{}), "g", 1, nil)
	c.shares([]*hand{old, young}, 5, 5)
	for _, tn := range old.tenures() {
		if tn.Partition().Topic != "order" {
			t.Errorf("got %+v, which it cannot take", tn.Partition())
		}
	}
	// One that can take nothing gets nothing, and is a member all the same.
	idle := c.join(open(t, b.dir, embedded.Options{}), "g", 2, only())
	within(t, func() string { return "three members" }, func() bool {
		ms, err := b.Members(t.Context(), "g")
		return err == nil && len(ms) == 3
	})
	// A type that the first does not know comes to orders: it takes none any more.
	old.mu.Lock()
	old.can = func(spec driver.GroupSpec) []string {
		if slices.Contains(spec.Types["order"], "order.new") {
			return nil
		}
		return []string{"order"}
	}
	old.mu.Unlock()
	if _, err := b.EnsureGroup(t.Context(), driver.GroupSpec{Name: "g", Types: map[string][]string{"order": {"order.new"}}}); err != nil {
		t.Fatal(err)
	}
	c.shares([]*hand{old, idle, young}, 0, 0, 10)
	if young.told != 2 {
		t.Errorf("the one that has all knows version %d", young.told)
	}
}

// TestMembersFollowTheRecord adds a topic and takes one away while members are at
// work.
func TestMembersFollowTheRecord(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.topic("order", 4)
	b.topic("stock", 4)
	b.group("g", driver.StartAt{}, "order")
	c := newCrew(t)
	hands := []*hand{c.join(b, "g", 0, nil), c.join(open(t, b.dir, embedded.Options{}), "g", 1, nil)}
	c.shares(hands, 2, 2)
	b.group("g", driver.StartAt{}, "stock")
	c.shares(hands, 4, 4)
	if err := b.DropTypes(t.Context(), "g", []string{"order.made"}); err != nil {
		t.Fatal(err)
	}
	c.shares(hands, 2, 2)
	for _, h := range hands {
		for _, tn := range h.tenures() {
			if tn.Partition().Topic != "stock" {
				t.Errorf("member %d holds %+v", h.n, tn.Partition())
			}
		}
	}
	// It comes back: the fences go on from where they were.
	b.group("g", driver.StartAt{}, "order")
	c.shares(hands, 4, 4)
	if err := b.RemoveGroup(t.Context(), "g"); err != nil {
		t.Fatal(err)
	}
	for _, h := range hands {
		c.gone(h, driver.ErrNotFound)
		if len(h.lost) == 0 {
			t.Errorf("member %d was not told that it has lost what it held", h.n)
		}
	}
}

// A line is a connection that can be held up, as by a network that is gone for a
// while or a process that sleeps: nothing comes and goes, and then all of it does.
type line struct {
	mu   sync.Mutex
	open chan struct{} // closed while it is
}

func newLine() *line {
	l := &line{open: make(chan struct{})}
	close(l.open)
	return l
}

func (l *line) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = make(chan struct{})
}

func (l *line) free() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.open:
	default:
		close(l.open)
	}
}

func (l *line) wait() {
	l.mu.Lock()
	open := l.open
	l.mu.Unlock()
	<-open
}

func (l *line) Dial(network, addr string) (net.Conn, error) {
	c, err := net.Dial(network, addr)
	return &lineConn{c, l}, err
}

type lineConn struct {
	net.Conn
	l *line
}

func (c *lineConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.l.wait()
	return n, err
}

func (c *lineConn) Write(p []byte) (int, error) {
	c.l.wait()
	return c.Conn.Write(p)
}

// A station serves a directory to drivers whose lines can be held.
type station struct {
	*bed
	s *embedded.Server
}

func serveStation(t *testing.T) *station {
	t.Helper()
	b := &bed{t: t, dir: t.TempDir()}
	s, err := embedded.Serve(t.Context(), b.dir, embedded.ServeOptions{Addr: "127.0.0.1:0", Token: "for-this-test"}, b.env())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return &station{bed: open(t, b.dir, embedded.Options{}), s: s}
}

func (s *station) driver(lease time.Duration) (driver.Driver, *line) {
	s.t.Helper()
	l := newLine()
	nc, err := nats.Connect(s.s.URL(), nats.Token("for-this-test"), nats.SetCustomDialer(l))
	if err != nil {
		s.t.Fatal(err)
	}
	d, err := jetstream.New(s.t.Context(), nc, jetstream.Options{Store: "test", Lease: lease}, s.env())
	if err != nil {
		nc.Close()
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		l.free()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := d.Close(ctx); err != nil {
			s.t.Error(err)
		}
		nc.Close()
	})
	return d, l
}

// TestMemberSilent is about a member that is cut off past its lease and comes back
// with what it had on its way: the broker refuses all of it.
func TestMemberSilent(t *testing.T) {
	t.Parallel()
	const lease = 2 * time.Second
	s := serveStation(t)
	s.topic("order", 4)
	s.group("g", driver.StartAt{}, "order")
	c := newCrew(t)
	d1, line1 := s.driver(lease)
	d2, _ := s.driver(lease)
	sleeper, heir := c.join(d1, "g", 1, nil), c.join(d2, "g", 2, nil)
	c.shares([]*hand{sleeper, heir}, 2, 2)
	old := sleeper.tenures()
	lane := old[0].Lane()
	stays, goes := entry("k", 1, driver.Due), entry("k", 2, driver.Due)
	apply(t, lane, put(stays, goes))

	line1.hold()
	held := time.Now()
	type result struct {
		what string
		err  error
	}
	results := make(chan result, 4)
	for what, do := range map[string]func() error{
		"checkpoint": func() error { return old[0].Checkpoint(context.Background(), driver.Checkpoint{Floor: 1, Mark: 5}) },
		"release": func() error {
			return old[1].Release(context.Background(), driver.Checkpoint{Floor: 1, Mark: 5, Clean: true})
		},
		"put": func() error {
			return lane.Apply(context.Background(), put(entry("k", 1, driver.Dead), entry("k", 3, driver.Due)))
		},
		"delete": func() error { return lane.Apply(context.Background(), []driver.LaneOp{{Entry: goes, Delete: true}}) },
	} {
		go func() { results <- result{what, do()} }()
	}
	for _, tn := range old { // others may have them from here on
		c.mu.Lock()
		delete(c.holder, tn.Partition())
		c.mu.Unlock()
	}
	c.shares([]*hand{heir}, 4)
	if took := time.Since(held); took < lease*3/4 {
		t.Errorf("the partitions were taken after %v, with a lease of %v", took, lease)
	}
	for _, tn := range old {
		if left := time.Until(tn.StartBy()); left > 0 {
			t.Errorf("who has lost %+v may start handlers for %v", tn.Partition(), left)
		}
		if heir.starts[tn.Partition()].Clean {
			t.Errorf("%+v was taken from a dead member, and is clean", tn.Partition())
		}
	}
	line1.free()
	for range 4 {
		select {
		case r := <-results:
			if !errors.Is(r.err, driver.ErrLost) {
				t.Errorf("%s by who has lost the partition: %v", r.what, r.err)
			}
		case <-time.After(patience):
			t.Fatal("what was on its way is not answered")
		}
	}
	ps, err := s.Positions(t.Context(), "g")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ps {
		if p.Floor != 0 {
			t.Errorf("a late checkpoint was recorded: %+v", p)
		}
	}
	entries := scan(t, s.Lane("g", old[0].Partition()), 10)
	if len(entries) != 2 || entries[0].Rev != stays.Rev || entries[1].Rev != goes.Rev {
		t.Errorf("late writes have changed the lane: %+v", entries)
	}
	// It finds out, and is a member again.
	c.shares([]*hand{sleeper, heir}, 2, 2)
	for _, tn := range old {
		wantErr(t, sleeper.lost[tn.Partition()], driver.ErrLost)
		_, err := tn.Fetch(t.Context(), make([]driver.Delivery, 1), 1)
		wantErr(t, err, driver.ErrLost)
	}
	ms, err := s.Members(t.Context(), "g")
	if err != nil || len(ms) != 2 || !slices.ContainsFunc(ms, func(m driver.MemberInfo) bool { return strings.HasSuffix(m.Name, "#2") }) {
		t.Errorf("members %+v, %v", ms, err)
	}
}

// TestMembersOutage cuts all of them off for longer than the lease: nobody loses
// anything.
func TestMembersOutage(t *testing.T) {
	t.Parallel()
	const lease = 2 * time.Second
	s := serveStation(t)
	s.topic("order", 6)
	s.group("g", driver.StartAt{}, "order")
	c := newCrew(t)
	var hands []*hand
	var lines []*line
	for n := range 3 {
		d, l := s.driver(lease)
		hands, lines = append(hands, c.join(d, "g", n, nil)), append(lines, l)
	}
	c.shares(hands, 2, 2, 2)
	tenures := hands[0].tenures()
	given := hands[0].given + hands[1].given + hands[2].given
	for _, l := range lines {
		l.hold()
	}
	time.Sleep(lease * 3 / 2)
	for _, tn := range tenures {
		if time.Until(tn.StartBy()) > 0 {
			t.Errorf("during an outage that is longer than the lease handlers may be started on %+v", tn.Partition())
		}
	}
	for _, l := range lines {
		l.free()
	}
	within(t, func() string { return "handlers may be started again" }, func() bool {
		for _, h := range hands {
			for _, tn := range h.tenures() {
				if time.Until(tn.StartBy()) <= 0 {
					return false
				}
			}
		}
		return true
	})
	time.Sleep(lease * 3 / 2)
	for _, h := range hands {
		if len(h.lost) > 0 || h.count() != 2 {
			t.Errorf("member %d holds %d and has lost %v", h.n, h.count(), h.lost)
		}
	}
	if after := hands[0].given + hands[1].given + hands[2].given; after != given {
		t.Errorf("%d partitions were given out after the outage", after-given)
	}
}

// TestMemberRecordGone deletes a member's record behind its back.
func TestMemberRecordGone(t *testing.T) {
	t.Parallel()
	b := open(t, t.TempDir(), embedded.Options{Lease: time.Second})
	b.topic("order", 2)
	b.group("g", driver.StartAt{}, "order")
	c := newCrew(t)
	h := c.join(b, "g", 0, nil)
	c.shares([]*hand{h}, 2)
	before := h.tenures()
	nc, _ := b.raw()
	if err := jetstream.ClearMembers(t.Context(), nc, ""); err != nil {
		t.Fatal(err)
	}
	within(t, func() string { return "all are held again, by other tenures" }, func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.lost) == 2 && len(h.holds) == 2
	})
	for _, tn := range before {
		wantErr(t, tn.Checkpoint(t.Context(), driver.Checkpoint{}), driver.ErrLost)
	}
}

// TestKilledProcessFreesItsPartitions leaves the records behind that a killed
// process would: who opens the directory next does not wait for its lease.
func TestKilledProcessFreesItsPartitions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := open(t, dir, embedded.Options{Lease: time.Hour})
	b.topic("order", 2)
	b.group("g", driver.StartAt{}, "order")
	c := newCrew(t)
	h := c.join(b, "g", 0, nil)
	c.shares([]*hand{h}, 2)
	nc, js := b.raw()
	ms, err := b.Members(t.Context(), "g")
	if err != nil || len(ms) != 1 {
		t.Fatalf("%+v, %v", ms, err)
	}
	var records []*nats.RawStreamMsg
	for seq := uint64(1); seq < 1000; seq++ {
		if m, err := js.GetMsg("PH-STATE", seq); err == nil && strings.HasPrefix(m.Subject, "ph.s.member.") {
			records = append(records, m)
		}
	}
	if len(records) != 1 {
		t.Fatalf("%d records of members", len(records))
	}
	h.leave() // without releasing
	c.gone(h, nil)
	if _, err := js.Publish(records[0].Subject, records[0].Data); err != nil {
		t.Fatal(err)
	}
	if ms, err := b.Members(t.Context(), "g"); err != nil || len(ms) != 1 || ms[0].Lease != time.Hour {
		t.Fatalf("the record is not there again: %+v, %v", ms, err)
	}
	nc.Close()
	b.close()
	b = open(t, dir, embedded.Options{Lease: time.Hour})
	h = c.join(b, "g", 1, nil)
	c.shares([]*hand{h}, 2)
	for p, s := range h.starts {
		if s.Clean {
			t.Errorf("%+v was left by a kill, and is clean", p)
		}
	}
}

// TestMembersIdle counts what a member asks of the broker when nothing happens.
func TestMembersIdle(t *testing.T) {
	t.Parallel()
	b := open(t, t.TempDir(), embedded.Options{Lease: time.Second})
	b.topic("order", 8)
	b.group("g", driver.StartAt{}, "order")
	c := newCrew(t)
	h := c.join(b, "g", 0, nil)
	c.shares([]*hand{h}, 8)
	nc, _ := b.raw()
	time.Sleep(time.Second) // what follows from the beginning
	var mu sync.Mutex
	seen := map[string]int{}
	if _, err := nc.Subscribe(">", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		seen[m.Subject]++
	}); err != nil {
		t.Fatal(err)
	}
	beats := func() (n int) {
		for s, k := range seen {
			if strings.HasPrefix(s, "ph.s.member.g.") {
				n += k
			}
		}
		return n
	}
	within(t, func() string { return "ten beats" }, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return beats() >= 10
	})
	mu.Lock()
	defer mu.Unlock()
	n := beats()
	for s, k := range seen {
		switch {
		case strings.HasPrefix(s, "ph.s.member.g."), strings.HasPrefix(s, "_INBOX."), strings.HasPrefix(s, "$JS.API.CONSUMER.MSG.NEXT."), strings.HasPrefix(s, "$JS.EVENT."):
		case s == "$JS.API.DIRECT.GET.PH-STATE":
			if k > n+2 { // one more when it looks for what it may have missed
				t.Errorf("%d reads for %d beats", k, n)
			}
		default:
			t.Errorf("%d of %s, for %d beats", k, s, n)
		}
	}
}

// TestLaneDeletionsGo: what a tenure deletes is put, to be held against the fence,
// and is purged then.
func TestLaneDeletionsGo(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.topic("order", 1)
	b.group("g", driver.StartAt{}, "order")
	tn, _ := b.tenure("g", "order")
	e := entry("k", 1, driver.Due)
	apply(t, tn.Lane(), put(e))
	apply(t, tn.Lane(), put(e))
	f := entry("k", 2, driver.Due)
	apply(t, tn.Lane(), put(f))
	_, js := b.raw()
	subjects := func() map[string]uint64 {
		info, err := js.StreamInfo("PH-L-g", &nats.StreamInfoRequest{SubjectsFilter: "ph.l.g.>"})
		if err != nil {
			t.Fatal(err)
		}
		return info.State.Subjects
	}
	at := "ph.l.g.order.0."
	if s := subjects(); len(s) != 3 || s["ph.l.g.FENCE.order.0"] != 1 || s[at+e.Name] != 1 || s[at+f.Name] != 1 {
		t.Errorf("two entries and the fence, and there are %v", s)
	}
	if es := scan(t, tn.Lane(), 10); len(es) != 2 || es[0].Rev != e.Rev {
		t.Errorf("%+v", es)
	}
	apply(t, tn.Lane(), []driver.LaneOp{{Entry: e, Delete: true}, {Entry: f, Delete: true}})
	if s := subjects(); len(s) != 2 || s["ph.l.g.FENCE.order.0"] != 1 || s[at+"MARK"] != 1 {
		t.Errorf("beside the fence and the mark there are %v", s)
	}
	// As it would stand if the purge had been cut off.
	m := nats.NewMsg(at + e.Name)
	m.Header["Posthorn-Entry"] = []string{"1 255 0 0 = ="}
	if _, err := js.PublishMsg(m); err != nil {
		t.Fatal(err)
	}
	if es, err := tn.Lane().Get(t.Context(), []string{e.Name}); len(es) > 0 || err != nil {
		t.Errorf("the holder gets %+v, %v", es, err)
	}
	if es := scan(t, b.Lane("g", order0), 10); len(es) > 0 || subjects()[at+e.Name] != 1 {
		t.Errorf("from outside there are %+v; %v", es, subjects())
	}
	if es := scan(t, tn.Lane(), 10); len(es) > 0 || subjects()[at+e.Name] != 0 {
		t.Errorf("after the holder's scan there are %+v; %v", es, subjects())
	}
	// Where it stands an entry may be put from outside.
	if _, err := js.PublishMsg(m); err != nil {
		t.Fatal(err)
	}
	dead := entry("k", 1, driver.Dead)
	apply(t, b.Lane("g", order0), put(dead))
	wantErr(t, b.Lane("g", order0).Apply(t.Context(), put(entry("k", 1, driver.Dead))), driver.ErrConflict)
	if es := scan(t, tn.Lane(), 10); len(es) != 1 || es[0].State != driver.Dead {
		t.Errorf("%+v", es)
	}
}

// TestStoreOfOneASubject opens a store whose streams were made with a limit of one message
// a subject.
func TestStoreOfOneASubject(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	_, js := b.raw()
	if _, err := js.AddStream(&nats.StreamConfig{Name: "PH-L-g", Subjects: []string{"ph.l.g.>"}, MaxMsgsPerSubject: 1, AllowDirect: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.UpdateStream(&nats.StreamConfig{Name: "PH-STATE", Subjects: []string{"ph.s.>"}, MaxMsgsPerSubject: 1, AllowDirect: true}); err != nil {
		t.Fatal(err)
	}
	b = open(t, b.dir, embedded.Options{})
	b.topic("order", 1)
	b.group("g", driver.StartAt{}, "order")
	for _, name := range []string{"PH-L-g", "PH-STATE"} {
		if info, err := js.StreamInfo(name); err != nil || info.Config.MaxMsgsPerSubject != -1 || !info.Config.AllowRollup {
			t.Fatalf("%s: %+v, %v", name, info, err)
		}
	}
	tn, _ := b.tenure("g", "order")
	apply(t, tn.Lane(), put(entry("k", 1, driver.Due)))
}

func TestLeaseInURL(t *testing.T) {
	t.Parallel()
	openURL, ok := driver.Lookup("embedded")
	if !ok {
		t.Fatal("no scheme")
	}
	dir := t.TempDir()
	b := &bed{t: t, dir: dir}
	for query, words := range map[string][]string{
		"lease=10ms": {"lease=10ms", "500ms"}, "lease=soon": {"lease=soon"}, "lease=1s&lease=2s": {"lease"}, "least=1s": {"least"}, "lease=%zz": {"%zz"},
	} {
		_, err := openURL(t.Context(), &url.URL{Scheme: "embedded", Opaque: dir, RawQuery: query}, b.env())
		wantErr(t, err, driver.ErrInvalid, words...)
	}
	d, err := openURL(t.Context(), &url.URL{Scheme: "embedded", Opaque: dir, RawQuery: "lease=7s"}, b.env())
	if err != nil {
		t.Fatal(err)
	}
	b.Driver = d
	t.Cleanup(b.close)
	b.topic("order", 1)
	b.group("g", driver.StartAt{}, "order")
	b.tenure("g", "order")
	ms, err := b.Members(t.Context(), "g")
	if err != nil || len(ms) != 1 || ms[0].Lease != 7*time.Second {
		t.Errorf("%+v, %v", ms, err)
	}
}
