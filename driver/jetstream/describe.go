package jetstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/posthorn/posthorn/driver"
)

func (d *jsDriver) Describe(ctx context.Context) ([]driver.Thing, error) {
	names, err := d.streamNames(ctx)
	if err != nil {
		return nil, err
	}
	var things []driver.Thing
	for _, name := range names {
		why, ok := d.whyStream(name)
		if !ok {
			continue
		}
		things = append(things, driver.Thing{Kind: "stream", Name: name, Why: why})
		if _, ok := d.names.parsePartition(name); !ok {
			continue
		}
		consumers, err := d.consumerNames(ctx, name)
		if err != nil && !errors.Is(err, driver.ErrNotFound) {
			return nil, err
		}
		for _, c := range consumers {
			if group, fence, ok := d.names.parseConsumer(c); ok {
				things = append(things, driver.Thing{Kind: "consumer", Name: c + " on " + name, Why: fmt.Sprintf(
					"hands the messages to the member of group %s that holds the partition, in tenure %d; made anew from the group's record", group, fence)})
			}
		}
	}
	slices.SortFunc(things, func(a, b driver.Thing) int {
		return cmp.Or(strings.Compare(b.Kind, a.Kind), strings.Compare(a.Name, b.Name))
	})
	return things, nil
}

// whyStream says what one of our streams is for.
func (d *jsDriver) whyStream(name string) (string, bool) {
	if name == d.names.state() {
		return "what is declared (topics, groups) and how far each group is, a record a subject", true
	}
	if p, ok := d.names.parsePartition(name); ok {
		return fmt.Sprintf("keeps the events of topic %s whose keys fall into partition %d, in order; trimmed only by Posthorn", p.Topic, p.N), true
	}
	if group, ok := strings.CutPrefix(name, d.names.streams+"-L-"); ok {
		group, ok = decodeName(group)
		return fmt.Sprintf("keeps what group %s handles later (retries), what waits behind it, and its dead letters", group), ok
	}
	return "", false
}
