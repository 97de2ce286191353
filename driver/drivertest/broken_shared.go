package drivertest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// Where what members share, and what is seen from outside, can be noticed.
var (
	whereShared = []string{"seam/*", "members/*", "group/*"}
	whereSeam   = []string{"seam/*"}
	whereBatch  = []string{"batch/*"} // where several have to be in flight to be seen together
)

// brokenShared break what members and those who look on from outside are promised.
var brokenShared = []*brokenDriver{
	{
		name: "keeps-all-partitions", logCase: "seam/shares", queueCase: "seam/shares",
		also: map[string]string{
			"members/*":       "who joins gets nothing",
			"seam/members":    "who joins gets nothing",
			"batch/hand-over": "who joins gets nothing",
		},
		only: append([]string{"batch/hand-over"}, whereShared...),
		wrap: func(_ *brokenWorld, d driver.Driver) driver.Driver {
			return &shim{Driver: d, wrapMember: func(m driver.Member) driver.Member { return miser{m} }}
		},
	},
	{
		name: "revokes-without-asking", logCase: "members/hand-over", queueCase: "members/hand-over",
		also: map[string]string{
			"members/*":   "what is in flight is handled by two members",
			"seam/shares": "partitions are lost in place of being released",
		},
		only: whereShared,
		wrap: func(_ *brokenWorld, d driver.Driver) driver.Driver {
			return &shim{Driver: d, wrapMember: func(m driver.Member) driver.Member { return rude{m} }}
		},
	},
	{
		name: "passes-over-new-types", logCase: "seam/subscription",
		also: map[string]string{"members/rolling-deploy": "what was passed over is recorded"},
		only: whereShared,
		wrap: breakTenures(func(_ *brokenWorld, t driver.Tenure) *tenureShim {
			s := &tenureShim{Tenure: t}
			s.checkpoint = func(ctx context.Context, c driver.Checkpoint) error {
				err := t.Checkpoint(ctx, c)
				if errors.Is(err, driver.ErrSubscription) {
					err = t.Checkpoint(ctx, c)
				}
				return err
			}
			return s
		}),
	},
	{
		name: "tells-nobody-of-new-types", logCase: "members/rolling-deploy",
		also: map[string]string{
			"seam/nudge":        "members do not learn of a change of the record",
			"group/*":           "members do not learn of a change of the record",
			"members/*":         "members do not learn of a change of the record",
			"seam/pause":        "members do not learn of a change of the record",
			"seam/subscription": "members do not learn of a change of the record",
		},
		only: whereShared,
		wrap: func(_ *brokenWorld, d driver.Driver) driver.Driver { return newForgetful(d) },
	},
	{
		name: "writes-behind-the-fence", logCase: "seam/lane-fenced", queueCase: "seam/lane-fenced",
		also: map[string]string{
			"seam/fenced": "the old holder writes to the lane",
			"seam/remove": "the old holder writes to the lane",
		},
		only: whereShared,
		wrap: func(_ *brokenWorld, d driver.Driver) driver.Driver { return &outlaw{shim{Driver: d}} },
	},
	{
		name: "watches-what-stands-only", logCase: "seam/watch", queueCase: "seam/watch",
		only: whereSeam,
		wrap: breakLanes(func(*brokenWorld) func(driver.Lane) *laneShim {
			return func(l driver.Lane) *laneShim {
				return &laneShim{Lane: l, watch: func(ctx context.Context, f func(driver.Entry)) error {
					over := false
					return l.Watch(ctx, func(e driver.Entry) {
						if !over {
							f(e)
						}
						over = over || e.Name == ""
					})
				}}
			}
		}),
	},
	{
		name: "watches-from-the-middle", logCase: "seam/watch-beside-writes", queueCase: "seam/watch-beside-writes",
		also: map[string]string{"seam/watch": "what stands is not told"},
		only: whereSeam,
		wrap: breakLanes(func(*brokenWorld) func(driver.Lane) *laneShim {
			return func(l driver.Lane) *laneShim {
				return &laneShim{Lane: l, watch: func(ctx context.Context, f func(driver.Entry)) error {
					n := 0
					return l.Watch(ctx, func(e driver.Entry) {
						if n++; n%5 != 0 || e.Name == "" {
							f(e)
						}
					})
				}}
			}
		}),
	},
	{
		name: "ends-a-walk-at-a-change", logCase: "seam/lane-scan-beside-writes", queueCase: "seam/lane-scan-beside-writes",
		also: map[string]string{"seam/*": "what was put since the walk before ends the next one"},
		only: whereSeam,
		wrap: breakLanes(func(w *brokenWorld) func(driver.Lane) *laneShim {
			return func(l driver.Lane) *laneShim {
				var known atomic.Int64
				return &laneShim{Lane: l,
					apply: func(ctx context.Context, ops []driver.LaneOp) error {
						defer w.writes.Add(1)
						return l.Apply(ctx, ops)
					},
					scan: func(ctx context.Context, after string, most int) ([]driver.Entry, string, error) {
						es, next, err := l.Scan(ctx, after, most)
						if n := w.writes.Load(); known.Swap(n) != n {
							es, next = es[:len(es)/2], ""
						}
						return es, next, err
					},
				}
			}
		}),
	},
	outside("hides-topics", "seam/topics", nil, func(o *outsider) {
		o.topics = func(ts []driver.TopicSpec) []driver.TopicSpec {
			return slices.DeleteFunc(ts, func(t driver.TopicSpec) bool { return t.Unordered })
		}
	}),
	outside("counts-one-too-many", "seam/extents", nil, func(o *outsider) {
		o.extents = func(es []driver.Extent) []driver.Extent {
			for i := range es {
				es[i].First++
				es[i].Bytes = 0
			}
			return es
		}
	}),
	outside("keeps-the-version", "seam/group-get", map[string]string{"members/*": "a newer record passes for the old one"}, func(o *outsider) {
		o.group = func(g driver.GroupSpec) driver.GroupSpec {
			g.Version = 1
			return g
		}
	}),
	outside("forgets-why-it-is-paused", "seam/pause", nil, func(o *outsider) {
		o.group = func(g driver.GroupSpec) driver.GroupSpec {
			g.Paused = ""
			return g
		}
	}),
	outside("resets-to-the-beginning", "seam/reset", nil, func(o *outsider) { o.start = &driver.StartAt{} }),
	outside("removes-the-subscription-only", "seam/remove", nil, func(o *outsider) {
		o.remove = func(ctx context.Context, name string) error {
			g, err := o.Driver.Group(ctx, name)
			for _, types := range g.Types {
				err = errors.Join(err, o.DropTypes(ctx, name, types))
			}
			return err
		}
	}),
	outside("lists-who-has-left", "seam/members", nil, func(o *outsider) {
		var mu sync.Mutex
		seen := map[string]driver.MemberInfo{}
		o.members = func(ms []driver.MemberInfo) []driver.MemberInfo {
			mu.Lock()
			defer mu.Unlock()
			for _, m := range ms {
				seen[m.Name] = m
			}
			ms = nil
			for _, m := range seen {
				ms = append(ms, m)
			}
			return ms
		}
	}),
	outside("reads-a-page-only", "seam/read", nil, func(o *outsider) {
		o.read = func(ds []driver.Delivery) []driver.Delivery { return ds[:min(len(ds), 16)] }
	}),
	outside("reads-from-the-beginning", "seam/read-from", nil, func(o *outsider) { o.from = func(uint64) uint64 { return 0 } }),
}

// miser does not give anything back as long as it is a member.
type miser struct{ driver.Member }

func (m miser) Revoke(ctx context.Context, _ driver.Tenure) { <-ctx.Done() }

// rude does not ask its member to finish, but gives back what it was handed.
type rude struct{ driver.Member }

func (m rude) Revoke(ctx context.Context, t driver.Tenure) {
	if t.Release(ctx, t.Start()) == nil {
		m.Lost(t, driver.ErrLost)
	}
}

// forgetful tells its members of the record once, by whomever it was written.
type forgetful struct{ shim }

func newForgetful(d driver.Driver) *forgetful {
	f := &forgetful{shim{Driver: d}}
	f.wrapMember = func(m driver.Member) driver.Member { return &deaf{Member: m} }
	f.wrapTenure = func(t driver.Tenure) driver.Tenure {
		return &tenureShim{Tenure: t, checkpoint: func(ctx context.Context, c driver.Checkpoint) error {
			err := t.Checkpoint(ctx, c)
			if errors.Is(err, driver.ErrSubscription) {
				err = t.Checkpoint(ctx, c)
			}
			return err
		}, release: func(ctx context.Context, c driver.Checkpoint) error {
			err := t.Release(ctx, c)
			if errors.Is(err, driver.ErrSubscription) {
				err = t.Release(ctx, c)
			}
			return err
		}}
	}
	return f
}

type deaf struct {
	driver.Member
	mu     sync.Mutex
	told   bool
	topics []string
}

func (m *deaf) Subscribed(spec driver.GroupSpec) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.told {
		m.told, m.topics = true, m.Member.Subscribed(spec)
	}
	return m.topics
}

// outlaw writes to lanes from outside when the holder is refused.
type outlaw struct{ shim }

func (d *outlaw) Join(ctx context.Context, group string, m driver.Member) error {
	own := &shim{Driver: d.Driver, wrapLane: func(l driver.Lane, p driver.Partition) driver.Lane {
		return &laneShim{Lane: l, apply: func(ctx context.Context, ops []driver.LaneOp) error {
			err := l.Apply(ctx, ops)
			if !errors.Is(err, driver.ErrLost) {
				return err
			}
			out := d.Driver.Lane(group, p)
			for i := range ops {
				es, err := out.Get(ctx, []string{ops[i].Entry.Name})
				if err != nil {
					return err
				}
				ops[i].Entry.Rev, ops[i].Err = 0, nil
				if len(es) == 1 {
					ops[i].Entry.Rev = es[0].Rev
				}
			}
			return out.Apply(ctx, ops)
		}}
	}}
	return own.Join(ctx, group, m)
}

// An outsider changes what a driver tells those who are no members. Functions that
// are not set pass on.
type outsider struct {
	shim
	topics  func([]driver.TopicSpec) []driver.TopicSpec
	extents func([]driver.Extent) []driver.Extent
	group   func(driver.GroupSpec) driver.GroupSpec
	start   *driver.StartAt
	remove  func(ctx context.Context, name string) error
	members func([]driver.MemberInfo) []driver.MemberInfo
	read    func([]driver.Delivery) []driver.Delivery
	from    func(uint64) uint64
}

// outside makes a broken driver of an outsider.
func outside(name, its string, also map[string]string, set func(o *outsider)) *brokenDriver {
	return &brokenDriver{name: name, logCase: its, queueCase: its, also: also, only: whereShared, wrap: func(_ *brokenWorld, d driver.Driver) driver.Driver {
		o := &outsider{shim: shim{Driver: d}}
		set(o)
		return o
	}}
}

// change applies a function that is set to a result that is one.
func change[T any](f func(T) T, v T, err error) (T, error) {
	if f == nil || err != nil {
		return v, err
	}
	return f(v), nil
}

func (o *outsider) Topics(ctx context.Context) ([]driver.TopicSpec, error) {
	ts, err := o.Driver.Topics(ctx)
	return change(o.topics, ts, err)
}

func (o *outsider) Extents(ctx context.Context, topic string) ([]driver.Extent, error) {
	es, err := o.Driver.Extents(ctx, topic)
	return change(o.extents, es, err)
}

func (o *outsider) Group(ctx context.Context, name string) (driver.GroupSpec, error) {
	g, err := o.Driver.Group(ctx, name)
	return change(o.group, g, err)
}

func (o *outsider) ResetGroup(ctx context.Context, name string, topics []string, start driver.StartAt) error {
	if o.start != nil {
		start = *o.start
	}
	return o.Driver.ResetGroup(ctx, name, topics, start)
}

func (o *outsider) RemoveGroup(ctx context.Context, name string) error {
	if o.remove != nil {
		return o.remove(ctx, name)
	}
	return o.Driver.RemoveGroup(ctx, name)
}

func (o *outsider) Members(ctx context.Context, group string) ([]driver.MemberInfo, error) {
	ms, err := o.Driver.Members(ctx, group)
	return change(o.members, ms, err)
}

func (o *outsider) Read(ctx context.Context, p driver.Partition, above uint64, limit int, bodies bool) ([]driver.Delivery, error) {
	ds, err := o.Driver.Read(ctx, p, above, limit, bodies)
	return change(o.read, ds, err)
}

func (o *outsider) ReadFrom(ctx context.Context, p driver.Partition, t time.Time) (uint64, error) {
	above, err := o.Driver.ReadFrom(ctx, p, t)
	return change(o.from, above, err)
}
