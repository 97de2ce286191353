package drivertest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// What an op says.
const (
	opConfirmed = "confirmed" // a publish said: stored
	opRefused   = "refused"   // a publish said: not stored
	opUnknown   = "unknown"   // a publish said: unknown
	opStart     = "start"     // a handler started
	opEnd       = "end"       // a handler ended with an error
	opEffect    = "effect"    // a handler ended with nil
	opDead      = "dead"      // it was seen among the dead letters
	opBeside    = "beside"    // a handler started while another one of its key ran
	opKill      = "kill"      // a bus was killed
)

// An op is one entry of the log of a case.
type op struct {
	what    string
	bus     int // the bus it happened on, in the order they were opened
	group   string
	id      string
	key     string
	n       int // the item's number, ascending in the order of publishing
	attempt int
	at      time.Time
	note    string
}

func (o op) String() string {
	return fmt.Sprintf("%s bus=%d group=%s key=%s n=%d attempt=%d id=%s %s", o.what, o.bus, o.group, o.key, o.n, o.attempt, o.id, o.note)
}

// An opLog records what happened in a case.
type opLog struct {
	mu      sync.Mutex
	ops     []op
	running map[string]map[string]int // by group, then bus and key
	most    map[string]int            // handlers that ran at a time, by group
}

func newOpLog() *opLog {
	return &opLog{running: map[string]map[string]int{}, most: map[string]int{}}
}

func (l *opLog) add(o op) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o.at = time.Now()
	l.ops = append(l.ops, o)
}

// start records a handler's start and whether another one of its key runs.
func (l *opLog) start(o op) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o.what, o.at = opStart, time.Now()
	l.ops = append(l.ops, o)
	keys := l.running[o.group]
	if keys == nil {
		keys = map[string]int{}
		l.running[o.group] = keys
	}
	at := fmt.Sprint(o.bus, "/", o.key)
	if o.key != "" && keys[at] > 0 {
		o.what = opBeside
		l.ops = append(l.ops, o)
	}
	keys[at]++
	sum := 0
	for _, n := range keys {
		sum += n
	}
	l.most[o.group] = max(l.most[o.group], sum)
}

// end records a handler's end; counted is false when its bus had been killed.
func (l *opLog) end(o op, counted bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := fmt.Sprint(o.bus, "/", o.key)
	if l.running[o.group][at]--; l.running[o.group][at] == 0 {
		delete(l.running[o.group], at)
	}
	if counted {
		o.at = time.Now()
		l.ops = append(l.ops, o)
	}
}

// all returns the ops that match, in order.
func (l *opLog) all(match func(op) bool) []op {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []op
	for _, o := range l.ops {
		if match(o) {
			found = append(found, o)
		}
	}
	return found
}

func (l *opLog) of(what, group string) []op {
	return l.all(func(o op) bool { return o.what == what && o.group == group })
}

func (l *opLog) count(what, group string) int { return len(l.of(what, group)) }

// maxRunning is how many handlers of a group ran at a time, at most.
func (l *opLog) maxRunning(group string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.most[group]
}

func (l *opLog) runningNow(group string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, c := range l.running[group] {
		n += c
	}
	return n
}

// items returns how often each item has an op of this kind in a group.
func (l *opLog) items(what, group string) map[int]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := map[int]int{}
	for i := range l.ops {
		if o := &l.ops[i]; o.what == what && o.group == group {
			m[o.n]++
		}
	}
	return m
}

// missing returns the numbers of the confirmed items that have neither an effect
// nor a dead letter in the group (check L).
func (l *opLog) missing(group string) []int {
	ended := l.items(opEffect, group)
	for n := range l.items(opDead, group) {
		ended[n]++
	}
	var miss []int
	for _, o := range l.of(opConfirmed, "") {
		if ended[o.n] == 0 {
			miss = append(miss, o.n)
		}
	}
	slices.Sort(miss)
	return slices.Compact(miss)
}

// check holds the log of a group against the promises and returns what is wrong:
//
//	L  everything confirmed has its effect, or is among the dead letters
//	O  the items of one key are started in the order of publishing, as far as they
//	   did not fail, and never beside each other
//	A  the attempts of an item are counted one by one, and never again from 1
//	   except after a kill
//	U  nothing is handled that was not published, and nothing that was refused
func (l *opLog) check(group string) []string {
	var wrong []string
	if miss := l.missing(group); len(miss) > 0 {
		wrong = append(wrong, fmt.Sprintf("L: confirmed and lost by group %s: %s", group, brief(miss)))
	}
	for _, o := range l.of(opBeside, group) {
		wrong = append(wrong, fmt.Sprintf("O: started beside another one of its key: %v", o))
	}
	wrong = append(wrong, l.checkOrder(group)...)
	wrong = append(wrong, l.checkAttempts(group)...)
	return append(wrong, l.checkPublished(group)...)
}

func (l *opLog) checkOrder(group string) []string {
	late := map[int]bool{}
	for _, o := range l.of(opEnd, group) {
		late[o.n] = true
	}
	var wrong []string
	first := map[string]int{} // by key: the highest item that was started, over all buses
	inBus := map[string]int{} // by bus and key
	seen := map[int]bool{}
	for _, o := range l.of(opStart, group) {
		if o.key == "" || late[o.n] {
			continue
		}
		if !seen[o.n] && first[o.key] > o.n {
			wrong = append(wrong, fmt.Sprintf("O: first started behind item %d of its key: %v", first[o.key], o))
		}
		at := fmt.Sprint(o.bus, "/", o.key)
		if inBus[at] > o.n {
			wrong = append(wrong, fmt.Sprintf("O: started behind item %d of its key: %v", inBus[at], o))
		}
		seen[o.n] = true
		first[o.key] = max(first[o.key], o.n)
		inBus[at] = max(inBus[at], o.n)
	}
	return wrong
}

func (l *opLog) checkAttempts(group string) []string {
	var wrong []string
	last := map[string]int{}
	kills := 0 // each may have counted a start that its handler did not come to see
	ops := l.all(func(o op) bool { return o.what == opKill || o.what == opStart && o.group == group })
	for _, o := range ops {
		if o.what == opKill {
			kills++
			continue
		}
		switch prev := last[o.id]; {
		case o.attempt == prev+1:
		case kills > 0 && o.attempt >= 1 && o.attempt <= prev+1+kills:
		default:
			wrong = append(wrong, fmt.Sprintf("A: attempt %d follows attempt %d: %v", o.attempt, prev, o))
		}
		last[o.id] = o.attempt
	}
	return wrong
}

func (l *opLog) checkPublished(group string) []string {
	state := map[int]string{}
	for _, o := range l.of(opRefused, "") {
		state[o.n] = opRefused
	}
	for _, what := range []string{opConfirmed, opUnknown} {
		for _, o := range l.of(what, "") {
			state[o.n] = what
		}
	}
	var wrong []string
	for _, o := range l.of(opStart, group) {
		if s := state[o.n]; s == opRefused {
			wrong = append(wrong, fmt.Sprintf("U: was not stored, says the publish, and is handled: %v", o))
		}
	}
	return wrong
}

// repeats returns the items that have more than one effect in a group.
func (l *opLog) repeats(group string) []int {
	var rep []int
	for n, c := range l.items(opEffect, group) {
		if c > 1 {
			rep = append(rep, n)
		}
	}
	slices.Sort(rep)
	return rep
}

// brief lists numbers for an error text.
func brief(n []int) string {
	const most = 12
	var b strings.Builder
	fmt.Fprintf(&b, "%d:", len(n))
	for i, v := range n {
		if i == most {
			b.WriteString(" ...")
			break
		}
		fmt.Fprint(&b, " ", v)
	}
	return b.String()
}
