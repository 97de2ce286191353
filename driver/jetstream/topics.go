package jetstream

import (
	"context"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
)

// Topics reads what is declared, and opens nothing.
func (d *jsDriver) Topics(ctx context.Context) ([]driver.TopicSpec, error) {
	if err := d.usable(); err != nil {
		return nil, err
	}
	var all []driver.TopicSpec
	err := d.readAll(ctx, d.names.state(), d.names.topics(), false, func(m *nats.Msg) error {
		var r topicRecord
		if err := decodeRecord(m.Subject, m.Data, &r); err != nil {
			return err
		}
		if r.Ready { // else it is being made, or could not be
			all = append(all, r.Spec)
		}
		return nil
	})
	slices.SortFunc(all, func(a, b driver.TopicSpec) int { return strings.Compare(a.Name, b.Name) })
	return all, err
}
