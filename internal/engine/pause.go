package engine

import (
	"cmp"
	"fmt"

	"github.com/posthorn/posthorn/driver"
)

// A group starts no handler while its record says so, or after a flood of what it
// cannot read. Handlers that run finish.

// takePause takes over what a group's record says of that. Group.mu is held.
func (g *Group) takePause(spec driver.GroupSpec) {
	if spec.Resumes < g.resumes {
		return // read before what is known
	}
	if spec.Resumes > g.resumes {
		g.resumes = spec.Resumes
		g.endFlood()
	}
	if g.told != spec.Paused {
		g.told = spec.Paused
		if g.told == "" {
			g.clear("group_paused", g.cfg.Name, "the group was resumed")
		} else {
			g.cfg.Alarm(driver.Alarm{Code: "group_paused", Thing: g.cfg.Name,
				Text: fmt.Sprintf("group %s is paused and starts no handler: %s; to go on: posthorn groups resume %s", g.cfg.Name, g.told, g.cfg.Name)})
		}
	}
	g.setPaused()
}

// setPaused has all that waits go on when a pause has ended.
func (g *Group) setPaused() {
	was := g.paused
	g.paused = g.told != "" || g.flood != ""
	if g.paused {
		g.recall()
		g.takeSuspectsBack()
	}
	if !was || g.paused {
		return
	}
	if g.ready.n > 0 {
		g.rouse()
	}
	for _, t := range g.tenures {
		t.wakeClerk()
	}
	g.nudge()
	g.changed.Broadcast()
}

// takeSuspectsBack keeps a suspect that was not started from holding up those of
// other groups for as long as the pause lasts.
func (g *Group) takeSuspectsBack() {
	for it := g.ready.take(); it != nil; {
		next := it.next
		it.next = nil
		if it.judged == nil {
			g.ready.push(it)
		} else {
			if !it.t.queue && it.entry == nil {
				it.t.ahead--
			}
			it.t.takeBack(it)
		}
		it = next
	}
}

// whyPaused is empty in a group that goes on.
func (g *Group) whyPaused() string { return cmp.Or(g.told, g.flood) }

// holdUnreadable keeps a message that cannot be read unsettled, and pauses the
// group: somebody publishes what does not belong here, or this member is older
// than the events.
func (g *Group) holdUnreadable(it *Item, v Verdict) {
	it.where = inHold
	it.left()
	it.t.hold = append(it.t.hold, heldItem{it, v})
	if g.flood != "" {
		return
	}
	g.flood = fmt.Sprintf("the last %d messages in %s could not be read, the last one because: %v", floodLimit, it.t.part.Topic, v.Err)
	g.setPaused()
	g.cfg.Alarm(driver.Alarm{Code: "foreign_flood", Thing: g.cfg.Name,
		Text: fmt.Sprintf("group %s is paused: %s; find out who publishes them, then go on with: posthorn groups resume %s; nothing was settled since", g.cfg.Name, g.flood, g.cfg.Name)})
}

// A heldItem is a message that cannot be read, and why.
type heldItem struct {
	it *Item
	v  Verdict
}

// endFlood goes on after a flood: what was held becomes dead letters, and the
// counting starts again.
func (g *Group) endFlood() {
	g.unread = 0
	if g.flood == "" {
		return
	}
	g.flood = ""
	g.clear("foreign_flood", g.cfg.Name, "the group was resumed")
	for _, t := range g.tenures {
		for _, h := range t.hold {
			t.inter(h.it, h.v)
		}
		t.hold = nil
	}
}

// clearAll ends the alarms that are about a running member.
func (g *Group) clearAll() {
	if g.told != "" {
		g.clear("group_paused", g.cfg.Name, "the group was stopped")
	}
	if g.flood != "" {
		g.clear("foreign_flood", g.cfg.Name, "the group was stopped")
	}
	for topic, missing := range g.sub.lacks {
		if len(missing) > 0 {
			g.clear("handler_missing", g.cfg.Name+" "+topic, "the group was stopped")
		}
	}
}
