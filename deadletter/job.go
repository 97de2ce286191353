package deadletter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/internal/bridge"
	"github.com/posthorn/posthorn/internal/engine"
)

// A Job says how dead letters are replayed or discarded. The zero value does it at
// once, as fast as the broker takes it.
type Job struct {
	// By names who does it, for the notes. Default: this opening of the bus, by
	// service, host and process.
	By string
	// Reason says why. It is needed to discard.
	Reason string
	// Rate bounds how many are done in a second. Default: no bound.
	Rate float64
	// Canary is how many of each group are replayed first. The others follow when the
	// group has handled all of these; if it gives up on one again, nothing follows. It
	// is for Replay. Default: none.
	Canary int
	// CanaryTime bounds the wait for them. Default: 1 minute.
	CanaryTime time.Duration
	// DryRun only counts what is meant.
	DryRun bool
	// Progress is called, one call at a time, with how many are done of how many.
	// Default: nobody is told.
	Progress func(done, of int)
}

// A Report says what a job has done, as far as it came.
type Report struct {
	// Matched is how many dead letters were meant.
	Matched int
	// Missing are those of Query.IDs that no dead letter has which is meant.
	Missing []string
	// Done is how many were replayed or discarded.
	Done int
	// Skipped is how many were none any more when their turn came: somebody else had
	// replayed or discarded them, and they may be dead again.
	Skipped int
	// Expired is how many have lost their use: they are not replayed, and stay.
	Expired int
	// Failed is how many could not be replayed because their record cannot be read:
	// they stay.
	Failed int
	// Waits says, by group, why what was replayed is not handled at once: the group is
	// paused, or has no member.
	Waits map[string]string
}

// Replay hands dead letters back to the groups that gave up on them, each to its own
// and to no other, to be handled at once and with all attempts. Those are meant that
// are dead when it begins: one that the group gives up on again meanwhile stays dead.
//
// Report says how far it came, also beside an error: what was done is done, and when
// it is called again, the rest follows. Errors: CodeNotFound when nothing is meant, or
// a group does not exist; CodeHandler when the group gave up on one of the canary
// again; CodeTimeout when these are not handled in time, or ctx ends; CodeConflict for
// a canary in a group that is paused or has no member; CodeUndecodable for records
// that cannot be read.
func Replay(ctx context.Context, bus *posthorn.Bus, q Query, j Job) (Report, error) {
	return run(ctx, bus, q, j, ActionReplay, func(e driver.Entry, by string, at time.Time) (*driver.Entry, error) {
		return engine.Replayed(e, by, at)
	})
}

// Discard ends dead letters for good: the group will not see them again. Job.Reason
// has to say why. What is said of [Replay] holds.
func Discard(ctx context.Context, bus *posthorn.Bus, q Query, j Job) (Report, error) {
	switch {
	case strings.TrimSpace(j.Reason) == "":
		return Report{}, errorf(posthorn.CodeInvalid, "discard: the reason is empty; say why, for those who look for the event later")
	case j.Canary != 0:
		return Report{}, errorf(posthorn.CodeInvalid, "discard: a canary is for replay")
	}
	return run(ctx, bus, q, j, ActionDiscard, func(e driver.Entry, by string, _ time.Time) (*driver.Entry, error) {
		return engine.Discard(e, by, j.Reason), nil
	})
}

// maxReason bounds a reason, in bytes.
const maxReason = 1024

func (j *Job) check(member string) error {
	switch {
	case j.Rate < 0 || math.IsNaN(j.Rate) || math.IsInf(j.Rate, 0):
		return errorf(posthorn.CodeInvalid, "the rate is %v; it is a number of dead letters a second, or 0 for no bound", j.Rate)
	case j.Canary < 0:
		return errorf(posthorn.CodeInvalid, "the canary is %d; it cannot be negative", j.Canary)
	case j.CanaryTime < 0:
		return errorf(posthorn.CodeInvalid, "the time for the canary is %v; it cannot be negative", j.CanaryTime)
	case len(j.Reason) > maxReason:
		return errorf(posthorn.CodeInvalid, "the reason is %d bytes long; at most %d are allowed", len(j.Reason), maxReason)
	}
	if j.By == "" {
		j.By = member
	}
	if j.CanaryTime == 0 {
		j.CanaryTime = DefaultCanaryTime
	}
	return nil
}

// DefaultCanaryTime bounds the wait for a canary: see Job.CanaryTime.
const DefaultCanaryTime = time.Minute

// A target is a dead letter that is meant. It takes about 200 bytes.
type target struct {
	p       driver.Partition
	name    string
	order   uint64
	id      string
	expired bool
	// Which of its deaths is meant: after a replay it may die again, under its name.
	died   time.Time
	deaths int
}

// is tells whether a letter is the one that is meant, of that death.
func (t *target) is(l *Letter) bool { return l.Died.Equal(t.died) && len(l.Deaths) == t.deaths }

// A groupJob is what a job has to do in one group.
type groupJob struct {
	*runner
	spec    driver.GroupSpec
	waits   string
	targets []target
	notes   map[driver.Partition][]oldNote
	note    *notebook
	nudged  time.Time // monotonic
}

// A runner is a job at work.
type runner struct {
	walk
	job    Job
	action string
	change func(e driver.Entry, by string, at time.Time) (*driver.Entry, error)
	report Report
	began  time.Time // monotonic
	last   time.Time // of the due times given
	bad    error     // the first record that could not be read
}

func run(ctx context.Context, bus *posthorn.Bus, q Query, j Job, action string, change func(driver.Entry, string, time.Time) (*driver.Entry, error)) (Report, error) {
	r := &runner{walk: walk{b: bridge.Of(bus), q: q}, job: j, action: action, change: change, report: Report{Waits: map[string]string{}}}
	if err := r.job.check(r.b.Member); err != nil {
		return r.report, err
	}
	groups, err := r.plan(ctx)
	if err != nil {
		return r.report, err
	}
	if r.report.Matched == 0 {
		return r.report, errorf(posthorn.CodeNotFound, "%s: no dead letter is meant by: %s", action, r.inWords())
	}
	for _, g := range groups {
		if err := g.look(ctx); err != nil {
			return r.report, err
		}
	}
	if j.DryRun {
		return r.report, nil
	}
	r.began = time.Now() // monotonic
	for _, g := range groups {
		if err := g.run(ctx); err != nil {
			return r.report, err
		}
	}
	if r.bad != nil {
		return r.report, &posthorn.Error{Code: posthorn.CodeUndecodable, Err: r.bad,
			Text: fmt.Sprintf("%s: the records of %d of %d cannot be read, and they stay; discard them, or use the version that wrote them", action, r.report.Failed, r.report.Matched)}
	}
	return r.report, nil
}

func (r *runner) inWords() string {
	if len(r.q.Groups) == 0 {
		return r.q.String() + ", in all groups"
	}
	return r.q.String() + ", in group " + strings.Join(r.q.Groups, ", ")
}

// plan finds what is meant.
func (r *runner) plan(ctx context.Context) ([]*groupJob, error) {
	var all []*groupJob
	missing := map[string]bool{}
	for _, id := range r.q.IDs {
		missing[id] = true
	}
	now := r.b.Now()
	err := r.groups(ctx, func(spec driver.GroupSpec) error {
		g := &groupJob{runner: r, spec: spec, notes: map[driver.Partition][]oldNote{}}
		err := r.lanes(ctx, spec.Name, func(p driver.Partition, e *driver.Entry) {
			g.notes[p] = append(g.notes[p], oldNoteOf(e))
		}, func(p driver.Partition, entries []driver.Entry) error {
			return r.letters(ctx, spec.Name, p, entries, false, func(l Letter, e *driver.Entry, _ error) error {
				delete(missing, l.ID)
				g.targets = append(g.targets, target{p: p, name: e.Name, order: e.Order, id: l.ID, died: l.Died, deaths: len(l.Deaths),
					expired: r.action == ActionReplay && !l.Expires.IsZero() && l.Expires.Before(now)})
				return nil
			})
		})
		slices.SortStableFunc(g.targets, func(x, y target) int { // as they are stored, so that keys keep their order
			return cmp.Or(strings.Compare(x.p.Topic, y.p.Topic), x.p.N-y.p.N, cmp.Compare(x.order, y.order))
		})
		if len(g.targets) > 0 {
			all = append(all, g)
			r.report.Matched += len(g.targets)
		}
		return err
	})
	r.report.Missing = slices.Sorted(maps.Keys(missing))
	return all, err
}

// look finds out whether the group is at work.
func (g *groupJob) look(ctx context.Context) error {
	if g.action != ActionReplay {
		return nil
	}
	members, err := g.b.Driver.Members(ctx, g.spec.Name)
	switch {
	case err != nil:
		return g.b.Wrap(err, fmt.Sprintf("members of group %q", g.spec.Name))
	case g.spec.Paused != "":
		g.waits = "it is paused: " + g.spec.Paused
	case len(members) == 0:
		g.waits = "it has no member"
	}
	if g.waits == "" {
		return nil
	}
	g.report.Waits[g.spec.Name] = g.waits
	if g.job.Canary > 0 && !g.job.DryRun {
		return errorf(posthorn.CodeConflict, "replay to group %q: nobody would handle the canary: %s", g.spec.Name, g.waits)
	}
	return nil
}

// run does what there is to do in the group, between the beginning and the end of a
// note and of two nudges: the first has the lanes watched before anything is put
// there, so that what is put by a process that is killed is noticed, too.
func (g *groupJob) run(ctx context.Context) (err error) {
	if err := g.begin(ctx); err != nil {
		return err
	}
	defer func() {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
		defer cancel()
		err = cmp.Or(err, g.nudge(late))
		if e := g.note.end(ctx, g.b.Now(), err); e != nil {
			g.b.Log.Warn("dead letters: the note of what was done does not say how it ended", "group", g.spec.Name, "action", g.action, "error", e)
		}
	}()
	rest := g.targets
	if n := min(g.job.Canary, len(rest)); n > 0 {
		done, err := g.some(ctx, rest[:n])
		if err == nil {
			err = g.watch(ctx, done, len(rest)-n)
		}
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	_, err = g.some(ctx, rest)
	return err
}

// begin writes the note and has the group's members watch their lanes.
func (g *groupJob) begin(ctx context.Context) error {
	p := g.targets[0].p
	g.note = &notebook{lane: g.b.Driver.Lane(g.spec.Name, p), head: noteHead{Action: g.action, By: g.job.By, Reason: g.job.Reason,
		Query: g.q.String(), Matched: len(g.targets)}}
	for _, t := range g.targets[:min(len(g.targets), maxNoteIDs)] {
		g.note.head.IDs = append(g.note.head.IDs, t.id)
	}
	if err := g.note.begin(ctx, g.b.Now(), g.notes[p]); err != nil {
		return g.b.Wrap(err, fmt.Sprintf("%s in group %q: nothing was done, since no note of it can be kept", g.action, g.spec.Name))
	}
	return g.nudge(ctx)
}

// nudgeEvery is how often members are told, during a job, to watch their lanes: those
// that have taken over a partition meanwhile do not.
const nudgeEvery = 10 * time.Second

func (g *groupJob) nudge(ctx context.Context) error {
	g.nudged = time.Now() // monotonic
	if err := g.b.Driver.NudgeGroup(ctx, g.spec.Name); err != nil {
		return g.b.Wrap(err, fmt.Sprintf("%s in group %q: its members are not told, and take up what was done when they start, or when this is repeated", g.action, g.spec.Name))
	}
	return nil
}

// some changes targets, in batches, at the rate. It returns those that it changed.
func (g *groupJob) some(ctx context.Context, targets []target) (done []target, err error) {
	for len(targets) > 0 {
		n := 1
		for n < len(targets) && n < g.batch() && targets[n].p == targets[0].p {
			n++
		}
		if err := g.pace(ctx); err != nil {
			return done, g.interrupted(err)
		}
		if time.Since(g.nudged) > nudgeEvery { // monotonic
			if err := g.nudge(ctx); err != nil {
				return done, err
			}
		}
		some, err := g.apply(ctx, targets[:n])
		done = append(done, some...)
		if g.job.Progress != nil {
			r := &g.report
			g.job.Progress(r.Done+r.Skipped+r.Expired+r.Failed, r.Matched)
		}
		if err != nil {
			return done, err
		}
		targets = targets[n:]
	}
	return done, nil
}

func (g *groupJob) interrupted(err error) error {
	r := &g.report
	return g.b.Wrap(err, fmt.Sprintf("%s: stopped after %d of %d; what was done is done, and the rest follows when it is started again", g.action, r.Done, r.Matched))
}

// batch is how many are done at a time: at a rate, what belongs to a quarter of a
// second.
func (g *groupJob) batch() int {
	if g.job.Rate == 0 {
		return bodyPage
	}
	return min(max(int(g.job.Rate/4), 1), bodyPage)
}

// pace waits until the rate allows for more.
func (r *runner) pace(ctx context.Context) error {
	if err := ctx.Err(); err != nil || r.job.Rate == 0 {
		return err
	}
	wait := time.Until(r.began.Add(time.Duration(float64(r.report.Done) / r.job.Rate * float64(time.Second)))) // monotonic
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// How often, and after which pause, an entry is looked at again that was in conflict:
// somebody may have edited it, and what answered may be a replica that is behind.
const (
	conflictTries = 5
	conflictPause = 20 * time.Millisecond
)

// apply changes targets of one lane, and counts what became of each.
func (g *groupJob) apply(ctx context.Context, targets []target) (done []target, err error) {
	before := g.report
	for try := 1; len(targets) > 0 && err == nil; try++ {
		var some, again []target
		some, again, err = g.try(ctx, targets)
		done, targets = append(done, some...), again
		if try == conflictTries {
			g.report.Skipped += len(again)
			break
		}
		if len(again) > 0 && err == nil {
			select {
			case <-time.After(conflictPause):
			case <-ctx.Done():
				err = g.interrupted(ctx.Err())
			}
		}
	}
	h := &g.note.head
	h.Done += g.report.Done - before.Done
	h.Skipped += g.report.Skipped - before.Skipped + g.report.Expired - before.Expired
	h.Failed += g.report.Failed - before.Failed
	return done, err
}

// try changes targets of one lane once. It returns those that it changed, and those
// that were in conflict.
func (g *groupJob) try(ctx context.Context, targets []target) (done, again []target, err error) {
	lane := g.b.Driver.Lane(g.spec.Name, targets[0].p)
	var names []string
	for _, t := range targets {
		names = append(names, t.name)
	}
	entries, err := lane.Get(ctx, names)
	if err != nil {
		return nil, nil, g.interrupted(err)
	}
	stands := map[string]*driver.Entry{}
	for i := range entries {
		stands[entries[i].Name] = &entries[i]
	}
	var ops []driver.LaneOp
	var of []target
	for _, t := range targets {
		e := stands[t.name]
		if e == nil || e.State != driver.Dead {
			g.report.Skipped++
			continue
		}
		l, _ := g.b.Letter(g.spec.Name, t.p, e)
		letter := l.(Letter)
		if !t.is(&letter) {
			g.report.Skipped++
			continue
		}
		if t.expired {
			g.report.Expired++
			continue
		}
		changed, err := g.change(*e, g.job.By, g.next())
		if err != nil {
			g.report.Failed++
			if g.bad == nil {
				g.bad = fmt.Errorf("%s: %w", t.id, err)
			}
			continue
		}
		ops, of = append(ops, driver.LaneOp{Entry: changed}), append(of, t)
	}
	if len(ops) == 0 {
		return nil, nil, nil
	}
	return g.count(ops, of, lane.Apply(ctx, ops))
}

// next is when the next one is due: now, and behind the one before it.
func (r *runner) next() time.Time {
	now := r.b.Now().Round(0).UTC()
	if !now.After(r.last) {
		now = r.last.Add(1)
	}
	r.last = now
	return now
}

// count tells what became of operations. all is what Apply returned.
func (g *groupJob) count(ops []driver.LaneOp, of []target, all error) (done, again []target, err error) {
	none := true
	for _, o := range ops {
		none = none && o.Err == nil
	}
	unknown := 0
	for i, o := range ops {
		if none {
			o.Err = all
		}
		switch {
		case o.Err == nil:
			g.report.Done++
			done = append(done, of[i])
		case errors.Is(o.Err, driver.ErrConflict):
			again = append(again, of[i])
		default:
			unknown++
			err = o.Err
		}
	}
	if err != nil {
		err = g.b.Wrap(err, fmt.Sprintf("%s: stopped after %d of %d; of %d more it is not known; start it again: what is done is skipped, and the rest follows",
			g.action, g.report.Done, g.report.Matched, unknown))
	}
	return done, again, err
}
