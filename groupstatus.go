package posthorn

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// A GroupStatus is a group as it stands on the broker, seen without joining it.
type GroupStatus struct {
	Name string
	// Types are the event types that it is subscribed to, by topic.
	Types map[string][]string
	// Paused says why no member starts a handler; "" when they do.
	Paused string
	// Lag is how many events it has not settled, those in its lanes not counted.
	Lag int64
	// InFlight, Retrying and Parked are what its members tell of themselves, all
	// together: handlers that run, events that wait for their next attempt, and
	// events that wait behind others of their key.
	InFlight, Retrying, Parked int
	// Members are the processes that handle its events, by name.
	Members []MemberStatus
	// Partitions are where it stands, by topic and number.
	Partitions []PartitionStatus
	// Lanes counts what its lanes hold. It is nil where it was not asked for.
	Lanes *LaneCount
	// Trouble says what is missing of the group on the broker; "" for nothing. Then
	// where it stands is not known.
	Trouble string
}

// A MemberStatus is a member of a group as it tells of itself.
type MemberStatus struct {
	Name     string
	Service  string
	Started  time.Time // by its own clock
	Seen     time.Time // its last sign of life, by the broker's clock
	Topics   []string  // whose partitions it can take
	Holds    int       // partitions that it has
	InFlight int       // handlers that run
	Retrying int       // events that wait for their next attempt
	Parked   int       // events that wait in its lanes behind others of their key
	Paused   string    // why it starts nothing
	Lacks    []string  // types that the group is subscribed to and it has no handler for
	Blocked  []Blocked // the events that hold its partitions back, the longest first, a few
}

// A Blocked is an event that holds a partition back: what comes after it may be
// settled, but the group's position cannot pass it.
type Blocked struct {
	Topic     string
	Partition int
	Position  uint64
	ID        string
	Type      string
	Key       string
	For       time.Duration // since the member took it in
	Attempts  int           // that have failed
	Why       string        // what it waits for
}

// A PartitionStatus is where a group stands in a partition.
type PartitionStatus struct {
	Topic       string
	Partition   int
	First, Last uint64 // positions: the first event that is kept and the last that was stored
	Floor       uint64 // everything at or below it is settled
	Lag         int64
	Fence       uint64 // counts the holders
	// Member holds it, or held it and has not released it; "" for none.
	Member string
}

// A LaneCount counts what stands in lanes.
type LaneCount struct {
	Due    int64 // retries that wait for their time
	Parked int64 // events behind others of their key
	Dead   int64 // dead letters
	// Next is when the first of what is due is; zero without any.
	Next time.Time
}

// Groups returns all groups that are registered, by name. It does not count what
// their lanes hold: [Bus.GroupStatus] does.
func (b *Bus) Groups(ctx context.Context) ([]GroupStatus, error) {
	specs, err := b.groupSpecs(ctx)
	if err != nil {
		return nil, err
	}
	var all []GroupStatus
	for _, spec := range specs {
		g, err := b.groupStatus(ctx, spec)
		if errors.Is(err, driver.ErrNotFound) {
			if _, gone := b.drv.Group(ctx, spec.Name); errors.Is(gone, driver.ErrNotFound) {
				continue // it was removed meanwhile
			}
			g.Trouble, err = trimPrefix(errors.Unwrap(err)), nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, g)
	}
	return all, nil
}

// groupSpecs returns the users' groups, by name.
func (b *Bus) groupSpecs(ctx context.Context) ([]driver.GroupSpec, error) {
	specs, err := b.drv.Groups(ctx)
	if err != nil {
		return nil, wrapf(err, "list the groups")
	}
	specs = slices.DeleteFunc(specs, func(s driver.GroupSpec) bool { return hidden(s.Name) })
	slices.SortFunc(specs, func(x, y driver.GroupSpec) int { return strings.Compare(x.Name, y.Name) })
	return specs, nil
}

// GroupStatus returns one group, with a count of what its lanes hold. Counting
// reads all of their entries, without the data. A group that is not registered is an
// error with CodeNotFound.
func (b *Bus) GroupStatus(ctx context.Context, group string) (GroupStatus, error) {
	spec, err := b.groupSpec(ctx, group)
	if err != nil {
		return GroupStatus{}, err
	}
	g, err := b.groupStatus(ctx, spec)
	if err != nil {
		return g, err
	}
	g.Lanes, err = b.countLanes(ctx, group, g.Partitions)
	return g, err
}

// groupSpec returns a group's record.
func (b *Bus) groupSpec(ctx context.Context, group string) (driver.GroupSpec, error) {
	if err := checkName("group", group, maxGroupName); err != nil {
		return driver.GroupSpec{}, err
	}
	spec, err := b.drv.Group(ctx, group)
	if errors.Is(err, driver.ErrNotFound) {
		return spec, b.noGroup(ctx, group)
	}
	if err != nil {
		return spec, wrapf(err, "group %q", group)
	}
	return spec, nil
}

// noGroup says which groups there are instead.
func (b *Bus) noGroup(ctx context.Context, group string) error {
	text := fmt.Sprintf("group %q is not registered on this broker", group)
	if specs, err := b.groupSpecs(ctx); err == nil {
		if len(specs) == 0 {
			text += "; no group is"
		} else {
			var names []string
			for _, s := range specs {
				names = append(names, s.Name)
			}
			const most = 10
			if len(names) > most {
				names = append(names[:most], "...")
			}
			text += "; there are " + strings.Join(names, ", ")
		}
	}
	return &Error{Code: CodeNotFound, Text: text}
}

func (b *Bus) groupStatus(ctx context.Context, spec driver.GroupSpec) (GroupStatus, error) {
	g := GroupStatus{Name: spec.Name, Types: spec.Types, Paused: spec.Paused}
	positions, err := b.drv.Positions(ctx, spec.Name)
	if err != nil {
		return g, wrapf(err, "positions of group %q", spec.Name)
	}
	members, err := b.drv.Members(ctx, spec.Name)
	if err != nil {
		return g, wrapf(err, "members of group %q", spec.Name)
	}
	slices.SortFunc(positions, func(x, y driver.Position) int { return byPartition(x.Partition, y.Partition) })
	holds := map[string]int{}
	for _, p := range positions {
		if spec.Types[p.Topic] == nil {
			continue // only its lane is left
		}
		g.Partitions = append(g.Partitions, PartitionStatus{Topic: p.Topic, Partition: p.N, First: p.First, Last: p.Last,
			Floor: p.Floor, Lag: p.Lag, Fence: p.Fence, Member: p.Member})
		g.Lag += p.Lag
		holds[p.Member]++
	}
	slices.SortFunc(members, func(x, y driver.MemberInfo) int { return strings.Compare(x.Name, y.Name) })
	for _, m := range members {
		s := MemberStatus{Name: m.Name, Service: m.Service, Started: m.Started, Seen: m.Beat, Topics: m.Topics, Holds: holds[m.Name],
			InFlight: m.Status.InFlight, Retrying: m.Status.Retrying, Parked: m.Status.Parked, Paused: m.Status.Paused, Lacks: m.Status.Lacks}
		for _, x := range m.Status.Blocked {
			s.Blocked = append(s.Blocked, Blocked{Topic: x.Topic, Partition: x.N, Position: x.Pos, ID: x.ID, Type: x.Type, Key: x.Key,
				For: x.For, Attempts: x.Attempts, Why: x.Why})
		}
		g.Members = append(g.Members, s)
		g.InFlight, g.Retrying, g.Parked = g.InFlight+s.InFlight, g.Retrying+s.Retrying, g.Parked+s.Parked
	}
	return g, nil
}

func (b *Bus) countLanes(ctx context.Context, group string, partitions []PartitionStatus) (*LaneCount, error) {
	c := &LaneCount{}
	for _, p := range partitions {
		lane := b.drv.Lane(group, driver.Partition{Topic: p.Topic, N: p.Partition})
		for after := ""; ; {
			entries, next, err := lane.Scan(ctx, after, lanePage)
			if err != nil {
				return nil, wrapf(err, "lanes of group %q", group)
			}
			for i := range entries {
				c.add(&entries[i])
			}
			if after = next; after == "" {
				break
			}
		}
	}
	return c, nil
}

// lanePage is how many entries of a lane are read at a time.
const lanePage = 1000

func (c *LaneCount) add(e *driver.Entry) {
	switch e.State {
	case driver.Due:
		c.Due++
		if c.Next.IsZero() || e.Due.Before(c.Next) {
			c.Next = e.Due
		}
	case driver.Parked:
		c.Parked++
	case driver.Dead:
		c.Dead++
	}
}

func isUnsupported(err error) bool { return errors.Is(err, errors.ErrUnsupported) }
