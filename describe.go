package posthorn

import (
	"context"
	"slices"
	"strings"

	"github.com/posthorn/posthorn/internal/delay"
)

// A Description lists what stands on the broker for this bus, and why.
type Description struct {
	// URL is that of the bus, without secrets.
	URL string
	// Things are the broker's own: streams, files, records.
	Things []Thing
	// Groups are all groups that are registered, with their recorded
	// subscriptions.
	Groups []GroupInfo
	// Missing says what the broker cannot do, by promise, such as "P1 durable"; nil when
	// it lacks nothing.
	Missing map[string]string
}

// A Thing is something that was set up on the broker: what kind, under which name of
// the broker's own, and what for.
type Thing struct{ Kind, Name, Why string }

// A GroupInfo is a registered group.
type GroupInfo struct {
	Name  string
	Types []string // that it is subscribed to
}

// whyHidden says what one of our own groups is for.
func whyHidden(name string) string {
	if topic, ok := strings.CutPrefix(name, delay.Topic("")); ok {
		return "events of topic " + topic + " that are delayed wait in its lane until they are due; it and its topic do not show elsewhere"
	}
	return "not of this version of Posthorn"
}

// Describe asks the broker what was set up on it.
func (b *Bus) Describe(ctx context.Context) (Description, error) {
	d := Description{URL: b.url, Missing: b.drv.Caps().Missing}
	things, err := b.drv.Describe(ctx)
	if err != nil {
		return d, wrapf(err, "describe %s", b.url)
	}
	for _, t := range things {
		d.Things = append(d.Things, Thing(t))
	}
	groups, err := b.drv.Groups(ctx)
	if err != nil {
		return d, wrapf(err, "describe %s", b.url)
	}
	for _, g := range groups {
		if hidden(g.Name) {
			d.Things = append(d.Things, Thing{Kind: "hidden group", Name: g.Name, Why: whyHidden(g.Name)})
			continue
		}
		d.Groups = append(d.Groups, GroupInfo{Name: g.Name, Types: typesOf(g)})
	}
	slices.SortFunc(d.Groups, func(x, y GroupInfo) int { return strings.Compare(x.Name, y.Name) })
	return d, nil
}

// Lag returns how many events the group has not settled, as the broker has it
// recorded: events that were settled since the last checkpoint still count, and
// those that wait in a lane do not. A group that is not registered is an error with
// CodeNotFound.
func (b *Bus) Lag(ctx context.Context, group string) (int64, error) {
	if err := checkName("group", group, maxGroupName); err != nil {
		return 0, err
	}
	positions, err := b.drv.Positions(ctx, group)
	if err != nil {
		return 0, wrapf(err, "lag of group %q", group)
	}
	var lag int64
	for _, p := range positions {
		lag += p.Lag
	}
	return lag, nil
}
