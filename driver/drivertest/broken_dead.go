package drivertest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// whereDead is where what is done to lanes from outside can be noticed.
var whereDead = []string{"dead/*"}

// brokenDead break what is done to dead letters from outside.
var brokenDead = []*brokenDriver{
	{
		name: "tells-nobody-of-a-nudge", logCase: "seam/nudge", queueCase: "seam/nudge",
		also: map[string]string{"dead/*": "members do not hear of what is put into their lanes"},
		only: []string{"seam/nudge", "dead/*"},
		wrap: func(_ *brokenWorld, d driver.Driver) driver.Driver { return &aloof{shim{Driver: d}} },
	},
	mender("replays-to-everybody", "dead/replay-to-its-group-only", map[string]string{
		"dead/*": "what is replayed is handled twice by the group, too",
	}, func(m *mending) error {
		err := m.apply(m.ops)
		for _, o := range m.replays() {
			if o.Err == nil {
				msg := o.Entry.Msg
				msg.ID += "-again"
				m.d.Append(m.p, []driver.Message{msg}, time.Now().Add(time.Minute), func([]driver.Outcome) {})
			}
		}
		return err
	}),
	mender("replays-whatever-stands", "dead/replay-twice", map[string]string{
		"dead/replay-interrupted": "what the first replay put is put again",
	}, func(m *mending) error {
		err := m.apply(m.ops)
		for i := range m.ops {
			o := &m.ops[i]
			if o.Delete || !errors.Is(o.Err, driver.ErrConflict) {
				continue
			}
			es, gerr := m.lane.Get(m.ctx, []string{o.Entry.Name})
			if gerr != nil {
				return gerr
			}
			if o.Entry.Rev = 0; len(es) == 1 {
				o.Entry.Rev = es[0].Rev
			}
			err = m.apply(m.ops[i : i+1])
		}
		return err
	}),
	mender("confirms-a-replay-too-soon", "dead/replay-interrupted", map[string]string{
		"dead/*": "what is replayed last is not stored",
	}, func(m *mending) error {
		if len(m.replays()) == 0 {
			return m.apply(m.ops)
		}
		m.o.mu.Lock()
		late := m.o.late
		m.o.late = slices.Clone(m.ops)
		m.o.mu.Unlock()
		if late == nil {
			return nil
		}
		return m.apply(late)
	}),
	mender("replays-with-the-old-record", "dead/attempts-anew", map[string]string{
		"dead/*": "what is replayed does not say that it was, and members do not take it up",
	}, func(m *mending) error {
		for _, o := range m.replays() {
			es, err := m.lane.Get(m.ctx, []string{o.Entry.Name})
			if err != nil {
				return err
			}
			if len(es) == 1 {
				o.Entry.Head = es[0].Head
			}
		}
		return m.apply(m.ops)
	}),
	mender("edits-nothing-but-the-record", "dead/edit", nil, func(m *mending) error {
		for i := range m.ops {
			o := &m.ops[i]
			if o.Delete || o.Entry.State != driver.Dead {
				continue
			}
			es, err := m.lane.Get(m.ctx, []string{o.Entry.Name})
			if err != nil {
				return err
			}
			if len(es) == 1 {
				o.Entry.Msg = es[0].Msg // as it was
			}
		}
		return m.apply(m.ops)
	}),
	mender("discards-nothing", "dead/discard", map[string]string{
		"dead/replay-without-members": "it discards first",
	}, func(m *mending) error {
		for i := range m.ops {
			if o := &m.ops[i]; !o.Delete && o.Entry.State == driver.Discarded {
				es, err := m.lane.Get(m.ctx, []string{o.Entry.Name})
				if err != nil || len(es) != 1 {
					return err
				}
				o.Entry = &es[0]
			}
		}
		return m.apply(m.ops)
	}),
	mender("forgets-the-context", "dead/context-kept", map[string]string{"dead/edit": "it edits a header"}, func(m *mending) error {
		for _, o := range m.replays() {
			o.Entry.Msg.Attrs, o.Entry.Msg.Headers = nil, nil
		}
		return m.apply(m.ops)
	}),
	mender("forgets-notes", "dead/discard", map[string]string{"dead/edit": "it reads the notes"}, func(m *mending) error {
		var kept []driver.LaneOp
		var at []int
		for i, o := range m.ops {
			if o.Delete || o.Entry.State != driver.Note {
				kept, at = append(kept, o), append(at, i)
			}
		}
		err := m.apply(kept)
		for i, j := range at {
			m.ops[j] = kept[i]
		}
		return err
	}),
	{
		name: "hides-what-is-put-from-outside", logCase: "dead/replay-without-members", queueCase: "dead/replay-without-members",
		also: map[string]string{"dead/replay-across-hand-overs": "who takes over does not find it", "dead/edit": "another member has taken over"},
		only: whereDead,
		wrap: breakTenureScans(func(e *driver.Entry) bool { return e.State != driver.Due && e.State != driver.Discarded }),
	},
}

// aloof does not tell members of nudges.
type aloof struct{ shim }

func (*aloof) NudgeGroup(context.Context, string) error { return nil }

// A mending is one call that changes a lane from outside.
type mending struct {
	o    *outerLanes
	d    driver.Driver
	lane driver.Lane
	p    driver.Partition
	ctx  context.Context
	ops  []driver.LaneOp
}

func (m *mending) apply(ops []driver.LaneOp) error { return m.lane.Apply(m.ctx, ops) }

// replays are the operations that replay something.
func (m *mending) replays() (found []*driver.LaneOp) {
	for i := range m.ops {
		if o := &m.ops[i]; !o.Delete && o.Entry.State == driver.Due {
			found = append(found, o)
		}
	}
	return found
}

// mender makes a broken driver that breaks the calls which change lanes from outside.
func mender(name, its string, also map[string]string, apply func(*mending) error) *brokenDriver {
	return &brokenDriver{name: name, logCase: its, queueCase: its, also: also, only: whereDead, wrap: func(_ *brokenWorld, d driver.Driver) driver.Driver {
		return &outerLanes{shim: shim{Driver: d}, apply: apply}
	}}
}

// outerLanes wraps the lanes from outside only.
type outerLanes struct {
	shim
	apply func(*mending) error

	mu   sync.Mutex
	late []driver.LaneOp // confirmed, and not stored
}

func (o *outerLanes) Lane(group string, p driver.Partition) driver.Lane {
	l := o.Driver.Lane(group, p)
	return &laneShim{Lane: l, apply: func(ctx context.Context, ops []driver.LaneOp) error {
		return o.apply(&mending{o: o, d: o.Driver, lane: l, p: p, ctx: ctx, ops: ops})
	}}
}

// breakTenureScans hides entries from holders that take a lane over.
func breakTenureScans(sees func(*driver.Entry) bool) func(*brokenWorld, driver.Driver) driver.Driver {
	return func(_ *brokenWorld, d driver.Driver) driver.Driver { return &halfBlind{shim{Driver: d}, sees} }
}

type halfBlind struct {
	shim
	sees func(*driver.Entry) bool
}

func (h *halfBlind) Join(ctx context.Context, group string, m driver.Member) error {
	own := &shim{Driver: h.Driver, wrapLane: func(l driver.Lane, _ driver.Partition) driver.Lane {
		return &laneShim{Lane: l, scan: func(ctx context.Context, after string, most int) ([]driver.Entry, string, error) {
			es, next, err := l.Scan(ctx, after, most)
			kept := es[:0]
			for _, e := range es {
				if h.sees(&e) {
					kept = append(kept, e)
				}
			}
			return kept, next, err
		}}
	}}
	return own.Join(ctx, group, m)
}
