package cli

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/posthorn/posthorn"
)

func (a *app) why() *cobra.Command {
	var topics []string
	c := &cobra.Command{
		Use:   "why ID",
		Short: "Say where an event stands in each group, and why",
		Long: `Find an event by its id and say where it stands in each group, and why: settled,
in flight, waiting, to be retried and when, parked behind another of its key, a dead
letter and its reason, or not the group's at all.

An id that Posthorn gave holds its time, and is found at once. For others all that
the topics keep is read; --topic narrows that down.`,
		Example: `  posthorn why 01890a5d-ac96-774b-bcce-b302099a8057
  posthorn why order-4711-placed --topic order`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.with(c.Context(), false, func(ctx context.Context, bus *posthorn.Bus) error {
				cfg := posthorn.WhyConfig{Topics: topics}
				end := func() {}
				if terminal(a.diag) {
					cfg.Progress, end = a.progress("looked at %d of %d events")
				}
				copies, err := bus.Why(ctx, args[0], cfg)
				end()
				if err != nil {
					return err
				}
				for i, at := range copies {
					if i > 0 && !a.json {
						a.say("")
					}
					if err := a.showCopy(at); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	c.Flags().StringArrayVar(&topics, "topic", nil, "look into this topic only; may be repeated")
	return c
}

type copyJSON struct {
	ID        string         `json:"id"`
	Source    string         `json:"source"`
	Type      string         `json:"type"`
	Key       string         `json:"key"`
	Topic     string         `json:"topic"`
	Partition int            `json:"partition"`
	Position  uint64         `json:"position"`
	Time      *time.Time     `json:"time,omitempty"`
	Stored    *time.Time     `json:"stored,omitempty"`
	Kept      bool           `json:"kept"`
	Due       *time.Time     `json:"due,omitempty"`
	Groups    []standingJSON `json:"groups"`
}

type standingJSON struct {
	Group    string         `json:"group"`
	State    posthorn.Place `json:"state"`
	Why      string         `json:"why"`
	Member   string         `json:"member,omitempty"`
	Attempts int            `json:"attempts"`
	Errors   []string       `json:"errors,omitempty"`
	Reason   posthorn.Code  `json:"reason,omitempty"`
	Due      *time.Time     `json:"due,omitempty"`
	Died     *time.Time     `json:"died,omitempty"`
}

func (a *app) showCopy(c posthorn.Copy) error {
	if a.json {
		j := copyJSON{ID: c.ID, Source: c.Source, Type: c.Type, Key: c.Key, Topic: c.Topic, Partition: c.Partition, Position: c.Position,
			Time: jsonTime(c.Time), Stored: jsonTime(c.Stored), Kept: c.Kept, Due: jsonTime(c.Due), Groups: []standingJSON{}}
		for _, s := range c.Groups {
			j.Groups = append(j.Groups, standingJSON{Group: s.Group, State: s.State, Why: s.Why, Member: s.Member, Attempts: s.Attempts, Errors: s.Errors,
				Reason: s.Reason, Due: jsonTime(s.Due), Died: jsonTime(s.Died)})
		}
		return a.line(j)
	}
	where := fmt.Sprintf("stored %s in topic %s, partition %d, at %d", ago(c.Stored), c.Topic, c.Partition, c.Position)
	switch {
	case !c.Due.IsZero():
		where = fmt.Sprintf("delayed: it will be published to topic %s %s", c.Topic, ago(c.Due))
	case !c.Kept:
		where += "; the topic has let go of it, and only the lanes of these groups have it"
	}
	a.say("%s %s from %s, key %s", plain(dash(c.Type)), plain(c.ID), plain(dash(c.Source)), plain(dash(c.Key)))
	a.say("%s", where)
	if len(c.Groups) == 0 {
		if c.Due.IsZero() {
			a.say("no group is registered")
		}
		return nil
	}
	a.say("")
	tab := a.table("GROUP", "STATE", "WHEN", "WHY")
	for _, s := range c.Groups {
		when := "-"
		switch {
		case !s.Due.IsZero():
			when = ago(s.Due)
		case !s.Died.IsZero():
			when = ago(s.Died)
		}
		why := s.Why
		if s.Member != "" && s.State != posthorn.StandsSettled && s.State != posthorn.StandsBefore {
			why += " [" + s.Member + "]"
		}
		tab.row(s.Group, s.State, when, strings.TrimSpace(why))
	}
	return tab.end()
}

// progress tells, on a terminal, how far something is, a few times a second. end
// wipes it out.
func (a *app) progress(format string) (f func(done, of int64), end func()) {
	var last time.Time
	f = func(done, of int64) {
		if time.Since(last) > 200*time.Millisecond { // monotonic
			last = time.Now() // monotonic
			fmt.Fprintf(a.diag, "\r"+format+" ", done, of)
		}
	}
	return f, func() {
		if !last.IsZero() {
			fmt.Fprint(a.diag, "\r\x1b[K")
		}
	}
}

// terminal tells whether somebody watches what is written.
func terminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
