package jetstream

import (
	"context"
	"time"

	"github.com/posthorn/posthorn/driver"
)

func (d *jsDriver) Trim(ctx context.Context, p driver.Partition, below uint64, before time.Time) (int64, error) {
	if err := d.usable(); err != nil {
		return 0, err
	}
	info, err := d.streamInfo(ctx, d.names.partition(p))
	if err != nil {
		return 0, err
	}
	below = min(below, info.State.Last+1)
	if !before.IsZero() {
		young, ok, err := d.firstSince(ctx, p, before)
		if err != nil {
			return 0, err
		}
		if ok {
			below = min(below, young)
		}
	}
	if below <= max(info.State.First, 1) {
		return 0, nil
	}
	n, err := d.purge(ctx, d.names.partition(p), purgeRequest{Seq: below})
	if err != nil {
		return n, err
	}
	return n, d.syncs.wait(ctx)
}
