package drivertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/deadletter"
	"github.com/posthorn/posthorn/driver"
)

var deadCases = []Case{
	{Name: "seam/nudge", Promise: "P11", Doc: "NudgeGroup counts in the group's record, and the members are told", run: nudges},
	{Name: "dead/replay-to-its-group-only", Promise: "P11", Doc: "a replayed dead letter is handled by the group that gave up on it, at once and once, while no other group notices", run: replayToItsGroup},
	{Name: "dead/replay-twice", Promise: "P11", Doc: "of two replays at the same moment, and of two after another, each dead letter is handled once", run: replayTwice},
	{Name: "dead/replay-interrupted", Promise: "P11", Doc: "a replay whose process is killed in the middle is started again: each dead letter is handled once", run: replayInterrupted},
	{Name: "dead/replay-without-members", Promise: "P11", Doc: "what is replayed, or discarded, while the group has no member is found by the next one", run: replayWithoutMembers},
	{Name: "dead/replay-across-hand-overs", Promise: "P11", Doc: "while members come and go, all that is replayed is handled, once", run: replayAcrossHandOvers},
	{Name: "dead/order-of-a-key", Promise: "P5", Doc: "replayed dead letters of one key are handled in the order they were stored in, one at a time", run: replayInOrder},
	{Name: "dead/attempts-anew", Promise: "P4", Doc: "a replayed dead letter has all its attempts again, and keeps what it died of before", run: attemptsAnew},
	{Name: "dead/canary", Promise: "P11", Doc: "when the group gives up on one of the canary again, the others stay dead letters", run: canaryStops},
	{Name: "dead/edit", Promise: "P11", Doc: "an edited dead letter is replayed as it was edited, under its id, and a note keeps it as it was", run: editThenReplay},
	{Name: "dead/discard", Promise: "P11", Doc: "a discarded dead letter is not handled again, and leaves nothing but a note", run: discards},
	{Name: "dead/context-kept", Promise: "P10 peer 10", Doc: "a replayed event has its id, correlation, trace and headers, passes them on, and has a whole timeout", run: contextKept},
}

// A grave is a group that gives up on everything until it is mended.
type grave struct {
	*rig
	n      *node
	group  string
	made   itemType
	mended atomic.Bool
	fail   func(e *posthorn.Event[item]) error
}

// givesUp has a group give up at the first attempt.
func givesUp(*posthorn.Event[item]) error { return posthorn.Permanent(errHandler) }

// grave starts a group on a node, which gives up.
func (r *rig) grave(n *node, group string, made itemType) *grave {
	r.Helper()
	g := &grave{rig: r, n: n, group: group, made: made, fail: givesUp}
	g.join(n, quick())
	return g
}

// join starts a member of the group.
func (g *grave) join(n *node, cfg posthorn.GroupConfig) *posthorn.Group {
	g.Helper()
	return n.listen(g.group, cfg, func(_ context.Context, e *posthorn.Event[item]) error {
		if !g.mended.Load() {
			return g.fail(e)
		}
		return nil
	}, g.made)
}

// bury publishes items and waits until all are dead letters.
func (g *grave) bury(items ...item) {
	g.Helper()
	g.n.publish(g.made, items...)
	g.n.hasDead(g.group, len(items))
}

func (g *grave) all() deadletter.Query {
	return deadletter.Query{Groups: []string{g.name(g.group)}}
}

// replay replays all dead letters of the group from a node.
func (g *grave) replay(n *node, j deadletter.Job) deadletter.Report {
	g.Helper()
	ctx, cancel := g.deadline()
	defer cancel()
	r, err := deadletter.Replay(ctx, n.bus, g.all(), j)
	if err != nil {
		g.Fatalf("Replay: %v, after %+v", err, r)
	}
	return r
}

// replayed tells whether operations replay something.
func replayed(ops []driver.LaneOp) bool {
	return slices.ContainsFunc(ops, func(o driver.LaneOp) bool { return !o.Delete && o.Entry.State == driver.Due })
}

func nudges(r *rig) {
	d := r.driver()
	p, group := r.setUp(d, "nudge")
	h := r.join(d, group, p.Topic)
	t := r.tenure(h)
	for n := 1; n <= 3; n++ {
		if err := r.driver().NudgeGroup(r.ctx, group); err != nil {
			r.Fatalf("NudgeGroup: %v", err)
		}
		if g := r.group(d, group); g.Nudges != n || g.Version != 1 || g.Paused != "" || g.Resumes != 0 {
			r.Errorf("after %d nudges the record is %+v", n, g)
		}
		r.eventuallyf(func() string { return fmt.Sprintf("the member is told of nudge %d", n) }, func() bool {
			return h.told(func(g driver.GroupSpec) bool { return g.Nudges == n })
		})
	}
	r.store(d, p, message(0))
	r.settle(t, r.fetch(t, 1)...) // it costs nobody a partition
	if err := d.NudgeGroup(r.ctx, r.name("nobody")); !errors.Is(err, driver.ErrNotFound) {
		r.Errorf("NudgeGroup of a group that does not exist: %v", err)
	}
}

func replayToItsGroup(r *rig) {
	made := r.kind(r.topic("replay", 2), "made")
	n := r.open()
	fails, other := r.grave(n, "fails", made), r.grave(n, "other", made)
	n.listen("fine", quick(), ok, made)
	fails.bury(r.items(20, keys(4)...)...)
	n.hasDead("other", 20)
	r.effects("fine", 20)
	fails.mended.Store(true)
	other.mended.Store(true)
	began := time.Now()
	if rep := fails.replay(r.open(), deadletter.Job{}); rep.Done != 20 || len(rep.Waits) > 0 {
		r.Errorf("%+v", rep)
	}
	r.effects("fails", 20)
	r.Logf("handled %v after the replay began", time.Since(began))
	r.onceEach("fails", 20)
	r.never("another group handles what was replayed", func() bool {
		return r.log.count(opStart, "fine") > 20 || r.log.count(opStart, "other") > 20
	})
	if left := n.deadLetters("other"); len(left) != 20 {
		r.Errorf("the other group has %d dead letters of 20", len(left))
	}
	if left := n.deadLetters("fails"); len(left) != 0 {
		r.Errorf("%d dead letters are left", len(left))
	}
}

func replayTwice(r *rig) {
	made := r.kind(r.topic("twice", 2), "made")
	n := r.open()
	g := r.grave(n, "g", made)
	g.bury(r.items(30, keys(5)...)...)
	g.mended.Store(true)
	first, second := r.open(), r.open()
	var reports []deadletter.Report
	var between atomic.Bool
	hook := func(ops []driver.LaneOp) error {
		// The first has read what it is about to put: now the second does it all.
		if replayed(ops) && between.CompareAndSwap(false, true) {
			reports = append(reports, g.replay(second, deadletter.Job{}))
			r.wait(func() bool { return len(r.log.items(opEffect, "g")) == 30 })
		}
		return nil
	}
	first.cut.onApply.Store(&hook)
	reports = append(reports, g.replay(first, deadletter.Job{}))
	if len(reports) != 2 || reports[0].Done != 30 || reports[1].Done != 0 || reports[1].Skipped != 30 {
		r.Errorf("%+v", reports)
	}
	r.effects("g", 30)
	_, err := deadletter.Replay(r.ctx, second.bus, g.all(), deadletter.Job{})
	if posthorn.CodeOf(err) != posthorn.CodeNotFound {
		r.Errorf("a replay of what is not dead any more: %v", err)
	}
	r.never("something is handled twice", func() bool { return len(r.log.repeats("g")) > 0 })
	r.onceEach("g", 30)
}

func replayInterrupted(r *rig) {
	made := r.kind(r.topic("interrupted", 1), "made")
	n := r.open()
	g := r.grave(n, "g", made)
	g.bury(r.items(150, keys(7)...)...)
	g.mended.Store(true)
	operator := r.open()
	var puts atomic.Int64
	died := make(chan struct{})
	hook := func(ops []driver.LaneOp) error {
		if replayed(ops) && puts.Add(1) == 2 {
			go func() { operator.cutOff(); close(died) }()
			return errKilled
		}
		return nil
	}
	operator.cut.onApply.Store(&hook)
	rep, err := deadletter.Replay(r.ctx, operator.bus, g.all(), deadletter.Job{})
	if err == nil || rep.Done == 0 || rep.Done == 150 {
		r.Fatalf("the killed replay: %+v, %v", rep, err)
	}
	<-died
	operator.bury()
	r.effects("g", rep.Done) // they are not held up by what has died
	if again := g.replay(r.open(), deadletter.Job{}); again.Done+rep.Done != 150 {
		r.Errorf("%+v, then %+v", rep, again)
	}
	r.effects("g", 150)
	r.onceEach("g", 150)
}

func replayWithoutMembers(r *rig) {
	made := r.kind(r.topic("absent", 2), "made")
	n := r.open()
	g := r.grave(n, "g", made)
	items := r.items(20, keys(5)...)
	g.bury(items...)
	n.close()
	operator := r.open()
	ctx, cancel := r.deadline()
	defer cancel()
	q := g.all()
	q.Keys = []string{"key-0"}
	if rep, err := deadletter.Discard(ctx, operator.bus, q, deadletter.Job{Reason: "a test"}); err != nil || rep.Done != 4 {
		r.Fatalf("Discard: %+v, %v", rep, err)
	}
	rep := g.replay(operator, deadletter.Job{})
	if why := rep.Waits[r.name("g")]; rep.Done != 16 || !strings.Contains(why, "no member") {
		r.Errorf("%+v", rep)
	}
	g.mended.Store(true)
	g.join(r.open(), quick())
	r.effects("g", 16)
	g.emptied(operator)
	r.onceEach("g", 16)
}

// emptied waits until the lanes of the group hold nothing but notes.
func (g *grave) emptied(n *node) {
	g.Helper()
	d := g.driver()
	g.eventually("the lanes are empty", func() bool {
		positions, err := d.Positions(g.ctx, g.name(g.group))
		if err != nil {
			g.Fatalf("Positions: %v", err)
		}
		for _, p := range positions {
			for _, e := range g.scan(d.Lane(g.name(g.group), p.Partition), 100) {
				if e.State != driver.Note {
					return false
				}
			}
		}
		return true
	})
}

func replayAcrossHandOvers(r *rig) {
	const most = 120
	made := r.kind(r.topic("moving", 4), "made")
	n := r.open()
	g := r.grave(n, "g", made)
	g.bury(r.items(most, keys(12)...)...)
	g.mended.Store(true)
	operator := r.open()
	moved := 0
	rep := g.replay(operator, deadletter.Job{Rate: 400, Progress: func(done, of int) {
		if done >= (moved+1)*most/4 && moved < 3 { // while it goes on, somebody joins
			moved++
			g.join(r.open(), quick())
		}
	}})
	if rep.Done != most || moved != 3 {
		r.Errorf("%+v, %d joined", rep, moved)
	}
	n.close()
	r.effects("g", most)
	g.emptied(operator)
	r.onceEach("g", most)
}

func replayInOrder(r *rig) {
	made := r.kind(r.topic("order", 1), "made")
	n := r.open()
	g := r.grave(n, "g", made)
	items := r.items(60, "k")
	for _, it := range items { // one at a time: those of a queue come in any order otherwise
		n.publish(made, it)
	}
	n.hasDead("g", 60)
	g.mended.Store(true)
	g.replay(r.open(), deadletter.Job{})
	r.effects("g", 60)
	last := 0
	for _, o := range r.log.of(opEffect, "g") {
		if o.n < last {
			r.Errorf("item %d was handled behind item %d", o.n, last)
		}
		last = o.n
	}
	if beside := r.log.of(opBeside, "g"); len(beside) > 0 {
		r.Errorf("%d were started beside another of their key", len(beside))
	}
	r.onceEach("g", 60)
}

func attemptsAnew(r *rig) {
	made := r.kind(r.topic("anew", 1), "made")
	n := r.open()
	g := &grave{rig: r, n: n, group: "g", made: made}
	var life atomic.Int64
	g.fail = func(e *posthorn.Event[item]) error { return fmt.Errorf("life %d, attempt %d", life.Load(), e.Attempt) }
	cfg := quick()
	cfg.Retry.Attempts, cfg.Retry.Late = 2, 1
	g.join(n, cfg)
	n.publish(made, r.items(1, "k")...)
	for n.hasDead("g", 1); ; life.Add(1) {
		died := int(life.Load())
		d := n.deadLetters("g")[0]
		if d.Attempts != 3 || len(d.Deaths) != died || len(d.Errors) != 3*(died+1) {
			r.Fatalf("in life %d it died as %+v", died, d)
		}
		if d.Errors[0] != "life 0, attempt 1" || d.Errors[len(d.Errors)-1] != fmt.Sprintf("life %d, attempt 3", died) {
			r.Errorf("in life %d it died of %q", died, d.Errors)
		}
		for _, past := range d.Deaths {
			if past.Attempts != 3 || past.By != "anna" || past.Died.IsZero() || past.Replayed.Before(past.Died) || d.Died.Before(past.Died) {
				r.Errorf("a death before is %+v", past)
			}
		}
		if died == 1 {
			break
		}
		life.Store(1)
		g.replay(r.open(), deadletter.Job{By: "anna"})
		r.eventually("it dies again", func() bool {
			dead := n.deadLetters("g")
			return len(dead) == 1 && len(dead[0].Deaths) == 1
		})
		life.Store(0)
	}
	if starts := r.log.count(opStart, "g"); starts != 6 {
		r.Errorf("%d starts, want twice 3", starts)
	}
}

func canaryStops(r *rig) {
	made := r.kind(r.topic("canary", 2), "made")
	n := r.open()
	g := r.grave(n, "g", made)
	g.bury(r.items(20, keys(5)...)...)
	operator := r.open()
	ctx, cancel := r.deadline()
	defer cancel()
	rep, err := deadletter.Replay(ctx, operator.bus, g.all(), deadletter.Job{Canary: 2, CanaryTime: r.patience})
	if posthorn.CodeOf(err) != posthorn.CodeHandler || rep.Done != 2 || rep.Matched != 20 {
		r.Errorf("a canary that dies: %+v, %v", rep, err)
	}
	n.hasDead("g", 20)
	if starts := r.log.count(opStart, "g"); starts != 22 {
		r.Errorf("%d starts; 20 and 2 of the canary were to be", starts)
	}
	g.mended.Store(true)
	rep = g.replay(operator, deadletter.Job{Canary: 2, CanaryTime: r.patience})
	r.effects("g", 20)
	if r.onceEach("g", 20); rep.Done != 20 {
		r.Errorf("%+v", rep)
	}
}

func editThenReplay(r *rig) {
	made := r.kind(r.topic("edit", 1), "made")
	n := r.open()
	g := r.grave(n, "g", made)
	items := r.items(2, "a", "b")
	g.bury(items...)
	operator := r.open()
	ctx, cancel := r.deadline()
	defer cancel()
	var old posthorn.DeadLetter
	for _, l := range n.deadLetters("g") {
		if l.Key == "a" {
			old = l
		}
	}
	data := fmt.Sprintf(`{"k":"a","n":%d,"pad":"edited"}`, items[0].N)
	edited, err := deadletter.Edit(ctx, operator.bus, old, deadletter.Change{By: "anna", Data: []byte(data), Headers: map[string]string{"x-mended": "yes"}})
	if err != nil {
		r.Fatalf("Edit: %v", err)
	}
	if edited.ID != old.ID || edited.Revision == old.Revision || edited.EditedBy != "anna" || len(edited.Errors) != len(old.Errors) {
		r.Errorf("edited: %+v", edited)
	}
	if _, err := deadletter.Edit(ctx, operator.bus, old, deadletter.Change{Data: []byte(data)}); posthorn.CodeOf(err) != posthorn.CodeConflict {
		r.Errorf("an edit of what it was before: %v", err)
	}
	notes, err := deadletter.Log(ctx, operator.bus, r.name("g"))
	if err != nil || len(notes) != 1 || notes[0].Original == nil || string(notes[0].Original.Data) != string(old.Data) || notes[0].Original.ID != old.ID {
		r.Errorf("the notes: %+v, %v", notes, err)
	}
	g.mended.Store(true)
	got := make(chan posthorn.Event[item], 4)
	r.stop(n.bus.Group(r.name("g"), quick()))
	second := r.open()
	second.listen("g", quick(), func(_ context.Context, e *posthorn.Event[item]) error { got <- *e; return nil }, made)
	g.replay(operator, deadletter.Job{})
	for range 2 {
		select {
		case e := <-got:
			want, head := "", "(none)"
			if e.Key == "a" {
				want, head = "edited", "yes"
			}
			if e.Data.Pad != want || header(e.Headers, "x-mended") != head || e.Key == "a" && e.ID != old.ID {
				r.Errorf("%s arrived as %+v", e.Key, e)
			}
		case <-time.After(r.patience):
			r.Fatalf("what was replayed does not arrive")
		}
	}
}

func discards(r *rig) {
	made := r.kind(r.topic("discard", 2), "made")
	n := r.open()
	g := r.grave(n, "g", made)
	g.bury(r.items(20, keys(5)...)...)
	g.mended.Store(true)
	operator := r.open()
	ctx, cancel := r.deadline()
	defer cancel()
	rep, err := deadletter.Discard(ctx, operator.bus, g.all(), deadletter.Job{By: "anna", Reason: "a test"})
	if err != nil || rep.Done != 20 {
		r.Fatalf("Discard: %+v, %v", rep, err)
	}
	if left := n.deadLetters("g"); len(left) != 0 {
		r.Errorf("%d dead letters are left", len(left))
	}
	g.emptied(operator)
	if _, err := deadletter.Discard(ctx, operator.bus, g.all(), deadletter.Job{Reason: "again"}); posthorn.CodeOf(err) != posthorn.CodeNotFound {
		r.Errorf("a discard of what is not there any more: %v", err)
	}
	n.close()
	g.join(r.open(), quick())
	r.never("what was discarded is handled", func() bool { return r.log.count(opStart, "g") > 20 })
	notes, err := deadletter.Log(ctx, operator.bus, r.name("g"))
	if err != nil || len(notes) != 1 || notes[0].By != "anna" || notes[0].Reason != "a test" || notes[0].Done != 20 || len(notes[0].IDs) != 20 || notes[0].Ended.IsZero() {
		r.Errorf("the notes: %+v, %v", notes, err)
	}
}

func contextKept(r *rig) {
	const timeout = 7 * time.Second
	up, down := r.kind(r.topic("up", 1), "up"), r.kind(r.topic("down", 1), "down")
	n := r.open(posthorn.Propagate("x-tenant"))
	cfg := quick()
	cfg.Timeout = timeout
	var mended atomic.Bool
	n.listen("up", cfg, func(ctx context.Context, e *posthorn.Event[item]) error {
		if !mended.Load() {
			return posthorn.Permanent(errHandler)
		}
		end, has := ctx.Deadline()
		if left := time.Until(end); !has || left > timeout || left < timeout-3*time.Second {
			r.Errorf("the replay has %v left of its timeout of %v", left, timeout)
		}
		if e.CorrelationID != "corr-9" || header(e.Headers, "x-tenant") != "acme" || e.Attempt != 1 {
			r.Errorf("the replay has attempt %d, correlation id %q and headers %v", e.Attempt, e.CorrelationID, e.Headers)
		}
		return down.Publish(ctx, n.bus, e.Data)
	}, up)
	got := make(chan posthorn.Event[item], 2)
	n.listen("down", quick(), func(_ context.Context, e *posthorn.Event[item]) error { got <- *e; return nil }, down)
	const trace = "0af7651916cd43dd8448eb211c80319c"
	m := event(r, up, r.name("first"), "k", fmt.Sprintf(`{"k":"k","n":%d}`, r.next.Add(1)))
	m.Attrs = []driver.Attr{{Name: "traceparent", Value: "00-" + trace + "-b7ad6b7169203331-01"}, {Name: "correlationid", Value: "corr-9"}}
	m.Headers = []driver.Attr{{Name: "x-tenant", Value: "acme"}}
	n.raw(up.Topic().Name(), 0, m)
	n.hasDead("up", 1)
	var traces atomic.Value
	look := func(p driver.Partition, msgs []driver.Message) appendFault {
		for _, m := range msgs {
			for _, at := range m.Attrs {
				if at.Name == "traceparent" && p.Topic == down.Topic().Name() {
					traces.Store(at.Value)
				}
			}
		}
		return appendFault{}
	}
	n.cut.onAppend.Store(&look)
	mended.Store(true)
	ctx, cancel := r.deadline()
	defer cancel()
	if _, err := deadletter.Replay(ctx, r.open().bus, deadletter.Query{Groups: []string{r.name("up")}}, deadletter.Job{}); err != nil {
		r.Fatalf("Replay: %v", err)
	}
	select {
	case e := <-got:
		if e.CorrelationID != "corr-9" || e.CausationID != m.ID || header(e.Headers, "x-tenant") != "acme" {
			r.Errorf("what the replay published has correlation %q, causation %q (want %q), headers %v", e.CorrelationID, e.CausationID, m.ID, e.Headers)
		}
		if v, _ := traces.Load().(string); !strings.Contains(v, trace) {
			r.Errorf("traceparent of what the replay published is %q, want the trace %s", v, trace)
		}
	case <-time.After(r.patience):
		r.Fatalf("what the replay publishes does not arrive")
	}
}
