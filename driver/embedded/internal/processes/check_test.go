//go:build unix

package processes

import (
	"fmt"
	"strings"
	"testing"
)

// A tally is what a journal tells.
type tally struct {
	handled  int // events that were handled
	repeated int // events that were handled more than once
	cut      int // starts that a kill cut off
	late     int // ends of a stopped member after its partition had gone on
}

// check reads the journal: each key's events are first started in the order they
// are stored in, one at a time over all members; only a member that was killed, or
// stopped past its lease, may be overtaken, and then by one with a higher fence.
func (c *crowd) check(t *testing.T, cfg memberConfig) (n tally) {
	t.Helper()
	killed, stopped := map[string]bool{}, map[string]bool{}
	open := map[string]line{} // by key: what is being handled
	last := map[string]int{}  // by key: the highest position that was started
	fences := map[int]int{}   // by partition
	first, ends := map[string]bool{}, map[string]int{}
	for _, l := range c.lines(t) {
		switch l.what {
		case "killed":
			killed[l.member] = true
		case "stopped":
			stopped[l.member] = true
		case "start":
			if l.fence < fences[l.partition] {
				t.Errorf("%s was started under fence %d, after %d", l.event(), l.fence, fences[l.partition])
			}
			if o, beside := open[l.key]; beside {
				switch {
				case !killed[o.member] && !stopped[o.member]:
					t.Errorf("%s at %s was started beside %s at %s", l.event(), l.member, o.event(), o.member)
				case l.fence <= o.fence:
					t.Errorf("%s took over from %s with fence %d, which is not above %d", l.member, o.member, l.fence, o.fence)
				}
			}
			fences[l.partition] = l.fence
			open[l.key] = l
			if !first[l.event()] && !cfg.fails(l.seq) {
				if l.position < last[l.key] {
					t.Errorf("key %s: position %d was first started after %d: %s", l.key, l.position, last[l.key], c.of(t, l.key))
				}
				last[l.key] = l.position
			}
			first[l.event()] = true
		case "end", "fail":
			if l.what == "end" {
				ends[l.event()]++
			}
			if o := open[l.key]; o.member == l.member && o.event() == l.event() {
				delete(open, l.key)
			} else if !stopped[l.member] {
				t.Errorf("%s at %s ended, but %s at %s is open", l.event(), l.member, o.event(), o.member)
			}
			if l.fence < fences[l.partition] {
				if n.late++; !stopped[l.member] {
					t.Errorf("%s at %s ended under fence %d, the partition is at %d", l.event(), l.member, l.fence, fences[l.partition])
				}
			}
		}
		if t.Failed() {
			return n
		}
	}
	n.cut = c.cut(t)
	for _, times := range ends {
		n.handled++
		if times > 1 {
			n.repeated++
		}
	}
	return n
}

// starts counts how often each event was started.
func (c *crowd) starts(t *testing.T) map[string]int {
	n := map[string]int{}
	for _, l := range c.lines(t) {
		if l.what == "start" {
			n[l.event()]++
		}
	}
	return n
}

// cut counts the starts that a kill cut off.
func (c *crowd) cut(t *testing.T) int {
	t.Helper()
	n, _ := c.open(t)
	return n
}

// inFlight counts the starts of living members that have not ended.
func (c *crowd) inFlight(t *testing.T) int {
	t.Helper()
	_, n := c.open(t)
	return n
}

// open counts the starts that have no end: of members that were killed, and others.
func (c *crowd) open(t *testing.T) (dead, living int) {
	t.Helper()
	open := map[string]int{} // by member and event
	killed := map[string]bool{}
	for _, l := range c.lines(t) {
		switch l.what {
		case "killed":
			killed[l.member] = true
		case "start":
			open[l.member+" "+l.event()]++
		case "end", "fail":
			open[l.member+" "+l.event()]--
		}
	}
	for k, starts := range open {
		if member, _, _ := strings.Cut(k, " "); killed[member] {
			dead += starts
		} else {
			living += starts
		}
	}
	return dead, living
}

// of returns what the journal says of a key, the first lines of it.
func (c *crowd) of(t *testing.T, key string) (text string) {
	for _, l := range c.lines(t) {
		if l.key == key && len(text) < 4000 {
			text += fmt.Sprintf("\n%s %s %d at %d/%d by %s, fence %d, attempt %d", l.what, l.typ, l.seq, l.partition, l.position, l.member, l.fence, l.attempt)
		}
	}
	return text
}

// showRepeated logs how the events that were handled more than once were started
// and ended.
func (c *crowd) showRepeated(t *testing.T) {
	t.Helper()
	of := map[string][]line{}
	ends := map[string]int{}
	for _, l := range c.lines(t) {
		of[l.event()] = append(of[l.event()], l)
		if l.what == "end" {
			ends[l.event()]++
		}
	}
	for e, times := range ends {
		if times > 1 {
			t.Logf("%s: %+v", e, of[e])
		}
	}
}
