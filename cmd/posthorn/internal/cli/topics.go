package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/posthorn/posthorn"
)

func (a *app) topics() *cobra.Command {
	return &cobra.Command{
		Use:   "topics [NAME]",
		Short: "List the topics, or show one with its partitions",
		Long: `List the topics of the broker: what each holds, since when, what is kept, and
which groups are subscribed to it. With a name, show that one with its partitions.`,
		Example: "  posthorn topics --url nats://127.0.0.1:4222\n  posthorn topics order --json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.asking(c.Context(), false, func(ctx context.Context, bus *posthorn.Bus) error {
				all, err := bus.Topics(ctx)
				if err != nil {
					return err
				}
				if len(args) == 0 {
					return a.listTopics(all)
				}
				t, err := topicNamed(all, args[0])
				if err != nil {
					return err
				}
				return a.showTopic(t)
			})
		},
	}
}

func topicNamed(all []posthorn.TopicStatus, name string) (posthorn.TopicStatus, error) {
	names := []string{}
	for _, t := range all {
		if t.Name == name {
			return t, nil
		}
		names = append(names, t.Name)
	}
	text := fmt.Sprintf("topic %q does not exist on this broker; no topic does", name)
	if len(names) > 0 {
		text = fmt.Sprintf("topic %q does not exist on this broker; there are %s", name, strings.Join(names, ", "))
	}
	return posthorn.TopicStatus{}, &posthorn.Error{Code: posthorn.CodeNotFound, Text: text}
}

type topicJSON struct {
	Topic      string          `json:"topic"`
	Events     int64           `json:"events"`
	Bytes      int64           `json:"bytes"`
	Oldest     *time.Time      `json:"oldest,omitempty"`
	Keep       string          `json:"keep"`
	MaxBytes   int64           `json:"max_bytes"`
	Replicas   int             `json:"replicas"`
	Dedup      string          `json:"dedup"`
	Unordered  bool            `json:"unordered"`
	Strict     bool            `json:"strict_order"`
	Partitions []partitionJSON `json:"partitions"`
	Groups     []string        `json:"groups"`
	Trouble    string          `json:"trouble,omitempty"`
}

type partitionJSON struct {
	Partition int    `json:"partition"`
	First     uint64 `json:"first"`
	Last      uint64 `json:"last"`
	Bytes     int64  `json:"bytes"`
}

func (a *app) topicLine(t posthorn.TopicStatus) error {
	j := topicJSON{Topic: t.Name, Events: t.Events, Bytes: t.Bytes, Oldest: jsonTime(t.Oldest), Keep: t.Settings.Keep.String(), MaxBytes: t.Settings.MaxBytes,
		Replicas: t.Settings.Replicas, Dedup: t.Settings.Dedup.String(), Unordered: t.Settings.Unordered, Strict: t.Settings.StrictOrder, Groups: append([]string{}, t.Groups...), Trouble: t.Trouble}
	for _, p := range t.Partitions {
		j.Partitions = append(j.Partitions, partitionJSON(p))
	}
	return a.line(j)
}

func (a *app) listTopics(all []posthorn.TopicStatus) error {
	if a.json {
		return each(all, a.topicLine)
	}
	if len(all) == 0 {
		a.say("there are no topics; a topic is made by the first publish, or by posthorn provision")
		return nil
	}
	tab := a.table("TOPIC", "EVENTS", "SIZE", "OLDEST", "KEPT", "PARTITIONS", "GROUPS")
	for _, t := range all {
		if t.Trouble != "" {
			tab.row(t.Name, "?", "?", "-", span(t.Settings.Keep), t.Settings.Partitions, "trouble: "+t.Trouble)
			continue
		}
		tab.row(t.Name, t.Events, bytesOf(t.Bytes), ago(t.Oldest), span(t.Settings.Keep), len(t.Partitions), dash(strings.Join(t.Groups, ", ")))
	}
	return tab.end()
}

func (a *app) showTopic(t posthorn.TopicStatus) error {
	if a.json {
		return a.topicLine(t)
	}
	s := t.Settings
	order, limit, replicas := "ordered by key", "no cap", "as many replicas as the broker has, up to 3"
	if s.Replicas > 0 {
		replicas = counted(int64(s.Replicas), "replica", "replicas")
	}
	if s.Unordered {
		order = "unordered"
	}
	if s.StrictOrder {
		order = "ordered by key, strictly"
	}
	if s.MaxBytes > 0 {
		limit = "at most " + bytesOf(s.MaxBytes)
	}
	if t.Trouble != "" {
		a.say("topic %s: trouble: %s", t.Name, plain(t.Trouble))
		return nil
	}
	a.say("topic %s: %s, %s, the oldest of %s", t.Name, counted(t.Events, "event", "events"), bytesOf(t.Bytes), ago(t.Oldest))
	a.say("kept for %s, %s, %s, %s, ids are recognised for %s", span(s.Keep), limit, replicas, order, span(s.Dedup))
	a.say("groups: %s\n", dash(strings.Join(t.Groups, ", ")))
	tab := a.table("PARTITION", "FIRST", "LAST", "EVENTS", "SIZE")
	for _, p := range t.Partitions {
		tab.row(p.Partition, p.First, p.Last, p.Last+1-p.First, bytesOf(p.Bytes))
	}
	return tab.end()
}
