package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/internal/clock"
)

func (a *app) tail() *cobra.Command {
	var cfg posthorn.TailConfig
	var since string
	var count int
	var full bool
	c := &cobra.Command{
		Use:   "tail [TOPIC...]",
		Short: "Show events as they are published",
		Long: `Show events as they are published, of all topics or of those that are named, until it
is interrupted. It is no group: nobody's progress is touched.

--since shows what was stored before, too, in the order of storing; with --no-follow
that is all. A foreign message, which is no event, has no type, id or key.`,
		Example: `  posthorn tail order
  posthorn tail --type 'order.*' --grep '"paid":true' --since 1h
  posthorn tail --key o-4711 --since 2026-01-31T00:00:00Z --no-follow --json`,
		RunE: func(c *cobra.Command, args []string) error {
			cfg.Topics = args
			var err error
			if cfg.Since, err = timeOf("since", since); err != nil {
				return err
			}
			if count < 0 {
				return usage("--count is %d; it cannot be negative", count)
			}
			return a.with(c.Context(), false, func(ctx context.Context, bus *posthorn.Bus) error {
				return a.follow(ctx, bus, cfg, count, full)
			})
		},
	}
	f := c.Flags()
	f.StringArrayVar(&cfg.Types, "type", nil, "only this event type, in which * stands for anything; may be repeated")
	f.StringVar(&cfg.Key, "key", "", "only events of this key")
	f.StringVar(&cfg.Text, "grep", "", "only events whose data holds this text")
	f.StringVar(&since, "since", "", "begin at a time in RFC 3339, or so long ago, such as 15m (default: now)")
	f.BoolVar(&cfg.Stop, "no-follow", false, "end behind what is stored already")
	f.IntVar(&count, "count", 0, "end after so many events (default: no end)")
	f.BoolVar(&full, "full", false, "do not cut long data")
	return c
}

// timeOf reads a flag that is a time, or so long ago.
func timeOf(flag, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return clock.Wall().Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return t, usage("--%s %q is neither a time such as 2026-01-31T15:04:05Z nor a duration such as 15m", flag, s)
	}
	return t, nil
}

// follow shows events until ctx ends, which is how it is meant to end. Of a broker that
// is away it tells once, until an event comes again.
func (a *app) follow(ctx context.Context, bus *posthorn.Bus, cfg posthorn.TailConfig, count int, full bool) error {
	shown, away := 0, false
	for d, err := range bus.Tail(ctx, cfg) {
		if code := posthorn.CodeOf(err); err != nil {
			if cfg.Stop || code != posthorn.CodeUnavailable && code != posthorn.CodeTimeout {
				return err
			}
			if !away {
				fmt.Fprintln(a.diag, "posthorn: "+oneLine(err)+"; trying again and again")
			}
			away = true
			continue
		}
		away = false
		if err := a.showEvent(d, full); err != nil {
			return err
		}
		if shown++; shown == count {
			return nil
		}
	}
	return nil
}

type eventJSON struct {
	ID          string            `json:"id"`
	Source      string            `json:"source"`
	Type        string            `json:"type"`
	Key         string            `json:"key"`
	Topic       string            `json:"topic"`
	Partition   int               `json:"partition"`
	Position    uint64            `json:"position"`
	Time        *time.Time        `json:"time,omitempty"`
	Stored      *time.Time        `json:"stored,omitempty"`
	ContentType string            `json:"content_type"`
	Correlation string            `json:"correlation_id,omitempty"`
	Causation   string            `json:"causation_id,omitempty"`
	Headers     map[string]string `json:"headers,omitempty"`
	Data        json.RawMessage   `json:"data,omitempty"`
	Base64      []byte            `json:"data_base64,omitempty"`
}

func (a *app) showEvent(d *posthorn.Delivery, full bool) error {
	if a.json {
		j := eventJSON{ID: d.ID, Source: d.Source, Type: d.Type, Key: d.Key, Topic: d.Topic, Partition: d.Partition, Position: d.Position, Time: jsonTime(d.Time),
			Stored: jsonTime(d.Stored), ContentType: d.ContentType, Correlation: d.CorrelationID, Causation: d.CausationID, Headers: d.Headers}
		j.Data, j.Base64 = data(d.Data)
		return a.line(j)
	}
	text := plain(string(d.Data))
	if !full {
		text = cut(text, 200)
	}
	_, err := fmt.Fprintf(a.out, "%s  %s  %s  %s/%d@%d  %s  %s\n", d.Stored.Local().Format("15:04:05.000"), plain(dash(d.Type)), plain(dash(d.Key)),
		d.Topic, d.Partition, d.Position, plain(dash(d.ID)), text)
	return err
}
