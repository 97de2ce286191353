package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/posthorn/posthorn"
)

func (a *app) groups() *cobra.Command {
	c := &cobra.Command{
		Use:   "groups [NAME]",
		Short: "List the groups, show one, or change one",
		Long: `List the groups of the broker: how far behind each is, what its members are doing,
and whether it is paused. With a name, show that one: what waits in its lanes, its
members, which events hold its partitions back and for how long, and where it
stands in each partition.`,
		Example: `  posthorn groups
  posthorn groups inventory
  posthorn groups --json`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("%q is no command of groups; there are pause, resume, reset, remove and unsubscribe", args[0])
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			return a.asking(c.Context(), false, func(ctx context.Context, bus *posthorn.Bus) error {
				if len(args) == 0 {
					all, err := bus.Groups(ctx)
					if err != nil {
						return err
					}
					return a.listGroups(all)
				}
				g, err := bus.GroupStatus(ctx, args[0])
				if err != nil {
					return err
				}
				return a.showGroup(g)
			})
		},
	}
	c.AddCommand(a.pause(), a.resume(), a.reset(), a.remove(), a.unsubscribe())
	return c
}

type groupJSON struct {
	Group      string              `json:"group"`
	Types      map[string][]string `json:"types"`
	Paused     string              `json:"paused,omitempty"`
	Lag        int64               `json:"lag"`
	InFlight   int                 `json:"in_flight"`
	Retrying   int                 `json:"retrying"`
	Parked     int                 `json:"parked"`
	Lanes      *lanesJSON          `json:"lanes,omitempty"`
	Members    []memberJSON        `json:"members"`
	Partitions []positionJSON      `json:"partitions"`
	Trouble    string              `json:"trouble,omitempty"`
}

type lanesJSON struct {
	Due    int64      `json:"due"`
	Parked int64      `json:"parked"`
	Dead   int64      `json:"dead"`
	Next   *time.Time `json:"next,omitempty"`
}

type memberJSON struct {
	Member   string        `json:"member"`
	Service  string        `json:"service"`
	Started  *time.Time    `json:"started,omitempty"`
	Seen     *time.Time    `json:"seen,omitempty"`
	Topics   []string      `json:"topics"`
	Holds    int           `json:"holds"`
	InFlight int           `json:"in_flight"`
	Retrying int           `json:"retrying"`
	Parked   int           `json:"parked"`
	Paused   string        `json:"paused,omitempty"`
	Lacks    []string      `json:"lacks,omitempty"`
	Blocked  []blockedJSON `json:"blocked,omitempty"`
}

type blockedJSON struct {
	Topic     string  `json:"topic"`
	Partition int     `json:"partition"`
	Position  uint64  `json:"position"`
	ID        string  `json:"id"`
	Type      string  `json:"type"`
	Key       string  `json:"key"`
	Seconds   float64 `json:"seconds"`
	Attempts  int     `json:"attempts"`
	Why       string  `json:"why"`
}

type positionJSON struct {
	Topic     string `json:"topic"`
	Partition int    `json:"partition"`
	First     uint64 `json:"first"`
	Last      uint64 `json:"last"`
	Floor     uint64 `json:"floor"`
	Lag       int64  `json:"lag"`
	Fence     uint64 `json:"fence"`
	Member    string `json:"member,omitempty"`
}

func (a *app) groupLine(g posthorn.GroupStatus) error {
	j := groupJSON{Group: g.Name, Types: g.Types, Paused: g.Paused, Lag: g.Lag, InFlight: g.InFlight, Retrying: g.Retrying, Parked: g.Parked,
		Members: []memberJSON{}, Partitions: []positionJSON{}, Trouble: g.Trouble}
	if l := g.Lanes; l != nil {
		j.Lanes = &lanesJSON{Due: l.Due, Parked: l.Parked, Dead: l.Dead, Next: jsonTime(l.Next)}
	}
	for _, m := range g.Members {
		mj := memberJSON{Member: m.Name, Service: m.Service, Started: jsonTime(m.Started), Seen: jsonTime(m.Seen), Topics: append([]string{}, m.Topics...), Holds: m.Holds,
			InFlight: m.InFlight, Retrying: m.Retrying, Parked: m.Parked, Paused: m.Paused, Lacks: m.Lacks}
		for _, b := range m.Blocked {
			mj.Blocked = append(mj.Blocked, blockedJSON{Topic: b.Topic, Partition: b.Partition, Position: b.Position, ID: b.ID, Type: b.Type, Key: b.Key,
				Seconds: b.For.Seconds(), Attempts: b.Attempts, Why: b.Why})
		}
		j.Members = append(j.Members, mj)
	}
	for _, p := range g.Partitions {
		j.Partitions = append(j.Partitions, positionJSON(p))
	}
	return a.line(j)
}

func (a *app) listGroups(all []posthorn.GroupStatus) error {
	if a.json {
		return each(all, a.groupLine)
	}
	if len(all) == 0 {
		a.say("there are no groups; a group is registered when it is first started, or by posthorn provision")
		return nil
	}
	tab := a.table("GROUP", "LAG", "IN FLIGHT", "RETRYING", "PARKED", "MEMBERS", "STATE", "TOPICS")
	for _, g := range all {
		var topics []string
		for _, p := range g.Partitions {
			if p.Partition == 0 {
				topics = append(topics, p.Topic)
			}
		}
		tab.row(g.Name, g.Lag, g.InFlight, g.Retrying, g.Parked, len(g.Members), cut(stateOf(g), 100), dash(strings.Join(topics, ", ")))
	}
	return tab.end()
}

// stateOf says in a few words what a group is doing.
func stateOf(g posthorn.GroupStatus) string {
	if g.Trouble != "" {
		return "trouble: " + g.Trouble
	}
	if g.Paused != "" {
		return "paused: " + g.Paused
	}
	if len(g.Members) == 0 {
		return "no member"
	}
	for _, m := range g.Members {
		if m.Paused != "" {
			return "paused: " + m.Paused
		}
	}
	for _, p := range g.Partitions {
		if p.Member == "" && p.Lag > 0 {
			return fmt.Sprintf("nobody holds partition %d of %s", p.Partition, p.Topic)
		}
	}
	return "running"
}

func (a *app) showGroup(g posthorn.GroupStatus) error {
	if a.json {
		return a.groupLine(g)
	}
	a.say("group %s: %s, lag %d, %d in flight", plain(g.Name), plain(stateOf(g)), g.Lag, g.InFlight)
	l := g.Lanes
	next := ""
	if !l.Next.IsZero() {
		next = " (the next " + ago(l.Next) + ")"
	}
	a.say("lanes: %s%s, %d parked, %s", counted(l.Due, "retry due", "retries due"), next, l.Parked, counted(l.Dead, "dead letter", "dead letters"))
	for _, p := range g.Partitions {
		if p.Partition == 0 {
			a.say("subscribed in %s: %s", p.Topic, plain(strings.Join(g.Types[p.Topic], ", ")))
		}
	}
	a.say("")
	if len(g.Members) > 0 {
		tab := a.table("MEMBER", "PARTITIONS", "IN FLIGHT", "RETRYING", "PARKED", "STARTED", "SEEN", "NOTE")
		for _, m := range g.Members {
			note := "-"
			switch {
			case m.Paused != "":
				note = "paused: " + m.Paused
			case len(m.Lacks) > 0:
				note = "has no handler for " + strings.Join(m.Lacks, ", ")
			}
			tab.row(m.Name, m.Holds, m.InFlight, m.Retrying, m.Parked, ago(m.Started), ago(m.Seen), note)
		}
		if err := tab.end(); err != nil {
			return err
		}
		a.say("")
	}
	if err := a.showBlocked(g); err != nil {
		return err
	}
	tab := a.table("TOPIC", "PARTITION", "LAG", "SETTLED UP TO", "LAST", "MEMBER")
	for _, p := range g.Partitions {
		tab.row(p.Topic, p.Partition, p.Lag, p.Floor, p.Last, dash(p.Member))
	}
	return tab.end()
}

func (a *app) showBlocked(g posthorn.GroupStatus) error {
	var tab *table
	for _, m := range g.Members {
		for _, b := range m.Blocked {
			if tab == nil {
				tab = a.table("HELD BACK", "FOR", "KEY", "TYPE", "ID", "ATTEMPTS", "WHY")
			}
			tab.row(fmt.Sprintf("%s/%d at %d", b.Topic, b.Partition, b.Position), span(b.For), dash(cut(b.Key, 40)), dash(b.Type), dash(cut(b.ID, 40)), b.Attempts, b.Why)
		}
	}
	if tab == nil {
		return nil
	}
	if err := tab.end(); err != nil {
		return err
	}
	a.say("")
	return nil
}

func (a *app) pause() *cobra.Command {
	var why string
	c := &cobra.Command{
		Use:   "pause NAME",
		Short: "Let a group start no handler until it is resumed",
		Long: `Let the members of a group start no handler until the group is resumed, those that
start later too. Handlers that run finish. Events are kept.`,
		Example: `  posthorn groups pause inventory --why "stock-taking until noon"`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.asking(c.Context(), false, func(ctx context.Context, bus *posthorn.Bus) error {
				if err := bus.Pause(ctx, args[0], why); err != nil {
					return err
				}
				return a.did("paused", args[0], "group %s is paused; resume it with: posthorn groups resume %s", args[0], args[0])
			})
		},
	}
	c.Flags().StringVar(&why, "why", "from the command line", "the reason, shown to whoever looks")
	return c
}

func (a *app) resume() *cobra.Command {
	return &cobra.Command{
		Use:   "resume NAME",
		Short: "Let a paused group go on",
		Long: `Let a group start handlers again, whether somebody has paused it or it has paused
itself because of a flood of messages that it cannot read.`,
		Example: "  posthorn groups resume inventory",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.asking(c.Context(), false, func(ctx context.Context, bus *posthorn.Bus) error {
				if err := bus.Resume(ctx, args[0]); err != nil {
					return err
				}
				return a.did("resumed", args[0], "group %s goes on", args[0])
			})
		},
	}
}

func (a *app) reset() *cobra.Command {
	var to string
	var topics []string
	c := &cobra.Command{
		Use:   "reset NAME --to TIME|beginning|now",
		Short: "Set a group's position",
		Long: `Set a group's position to the beginning of what is kept, to now, or to a time, in
all of its topics or in those that --topic names. Other groups are not touched.
Members go on from there by themselves.

Set back, the group handles events again; handlers have to bear that. Set forward,
it passes over what it has not handled. Retries and dead letters stay.`,
		Example: `  posthorn groups reset inventory --to beginning
  posthorn groups reset inventory --to 2026-01-31T15:04:05Z --topic order
  posthorn groups reset inventory --to now`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if to == "" {
				return usage("say where to, with --to beginning, --to now or --to TIME")
			}
			start, err := posthorn.ParseStart(to)
			if err != nil {
				return err
			}
			return a.asking(c.Context(), false, func(ctx context.Context, bus *posthorn.Bus) error {
				if err := bus.Reset(ctx, args[0], start, topics...); err != nil {
					return err
				}
				g, err := bus.GroupStatus(ctx, args[0])
				if err != nil {
					return err
				}
				return a.did("reset", args[0], "group %s is set to %s; its lag is %d", args[0], start, g.Lag)
			})
		},
	}
	c.Flags().StringVar(&to, "to", "", "beginning, now, or a time in RFC 3339")
	c.Flags().StringArrayVar(&topics, "topic", nil, "only in this topic; may be repeated")
	return c
}

func (a *app) remove() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a group, with its position and its lanes",
		Long: `Remove a group from the broker for good: its position, and what waits in its lanes.
Nothing is kept for it from then on; started again, it is a new group.

It is refused while a member is at work, and while there are retries, parked events
or dead letters, unless --force says so. A member that was killed counts as at work
until it has been silent for its lease, which the command waits for.`,
		Example: "  posthorn groups remove old-reports",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			// It may wait for a lease, which can be longer than the timeout.
			return a.with(c.Context(), false, func(ctx context.Context, bus *posthorn.Bus) error {
				var opts []posthorn.RemoveOption
				if force {
					opts = append(opts, posthorn.Force())
				} else {
					g, err := bus.GroupStatus(ctx, args[0])
					if err != nil {
						return err
					}
					if l := g.Lanes; l.Due+l.Parked+l.Dead > 0 {
						return &posthorn.Error{Code: posthorn.CodeConflict, Text: fmt.Sprintf("group %q has %s, %d parked and %s, which would go with it; say --force to remove them too",
							args[0], counted(l.Due, "retry due", "retries due"), l.Parked, counted(l.Dead, "dead letter", "dead letters"))}
					}
				}
				if err := bus.Remove(ctx, args[0], opts...); err != nil {
					return err
				}
				return a.did("removed", args[0], "group %s is removed", args[0])
			})
		},
	}
	c.Flags().BoolVar(&force, "force", false, "also with members at work, and with what is in its lanes")
	return c
}

func (a *app) unsubscribe() *cobra.Command {
	return &cobra.Command{
		Use:   "unsubscribe NAME TYPE...",
		Short: "Remove event types from a group's subscription",
		Long: `Remove event types from a group's recorded subscription. Events of these types that
it has not handled are skipped from then on. A member that has a handler for one of
them subscribes the group again when it is started: deploy without it first.`,
		Example: "  posthorn groups unsubscribe inventory order.cancelled",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return a.asking(c.Context(), false, func(ctx context.Context, bus *posthorn.Bus) error {
				if err := bus.Unsubscribe(ctx, args[0], args[1:]...); err != nil {
					return err
				}
				return a.did("unsubscribed", args[0], "group %s is not subscribed to %s any more", args[0], strings.Join(args[1:], ", "))
			})
		},
	}
}

// did says that something was done to a group.
func (a *app) did(what, group, format string, args ...any) error {
	if a.json {
		return a.line(map[string]string{"group": group, "done": what})
	}
	a.say(format, args...)
	return nil
}
