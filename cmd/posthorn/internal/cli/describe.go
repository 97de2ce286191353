package cli

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/posthorn/posthorn"
)

func (a *app) describe() *cobra.Command {
	return &cobra.Command{
		Use:   "describe",
		Short: "List what Posthorn has set up on the broker, and why",
		Long: `List all that Posthorn has set up on the broker, under the names that the broker's own
tools show, and what each is for; the groups; and what the broker cannot do.`,
		Example: "  posthorn describe --url nats://127.0.0.1:4222",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.asking(c.Context(), false, func(ctx context.Context, bus *posthorn.Bus) error {
				d, err := bus.Describe(ctx)
				if err != nil {
					return err
				}
				return a.showDescription(d)
			})
		},
	}
}

type thingJSON struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	Why  string `json:"why"`
}

func (a *app) showDescription(d posthorn.Description) error {
	if a.json {
		for _, t := range d.Things {
			if err := a.line(thingJSON(t)); err != nil {
				return err
			}
		}
		for _, g := range d.Groups {
			if err := a.line(thingJSON{Kind: "group", Name: g.Name, Why: "subscribed to " + strings.Join(g.Types, ", ")}); err != nil {
				return err
			}
		}
		for _, promise := range slices.Sorted(maps.Keys(d.Missing)) {
			if err := a.line(thingJSON{Kind: "missing", Name: promise, Why: d.Missing[promise]}); err != nil {
				return err
			}
		}
		return nil
	}
	a.say("%s\n", d.URL)
	tab := a.table("KIND", "NAME", "WHY")
	for _, t := range d.Things {
		tab.row(t.Kind, t.Name, t.Why)
	}
	for _, g := range d.Groups {
		tab.row("group", g.Name, "subscribed to "+dash(strings.Join(g.Types, ", ")))
	}
	for _, promise := range slices.Sorted(maps.Keys(d.Missing)) {
		tab.row("missing", promise, d.Missing[promise])
	}
	return tab.end()
}
