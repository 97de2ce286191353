package engine

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// buried starts a member that gives up on one event, and returns its dead letter. What
// it does with it later is h's.
func buried(r *rig, with func(*Config), h func(context.Context, *Item) Verdict) (*runner, driver.Entry) {
	r.Helper()
	r.topic("order", 1, "a")
	first := true
	m := r.run("m", map[string]func(context.Context, *Item) Verdict{"a": func(ctx context.Context, it *Item) Verdict {
		if first {
			first = false
			return Verdict{Kind: Dead, Err: errors.New("no"), Code: "permanent"}
		}
		return h(ctx, it)
	}}, with)
	r.publish("order", "k", "a")
	var dead driver.Entry
	r.eventually("it is dead", func() bool {
		for _, e := range r.lane() {
			dead = e
		}
		return dead.State == driver.Dead
	})
	return m, dead
}

// lane reads the entries of partition 0, whole.
func (r *rig) lane() []driver.Entry {
	r.Helper()
	l := r.drv.Lane("g", driver.Partition{Topic: "order"})
	heads, _, err := l.Scan(context.Background(), "", 1000)
	if err != nil {
		r.Fatal(err)
	}
	var names []string
	for _, e := range heads {
		names = append(names, e.Name)
	}
	es, err := l.Get(context.Background(), names)
	if err != nil {
		r.Fatal(err)
	}
	return es
}

// outside puts an entry from outside.
func (r *rig) outside(e *driver.Entry) {
	r.Helper()
	if err := r.drv.Lane("g", driver.Partition{Topic: "order"}).Apply(context.Background(), []driver.LaneOp{{Entry: e}}); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) replay(dead driver.Entry) *driver.Entry {
	r.Helper()
	e, err := Replayed(dead, "somebody", r.now())
	if err != nil {
		r.Fatal(err)
	}
	r.outside(e)
	return e
}

func (r *rig) nudge() {
	r.Helper()
	if err := r.drv.NudgeGroup(context.Background(), "g"); err != nil {
		r.Fatal(err)
	}
}

// tenureOf is the member's tenure of partition 0.
func (m *runner) tenureOf() *tenure {
	m.Group.mu.Lock()
	defer m.Group.mu.Unlock()
	return m.tenures[driver.Partition{Topic: "order"}]
}

// A lane is watched while somebody works there, and not for ever.
func TestMendIdle(t *testing.T) {
	for _, shape := range []string{"log", "queue"} {
		t.Run(shape, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, shape)
				m, dead := buried(r, nil, r.handle)
				tn := m.tenureOf()
				watched := func() bool {
					synctest.Wait()
					m.Group.mu.Lock()
					defer m.Group.mu.Unlock()
					return tn.mending != nil
				}
				if watched() {
					t.Error("the lane is watched, and nobody has asked for it")
				}
				r.nudge()
				if !watched() {
					t.Fatal("the lane is not watched")
				}
				for range 3 { // told again and again, it goes on
					time.Sleep(mendIdle * 3 / 4)
					r.nudge()
				}
				time.Sleep(mendIdle / 2)
				if !watched() {
					t.Error("the watch has ended before its time")
				}
				r.replay(dead)
				r.eventually("it is handled", func() bool { return len(r.handled()) == 1 })
				time.Sleep(mendIdle * 3 / 4)
				if !watched() {
					t.Error("the watch has ended though there was news")
				}
				time.Sleep(mendIdle)
				if watched() {
					t.Error("the watch goes on")
				}
				r.nudge()
				if !watched() {
					t.Error("the lane is not watched a second time")
				}
				m.stop()
			})
		})
	}
}

// A nudge at the moment in which a watch ends begins another one.
func TestMendAgain(t *testing.T) {
	r := newRig(t, "log")
	m, dead := buried(r, nil, r.handle)
	tn := m.tenureOf()
	r.nudge()
	r.eventually("the lane is watched", func() bool {
		m.Group.mu.Lock()
		defer m.Group.mu.Unlock()
		return tn.mending != nil
	})
	m.Group.mu.Lock()
	tn.mending.Reset(0) // its time is over
	for tn.mending.Stop() {
		tn.mending.Reset(0)
	}
	tn.nudged()
	m.Group.mu.Unlock()
	r.replay(dead)
	r.eventually("it is handled", func() bool { return len(r.handled()) == 1 })
}

// What was told of a replay does not begin the retry that has come of it.
func TestMendWaits(t *testing.T) {
	r := newRig(t, "log")
	m, dead := buried(r, func(c *Config) {
		h := c.Handlers["a"]
		h.Retry = Retry{Attempts: 1, Late: 3, LateDelay: time.Hour, MaxLate: time.Hour}
	}, func(ctx context.Context, it *Item) Verdict {
		r.handle(ctx, it)
		return Verdict{Kind: Fail, Err: errors.New("later"), Code: "handler_failed"}
	})
	r.nudge()
	put := r.replay(dead)
	r.eventually("it waits for its next attempt", func() bool {
		es := r.lane()
		return len(es) == 1 && es[0].State == driver.Due && es[0].Due.After(r.now().Add(time.Minute))
	})
	m.tenureOf().mended(put)
	r.never("it is tried early", func() bool { return len(r.handled()) > 1 })
	if rec, err := DecodeDead(r.lane()[0].Head); err != nil || rec.Attempts != 1 || len(rec.Lives) != 1 || rec.Lives[0].By != "somebody" || len(rec.Errors) != 2 {
		t.Errorf("%+v, %v", rec, err)
	}
}

// A discarded entry is deleted, but not when its name is in use again.
func TestDiscarded(t *testing.T) {
	r := newRig(t, "queue")
	m, dead := buried(r, nil, r.handle)
	tn := m.tenureOf()
	m.Group.mu.Lock()
	tn.live[dead.Name] = struct{}{}
	m.Group.mu.Unlock()
	r.nudge()
	gone := Discard(dead, "somebody", "a test")
	r.outside(gone)
	r.never("the entry is deleted", func() bool { return len(r.lane()) == 0 })
	m.Group.mu.Lock()
	delete(tn.live, dead.Name)
	tn.ops = append(tn.ops, &laneOp{op: driver.LaneOp{Entry: &dead}})
	tn.discarded(gone)
	if len(tn.ops) != 1 {
		t.Errorf("a name that is about to be put is deleted")
	}
	tn.ops = nil
	tn.discarded(gone)
	m.Group.mu.Unlock()
	r.eventually("the entry is deleted", func() bool { return len(r.lane()) == 0 })
}

func TestReplayed(t *testing.T) {
	e := driver.Entry{Name: "n", State: driver.Dead, Rev: 7, Head: (record{Attempts: 3, Boots: 1, Errors: []string{"x"}, Code: "timeout", First: 1, Died: 2, Stored: 3}).encode(),
		Msg: driver.Message{ID: "i", Body: []byte("data"), Attrs: []driver.Attr{{Name: "traceparent", Value: "t"}}}}
	for n := range maxLives + 3 {
		next, err := Replayed(e, "somebody", time.UnixMilli(int64(100+n)))
		if err != nil || next.State != driver.Due || next.Rev != 7 || !IsReplayed(next) || string(next.Msg.Body) != "data" {
			t.Fatalf("%+v, %v", next, err)
		}
		r, err := decodeRecord(next.Head)
		if err != nil || r.Attempts != 0 || r.Boots != 0 || r.Died != 0 || r.First != 1 || r.Stored != 3 || len(r.Errors) != 1 || len(r.Lives) != min(n+1, maxLives) || r.Lives[len(r.Lives)-1].Replayed != int64(100+n) {
			t.Fatalf("%+v, %v", r, err)
		}
		e = *next
		e.State = driver.Dead
	}
	if _, err := Replayed(driver.Entry{State: driver.Dead, Head: []byte("{")}, "somebody", time.Now()); err == nil {
		t.Error("a record that cannot be read was replayed")
	}
	if d := Discard(driver.Entry{Head: []byte("{"), Msg: e.Msg}, "somebody", "why"); d.State != driver.Discarded || d.Msg.Body != nil || d.Msg.Attrs != nil || d.Msg.ID != "i" {
		t.Errorf("%+v", d)
	}
	if IsReplayed(&driver.Entry{State: driver.Due, Head: (record{Attempts: 1, Lives: []Life{{}}}).encode()}) || IsReplayed(&driver.Entry{State: driver.Due, Head: (record{}).encode()}) {
		t.Error("a retry passes for a replay")
	}
}

// What cannot be read, and is replayed all the same, is no flood of foreign messages.
func TestReplayIsNoFlood(t *testing.T) {
	const most = floodLimit + 5
	r := newRig(t, "log")
	r.topic("order", 1, "a", "b")
	m := r.run("m", map[string]func(context.Context, *Item) Verdict{
		"a": func(context.Context, *Item) Verdict {
			return Verdict{Kind: Dead, Err: errors.New("no"), Code: "undecodable", Unreadable: true}
		},
		"b": r.handle,
	}, func(c *Config) { c.Concurrency = 1 })
	for range most {
		r.publish("order", "k", "a", "b")
	}
	dead := func(lives int) bool {
		n := 0
		for _, e := range r.lane() {
			if rec, err := DecodeDead(e.Head); err == nil && e.State == driver.Dead && len(rec.Lives) == lives {
				n++
			}
		}
		return n == most
	}
	r.eventually("all are dead", func() bool { return dead(0) })
	r.nudge()
	for _, e := range r.lane() {
		r.replay(e)
	}
	r.eventually("all are dead again", func() bool { return dead(1) })
	if m.alarmed("foreign_flood") {
		t.Error("the group has paused itself")
	}
}
