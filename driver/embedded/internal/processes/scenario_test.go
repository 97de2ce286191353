//go:build unix

package processes

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
)

// scenarios are run on each broker, beside each other: each has names of its own.
var scenarios = []struct {
	name string
	run  func(*testing.T, broker)
}{
	{"rolling", rolling},
	{"kills", kills},
	{"storm", storm},
	{"stopped", stopped},
	{"deploy", deploy},
	{"poison", poison},
	{"reset", reset},
	{"isolation", isolation},
	{"clock", clock},
	{"network", network},
	{"outage", outage}, // these two end what the others work on, so they come last
	{"crashes", crashes},
}

func TestServe(t *testing.T)   { runScenarios(t, startServe(t)) }
func TestServer(t *testing.T)  { runScenarios(t, startServer(t)) }
func TestCluster(t *testing.T) { runScenarios(t, startCluster(t)) }

func runScenarios(t *testing.T, b broker) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) { s.run(t, b) })
	}
}

// rolling has members join and drain under load, from one to three and back: every
// event is handled exactly once (P2, P5, P8).
func rolling(t *testing.T, b broker) {
	c := newCrowd(t, b, nobodyDies...)
	cfg := memberConfig{Work: time.Millisecond}
	first := c.member(t, cfg)
	stop := c.load(t)
	second := c.member(t, cfg)
	c.balanced(t, 2)
	third := c.member(t, cfg)
	c.balanced(t, 3)
	first.drain(t)
	c.balanced(t, 2)
	third.drain(t)
	c.balanced(t, 1)
	stop()
	c.settled(t)
	second.drain(t)
	n := c.check(t, cfg)
	if n.repeated > 0 || n.handled < 1000 {
		t.Errorf("%d events were handled, %d of them more than once; want at least 1000, and none", n.handled, n.repeated)
	}
	t.Logf("%d events, each handled once", n.handled)
}

// kills has members join and be killed under load, while some events fail: nothing
// that was confirmed is lost, order per key holds, and attempts are counted over
// members (P2, P4, P5).
func kills(t *testing.T, b broker) {
	c := newCrowd(t, b)
	cfg := memberConfig{Work: 2 * time.Millisecond, FailEach: 10}
	rnd := seeded(t)
	members := []*member{c.member(t, cfg), c.member(t, cfg), c.member(t, cfg)}
	c.balanced(t, 3)
	stop := c.load(t)
	for round := 0; round < 4 || c.cut(t) == 0 && round < 20; round++ {
		c.progress(t, 400)
		i := rnd.IntN(3)
		if rnd.IntN(4) == 0 {
			members[i].drain(t)
		} else {
			c.kill(t, members[i])
		}
		members[i] = c.member(t, cfg)
	}
	c.progress(t, 400)
	stop()
	c.settled(t)
	for _, m := range members {
		m.drain(t)
	}
	n := c.check(t, cfg)
	if n.cut == 0 {
		t.Error("no kill hit a handling in flight: the test has tested nothing")
	}
	c.attempts(t, cfg)
	t.Logf("%d events handled, %d of them more than once; the kills cut off %d starts", n.handled, n.repeated, n.cut)
}

// seeded returns random numbers, and prints what repeats them.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("POSTHORN_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("POSTHORN_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// attempts wants that what fails twice was handled at its third attempt at the
// earliest, whoever had the first two.
func (c *crowd) attempts(t *testing.T, cfg memberConfig) {
	t.Helper()
	for _, l := range c.lines(t) {
		if l.what == "end" && cfg.fails(l.seq) && l.attempt < 3 {
			t.Errorf("%s was handled at attempt %d, but the first two fail: attempts are not counted over members", l.event(), l.attempt)
		}
	}
}

// storm has the group grow from one member to eight and shrink to one again, every
// two seconds under load; of those that leave, two are killed and five drain. Nothing
// that was confirmed is lost, order per key holds, each partition gets on in each
// wave, and attempts are counted over members (P2, P4, P5, P8).
func storm(t *testing.T, b broker) {
	const most, killed, each = 8, 2, 2 * time.Second
	// A member that a busy machine keeps from its beats for so long would be taken
	// for dead, and its handlers still be at work.
	c := newCrowd(t, b, "lease", "4s")
	cfg := memberConfig{Work: 2 * time.Millisecond, FailEach: 10}
	rnd := seeded(t)
	members := c.members(t, cfg, 1)
	stop := c.load(t)
	waves, next := 0, time.Now().Add(each)
	for ; waves < 4 || c.cut(t) == 0 && waves < 20; waves++ {
		members = append(members, c.members(t, cfg, most-1)...)
		c.progress(t, 200)
		next = c.pause(next, each)
		rnd.Shuffle(most, func(i, j int) { members[i], members[j] = members[j], members[i] })
		c.leave(t, members[1:1+killed], members[1+killed:])
		members = members[:1]
		c.progress(t, 200)
		next = c.pause(next, each)
	}
	stop()
	c.settled(t)
	members[0].drain(t)
	n := c.check(t, cfg)
	c.attempts(t, cfg)
	holders, changes := map[string]bool{}, 0
	fence := map[int]int{}
	for _, l := range c.lines(t) {
		if l.what == "start" {
			holders[l.member] = true
			if l.fence > fence[l.partition] {
				fence[l.partition] = l.fence
				changes++
			}
		}
	}
	if n.cut == 0 {
		t.Error("no kill hit a handling in flight: the test has tested nothing")
	}
	if len(holders) < most {
		t.Errorf("of %d members only %d handled anything: the test has tested nothing", c.started, len(holders))
	}
	t.Logf("%d waves: %d events handled by %d of %d members, %d of them more than once; the kills cut off %d starts; partitions went to another %d times",
		waves, n.handled, len(holders), c.started, n.repeated, n.cut, changes)
}

// pause keeps a fault going: it returns at a time, or at once if that is past, and says
// when the next one is.
func (c *crowd) pause(until time.Time, each time.Duration) time.Time {
	time.Sleep(time.Until(until))
	return time.Now().Add(each)
}

// leave ends members, all at the same time: some as a crash does, the others cleanly.
func (c *crowd) leave(t *testing.T, killed, drained []*member) {
	t.Helper()
	for _, m := range drained {
		m.signal(t, syscall.SIGTERM)
	}
	for _, m := range killed {
		c.kill(t, m)
	}
	for _, m := range drained {
		m.drained(t)
	}
}

// progress waits until so many more events are handled.
func (c *crowd) progress(t *testing.T, more int) {
	t.Helper()
	want := c.ends(t) + more
	c.until(t, fmt.Sprint(want, " events are handled"), func() bool { return c.ends(t) >= want })
}

func (c *crowd) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain: waiting until %s", what)
		}
	}
}

// stopped pauses a member past its lease, with handlers in flight, and continues
// it: the others have taken its partitions, its late effects carry lower fencing
// numbers, and what it did is settled by the others alone.
func stopped(t *testing.T, b broker) {
	c := newCrowd(t, b)
	hang := filepath.Join(c.dir, "hang")
	cfg := memberConfig{Work: time.Millisecond}
	hanging := cfg
	hanging.Hang = hang
	slow := c.member(t, hanging)
	c.balanced(t, 1)
	touch(t, hang)
	for seq := 1; seq <= 10; seq++ {
		c.round(t, stepTaken, seq)
	}
	inFlight := func() (n int) {
		for _, l := range c.lines(t) {
			if l.what == "start" && l.member == slow.Name {
				n++
			}
		}
		return n
	}
	c.until(t, "handlers are in flight", func() bool { return inFlight() >= keys })
	slow.signal(t, syscall.SIGSTOP)
	c.note(t, "stopped", slow.Name)
	before := inFlight()
	other := c.member(t, cfg)
	c.settled(t)
	c.balanced(t, 2-1)
	// Not before: a signal may take a while to stop a process.
	if err := os.Remove(hang); err != nil {
		t.Fatal(err)
	}
	slow.signal(t, syscall.SIGCONT)
	c.balanced(t, 2) // it joins again
	n := c.check(t, cfg)
	if n.late != before {
		t.Errorf("%d effects came late, with a lower fence; %d were in flight", n.late, before)
	}
	// What it settled late would show as a gap or a repetition from here on.
	for seq := 11; seq <= 20; seq++ {
		c.round(t, stepTaken, seq)
	}
	c.settled(t)
	slow.drain(t)
	other.drain(t)
	for e, times := range c.starts(t) {
		if times > 2 {
			t.Errorf("%s was started %d times: once by the member that was stopped and once by the other are enough", e, times)
		}
	}
	if n := c.check(t, cfg); n.repeated != before {
		t.Errorf("%d events were handled twice, want the %d that were in flight", n.repeated, before)
		c.showRepeated(t)
	}
}

func touch(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// deploy has a member that knows a new type join those that do not, which go on for
// a while: none of the new events is lost, or a dead letter.
func deploy(t *testing.T, b broker) {
	c := newCrowd(t, b, nobodyDies...)
	cfg := memberConfig{Work: time.Millisecond}
	old := []*member{c.member(t, cfg), c.member(t, cfg)}
	c.balanced(t, 2)
	stop := c.load(t)
	c.progress(t, 200)
	with := cfg
	with.Turns = true
	fresh := c.member(t, with)
	for seq := 1; seq <= 50; seq++ { // at once, while the old ones hold most partitions
		c.round(t, turnTaken, seq)
	}
	c.progress(t, 200)
	for _, m := range old {
		m.drain(t)
	}
	second := c.member(t, with)
	c.balanced(t, 2)
	stop()
	c.settled(t)
	fresh.drain(t)
	second.drain(t)
	n := c.check(t, cfg)
	if n.repeated > 0 {
		t.Errorf("%d events were handled twice: nobody was killed", n.repeated)
	}
	c.noDeadLetters(t)
	t.Logf("%d events handled", n.handled)
}

func (c *crowd) noDeadLetters(t *testing.T) {
	t.Helper()
	for _, d := range c.deadLetters(t) {
		t.Errorf("a dead letter: %+v", d)
	}
}

func (c *crowd) deadLetters(t *testing.T) (all []posthorn.DeadLetter) {
	t.Helper()
	for d, err := range c.bus.DeadLetters(t.Context(), group) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, d)
	}
	return all
}

// poison has one event that kills its process, among 64 in flight at each of three
// members, which are started again as often as they die: it alone is quarantined,
// after the stated number of starts.
func poison(t *testing.T, b broker) {
	c := newCrowd(t, b)
	const inFlight = 64 // of a member
	cfg := memberConfig{Work: 20 * time.Millisecond, Poison: 7, Fuse: filepath.Join(c.dir, "fuse"), Hang: filepath.Join(c.dir, "hang")}
	members := []*member{c.member(t, cfg), c.member(t, cfg), c.member(t, cfg)}
	c.balanced(t, 3)
	// The poison is in one key only, with enough others to fill all handlers.
	publish := func(seq, from, to int) {
		var batch []*posthorn.Outgoing
		for k := from; k < to; k++ {
			batch = append(batch, stepTaken.New(step{Key: fmt.Sprint("k", k), Seq: seq}))
			if seq != cfg.Poison {
				c.confirmed[fmt.Sprintf("%s k%d %d", stepTaken.Name(), k, seq)] = 1
			}
		}
		if err := c.bus.PublishAll(t.Context(), batch...); err != nil {
			t.Fatal(err)
		}
	}
	const keys = 8 * inFlight
	for seq := 1; seq < cfg.Poison; seq++ {
		publish(seq, 0, keys)
	}
	c.settled(t)
	touch(t, cfg.Hang)
	publish(cfg.Poison, 0, 1)
	c.until(t, "the poison has started", func() bool { return c.inFlight(t) == 1 })
	for seq := cfg.Poison + 1; seq <= cfg.Poison+5; seq++ {
		publish(seq, 1, keys)
		publish(seq, 0, 1)
	}
	c.until(t, "64 are in flight at each of three members", func() bool { return c.inFlight(t) == len(members)*inFlight })
	touch(t, cfg.Fuse)
	deaths := 0
	c.until(t, "the poison is quarantined", func() bool {
		for i, m := range members {
			select {
			case <-m.ended:
				c.note(t, "killed", m.Name)
				deaths++
				if deaths == 1 {
					if cut := c.cut(t); cut != inFlight {
						t.Errorf("%d starts were cut off by the first death, want the %d in flight", cut, inFlight)
					}
					if err := os.Remove(cfg.Hang); err != nil {
						t.Error(err)
					}
				}
				members[i] = c.member(t, cfg)
			default:
			}
		}
		return len(c.deadLetters(t)) > 0
	})
	c.settled(t)
	for _, m := range members {
		m.drain(t)
	}
	if want := posthorn.DefaultBoots + 1; deaths != want { // the first start was not suspect
		t.Errorf("processes died %d times, stated are %d", deaths, want)
	}
	dead := c.deadLetters(t)
	if len(dead) != 1 || dead[0].Reason != posthorn.CodeQuarantined || dead[0].Key != "k0" {
		t.Errorf("dead letters: %+v; want the poison alone, quarantined", dead)
	}
}

// reset sets the group back while its members are at work: they handle all again,
// and another group notices nothing (P11).
func reset(t *testing.T, b broker) {
	c := newCrowd(t, b)
	cfg := memberConfig{Work: time.Millisecond}
	members := []*member{c.member(t, cfg), c.member(t, cfg), c.member(t, cfg)}
	c.balanced(t, 3)
	if _, err := c.driver.EnsureGroup(t.Context(), driver.GroupSpec{Name: "others", Types: map[string][]string{"walk": {stepTaken.Name()}}, Start: driver.StartAt{Now: true}}); err != nil {
		t.Fatal(err)
	}
	before, err := c.driver.Positions(t.Context(), "others")
	if err != nil {
		t.Fatal(err)
	}
	for seq := 1; seq <= 10; seq++ {
		c.round(t, stepTaken, seq)
	}
	c.settled(t)
	if err := c.driver.ResetGroup(t.Context(), group, []string{"walk"}, driver.StartAt{}); err != nil {
		t.Fatal(err)
	}
	c.until(t, "everything is handled twice", func() bool {
		ends := map[string]int{}
		for _, l := range c.lines(t) {
			if l.what == "end" {
				ends[l.event()]++
			}
		}
		for e := range c.confirmed {
			if ends[e] < 2 {
				return false
			}
		}
		return true
	})
	for _, m := range members {
		m.drain(t)
	}
	after, err := c.driver.Positions(t.Context(), "others")
	if err != nil {
		t.Fatal(err)
	}
	for i := range before {
		if before[i].Floor != after[i].Floor || before[i].Fence != after[i].Fence {
			t.Errorf("the other group has moved: %+v, was %+v", after[i], before[i])
		}
	}
	for _, l := range c.lines(t) {
		if l.what == "start" && l.fence < 2 && l.seq > 10 {
			t.Errorf("%+v", l)
		}
	}
}

// isolation has one member whose handlers hang: the partitions of the others go on
// (P6).
func isolation(t *testing.T, b broker) {
	c := newCrowd(t, b, nobodyDies...)
	hang := filepath.Join(c.dir, "hang")
	cfg := memberConfig{Work: time.Millisecond}
	hanging := cfg
	hanging.Hang = hang
	bad := c.member(t, hanging)
	good := c.member(t, cfg)
	c.balanced(t, 2)
	mine := map[int]bool{} // the partitions of the good one
	positions, err := c.driver.Positions(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	c.round(t, stepTaken, 1)
	c.settled(t)
	where, who := map[string]int{}, map[int]string{}
	for _, l := range c.lines(t) {
		where[l.key], who[l.partition] = l.partition, l.member
		mine[l.partition] = l.member == good.Name
	}
	touch(t, hang)
	for seq := 2; seq <= 6; seq++ {
		c.round(t, stepTaken, seq)
	}
	c.until(t, "the other member has handled all of its own", func() bool {
		for _, e := range c.unhandled(t) {
			var typ, key string
			var seq int
			if _, err := fmt.Sscan(e, &typ, &key, &seq); err != nil {
				t.Fatal(err)
			}
			if mine[where[key]] {
				return false
			}
		}
		return true
	})
	if len(c.unhandled(t)) == 0 {
		t.Errorf("nothing hangs: the test has tested nothing; %+v", positions)
	}
	if err := os.Remove(hang); err != nil {
		t.Fatal(err)
	}
	c.settled(t)
	bad.drain(t)
	good.drain(t)
	if n := c.check(t, cfg); n.repeated > 0 {
		t.Errorf("%d events were handled twice", n.repeated)
	}
}

// outage stops the whole broker for longer than the lease: nobody has died, so
// nobody takes anything over when it is back, and the work goes on.
func outage(t *testing.T, b broker) {
	c := newCrowd(t, b)
	cfg := memberConfig{Work: time.Millisecond}
	members := []*member{c.member(t, cfg), c.member(t, cfg), c.member(t, cfg)}
	c.balanced(t, 3)
	stop := c.load(t)
	c.progress(t, 400)
	before, err := c.driver.Positions(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	b.stop()
	time.Sleep(3 * lease) // the length of the outage, not a wait for anything
	b.resume()
	c.progress(t, 400)
	stop()
	c.settled(t)
	after, err := c.driver.Positions(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range after {
		if p.Fence != before[i].Fence || p.Member != before[i].Member {
			t.Errorf("partition %d went from %s, fence %d, to %s, fence %d: nobody had died", p.N, before[i].Member, before[i].Fence, p.Member, p.Fence)
		}
	}
	for _, m := range members {
		m.drain(t)
	}
	if n := c.check(t, cfg); n.repeated > 0 {
		t.Errorf("%d events were handled twice: nobody had died", n.repeated)
	}
}

// crashes has the broker's processes killed under load and started again, and one of a
// cluster stopped while the others go on: nothing
// that was confirmed is lost, and order per key holds.
func crashes(t *testing.T, b broker) {
	c := newCrowd(t, b)
	cfg := memberConfig{Work: time.Millisecond, FailEach: 10}
	members := []*member{c.member(t, cfg), c.member(t, cfg), c.member(t, cfg)}
	c.balanced(t, 3)
	stop := c.load(t)
	for range 3 {
		c.progress(t, 400)
		begun := time.Now()
		b.crash(t)
		t.Logf("killed and started again in %v", time.Since(begun).Round(time.Millisecond))
	}
	if b.freeze != nil { // the others go on without it
		begun := time.Now()
		thaw := b.freeze()
		c.progress(t, 1000)
		thaw()
		t.Logf("went on for %v while one was stopped", time.Since(begun).Round(time.Millisecond))
	}
	c.progress(t, 400)
	stop()
	c.settled(t)
	for _, m := range members {
		m.drain(t)
	}
	n := c.check(t, cfg)
	t.Logf("%d events handled, %d of them more than once; %d batches were not confirmed", n.handled, n.repeated, c.refused)
}

// clock has the wall clocks of two of three members jump, one by six hours forward
// and one back: nobody takes anything over, nothing expires that is good for an
// hour, and what failed is tried again no earlier than it should be, and not hours
// later.
func clock(t *testing.T, b broker) {
	c := newCrowd(t, b)
	c.expiry = time.Hour
	jump := filepath.Join(c.dir, "jump")
	cfg := memberConfig{Work: time.Millisecond, FailEach: 10}
	ahead, behind := cfg, cfg
	ahead.Jump, ahead.By = jump, 6*time.Hour
	behind.Jump, behind.By = jump, -6*time.Hour
	members := []*member{c.member(t, ahead), c.member(t, behind), c.member(t, cfg)}
	c.balanced(t, 3)
	stop := c.load(t)
	c.progress(t, 400)
	before, err := c.driver.Positions(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	touch(t, jump)
	c.progress(t, 800)
	stop()
	c.settled(t)
	after, err := c.driver.Positions(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range after {
		if p.Fence != before[i].Fence || p.Member != before[i].Member {
			t.Errorf("partition %d went from %s to %s: nobody had died", p.N, before[i].Member, p.Member)
		}
	}
	for _, m := range members {
		m.drain(t)
	}
	if n := c.check(t, cfg); n.repeated > 0 {
		t.Errorf("%d events were handled twice", n.repeated)
	}
}
