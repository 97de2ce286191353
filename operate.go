package posthorn

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// maxReason bounds why a group is paused, in bytes.
const maxReason = 1024

// Pause stops all members of a group from starting handlers, those that start
// later too, until [Bus.Resume]. Handlers that run finish. why is shown wherever
// somebody asks for the group: 1 to 1024 bytes. It returns when that is on record;
// members hear of it soon after. Pausing a paused group replaces the reason. A group
// that is not registered is an error with CodeNotFound.
func (b *Bus) Pause(ctx context.Context, group, why string) error {
	why = strings.TrimSpace(why)
	if why == "" || len(why) > maxReason {
		return errorf(CodeInvalid, "pause group %q: the reason is %d bytes long; 1 to %d are allowed", group, len(why), maxReason)
	}
	if _, err := b.groupSpec(ctx, group); err != nil {
		return err
	}
	if _, err := b.drv.PauseGroup(ctx, group, why); err != nil {
		return wrapf(err, "pause group %q", group)
	}
	return nil
}

// Resume lets the members of a group start handlers again: what somebody has paused
// by [Bus.Pause], and what has paused itself because of a flood of foreign messages. A
// group that is not paused stays as it is; one that is not registered is an error with
// CodeNotFound.
func (b *Bus) Resume(ctx context.Context, group string) error {
	if _, err := b.groupSpec(ctx, group); err != nil {
		return err
	}
	if _, err := b.drv.PauseGroup(ctx, group, ""); err != nil {
		return wrapf(err, "resume group %q", group)
	}
	return nil
}

// Reset sets a group's position in the topics, in all of its topics without any:
// to where start says. Other groups are not touched. Members give up what they
// have fetched and go on from there; a handler that runs finishes, and its event
// may come again. What stands in the group's lanes, retries and dead letters, stays
// as it is. Events below a position that was set forward are not handled, and
// events above one that was set back are handled again. A group that is not
// registered, or a topic in which it has nothing, is an error with CodeNotFound.
func (b *Bus) Reset(ctx context.Context, group string, start Start, topics ...string) error {
	spec, err := b.groupSpec(ctx, group)
	if err != nil {
		return err
	}
	if err := b.canStart("reset group", group, start); err != nil {
		return err
	}
	for _, t := range topics {
		if spec.Types[t] == nil {
			return errorf(CodeNotFound, "reset group %q: it is not subscribed to anything in topic %q; its topics are %s", group, t, strings.Join(topicsOf(spec), ", "))
		}
	}
	if len(topics) == 0 {
		topics = topicsOf(spec)
	}
	if err := b.drv.ResetGroup(ctx, group, topics, start.driver()); err != nil {
		return wrapf(err, "reset group %q", group)
	}
	return nil
}

// driver is what the seam calls a start.
func (s Start) driver() driver.StartAt { return driver.StartAt{Now: s.kind == startNow, Time: s.at} }

// String says the start in the words that the command line takes.
func (s Start) String() string {
	switch s.kind {
	case startNow:
		return "now"
	case startTime:
		return s.at.UTC().Format(time.RFC3339Nano)
	}
	return "beginning"
}

// canStart refuses a start that the broker cannot give.
func (b *Bus) canStart(what, group string, s Start) error {
	if caps := b.drv.Caps(); !caps.ReadFrom && s.kind != startNow {
		return errorf(CodeUnsupported, "%s %q: this broker cannot start a group at the beginning or a time (%s); use posthorn.FromNow()",
			what, group, caps.Missing["P2 beginning"])
	}
	return nil
}

func topicsOf(g driver.GroupSpec) []string {
	var topics []string
	for t := range g.Types {
		topics = append(topics, t)
	}
	slices.Sort(topics)
	return topics
}

// A RemoveOption says something about removing a group.
type RemoveOption interface{ applyRemove(*removing) }

type removing struct{ force bool }

type removeOption func(*removing)

func (f removeOption) applyRemove(r *removing) { f(r) }

// Force removes a group though members of it are at work. They end with an alarm.
func Force() RemoveOption { return removeOption(func(r *removing) { r.force = true }) }

// Remove removes a group from the broker, with its positions and its lanes, dead
// letters among them, for good. Nothing is kept for it from then on. It refuses,
// with CodeConflict, while members of the group are alive, unless [Force] is given.
// A member that was killed counts as alive until it has been silent for its lease,
// which Remove waits for. A group that is not registered is an error with CodeNotFound.
func (b *Bus) Remove(ctx context.Context, group string, opts ...RemoveOption) error {
	var r removing
	for _, o := range opts {
		o.applyRemove(&r)
	}
	if _, err := b.groupSpec(ctx, group); err != nil {
		return err
	}
	if !r.force {
		alive, err := b.alive(ctx, group)
		if err != nil {
			return wrapf(err, "members of group %q", group)
		}
		if len(alive) > 0 {
			return errorf(CodeConflict, "group %q is at work: %s; stop its members first, or remove it by force", group, namesOf(alive))
		}
	}
	if err := b.drv.RemoveGroup(ctx, group); err != nil {
		return wrapf(err, "remove group %q", group)
	}
	return nil
}

func namesOf(members []driver.MemberInfo) string {
	var names []string
	for i, m := range members {
		if i == 3 {
			names = append(names, fmt.Sprintf("and %d more", len(members)-i))
			break
		}
		names = append(names, m.Name)
	}
	return strings.Join(names, ", ")
}

// alive returns members that have given a sign of life, or none when all have been
// silent for their lease. It looks at changes, not at clocks: one that beats is
// found after a part of its lease.
func (b *Bus) alive(ctx context.Context, group string) ([]driver.MemberInfo, error) {
	first, err := b.drv.Members(ctx, group)
	if err != nil || len(first) == 0 {
		return nil, err
	}
	var lease time.Duration
	seen := map[string]time.Time{}
	for _, m := range first {
		seen[m.Name] = m.Beat
		lease = max(lease, m.Lease)
	}
	if lease == 0 {
		return first, nil // this broker's members cannot be silent
	}
	began := time.Now() // monotonic
	tick := time.NewTicker(max(lease/10, time.Millisecond))
	defer tick.Stop()
	for time.Since(began) < lease+lease/10 { // monotonic
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		members, err := b.drv.Members(ctx, group)
		if err != nil || len(members) == 0 {
			return nil, err
		}
		members = slices.DeleteFunc(members, func(m driver.MemberInfo) bool {
			beat, known := seen[m.Name]
			return known && beat.Equal(m.Beat)
		})
		if len(members) > 0 {
			return members, nil
		}
	}
	return nil, nil
}
