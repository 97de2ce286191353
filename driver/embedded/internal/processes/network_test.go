//go:build unix

package processes

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"
)

// links are lines to all servers of a broker: a client that is cut off on one of them
// goes to another.
type links []*link

// through puts links before the servers that a URL names.
func through(t *testing.T, address string) (all links, rerouted string) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	var hosts []string
	for host := range strings.SplitSeq(u.Host, ",") {
		l := newLink(t, host)
		all, hosts = append(all, l), append(hosts, l.addr())
	}
	u.Host = strings.Join(hosts, ",")
	return all, u.String()
}

func (all links) hold(ways ...int) {
	for _, l := range all {
		l.hold(ways...)
	}
}

func (all links) heal() {
	for _, l := range all {
		l.heal()
		l.slow(0)
	}
}

func (all links) slow(d time.Duration) {
	for _, l := range all {
		l.slow(d)
	}
}

func (all links) reset() (n int) {
	for _, l := range all {
		n += l.reset()
	}
	return n
}

// hit tells whether something was kept back on each way that is held: on one of the
// links, since a client talks to one server.
func (all links) hit() bool {
	for _, l := range all {
		if l.hit() {
			return true
		}
	}
	return false
}

// network has the lines of the publisher and of a member reset, swallow what is sent
// on one way, take a second for each piece, and be cut for longer than the lease, under
// load: nothing that was confirmed is lost, what is unknown is stored once at the most,
// order per key holds, and who was cut off settles nothing (P1, P2, P5).
func network(t *testing.T, b broker) {
	straight := b.url(t, "instance", fmt.Sprintf("t%d", time.Now().UnixNano()), "lease", "4s")
	lines, address := through(t, straight)
	c := crowdAt(t, straight, address)
	c.resend = true
	cfg := memberConfig{Work: 2 * time.Millisecond, FailEach: 10}
	rnd := seeded(t)
	ownLines, ownAddress := through(t, straight)
	own := cfg
	own.URL = ownAddress
	far, near := c.member(t, own), c.member(t, cfg)
	c.balanced(t, 2)
	stop := c.load(t)
	c.progress(t, 200)

	hits := map[string]int{}
	faults := []struct {
		name string
		run  func()
	}{
		{"the publisher's connection is reset", func() {
			if lines.reset() == 0 {
				t.Error("there was no connection")
			}
		}},
		{"the member's connection is reset", func() {
			if ownLines.reset() == 0 {
				t.Error("there was no connection")
			}
		}},
		{"answers to the publisher are swallowed, then its connection is reset", func() {
			lines.hold(toClient)
			c.until(t, "an answer is swallowed", lines.hit)
			lines.reset()
		}},
		{"what the publisher sends is kept back for a while", func() {
			lines.hold(toBroker)
			c.until(t, "something is kept back", lines.hit)
			time.Sleep(time.Duration(rnd.IntN(1000)) * time.Millisecond) // how long it takes, not a wait for anything
			lines.heal()
		}},
		{"what the publisher sends is swallowed, then its connection is reset", func() {
			lines.hold(toBroker)
			c.until(t, "something is swallowed", lines.hit)
			lines.reset()
		}},
		{"the publisher's line takes a second each way", func() {
			lines.slow(time.Second)
			c.until(t, "a batch is confirmed meanwhile", c.oneMore())
			lines.slow(0)
		}},
		{"the member is cut off for longer than its lease", func() {
			c.note(t, "stopped", far.Name)
			ownLines.hold(toBroker, toClient)
			c.balanced(t, 1) // the other one has all
			if !ownLines.hit() {
				t.Error("nothing was kept back")
			}
			if rnd.IntN(2) == 0 {
				ownLines.reset()
			}
			ownLines.heal()
			c.balanced(t, 2) // it comes back
		}},
	}
	for round := range 2 {
		for _, i := range rnd.Perm(len(faults)) {
			f := faults[i]
			f.run()
			hits[f.name]++
			c.progress(t, 100)
		}
		t.Logf("round %d: %d events are handled", round+1, c.ends(t))
	}
	stop()
	c.settled(t)
	far.drain(t)
	near.drain(t)
	if c.refused == 0 {
		t.Error("no outcome was unknown: the test has tested little")
	}
	n := c.check(t, cfg)
	c.attempts(t, cfg)
	c.storedOnce(t)
	t.Logf("%d events handled, %d of them more than once; %d batches were refused; faults: %v", n.handled, n.repeated, c.refused, hits)
}

// oneMore tells whether a batch was confirmed since it was made.
func (c *crowd) oneMore() func() bool {
	confirmed := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.confirmed)
	}
	before := confirmed()
	return func() bool { return confirmed() > before }
}

// storedOnce wants each event at one position: what was sent again after an unknown
// outcome is recognised by the broker.
func (c *crowd) storedOnce(t *testing.T) {
	t.Helper()
	at := map[string]int{}
	for _, l := range c.lines(t) {
		if l.what != "start" {
			continue
		}
		if first, ok := at[l.event()]; ok && first != l.position {
			t.Errorf("%s stands at %d and at %d", l.event(), first, l.position)
		}
		at[l.event()] = l.position
	}
}
