package posthorn

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/internal/delay"
	"github.com/posthorn/posthorn/internal/engine"
)

// A WhyConfig says how [Bus.Why] looks for an event. The zero value serves.
type WhyConfig struct {
	// Topics are those to look into. Default: all.
	Topics []string
	// Progress is called, one call at a time, with how many messages have been
	// looked at, of about how many. Default: nobody is told.
	Progress func(read, of int64)
}

// A Copy is an event as it is stored. Copies of one event are stored when it was
// published again after the de-duplication window, or by another source.
type Copy struct {
	// Meta is the event without its data; Group, Attempt and Fence are not set.
	Meta
	// Kept tells whether the topic still has it. What is only in lanes has a
	// position that it had there.
	Kept bool
	// Due is when it will be published, for an event that was published with a
	// delay and is not stored in its topic yet; else zero.
	Due time.Time
	// Groups says where it stands in each group, by name. It is empty as long as
	// the event is not stored in its topic.
	Groups []Standing
}

// A Standing says where an event stands in a group, and why.
type Standing struct {
	Group string
	State Place
	// Why says the same, and what it waits for, in words.
	Why string
	// Member is who holds its partition, or gave up on it; "" for nobody.
	Member string
	// Attempts is how many attempts have failed, Errors are theirs.
	Attempts int
	Errors   []string
	// Reason is the code of the last error.
	Reason Code
	// Due is when the next attempt is made, for StandsRetry; Died when the group
	// gave up, for StandsDead.
	Due, Died time.Time
}

// A Place is where an event can stand in a group.
type Place string

const (
	// StandsOutside: the group is not subscribed to its type.
	StandsOutside Place = "not subscribed"
	// StandsBefore: the group began, or was reset, behind it.
	StandsBefore Place = "before the group"
	// StandsWaiting: no member has started a handler for it.
	StandsWaiting Place = "waiting"
	// StandsTaken: a member has taken it in, and has not settled it.
	StandsTaken Place = "in flight"
	// StandsRetry: it has failed, and waits for its next attempt.
	StandsRetry Place = "retry"
	// StandsParked: it waits in the lane behind others of its key.
	StandsParked Place = "parked"
	// StandsSuspect: it was being handled when its process ended. It is tried by
	// itself.
	StandsSuspect Place = "suspect"
	// StandsDead: the group gave up on it.
	StandsDead Place = "dead letter"
	// StandsSettled: it was handled, skipped or expired, or was a dead letter and was
	// discarded.
	StandsSettled Place = "settled"
)

// Why finds an event by its id and says where it stands in each group. An id that
// holds its time, as those of this package do, is found by reading what was stored
// around that time; for others, and when it is not there, all that is kept is read,
// and then the lanes of all groups. An event that is nowhere is an error with
// CodeNotFound.
func (b *Bus) Why(ctx context.Context, id string, cfg WhyConfig) ([]Copy, error) {
	if id == "" {
		return nil, errorf(CodeInvalid, "why: the id is empty")
	}
	topics, err := b.whyTopics(ctx, cfg.Topics)
	if err != nil {
		return nil, err
	}
	groups, err := b.drv.Groups(ctx)
	if err != nil {
		return nil, wrapf(err, "list the groups")
	}
	w := &inquiry{bus: b, id: id, at: map[string]groupAt{}}
	var users []driver.GroupSpec
	var copies []Copy
	for _, g := range groups {
		topic, delays := strings.CutPrefix(g.Name, delay.Topic(""))
		switch {
		case delays:
			more, err := w.delayed(ctx, topic)
			if err != nil {
				return nil, err
			}
			copies = append(copies, more...)
		case !hidden(g.Name):
			users = append(users, g)
		}
	}
	f := &finder{bus: b, id: id, progress: cfg.Progress}
	if err := f.find(ctx, topics); err != nil {
		return nil, err
	}
	for _, found := range f.found {
		c, err := w.copyOf(ctx, found, users)
		if err != nil {
			return nil, err
		}
		copies = append(copies, c)
	}
	if len(copies) == 0 {
		if copies, err = w.inLanes(ctx, users); err != nil {
			return nil, err
		}
	}
	if len(copies) == 0 {
		return nil, errorf(CodeNotFound, "event %s is in none of the %d topics and in no lane: it was never stored here, or every group has settled it and its topic has let go of it", id, len(topics))
	}
	return copies, nil
}

func (b *Bus) whyTopics(ctx context.Context, only []string) ([]driver.TopicSpec, error) {
	all, err := b.topicSpecs(ctx)
	if err != nil || len(only) == 0 {
		return all, err
	}
	var specs []driver.TopicSpec
	for _, name := range only {
		spec, err := findTopic(all, name)
		if err != nil {
			return nil, err
		}
		specs = append(specs, spec)
	}
	return specs, nil
}

func findTopic(all []driver.TopicSpec, name string) (driver.TopicSpec, error) {
	var names []string
	for _, s := range all {
		if s.Name == name {
			return s, nil
		}
		names = append(names, s.Name)
	}
	if len(names) == 0 {
		return driver.TopicSpec{}, errorf(CodeNotFound, "topic %q does not exist on this broker; no topic does", name)
	}
	return driver.TopicSpec{}, errorf(CodeNotFound, "topic %q does not exist on this broker; there are %s", name, strings.Join(names, ", "))
}

// An inquiry is one call of Why.
type inquiry struct {
	bus *Bus
	id  string
	at  map[string]groupAt // by group
}

// groupAt is where a group is.
type groupAt struct {
	positions map[driver.Partition]driver.Position
	members   []driver.MemberInfo
}

func (w *inquiry) group(ctx context.Context, name string) (groupAt, error) {
	if at, ok := w.at[name]; ok {
		return at, nil
	}
	at := groupAt{positions: map[driver.Partition]driver.Position{}}
	positions, err := w.bus.drv.Positions(ctx, name)
	if err != nil {
		return at, wrapf(err, "positions of group %q", name)
	}
	for _, p := range positions {
		at.positions[p.Partition] = p
	}
	if at.members, err = w.bus.drv.Members(ctx, name); err != nil {
		return at, wrapf(err, "members of group %q", name)
	}
	w.at[name] = at
	return at, nil
}

// copyOf says where a message of a topic stands in each group.
func (w *inquiry) copyOf(ctx context.Context, f foundEvent, groups []driver.GroupSpec) (Copy, error) {
	c := Copy{Kept: true}
	readMeta(&f.d.Msg, &c.Meta)
	c.Topic, c.Partition, c.Position, c.Stored = f.p.Topic, f.p.N, f.d.Pos, f.d.Stored
	for _, g := range groups {
		s, err := w.standing(ctx, g, f)
		if err != nil {
			return c, err
		}
		c.Groups = append(c.Groups, s)
	}
	return c, nil
}

func (w *inquiry) standing(ctx context.Context, g driver.GroupSpec, f foundEvent) (Standing, error) {
	s := Standing{Group: g.Name}
	types, ok := g.Types[f.p.Topic]
	switch {
	case !ok:
		s.State, s.Why = StandsOutside, "the group has nothing in topic "+f.p.Topic
		return s, nil
	case f.d.Msg.Type != "" && !slices.Contains(types, f.d.Msg.Type):
		s.State, s.Why = StandsOutside, "the group is not subscribed to "+f.d.Msg.Type
		return s, nil
	}
	at, err := w.group(ctx, g.Name)
	if err != nil {
		return s, err
	}
	pos, ok := at.positions[f.p]
	if !ok {
		s.State, s.Why = StandsOutside, "the group has no position in the partition"
		return s, nil
	}
	s.Member = pos.Member
	entries, err := w.bus.drv.Lane(g.Name, f.p).Get(ctx, []string{w.entryName(&f)})
	if err != nil {
		return s, wrapf(err, "lane of group %q", g.Name)
	}
	if len(entries) == 0 {
		return w.inLog(s, g, at, pos, f.d.Pos), nil
	}
	if e := &entries[0]; e.State == driver.Dead && !w.bus.drv.Caps().Queue && f.d.Pos > max(pos.Mark, pos.Begin) {
		// What has died was started, or is settled: so the group was set back since.
		s = w.inLog(s, g, at, pos, f.d.Pos)
		s.Why += "; a dead letter of it stands from before the group was set back"
		return s, nil
	}
	s = inLane(s, &entries[0])
	if s.State == StandsParked {
		before, err := w.before(ctx, g.Name, f.p, &entries[0])
		if err != nil {
			return s, err
		}
		s.Why += before
	}
	return s, nil
}

// before names the failed message of the key that stands before a parked one, which in
// strict order is what it waits for.
func (w *inquiry) before(ctx context.Context, group string, p driver.Partition, parked *driver.Entry) (string, error) {
	var first *driver.Entry
	lane := w.bus.drv.Lane(group, p)
	for after := ""; ; {
		entries, next, err := lane.Scan(ctx, after, 1000)
		if err != nil {
			return "", wrapf(err, "lane of group %q", group)
		}
		for i := range entries {
			if e := &entries[i]; e.Key == parked.Key && e.Order < parked.Order && (first == nil || e.Order < first.Order) && (e.State == driver.Due || e.State == driver.Dead) {
				first = e
			}
		}
		if after = next; after == "" {
			break
		}
	}
	switch {
	case first == nil:
		return "", nil
	case first.State == driver.Due:
		return fmt.Sprintf("; before it stands %s, which has failed and is tried again", first.Msg.ID), nil
	}
	return fmt.Sprintf("; before it stands the dead letter %s: in strict order it waits until that one is replayed or discarded", first.Msg.ID), nil
}

// entryName is that of the event's lane entry: see the engine's.
func (w *inquiry) entryName(f *foundEvent) string {
	m, order := &f.d.Msg, f.d.Pos
	if w.bus.drv.Caps().Queue && m.ID != "" {
		order = 0
	}
	return driver.EntryName(m.Key, order, m.Source, m.ID)
}

// inLane says what a lane's entry says.
func inLane(s Standing, e *driver.Entry) Standing {
	r, err := engine.DecodeDead(e.Head)
	s.Attempts, s.Errors, s.Reason = r.Attempts, r.Errors, Code(r.Code)
	last := ""
	if n := len(r.Errors); n > 0 {
		last = ": " + r.Errors[n-1]
	}
	switch e.State {
	case driver.Due:
		s.State, s.Due = StandsRetry, e.Due
		s.Why = fmt.Sprintf("it waits in the lane for attempt %d%s", r.Attempts+1, last)
		if engine.IsReplayed(e) {
			s.Why = fmt.Sprintf("it was replayed by %s, and waits to be handled%s", r.Lives[len(r.Lives)-1].By, last)
		}
	case driver.Discarded:
		s.State, s.Member = StandsSettled, ""
		s.Why = fmt.Sprintf("it was a dead letter, and was discarded by %s: %s", r.By, r.Reason)
	case driver.Parked:
		s.State, s.Why = StandsParked, "it waits in the lane behind others of its key"
	case driver.Boot:
		s.State = StandsSuspect
		s.Why = fmt.Sprintf("it was being handled %d times when its process ended; it is tried by itself", max(r.Boots, 1))
	default:
		s.State, s.Died, s.Member = StandsDead, r.Died, r.Member
		s.Why = fmt.Sprintf("the group gave up after %s%s%s", attempts(r.Attempts), replays(len(r.Lives)), last)
		if s.Reason == CodeQuarantined {
			s.Why = fmt.Sprintf("it was being handled each time its process ended, and is quarantined%s", last)
		}
	}
	if err != nil {
		s.Why += " (" + err.Error() + ")"
	}
	return s
}

// inLog says where a message stands that the lane does not have.
func (w *inquiry) inLog(s Standing, g driver.GroupSpec, at groupAt, p driver.Position, pos uint64) Standing {
	if w.bus.drv.Caps().Queue {
		s.State, s.Why = StandsWaiting, "it is not in the group's lane; this broker does not say whether it is settled"
		return s
	}
	switch {
	case pos <= p.Begin:
		s.State, s.Why = StandsBefore, fmt.Sprintf("the group began, or was reset, at position %d, behind it", p.Begin)
		return s
	case settledAt(p, pos):
		s.State, s.Why = StandsSettled, "it was handled, skipped, discarded or expired"
		return s
	}
	for _, m := range at.members {
		for _, x := range m.Status.Blocked {
			if x.Topic == p.Topic && x.N == p.N && x.Pos == pos {
				s.State, s.Member, s.Attempts = StandsTaken, m.Name, x.Attempts
				s.Why = fmt.Sprintf("a member has it for %v: %s", x.For.Round(time.Second), x.Why)
				return s
			}
		}
	}
	if pos <= p.Mark {
		s.State = StandsTaken
		s.Why = "it may be being handled, and is not settled"
	} else {
		s.State = StandsWaiting
		s.Why = fmt.Sprintf("the group is at position %d, %d before it", p.Floor, pos-p.Floor)
	}
	s.Why += w.stuck(g, at, p)
	return s
}

// stuck says why a partition does not move.
func (w *inquiry) stuck(g driver.GroupSpec, at groupAt, p driver.Position) string {
	switch {
	case g.Paused != "":
		return "; the group is paused: " + g.Paused
	case len(at.members) == 0:
		return "; the group has no member"
	}
	var lacks []string
	for _, m := range at.members {
		if m.Name == p.Member && m.Status.Paused != "" {
			return "; its member is paused: " + m.Status.Paused
		}
		if slices.Contains(m.Topics, p.Topic) {
			lacks = nil
			break
		}
		lacks = m.Status.Lacks
	}
	if len(lacks) > 0 {
		return "; no member takes the topic, for lack of a handler for " + strings.Join(lacks, ", ")
	}
	if p.Member == "" {
		return "; no member holds the partition"
	}
	return ""
}

func settledAt(p driver.Position, pos uint64) bool {
	if pos <= p.Floor {
		return true
	}
	n := pos - p.Floor - 1
	return n/8 < uint64(len(p.Finished)) && p.Finished[n/8]&(1<<(n%8)) != 0
}

// inLanes looks for an event that no topic has any more through all lanes.
func (w *inquiry) inLanes(ctx context.Context, groups []driver.GroupSpec) ([]Copy, error) {
	found := map[driver.Partition]*Copy{}
	var copies []*Copy
	for _, g := range groups {
		at, err := w.group(ctx, g.Name)
		if err != nil {
			return nil, err
		}
		for p := range at.positions {
			entries, err := w.entries(ctx, g.Name, p)
			if err != nil {
				return nil, err
			}
			for i := range entries {
				e := &entries[i]
				c := found[p]
				if c == nil {
					c = &Copy{}
					readMeta(&e.Msg, &c.Meta)
					r, _ := engine.DecodeDead(e.Head)
					c.Topic, c.Partition, c.Position, c.Stored = p.Topic, p.N, e.Order, r.Stored
					found[p] = c
					copies = append(copies, c)
				}
				c.Groups = append(c.Groups, inLane(Standing{Group: g.Name, Member: at.positions[p].Member}, e))
			}
		}
	}
	var all []Copy
	for _, c := range copies {
		all = append(all, *c)
	}
	return all, nil
}

// entries returns those of a lane that have the id.
func (w *inquiry) entries(ctx context.Context, group string, p driver.Partition) ([]driver.Entry, error) {
	var found []driver.Entry
	lane := w.bus.drv.Lane(group, p)
	for after := ""; ; {
		entries, next, err := lane.Scan(ctx, after, lanePage)
		if err != nil {
			return nil, wrapf(err, "lane of group %q", group)
		}
		for _, e := range entries {
			if e.Msg.ID == w.id && e.State != driver.Note {
				found = append(found, e)
			}
		}
		if after = next; after == "" {
			return found, nil
		}
	}
}

// delayed looks for an event that waits to be published.
func (w *inquiry) delayed(ctx context.Context, topic string) ([]Copy, error) {
	entries, err := w.bus.drv.Lane(delay.Topic(topic), delay.Partition(topic)).Get(ctx, []string{delay.Name(w.id)})
	if err != nil {
		return nil, wrapf(err, "what is delayed for topic %q", topic)
	}
	var copies []Copy
	for i := range entries {
		c := Copy{Due: entries[i].Due}
		readMeta(&entries[i].Msg, &c.Meta)
		c.Topic = topic
		copies = append(copies, c)
	}
	return copies, nil
}

func attempts(n int) string {
	if n == 1 {
		return "1 attempt"
	}
	return fmt.Sprintf("%d attempts", n)
}

func replays(n int) string {
	switch n {
	case 0:
		return ""
	case 1:
		return ", as it did before it was replayed"
	}
	return fmt.Sprintf(", as it did before each of %d replays", n)
}
