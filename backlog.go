package posthorn

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/posthorn/posthorn/driver"
)

// ensureGroup registers a group. When it is new to topics and begins with what they
// hold already, it says so, with the count: somebody may not have meant it.
func (b *Bus) ensureGroup(ctx context.Context, want driver.GroupSpec) (driver.GroupSpec, error) {
	old, err := b.drv.Group(ctx, want.Name)
	if err != nil && !errors.Is(err, driver.ErrNotFound) {
		return old, err
	}
	stands, err := b.drv.EnsureGroup(ctx, want)
	if err != nil {
		return stands, err
	}
	var fresh []string
	for topic := range want.Types {
		if _, ok := old.Types[topic]; !ok {
			fresh = append(fresh, topic)
		}
	}
	if len(fresh) > 0 && !want.Start.Now && want.Start.Time.IsZero() {
		b.tellBacklog(ctx, want.Name, fresh)
	}
	return stands, nil
}

func (b *Bus) tellBacklog(ctx context.Context, group string, topics []string) {
	positions, err := b.drv.Positions(ctx, group)
	if err != nil {
		b.log.Warn("how much waits for a new group could not be found out", "group", group, "error", err)
		return
	}
	waiting := map[string]int64{}
	for _, p := range positions {
		if slices.Contains(topics, p.Topic) {
			waiting[p.Topic] += p.Lag
		}
	}
	slices.Sort(topics)
	for _, topic := range topics {
		if waiting[topic] == 0 {
			continue
		}
		b.alarms.tell(driver.Alarm{Code: "backlog", Thing: group + " " + topic,
			Text: fmt.Sprintf("group %s is new to topic %s and begins at the beginning: it handles what was published before, %s; "+
				"to begin with what is published next instead, start a new group with GroupConfig.Start: posthorn.FromNow(), or set this one there: posthorn groups reset %s --to now",
				group, topic, messages(waiting[topic]), group)})
	}
}

func messages(n int64) string {
	if n == 1 {
		return "1 message"
	}
	return fmt.Sprint(n, " messages")
}
