package posthorn

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/posthorn/posthorn/driver"
	_ "github.com/posthorn/posthorn/driver/memory"
)

// quiet counts what retention asks the broker.
type quiet struct {
	driver.Driver
	read                 func(p driver.Partition) ([]driver.Delivery, error)
	reads, trims, groups int
}

func (q *quiet) Read(_ context.Context, p driver.Partition, above uint64, limit int, bodies bool) ([]driver.Delivery, error) {
	q.reads++
	return q.read(p)
}

func (q *quiet) Trim(context.Context, driver.Partition, uint64, time.Time) (int64, error) {
	q.trims++
	return 0, nil
}

func (q *quiet) Groups(ctx context.Context) ([]driver.GroupSpec, error) {
	q.groups++
	return nil, nil
}

// Retention asks the broker for a partition's first message once, and nothing more
// before that is old enough.
func TestRetentionIsQuiet(t *testing.T) {
	t.Parallel()
	spec := driver.TopicSpec{Name: "order", Partitions: 8, Keep: 7 * 24 * time.Hour}
	stored := func(age time.Duration) func(driver.Partition) ([]driver.Delivery, error) {
		return func(driver.Partition) ([]driver.Delivery, error) {
			return []driver.Delivery{{Pos: 1, Stored: time.Now().Add(-age)}}, nil
		}
	}
	for name, c := range map[string]struct {
		read  func(driver.Partition) ([]driver.Delivery, error)
		trims int
		again time.Duration // not before
	}{
		"empty":       {read: func(driver.Partition) ([]driver.Delivery, error) { return nil, nil }, again: spec.Keep - time.Minute},
		"young":       {read: stored(24 * time.Hour), again: 6*24*time.Hour - time.Minute},
		"almost old":  {read: stored(spec.Keep - time.Second), again: retainAtLeast / 2},
		"old":         {read: stored(8 * 24 * time.Hour), trims: 8, again: retainAtLeast / 2},
		"not told":    {read: func(driver.Partition) ([]driver.Delivery, error) { return []driver.Delivery{{Pos: 1}}, nil }, trims: 8, again: retainAtLeast / 2},
		"not offered": {read: func(driver.Partition) ([]driver.Delivery, error) { return nil, errors.ErrUnsupported }, trims: 8, again: retainAtLeast / 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bus, err := Open(t.Context(), "memory:", Service("test"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = bus.Close(context.Background()) })
			q := &quiet{Driver: bus.drv, read: c.read}
			k := &keeper{bus: &Bus{drv: q, clock: bus.clock}, next: map[driver.Partition]time.Time{}}
			look := func() {
				t.Helper()
				if err := k.topic(t.Context(), spec); err != nil {
					t.Fatal(err)
				}
			}
			look()
			if q.reads > 2 {
				t.Errorf("%d partitions were looked at at once", q.reads)
			}
			for p := range k.next {
				k.next[p] = time.Now()
			}
			before := q.reads
			look()
			if q.reads != before+8 || q.trims != c.trims || q.groups != min(c.trims, 1) {
				t.Errorf("%d reads, %d trims, %d times groups", q.reads-before, q.trims, q.groups)
			}
			now := time.Now()
			for p, next := range k.next {
				if next.Sub(now) < c.again-time.Second {
					t.Errorf("%v is looked at again in %v, want %v", p, next.Sub(now), c.again)
				}
			}
			before = q.reads
			look()
			if q.reads != before {
				t.Errorf("it is looked at again at once")
			}
		})
	}
}
