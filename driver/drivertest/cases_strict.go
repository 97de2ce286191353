package drivertest

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/deadletter"
	"github.com/posthorn/posthorn/driver"
)

var strictCases = []Case{
	{Name: "strict/late-retry", Promise: "P5", Doc: "the others of a key wait in order until a late attempt handles what has failed, and other keys go on", run: strictLate},
	{Name: "strict/group", Promise: "P5", Doc: "a group keeps strict order in a topic that does not ask for it, and another group of the topic does not", run: strictGroup},
	{Name: "strict/replay", Promise: "P5 P11", Doc: "the others of a key wait behind a dead letter, and follow it in order when it is replayed", run: strictReplay},
	{Name: "strict/discard", Promise: "P5 P11", Doc: "the others of a key wait behind a dead letter, and go on in order when it is discarded", run: strictDiscard},
	{Name: "strict/restart", Promise: "P5", Doc: "they wait across a clean stop and a kill, and what is published meanwhile waits too", run: strictRestart},
	{Name: "strict/hand-over", Promise: "P5", Doc: "they wait across hand-overs to other members and back", run: strictHandOver},
}

// A strict is a group in strict order of which one event of each failing key fails
// until it is mended.
type strict struct {
	*rig
	made   itemType
	fails  sync.Map // by the numbers of items
	mended atomic.Bool
	retry  posthorn.Retry
	total  int
}

// strictly makes a topic in strict order, and the group that will handle it.
func (r *rig) strictly(topic string, partitions int) *strict {
	t := posthorn.DefineTopic(r.name(topic), posthorn.TopicConfig{Partitions: partitions, Keep: time.Hour, StrictOrder: true})
	return &strict{rig: r, made: r.kind(t, "made"),
		retry: posthorn.Retry{Attempts: posthorn.None, Late: posthorn.None}}
}

// join starts a member of group "g".
func (s *strict) join(n *node) *posthorn.Group {
	s.Helper()
	cfg := quick()
	cfg.Retry = s.retry
	return n.listen("g", cfg, s.handle, s.made)
}

func (s *strict) handle(_ context.Context, e *posthorn.Event[item]) error {
	if _, fails := s.fails.Load(e.Data.N); fails && !s.mended.Load() {
		return errHandler
	}
	return nil
}

// publish publishes n rounds of one event of each key, one round at a time: those
// of a queue come in any order otherwise. It returns the first round.
func (s *strict) publish(n *node, rounds int, keys ...string) (first []item) {
	s.Helper()
	for i := range rounds {
		items := s.items(len(keys), keys...)
		if i == 0 {
			first = items
		}
		n.publish(s.made, items...)
		s.total += len(items)
	}
	return first
}

// failing publishes rounds of events of two keys, of which the second event of key
// "bad" fails, and waits until all but that one and those behind it are handled.
func (s *strict) failing(n *node, rounds int) {
	s.Helper()
	s.publish(n, 1, "bad", "good")
	s.effects("g", s.total)
	items := s.items(2, "bad", "good")
	s.fails.Store(items[0].N, true)
	n.publish(s.made, items...)
	s.total += 2
	s.publish(n, rounds, "bad", "good")
	s.waits(rounds + 1)
}

// waits waits until all but so many are handled, and sees that no more are.
func (s *strict) waits(held int) {
	s.Helper()
	s.effects("g", s.total-held)
	s.never("what stands behind a failed one of its key is handled", func() bool { return s.log.count(opEffect, "g") > s.total-held })
}

// ends sees that all but these are handled, each once and in order.
func (s *strict) ends(without int) {
	s.Helper()
	s.effects("g", s.total-without)
	last := map[string]int{}
	for _, o := range s.log.of(opEffect, "g") {
		if o.n < last[o.key] {
			s.Errorf("item %d of key %s was handled behind item %d", o.n, o.key, last[o.key])
		}
		last[o.key] = o.n
	}
	if beside := s.log.of(opBeside, "g"); len(beside) > 0 {
		s.Errorf("%d were started beside another of their key", len(beside))
	}
	if rep := s.log.repeats("g"); len(rep) > 0 {
		s.Errorf("handled more than once: %v", rep)
	}
}

func strictLate(r *rig) {
	s := r.strictly("late", 1)
	s.retry = posthorn.Retry{Attempts: posthorn.None, Late: 100_000, LateDelay: 10 * time.Millisecond, MaxLateDelay: 20 * time.Millisecond}
	n := r.open()
	s.join(n)
	s.failing(n, 100)
	s.mended.Store(true)
	s.ends(0)
	s.publish(n, 10, "bad", "good")
	s.ends(0)
	n.settled("g")
}

func strictGroup(r *rig) {
	s := r.strictly("unused", 1)
	s.made = r.kind(r.topic("group", 1), "made")
	n := r.open()
	cfg := quick()
	cfg.Retry = s.retry
	n.listen("lax", cfg, s.handle, s.made)
	cfg.StrictOrder = true
	n.listen("g", cfg, s.handle, s.made)
	s.failing(n, 10)
	r.effects("lax", s.total-1)
	s.mended.Store(true)
	s.replay(n, 1)
	s.ends(0)
}

func strictReplay(r *rig) {
	s := r.strictly("replay", 1)
	n := r.open()
	s.join(n)
	s.failing(n, 100)
	s.replay(r.open(), 1) // it fails again
	s.waits(101)
	n.hasDead("g", 1)
	s.mended.Store(true)
	s.replay(r.open(), 1)
	s.ends(0)
	s.publish(n, 10, "bad", "good")
	s.ends(0)
	n.settled("g")
}

// replay replays all dead letters of the group.
func (s *strict) replay(n *node, want int) {
	s.Helper()
	n.hasDead("g", want)
	ctx, cancel := s.deadline()
	defer cancel()
	if rep, err := deadletter.Replay(ctx, n.bus, deadletter.Query{Groups: []string{s.name("g")}}, deadletter.Job{}); err != nil || rep.Done != want {
		s.Fatalf("Replay: %+v, %v", rep, err)
	}
}

func strictDiscard(r *rig) {
	s := r.strictly("discard", 1)
	n := r.open()
	s.join(n)
	s.failing(n, 100)
	n.hasDead("g", 1)
	ctx, cancel := s.deadline()
	defer cancel()
	rep, err := deadletter.Discard(ctx, n.bus, deadletter.Query{Groups: []string{s.name("g")}}, deadletter.Job{Reason: "a test"})
	if err != nil || rep.Done != 1 {
		s.Fatalf("Discard: %+v, %v", rep, err)
	}
	s.ends(1)
	n.settled("g")
}

func strictRestart(r *rig) {
	s := r.strictly("restart", 1)
	n := r.open()
	s.join(n)
	s.failing(n, 20)
	held := 21
	for _, end := range []func(*node){(*node).close, (*node).kill} {
		n.hasDead("g", 1)
		n.settled("g") // what was handled is on record, so that a kill repeats nothing
		end(n)
		n = r.open()
		s.publish(n, 5, "bad", "good")
		s.join(n)
		held += 5
		s.waits(held)
	}
	s.mended.Store(true)
	s.replay(n, 1)
	s.ends(0)
}

func strictHandOver(r *rig) {
	const partitions = 4
	s := r.strictly("handover", partitions)
	first := r.open()
	s.join(first)
	all := keys(12)
	items := s.publish(first, 1, all...)
	r.effects("g", s.total)
	for i, it := range s.items(len(all), all...) {
		if i%2 == 0 {
			s.fails.Store(it.N, true)
		}
		first.publish(s.made, it)
		s.total++
	}
	s.publish(first, 10, all...)
	held := len(items) / 2 * 11
	s.waits(held)
	first.hasDead("g", len(items)/2)
	second := r.open()
	g := s.join(second)
	r.divided("g", first, second)
	s.publish(second, 2, all...)
	held += len(items) / 2 * 2
	s.waits(held)
	r.stop(g)
	s.publish(first, 2, all...)
	held += len(items) / 2 * 2
	s.waits(held)
	third := r.open()
	s.join(third)
	r.divided("g", first, third)
	s.mended.Store(true)
	s.replay(first, len(items)/2)
	s.ends(0)
	first.settled("g")
}

// brokenStrict break strict order.
var brokenStrict = []*brokenDriver{
	{
		name: "loses-keys-on-the-way", logCase: "strict/late-retry", queueCase: "strict/late-retry",
		also: map[string]string{"strict/*": "nobody knows what waits for what"},
		only: []string{"strict/*"},
		wrap: breakTenures(func(_ *brokenWorld, t driver.Tenure) *tenureShim {
			return &tenureShim{Tenure: t, fetch: func(ctx context.Context, into []driver.Delivery, maxBytes int) (int, error) {
				n, err := t.Fetch(ctx, into, maxBytes)
				for i := range into[:n] {
					into[i].Msg.Key = ""
				}
				return n, err
			}}
		}),
	},
	{
		name: "hides-dead-letters-from-holders", logCase: "strict/restart", queueCase: "strict/restart",
		also: map[string]string{"strict/hand-over": "who takes over does not see what the others wait for"},
		only: []string{"strict/*"},
		wrap: breakTenureScans(func(e *driver.Entry) bool { return e.State != driver.Dead }),
	},
	mender("discards-without-a-trace", "strict/discard", nil, func(m *mending) error {
		for i := range m.ops {
			if o := &m.ops[i]; !o.Delete && o.Entry.State == driver.Discarded {
				o.Delete = true // the holder is not told that it is gone
			}
		}
		return m.apply(m.ops)
	}),
}
