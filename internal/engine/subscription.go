package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// A subscription is what is known of the group's record. It is replaced whole,
// never changed.
type subscription struct {
	version int
	types   map[string]map[string]bool // by topic
	lacks   map[string][]string        // by topic: types without a handler here
	handled map[string]map[string]bool // by topic: types with one
}

// subscribed reads a group's record: the topics that this member can serve are
// those of whose recorded types it has all handlers. With one missing, it would
// have to pass over events that the group has subscribed to.
func (g *Group) subscribed(spec driver.GroupSpec) *subscription {
	s := &subscription{version: spec.Version, types: map[string]map[string]bool{}, lacks: map[string][]string{}, handled: map[string]map[string]bool{}}
	for topic, types := range spec.Types {
		s.types[topic], s.handled[topic] = map[string]bool{}, map[string]bool{}
		for _, name := range types {
			s.types[topic][name] = true
			if g.cfg.Handlers[name] == nil {
				s.lacks[topic] = append(s.lacks[topic], name)
			} else {
				s.handled[topic][name] = true
			}
		}
		slices.Sort(s.lacks[topic])
	}
	return s
}

// serves tells whether this member can serve a topic.
func (s *subscription) serves(topic string) bool {
	return len(s.types[topic]) > 0 && len(s.lacks[topic]) == 0
}

// topics are those that this member can serve.
func (s *subscription) topics() []string {
	var topics []string
	for topic := range s.types {
		if s.serves(topic) {
			topics = append(topics, topic)
		}
	}
	slices.Sort(topics)
	return topics
}

// lacking lists all recorded types that this member has no handler for.
func (s *subscription) lacking() []string {
	var all []string
	for _, types := range s.lacks {
		all = append(all, types...)
	}
	slices.Sort(all)
	return all
}

// takeIn takes over a group's types as they are on record. Group.mu is held.
func (g *Group) takeIn(spec driver.GroupSpec) {
	old := g.sub
	if old != nil && spec.Version < old.version {
		return // read before what is known
	}
	g.sub = g.subscribed(spec)
	g.tellMissing(old)
	if old == nil {
		return
	}
	g.recall() // a topic may have come to lack a handler
	for _, t := range g.tenures {
		if maps.Equal(old.types[t.part.Topic], g.sub.types[t.part.Topic]) {
			continue
		}
		t.doubt()
		t.unstall()
	}
	g.nudge()
	g.changed.Broadcast()
}

// tellMissing raises the alarm of each topic that cannot be served for want of a
// handler, and clears those that have ended.
func (g *Group) tellMissing(old *subscription) {
	for topic, missing := range g.sub.lacks {
		if len(missing) == 0 {
			continue
		}
		g.cfg.Alarm(driver.Alarm{Code: "handler_missing", Thing: g.cfg.Name + " " + topic,
			Text: fmt.Sprintf("group %s takes nothing from topic %s in this process: the group is subscribed to %s, and this program has no handler for it; "+
				"add the handler, or end the subscription with bus.Unsubscribe(ctx, %q, %q)", g.cfg.Name, topic, strings.Join(missing, ", "), g.cfg.Name, missing[0])})
	}
	if old == nil {
		return
	}
	for topic, missing := range old.lacks {
		if len(missing) > 0 && len(g.sub.lacks[topic]) == 0 {
			g.clear("handler_missing", g.cfg.Name+" "+topic, "no handler is missing any more")
		}
	}
}

func (g *Group) clear(code, thing, text string) {
	g.cfg.Alarm(driver.Alarm{Code: code, Thing: thing, Text: text, Cleared: true})
}

// askRecord takes over the group's types as they are on record now.
func (g *Group) askRecord(ctx context.Context) error {
	spec, err := g.cfg.Driver.Group(ctx, g.cfg.Name)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.takeIn(spec)
	return nil
}

// doubt notes that what was passed over may be of types that the group is
// subscribed to by now. Until it has been looked at again, none of it counts as
// settled.
func (t *tenure) doubt() {
	for it := t.unserved.take(); it != nil; {
		next := it.next
		it.next = nil
		t.take(it, nil)
		it = next
	}
	if t.win.overs > 0 {
		t.doubts, t.seen, t.upTo = true, t.win.floor, t.win.high
		t.wakeRecorder()
	}
}

// unsure tells that what is passed over must not count as settled.
func (t *tenure) unsure() bool { return t.doubts || !t.served() }

// served tells whether this member can serve the topic.
func (t *tenure) served() bool {
	if t.knows != t.g.sub {
		t.knows, t.serves = t.g.sub, t.g.sub.serves(t.part.Topic)
	}
	return t.serves
}

// wanted tells whether messages of a type are to be handled here.
func (t *tenure) wanted(sub *subscription, typ string) bool {
	return sub.handled[t.part.Topic][typ]
}

// lookAgain reads a batch of what was passed over while fewer types were known,
// and takes in what is to be handled. It is called by the recorder, between
// records; more says that there is more to be read at once.
func (t *tenure) lookAgain() (more bool, err error) {
	g := t.g
	g.mu.Lock()
	sub, above, upTo := g.sub, t.seen, t.upTo
	wait := !t.doubts || t.lost || t.ctx.Err() != nil || !t.served() || t.bytes >= g.share()
	g.mu.Unlock()
	if wait {
		return false, nil
	}
	got, err := g.cfg.Driver.Read(t.all, t.part, above, againBatch, true)
	if err != nil {
		return false, err
	}
	g.mu.Lock()
	passed := got[:0:0]
	for _, d := range got {
		if d.Pos <= upTo && t.win.passed(d.Pos) {
			passed = append(passed, d)
		}
	}
	g.mu.Unlock()
	items := make([]Item, len(passed))
	n := 0
	for _, d := range passed {
		t.prepare(&items[n], d)
		if t.wanted(sub, items[n].Delivery.Msg.Type) {
			n++
		}
	}
	items = items[:n]
	standing, ok := t.standing(items)
	if !ok {
		return false, nil // the tenure ends
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sub != sub || t.seen != above || t.upTo != upTo {
		return true, nil // the subscription has changed once more
	}
	now := time.Now() // monotonic
	for i := range items {
		g.cfg.Counts.Skipped(-1)
		t.win.reopen(items[i].order)
		t.bring(&items[i], now, standing)
	}
	if len(got) > 0 {
		t.seen = got[len(got)-1].Pos
	}
	if len(got) == 0 || t.seen >= upTo {
		t.doubts = false
	}
	t.progress()
	return t.doubts, nil
}

// againBatch is how many messages lookAgain reads at a time.
const againBatch = 64
