package cli

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/posthorn/posthorn"
)

func (a *app) provision() *cobra.Command {
	var check bool
	c := &cobra.Command{
		Use:   "provision FILE",
		Short: "Make the topics and groups that a file declares, as far as they are missing",
		Long: `Make the topics and groups that a file declares, as far as they are missing. "-" is
standard input. The file is JSON, and what it leaves out is left to the defaults:

  {
    "topics": [
      {"name": "order", "partitions": 8, "keep": "7d", "max_bytes": 0, "replicas": 3, "dedup": "2m"},
      {"name": "warehouse", "types": ["stock.short"]}
    ],
    "groups": [
      {"name": "inventory", "types": ["order.placed", "stock.short"], "start": "beginning"}
    ]
  }

An event type is in the topic that its name says, "order.placed" in "order", or in the
one that lists it under "types". A group starts at the beginning, now, or at a time.

What stands is never changed. Where it gives less than what is declared, nothing is
made and the exit code is 6; other differences are told.

With --check nothing is made; the exit code is 6 if anything is missing. With --json
that also shows what is made on the broker itself, with the settings in the form that
its own tools take, for an administrator who makes it by hand because this program
may not.`,
		Example: `  posthorn provision bus.json
  posthorn provision --check --json bus.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := a.readFile(args[0])
			if err != nil {
				return err
			}
			d, err := posthorn.ParseDeclaration(text)
			if err != nil {
				return &posthorn.Error{Code: posthorn.CodeInvalid, Text: args[0], Err: err}
			}
			// Each stream takes its time on a cluster, and there may be many.
			return a.with(c.Context(), !check, func(ctx context.Context, bus *posthorn.Bus) error {
				do := bus.Provision
				if check {
					do = bus.Plan
				}
				p, err := do(ctx, d)
				if perr := a.showProvisioned(p); perr != nil {
					return perr
				}
				if err == nil && p.Missing() {
					return &posthorn.Error{Code: posthorn.CodeConflict, Text: "what is declared does not all stand; posthorn provision without --check makes it"}
				}
				return err
			})
		},
	}
	c.Flags().BoolVar(&check, "check", false, "only say what is missing")
	return c
}

// readFile reads a file, or standard input for "-".
func (a *app) readFile(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(a.in)
	}
	text, err := os.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &posthorn.Error{Code: posthorn.CodeNotFound, Text: "there is no file " + name}
	case err != nil:
		return nil, usage("%w", err)
	}
	return text, nil
}

type provisionedJSON struct {
	Kind  string                  `json:"kind"`
	Name  string                  `json:"name"`
	State posthorn.ProvisionState `json:"state"`
	Notes []string                `json:"notes,omitempty"`
	Needs []needJSON              `json:"needs,omitempty"`
}

type needJSON struct {
	Kind     string          `json:"kind"`
	Name     string          `json:"name"`
	Why      string          `json:"why"`
	Settings json.RawMessage `json:"settings,omitempty"`
}

func (a *app) showProvisioned(p posthorn.Provisioned) error {
	if a.json {
		for _, t := range p {
			j := provisionedJSON{Kind: t.Kind, Name: t.Name, State: t.State, Notes: t.Notes}
			for _, n := range t.Needs {
				j.Needs = append(j.Needs, needJSON{Kind: n.Kind, Name: n.Name, Why: n.Why, Settings: n.Settings})
			}
			if err := a.line(j); err != nil {
				return err
			}
		}
		return nil
	}
	if len(p) == 0 {
		return nil
	}
	tab := a.table("KIND", "NAME", "STATE", "NOTES")
	for _, t := range p {
		tab.row(t.Kind, t.Name, t.State, dash(strings.Join(t.Notes, "; ")))
	}
	return tab.end()
}
