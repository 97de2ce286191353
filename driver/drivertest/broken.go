package drivertest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// A brokenDriver breaks one promise. It is a wrapper: the engine and the driver
// beneath know nothing of it.
type brokenDriver struct {
	// name says what it does wrong.
	name string
	// logCase and queueCase are the case that it must fail in each shape; "" where
	// the breakage makes no sense for the shape.
	logCase, queueCase string
	// also are the other cases that may fail with it, by name or by a name's
	// beginning with a '*' at its end, with the reason.
	also map[string]string
	// only are the cases that it is run against, in the same form, where no other
	// one calls what it breaks. Nil: all.
	only []string
	// needs returns why it makes no sense for a driver, or "".
	needs func(driver.Caps) string
	wrap  func(w *brokenWorld, d driver.Driver) driver.Driver
}

// A brokenWorld is a broken driver in one run of one case, over all opens.
type brokenWorld struct {
	b     *brokenDriver
	caps  driver.Caps
	mu    sync.Mutex
	opens int

	writes atomic.Int64 // to lanes
}

func (w *brokenWorld) wrap(d driver.Driver) driver.Driver {
	w.mu.Lock()
	w.opens++
	w.mu.Unlock()
	return w.b.wrap(w, d)
}

// mainCase is the case that the driver must fail.
func (b *brokenDriver) mainCase(caps driver.Caps) string {
	if caps.Queue {
		return b.queueCase
	}
	return b.logCase
}

// reason is why a case may fail with it, or "".
func (b *brokenDriver) reason(name string) string {
	if why, ok := b.also[name]; ok {
		return why
	}
	for pattern, why := range b.also {
		if fits(pattern, name) {
			return why
		}
	}
	return ""
}

// fits tells whether a case is meant by a name, or a name's beginning with a '*'.
func fits(pattern, name string) bool {
	prefix, ok := strings.CutSuffix(pattern, "*")
	return pattern == name || ok && strings.HasPrefix(name, prefix)
}

// meets tells whether it is run against a case.
func (b *brokenDriver) meets(name string) bool {
	return b.only == nil || slices.ContainsFunc(b.only, func(pattern string) bool { return fits(pattern, name) })
}

// A verdict is what one case said of one broken driver.
type verdict struct {
	broken, name string
	failed       bool
	why          string // the first failure
	listed       string // the reason, if the failure is expected
	took         time.Duration
}

// RunBroken runs all cases against each broken driver. Each driver has to fail
// its case and no other than those that are listed beside it. With -short, or
// Harness.BrokenOwn, only its own case is run. With -v the matrix is printed.
func RunBroken(t *testing.T, h Harness) {
	t.Helper()
	h = h.withDefaults()
	caps, done := keepOpen(t, h)
	defer done()
	before := busGoroutines()
	var jobs []func()
	var mu sync.Mutex
	all := map[string][]verdict{}
	for _, b := range brokenDrivers {
		if why := b.leftOut(caps); why != "" {
			t.Logf("left out: a driver that %s: %s", b.name, why)
			continue
		}
		for _, c := range Cases() {
			main, also := c.Name == b.mainCase(caps), b.reason(c.Name)
			if c.leftOut(h, caps) != "" || !b.meets(c.Name) || (h.BrokenOwn || testing.Short()) && !main {
				continue
			}
			jobs = append(jobs, func() {
				v := runBroken(h, c, caps, b, main || also != "")
				if v.listed = also; main {
					v.listed = itsCase
				}
				mu.Lock()
				defer mu.Unlock()
				all[b.name] = append(all[b.name], v)
			})
		}
	}
	runAll(jobs)
	for _, b := range brokenDrivers {
		again(t, h, caps, b, all[b.name])
	}
	for _, b := range brokenDrivers {
		if len(all[b.name]) > 0 {
			t.Run(b.name, func(t *testing.T) { report(t, b, all[b.name]) })
		}
	}
	checkLeaks(t, before)
}

const itsCase = "its case"

// runAll runs jobs, some at a time: they mostly wait.
func runAll(jobs []func()) {
	next := make(chan func())
	var wg sync.WaitGroup
	for range 4 * runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for job := range next {
				job()
			}
		})
	}
	for _, job := range jobs {
		next <- job
	}
	close(next)
	wg.Wait()
}

// again runs what failed and is not listed once more, by itself: thousands of runs
// beside each other are a load that a case's waits may not be made for, and that
// says nothing of the broken driver.
func again(t *testing.T, h Harness, caps driver.Caps, b *brokenDriver, vs []verdict) {
	for i, v := range vs {
		if !v.failed || v.listed != "" {
			continue
		}
		for _, c := range Cases() {
			if c.Name != v.name {
				continue
			}
			if second := runBroken(h, c, caps, b, false); !second.failed {
				t.Logf("a driver that %s failed %s beside others (%s) and passed by itself", b.name, v.name, v.why)
				vs[i] = second
			}
		}
	}
}

// report holds what happened to one broken driver against what is listed.
func report(t *testing.T, b *brokenDriver, vs []verdict) {
	slices.SortFunc(vs, func(x, y verdict) int { return strings.Compare(x.name, y.name) })
	failed := 0
	for _, v := range vs {
		if v.failed {
			failed++
		}
		switch {
		case v.failed && v.listed == "":
			t.Errorf("fails %s (%.1fs), which is not listed beside it: %s", v.name, v.took.Seconds(), v.why)
		case !v.failed && v.listed == itsCase:
			t.Errorf("passes %s, its case", v.name)
		case v.failed:
			t.Logf("fails %s (%.1fs; %s): %s", v.name, v.took.Seconds(), v.listed, v.why)
		case v.listed != "":
			t.Logf("passes %s (%.1fs), where it may fail: %s", v.name, v.took.Seconds(), v.listed)
		}
	}
	t.Logf("a driver that %s fails %d of %d cases", b.name, failed, len(vs))
}

func (b *brokenDriver) leftOut(caps driver.Caps) string {
	if b.mainCase(caps) == "" {
		return "it makes no sense for this shape"
	}
	if b.needs != nil {
		return b.needs(caps)
	}
	return ""
}

func runBroken(h Harness, c Case, caps driver.Caps, b *brokenDriver, fails bool) verdict {
	patience := h.Patience
	if fails {
		patience = h.BrokenPatience
	}
	began := time.Now()
	rec := record(func(rt T) {
		r := newRig(rt, h, c, caps, &brokenWorld{b: b, caps: caps}, patience)
		defer r.finish()
		c.run(r)
	})
	return verdict{broken: b.name, name: c.Name, failed: rec.Failed(), why: rec.first(), took: time.Since(began)}
}

// tenureShim wraps what a holder calls; functions that are not set pass on.
type tenureShim struct {
	driver.Tenure
	start      func() driver.Checkpoint
	fetch      func(ctx context.Context, into []driver.Delivery, maxBytes int) (int, error)
	checkpoint func(ctx context.Context, c driver.Checkpoint) error
	settle     func(ctx context.Context, s []driver.Settlement) error
	release    func(ctx context.Context, c driver.Checkpoint) error
}

func (t *tenureShim) Start() driver.Checkpoint {
	if t.start != nil {
		return t.start()
	}
	return t.Tenure.Start()
}

func (t *tenureShim) Fetch(ctx context.Context, into []driver.Delivery, maxBytes int) (int, error) {
	if t.fetch != nil {
		return t.fetch(ctx, into, maxBytes)
	}
	return t.Tenure.Fetch(ctx, into, maxBytes)
}

func (t *tenureShim) Checkpoint(ctx context.Context, c driver.Checkpoint) error {
	if t.checkpoint != nil {
		return t.checkpoint(ctx, c)
	}
	return t.Tenure.Checkpoint(ctx, c)
}

func (t *tenureShim) Settle(ctx context.Context, s []driver.Settlement) error {
	if t.settle != nil {
		return t.settle(ctx, s)
	}
	return t.Tenure.Settle(ctx, s)
}

func (t *tenureShim) Release(ctx context.Context, c driver.Checkpoint) error {
	if t.release != nil {
		return t.release(ctx, c)
	}
	return t.Tenure.Release(ctx, c)
}

// laneShim wraps a lane; functions that are not set pass on.
type laneShim struct {
	driver.Lane
	apply func(ctx context.Context, ops []driver.LaneOp) error
	// see may change an entry that is read, or hide it by returning false.
	see   func(e *driver.Entry) bool
	scan  func(ctx context.Context, after string, most int) ([]driver.Entry, string, error)
	watch func(ctx context.Context, f func(driver.Entry)) error
}

func (l *laneShim) Apply(ctx context.Context, ops []driver.LaneOp) error {
	if l.apply != nil {
		return l.apply(ctx, ops)
	}
	return l.Lane.Apply(ctx, ops)
}

func (l *laneShim) seen(es []driver.Entry) []driver.Entry {
	if l.see == nil {
		return es
	}
	kept := es[:0]
	for _, e := range es {
		if l.see(&e) {
			kept = append(kept, e)
		}
	}
	return kept
}

func (l *laneShim) Scan(ctx context.Context, after string, most int) ([]driver.Entry, string, error) {
	if l.scan != nil {
		return l.scan(ctx, after, most)
	}
	es, next, err := l.Lane.Scan(ctx, after, most)
	return l.seen(es), next, err
}

func (l *laneShim) Get(ctx context.Context, names []string) ([]driver.Entry, error) {
	es, err := l.Lane.Get(ctx, names)
	return l.seen(es), err
}

func (l *laneShim) Watch(ctx context.Context, f func(driver.Entry)) error {
	if l.watch != nil {
		return l.watch(ctx, f)
	}
	return l.Lane.Watch(ctx, func(e driver.Entry) {
		if e.Name == "" || l.see == nil || l.see(&e) {
			f(e)
		}
	})
}

func (l *laneShim) Parked(ctx context.Context, key string, after uint64, most int) ([]driver.Entry, error) {
	es, err := l.Lane.Parked(ctx, key, after, most)
	return l.seen(es), err
}

// breakTenures makes a wrapper that breaks tenures.
func breakTenures(f func(w *brokenWorld, t driver.Tenure) *tenureShim) func(*brokenWorld, driver.Driver) driver.Driver {
	return func(w *brokenWorld, d driver.Driver) driver.Driver {
		return &shim{Driver: d, wrapTenure: func(t driver.Tenure) driver.Tenure { return f(w, t) }}
	}
}

// breakLanes makes a wrapper that breaks lanes. f is called for each driver that
// is opened, and its result for each lane.
func breakLanes(f func(w *brokenWorld) func(l driver.Lane) *laneShim) func(*brokenWorld, driver.Driver) driver.Driver {
	return func(w *brokenWorld, d driver.Driver) driver.Driver {
		of := f(w)
		return &shim{Driver: d, wrapLane: func(l driver.Lane, _ driver.Partition) driver.Lane { return of(l) }}
	}
}

// swallow makes a lane say yes to what match finds, without doing it.
func swallow(match func(o *driver.LaneOp) bool) func(*brokenWorld) func(driver.Lane) *laneShim {
	return func(*brokenWorld) func(driver.Lane) *laneShim {
		return func(l driver.Lane) *laneShim {
			return &laneShim{Lane: l, apply: func(ctx context.Context, ops []driver.LaneOp) error {
				var pass []driver.LaneOp
				var at []int
				for i := range ops {
					if o := &ops[i]; !o.Delete && match(o) {
						o.Entry.Rev, o.Err = o.Entry.Rev+1, nil
						continue
					}
					pass, at = append(pass, ops[i]), append(at, i)
				}
				err := l.Apply(ctx, pass)
				for i, j := range at {
					ops[j] = pass[i]
				}
				return err
			}}
		}
	}
}

var brokenDrivers = []*brokenDriver{
	{
		name: "acknowledges-before-the-handler", logCase: "kill/under-load", queueCase: "kill/under-load",
		also: map[string]string{
			"batch/suspects-alone":          "what was in flight at the kill is lost",
			"members/*":                     "what was in flight, or waited, at a hand-over or a kill is lost",
			"seam/subscription":             "the floor is where nobody put it",
			"kill/*":                        "what was in flight at the kill is lost",
			"drain/*":                       "what had not been started at the stop, or did not end, is lost",
			"random/*":                      "they kill, or stop, with work waiting",
			"retry/attempts-outlive-kill":   "what was in flight at the kill is lost",
			"derived/kill-repeats-ids":      "what was in flight at the kill is lost",
			"derived/settles-after-confirm": "it is settled at once",
			"async/settles-after-confirm":   "it is settled at once",
			"order/hot-key-kill":            "what waited at the kill is lost",
			"order/hot-key-restart":         "what waited at the stop is lost",
			"content/foreign-flood":         "what the paused group had taken is lost",
			"publish/unknown":               "it may end with what it took",
			"seam/fenced":                   "the old holder has settled what it fetched",
			"seam/positions":                "the floor is where nobody put it",
			"seam/release":                  "the next holder does not get what was fetched",
			"seam/unclean":                  "the next holder does not get what was fetched",
			"seam/give-back":                "what was fetched is settled",
		},
		wrap: breakTenures(func(w *brokenWorld, t driver.Tenure) *tenureShim {
			var mu sync.Mutex
			var high uint64
			raise := func(c driver.Checkpoint) driver.Checkpoint {
				if high > c.Floor {
					c.Floor, c.Mark, c.Finished = high, max(c.Mark, high), nil
				}
				return c
			}
			s := &tenureShim{Tenure: t}
			s.fetch = func(ctx context.Context, into []driver.Delivery, maxBytes int) (int, error) {
				n, err := t.Fetch(ctx, into, maxBytes)
				if n == 0 {
					return n, err
				}
				mu.Lock()
				defer mu.Unlock()
				if w.caps.Queue {
					var now []driver.Settlement
					for _, d := range into[:n] {
						now = append(now, driver.Settlement{Pos: d.Pos})
					}
					return n, t.Settle(ctx, now)
				}
				high = max(high, into[n-1].Pos)
				return n, t.Checkpoint(ctx, raise(driver.Checkpoint{}))
			}
			s.checkpoint = func(ctx context.Context, c driver.Checkpoint) error {
				mu.Lock()
				defer mu.Unlock()
				return t.Checkpoint(ctx, raise(c))
			}
			s.settle = func(context.Context, []driver.Settlement) error { return nil }
			s.release = func(ctx context.Context, c driver.Checkpoint) error {
				mu.Lock()
				defer mu.Unlock()
				return t.Release(ctx, raise(c))
			}
			return s
		}),
	},
	{
		name: "drops-on-failure", logCase: "retry/late", queueCase: "retry/late",
		also: map[string]string{
			"strict/*":                     "what failed is lost, and those behind it wait for it",
			"dead/*":                       "what fails is dropped",
			"batch/*":                      "some of its events make late attempts",
			"members/*":                    "some of its events fail",
			"seam/watch":                   "it deletes what is due",
			"seam/watch-beside-writes":     "what is due is not there",
			"retry/*":                      "late attempts do not come",
			"delayed/*":                    "what is delayed is due in a lane",
			"content/dead-letter-is-whole": "it makes a late attempt",
			"context/after-retry":          "it makes late attempts",
			"derived/*":                    "its handler makes late attempts",
			"drain/under-load":             "what fails at the drain goes to the lane",
			"group/one-fails":              "late attempts come before the dead letters",
			"handler/*":                    "late attempts come before the dead letters",
			"kill/lane-stays":              "it is about what is due in the lane",
			"kill/under-load":              "some make late attempts",
			"random/*":                     "some make late attempts",
			"seam/lane-*":                  "entries that are due are not there",
		},
		wrap: breakLanes(swallow(func(o *driver.LaneOp) bool { return o.Entry.State == driver.Due })),
	},
	{
		name: "swaps-two-of-a-key", logCase: "order/per-key", queueCase: "order/per-key",
		also: map[string]string{
			"strict/*":            "they look at the order of a key",
			"dead/order-of-a-key": "it looks at the order of a key",
			"batch/one-of-a-key":  "it looks at the order of a key",
			"members/*":           "it is about order, over members",
			"order/*":             "they look at the order of a key",
			"random/*":            "they look at the order of a key",
			"drain/*":             "they look at the order of a key",
			"kill/*":              "they look at the order of a key",
			"publish/*":           "they look at the order of a key",
			"async/*":             "they look at the order of a key",
			"bound/*":             "they look at the order of a key",
			"group/*":             "they look at the order of a key",
			"seam/append-order":   "it looks at the order of all",
			"delayed/order":       "it looks at the order of a key",
		},
		wrap: breakTenures(func(_ *brokenWorld, t driver.Tenure) *tenureShim {
			seen := map[string]int{}
			return &tenureShim{Tenure: t, fetch: func(ctx context.Context, into []driver.Delivery, maxBytes int) (int, error) {
				n, err := t.Fetch(ctx, into, maxBytes)
				last := map[string]int{} // of each key in this batch
				for i := range into[:n] {
					m := &into[i].Msg
					seen[m.Key]++
					// Seldom, so that only who looks at many of a key sees it.
					if j, ok := last[m.Key]; ok && m.Key != "" && seen[m.Key] >= 30 {
						seen[m.Key] = 0
						*m, into[j].Msg = into[j].Msg, *m
					}
					last[m.Key] = i
				}
				return n, err
			}}
		}),
	},
	{
		name: "hands-out-one-at-a-time", logCase: "batch/gathers", queueCase: "batch/gathers",
		also: map[string]string{"batch/*": "a batch never holds more than one event"},
		only: whereBatch,
		wrap: breakTenures(oneAtATime),
	},
	{
		name: "hands-out-another-key", logCase: "batch/one-of-a-key", queueCase: "batch/one-of-a-key",
		also: map[string]string{"batch/*": "its keys are not those that were published"},
		only: whereBatch,
		wrap: breakTenures(func(_ *brokenWorld, t driver.Tenure) *tenureShim {
			return &tenureShim{Tenure: t, fetch: func(ctx context.Context, into []driver.Delivery, maxBytes int) (int, error) {
				n, err := t.Fetch(ctx, into, maxBytes)
				for i := range into[:n] {
					into[i].Msg.Key += fmt.Sprint("-", i%3)
				}
				return n, err
			}}
		}),
	},
	{
		name: "settles-over-a-gap", logCase: "kill/repeats-what-was-in-flight", queueCase: "kill/repeats-what-was-in-flight",
		also: map[string]string{
			"members/*":                 "what was in flight at a hand-over or a kill is lost",
			"kill/*":                    "what was in flight at the kill is lost, when another one has finished",
			"drain/*":                   "what did not end, or waited, at the stop is lost",
			"random/*":                  "they kill, or stop, with a gap",
			"derived/kill-repeats-ids":  "what was in flight at the kill is lost",
			"order/hot-key-kill":        "what was in flight at the kill is lost",
			"order/hot-key-restart":     "what waited at the stop is lost",
			"content/foreign-flood":     "what the paused group holds is settled with a neighbour",
			"retention/keeps-unsettled": "what is settled over a gap may be deleted",
			"seam/release":              "the finished ones above the floor are not recorded",
			"seam/unclean":              "the finished ones above the floor are not recorded",
			"seam/give-back":            "what was to be given back is settled with a later one",
		},
		wrap: breakTenures(settleOverGap),
	},
	{
		name: "loses-what-is-in-a-lane", logCase: "kill/lane-stays", queueCase: "kill/lane-stays",
		also: map[string]string{
			"strict/*":                     "what the others wait for, and they, are in the lane",
			"dead/*":                       "there are no dead letters",
			"members/*":                    "what failed, and boots, are in the lane",
			"seam/watch":                   "it is about what is in a lane",
			"content/dead-letter-is-whole": "dead letters are in the lane, and it opens again",
			"content/foreign-flood":        "dead letters are in the lane, and it opens again",
			"drain/under-load":             "what failed before a stop is in the lane",
			"kill/*":                       "dead letters, late attempts and the starts of suspects are in the lane",
			"delayed/*":                    "what is delayed is in a lane, which others open",
			"order/hot-key-kill":           "what is parked is in the lane",
			"order/hot-key-restart":        "what is parked is in the lane",
			"random/*":                     "late attempts, dead letters and parked ones are in the lane",
			"retry/attempts-outlive-*":     "the attempts are counted in the lane",
			"retry/drain-keeps-count":      "what failed before the stop is in the lane",
			"seam/lane-content":            "it opens again",
		},
		wrap: breakLanes(func(w *brokenWorld) func(driver.Lane) *laneShim {
			var mu sync.Mutex
			own := map[string]bool{} // put since this open
			return func(l driver.Lane) *laneShim {
				return &laneShim{Lane: l,
					apply: func(ctx context.Context, ops []driver.LaneOp) error {
						mu.Lock()
						for _, o := range ops {
							own[o.Entry.Name] = true
						}
						mu.Unlock()
						return l.Apply(ctx, ops)
					},
					see: func(e *driver.Entry) bool {
						mu.Lock()
						defer mu.Unlock()
						return own[e.Name]
					}}
			}
		}),
	},
	{
		name: "loses-parked-followers", logCase: "order/hot-key", queueCase: "order/hot-key",
		also: map[string]string{
			"strict/*":         "the followers are parked",
			"members/*":        "followers of a failed event are parked",
			"order/hot-key*":   "a hot key's followers are parked",
			"random/*":         "a hot key's followers are parked",
			"kill/under-load":  "a key's followers are parked when many wait",
			"drain/under-load": "a key's followers are parked when many wait",
			"seam/lane-*":      "parked entries are not there",
		},
		wrap: breakLanes(swallow(func(o *driver.LaneOp) bool { return o.Entry.State == driver.Parked && o.Entry.Order%7 == 0 })),
	},
	{
		name: "forgets-attempts", logCase: "retry/late", queueCase: "retry/late",
		also: map[string]string{
			"dead/attempts-anew":           "it looks at what was counted",
			"batch/*":                      "some of its events make late attempts",
			"members/*":                    "some of its events fail, and are handled at their second attempt",
			"retry/*":                      "late attempts begin from the same count each time, and do not end",
			"content/dead-letter-is-whole": "its attempts are counted in the lane",
			"context/after-retry":          "its fifth attempt does not come",
			"derived/*":                    "its fifth attempt does not come",
			"group/one-fails":              "the dead letters do not come",
			"handler/*":                    "the dead letters, or the fifth attempt, do not come",
			"kill/under-load":              "some make several late attempts",
			"drain/under-load":             "some make several late attempts",
			"random/*":                     "some make several late attempts",
		},
		wrap: breakLanes(func(*brokenWorld) func(driver.Lane) *laneShim {
			var mu sync.Mutex
			first := map[string][]byte{}
			return func(l driver.Lane) *laneShim {
				return &laneShim{Lane: l, apply: func(ctx context.Context, ops []driver.LaneOp) error {
					mu.Lock()
					for _, o := range ops {
						if o.Delete || o.Entry.State != driver.Due {
							continue
						}
						if head, ok := first[o.Entry.Name]; ok {
							o.Entry.Head = head
						} else {
							first[o.Entry.Name] = o.Entry.Head
						}
					}
					mu.Unlock()
					return l.Apply(ctx, ops)
				}}
			}
		}),
	},
	{
		name: "runs-a-retry-beside-its-key", logCase: "retry/never-beside-its-key", queueCase: "retry/never-beside-its-key",
		also: map[string]string{
			"strict/*":         "it is started beside those that wait for it",
			"members/*":        "some of its events fail",
			"seam/watch":       "due times are not what was put",
			"delayed/*":        "without its key what is delayed goes to another partition",
			"kill/under-load":  "some make late attempts, and the log sees which run side by side",
			"drain/under-load": "some make late attempts, and the log sees which run side by side",
			"random/*":         "some make late attempts, and the log sees which run side by side",
			"retry/*":          "late attempts of one key may run side by side",
			"derived/*":        "late attempts of one key may run side by side",
			"handler/*":        "late attempts of one key may run side by side",
			"group/one-fails":  "late attempts of one key may run side by side",
			"seam/lane-*":      "entries come back with another key",
		},
		wrap: breakLanes(func(*brokenWorld) func(driver.Lane) *laneShim {
			return func(l driver.Lane) *laneShim {
				return &laneShim{Lane: l, see: func(e *driver.Entry) bool {
					if e.State == driver.Due {
						e.Key += "-retry"
					}
					return true
				}}
			}
		}),
	},
	{
		name: "raises-the-mark-too-late", logCase: "kill/suspects-alone", queueCase: "kill/suspects-alone",
		also: map[string]string{
			"batch/suspects-alone": "nobody is suspect",
			"members/poison":       "nobody is suspect, so that nothing is quarantined",
			"kill/poison":          "the message that kills is not suspected",
			"kill/under-load":      "what is no suspect is not looked for in the lane, and is handled from there too",
			"random/kills":         "what is no suspect is not looked for in the lane, and is handled from there too",
			"seam/unclean":         "the mark, or that it was handed out before, does not come back",
		},
		wrap: breakTenures(func(w *brokenWorld, t driver.Tenure) *tenureShim {
			s := &tenureShim{Tenure: t}
			if w.caps.Queue { // a queue marks what it has handed out before
				s.fetch = func(ctx context.Context, into []driver.Delivery, maxBytes int) (int, error) {
					n, err := t.Fetch(ctx, into, maxBytes)
					for i := range into[:n] {
						into[i].Again = false
					}
					return n, err
				}
				return s
			}
			s.checkpoint = func(ctx context.Context, c driver.Checkpoint) error {
				c.Mark = c.Floor // when all below it has ended, not before it is started
				return t.Checkpoint(ctx, c)
			}
			return s
		}),
	},
	{
		name: "confirms-before-storing", logCase: "publish/confirmed-is-kept", queueCase: "publish/confirmed-is-kept",
		also: map[string]string{
			"batch/*":                     "a refusal, or a kill, comes after the confirmation",
			"members/*":                   "what is stored late comes behind others of its key",
			"seam/read*":                  "it is not there yet",
			"kill/under-load":             "what was confirmed and not stored at the kill is lost",
			"random/kills":                "what was confirmed and not stored at the kill is lost",
			"group/*":                     "what was confirmed is not there yet",
			"derived/*":                   "a refusal, or a kill, comes after the confirmation",
			"publish/*":                   "a refusal, or a kill, comes after the confirmation",
			"async/*":                     "a refusal, or a kill, comes after the confirmation",
			"kill/*":                      "what was confirmed and not stored at the kill is lost",
			"delayed/movers":              "what was confirmed and not stored at the kill is lost",
			"delayed/restart":             "what was confirmed and not stored at the kill is lost",
			"order/hot-key-kill":          "what was confirmed and not stored at the kill is lost",
			"retry/attempts-outlive-kill": "what was confirmed and not stored at the kill is lost",
			"seam/append-*":               "what is refused was confirmed",
			"seam/closed":                 "what is refused was confirmed",
			"seam/group-start":            "what was confirmed before the start is stored after it",
			"seam/positions":              "what was confirmed is not there yet",
			"seam/trim":                   "what was confirmed is not there yet",
		},
		wrap: func(_ *brokenWorld, d driver.Driver) driver.Driver { return newHasty(d) },
	},
	{
		name: "forgets-a-groups-start", logCase: "group/from-now", queueCase: "group/from-now",
		also: map[string]string{
			"seam/remove":      "a group of a name that was removed begins where it says",
			"group/from-time":  "the start is a time",
			"seam/group-start": "it is about the start",
		},
		needs: needsReadFrom,
		wrap: func(_ *brokenWorld, d driver.Driver) driver.Driver {
			return &startless{shim{Driver: d}}
		},
	},
	{
		name: "forgets-the-last-checkpoint", logCase: "group/resumes",
		also: map[string]string{
			"strict/*":                  "what was parked is handled again after a takeover",
			"dead/*":                    "those that stop members cleanly",
			"batch/*":                   "it stops cleanly, or a member does, and what was settled comes again",
			"members/*":                 "what the member before had settled comes again",
			"seam/subscription":         "the next holder begins where the last one began",
			"content/foreign-flood":     "it stops cleanly and starts again",
			"drain/*":                   "it stops cleanly and starts again",
			"group/*":                   "it stops cleanly and starts again",
			"kill/*":                    "a stop that follows a kill is forgotten",
			"order/hot-key-restart":     "it stops cleanly and starts again",
			"random/*":                  "they stop cleanly and start again",
			"retention/keeps-unsettled": "it stops cleanly and starts again",
			"retry/*":                   "it stops cleanly and starts again",
			"seam/positions":            "the floor is where the holder began",
			"seam/release":              "what was left does not come back",
		},
		wrap: breakTenures(func(_ *brokenWorld, t driver.Tenure) *tenureShim {
			return &tenureShim{Tenure: t, release: func(ctx context.Context, _ driver.Checkpoint) error {
				old := t.Start()
				old.Clean = true
				return t.Release(ctx, old)
			}}
		}),
	},
	{
		name: "stores-a-repeated-id-again", logCase: "publish/same-id", queueCase: "publish/same-id",
		also: map[string]string{
			"seam/read*":            "ids are changed",
			"publish/unknown":       "it publishes an id twice",
			"async/*":               "an id is published twice, after an unknown outcome or by a repeated handler",
			"derived/*":             "a repeated handler repeats ids",
			"delayed/movers":        "whoever takes over publishes again what was published and not deleted",
			"seam/append-duplicate": "it is about a repeated id",
			"seam/append-too-large": "it makes each message longer",
		},
		needs: func(c driver.Caps) string {
			if c.DedupWindow == 0 {
				return "the driver says that it stores a repeated id again"
			}
			return ""
		},
		wrap: func(_ *brokenWorld, d driver.Driver) driver.Driver { return newCopier(d) },
	},
	{
		name: "loses-foreign-messages", logCase: "content/foreign", queueCase: "content/foreign",
		also: map[string]string{
			"content/*":           "foreign messages are not there",
			"seam/append-content": "one of its messages is foreign",
		},
		wrap: breakTenures(func(w *brokenWorld, t driver.Tenure) *tenureShim {
			return &tenureShim{Tenure: t, fetch: func(ctx context.Context, into []driver.Delivery, maxBytes int) (int, error) {
				for {
					n, err := t.Fetch(ctx, into, maxBytes)
					if n == 0 || err != nil {
						return n, err
					}
					kept := slices.DeleteFunc(slices.Clone(into[:n]), func(d driver.Delivery) bool { return d.Msg.Type == "" })
					if w.caps.Queue {
						for _, d := range into[:n] {
							if d.Msg.Type == "" {
								_ = t.Settle(ctx, []driver.Settlement{{Pos: d.Pos}})
							}
						}
					}
					if len(kept) > 0 {
						return copy(into, kept), nil
					}
				}
			}}
		}),
	},
	{
		name: "overwrites-lane-entries", logCase: "seam/lane-compare-and-set", queueCase: "seam/lane-compare-and-set",
		also: map[string]string{
			"dead/replay-*":  "of two replays one overwrites the other",
			"seam/lane-*":    "it is about entries that another revision stands for",
			"delayed/cancel": "it cancels what is being published",
		},
		wrap: breakLanes(func(*brokenWorld) func(driver.Lane) *laneShim {
			return func(l driver.Lane) *laneShim {
				return &laneShim{Lane: l, apply: func(ctx context.Context, ops []driver.LaneOp) error {
					err := l.Apply(ctx, ops)
					for i := range ops {
						if !errors.Is(ops[i].Err, driver.ErrConflict) {
							continue
						}
						es, gerr := l.Get(ctx, []string{ops[i].Entry.Name})
						if gerr != nil {
							return gerr
						}
						ops[i].Entry.Rev = 0
						if len(es) == 1 {
							ops[i].Entry.Rev = es[0].Rev
						}
						err = l.Apply(ctx, ops[i:i+1])
					}
					return err
				}}
			}
		}),
	},
	{
		name: "trims-one-too-many", logCase: "seam/trim",
		also: map[string]string{
			"seam/read*": "one more is gone",
		},
		wrap: func(_ *brokenWorld, d driver.Driver) driver.Driver { return &trimmer{shim{Driver: d}} },
	},
	{
		name: "hides-that-it-is-lost", logCase: "seam/fenced", queueCase: "seam/fenced",
		also: map[string]string{
			"seam/reset":  "the old holder is not told",
			"seam/remove": "the old holder is not told",
		},
		wrap: breakTenures(func(_ *brokenWorld, t driver.Tenure) *tenureShim {
			hide := func(err error) error {
				if errors.Is(err, driver.ErrLost) {
					return nil
				}
				return err
			}
			s := &tenureShim{Tenure: t}
			s.checkpoint = func(ctx context.Context, c driver.Checkpoint) error { return hide(t.Checkpoint(ctx, c)) }
			s.settle = func(ctx context.Context, x []driver.Settlement) error { return hide(t.Settle(ctx, x)) }
			s.release = func(ctx context.Context, c driver.Checkpoint) error { return hide(t.Release(ctx, c)) }
			return s
		}),
	},
}

func init() { brokenDrivers = slices.Concat(brokenDrivers, brokenShared, brokenDead, brokenStrict) }

// oneAtATime hands a message out when the one before is settled.
func oneAtATime(w *brokenWorld, t driver.Tenure) *tenureShim {
	settled := make(chan struct{}, 1)
	settled <- struct{}{}
	var mu sync.Mutex
	var out uint64 // not settled; 0: none
	up := func(isOut bool) {
		mu.Lock()
		defer mu.Unlock()
		if out != 0 && isOut {
			out = 0
			settled <- struct{}{}
		}
	}
	s := &tenureShim{Tenure: t}
	s.fetch = func(ctx context.Context, into []driver.Delivery, maxBytes int) (int, error) {
		select {
		case <-settled:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		n, err := t.Fetch(ctx, into[:1], maxBytes)
		if n == 0 {
			settled <- struct{}{}
			return n, err
		}
		mu.Lock()
		defer mu.Unlock()
		out = into[0].Pos
		return n, err
	}
	s.checkpoint = func(ctx context.Context, c driver.Checkpoint) error {
		err := t.Checkpoint(ctx, c)
		mu.Lock()
		over := err == nil && c.Floor >= out
		mu.Unlock()
		up(over)
		return err
	}
	s.settle = func(ctx context.Context, now []driver.Settlement) error {
		err := t.Settle(ctx, now)
		up(err == nil)
		return err
	}
	return s
}

// settleOverGap settles, with what is finished, all that was handed out before it.
func settleOverGap(w *brokenWorld, t driver.Tenure) *tenureShim {
	s := &tenureShim{Tenure: t}
	if !w.caps.Queue {
		over := func(c driver.Checkpoint) driver.Checkpoint {
			if n := len(c.Finished); n > 0 {
				c.Floor += uint64(n-1) * 8
				for b := c.Finished[n-1]; b != 0; b >>= 1 {
					c.Floor++
				}
				c.Finished = nil
			}
			return c
		}
		s.checkpoint = func(ctx context.Context, c driver.Checkpoint) error { return t.Checkpoint(ctx, over(c)) }
		s.release = func(ctx context.Context, c driver.Checkpoint) error { return t.Release(ctx, over(c)) }
		return s
	}
	var mu sync.Mutex
	var out []uint64 // handed out and not settled, in order
	s.fetch = func(ctx context.Context, into []driver.Delivery, maxBytes int) (int, error) {
		n, err := t.Fetch(ctx, into, maxBytes)
		mu.Lock()
		defer mu.Unlock()
		for _, d := range into[:n] {
			out = append(out, d.Pos)
		}
		return n, err
	}
	s.settle = func(ctx context.Context, now []driver.Settlement) error {
		mu.Lock()
		last := -1
		for _, x := range now {
			if i := slices.Index(out, x.Pos); !x.GiveBack {
				last = max(last, i)
			}
		}
		var all []driver.Settlement
		for _, pos := range out[:last+1] {
			all = append(all, driver.Settlement{Pos: pos})
		}
		out = out[last+1:]
		mu.Unlock()
		if len(all) == 0 {
			return nil
		}
		return t.Settle(ctx, all)
	}
	return s
}

// startless begins every group at the beginning.
type startless struct{ shim }

func (d *startless) EnsureGroup(ctx context.Context, want driver.GroupSpec) (driver.GroupSpec, error) {
	want.Start = driver.StartAt{}
	return d.Driver.EnsureGroup(ctx, want)
}

type trimmer struct{ shim }

func (d *trimmer) Trim(ctx context.Context, p driver.Partition, below uint64, before time.Time) (int64, error) {
	return d.Driver.Trim(ctx, p, below+1, before)
}

// hasty confirms at once and stores a moment later, unless it is killed before.
type hasty struct {
	shim
	mu      sync.Mutex
	waiting sync.WaitGroup
	tail    map[driver.Partition]chan struct{} // closed when the Append before is stored
	killed  chan struct{}
}

func newHasty(d driver.Driver) *hasty {
	return &hasty{shim: shim{Driver: d}, tail: map[driver.Partition]chan struct{}{}, killed: make(chan struct{})}
}

func (d *hasty) Append(p driver.Partition, msgs []driver.Message, deadline time.Time, done func([]driver.Outcome)) {
	own := slices.Clone(msgs)
	out := make([]driver.Outcome, len(msgs))
	for i := range out {
		out[i] = driver.Outcome{State: driver.Stored}
	}
	d.mu.Lock()
	before := d.tail[p]
	stored := make(chan struct{})
	d.tail[p] = stored
	d.waiting.Add(1)
	d.mu.Unlock()
	go func() {
		defer d.waiting.Done()
		defer close(stored)
		if before != nil {
			<-before
		}
		select {
		case <-d.killed:
			return
		case <-time.After(2 * time.Millisecond):
		}
		end := make(chan struct{})
		d.Driver.Append(p, own, deadline, func([]driver.Outcome) { close(end) })
		<-end
	}()
	go done(out)
}

func (d *hasty) Kill() {
	close(d.killed)
	d.waiting.Wait()
	d.shim.Kill()
}

func (d *hasty) Close(ctx context.Context) error {
	d.waiting.Wait()
	return d.Driver.Close(ctx)
}

// copier hides from the driver beneath that an id is repeated.
type copier struct {
	shim
	mu sync.Mutex
	n  int
}

func newCopier(d driver.Driver) *copier {
	c := &copier{shim: shim{Driver: d}}
	c.wrapTenure = func(t driver.Tenure) driver.Tenure {
		return &tenureShim{Tenure: t, fetch: func(ctx context.Context, into []driver.Delivery, maxBytes int) (int, error) {
			n, err := t.Fetch(ctx, into, maxBytes)
			for i := range into[:n] {
				if id, _, ok := strings.Cut(into[i].Msg.ID, "##"); ok {
					into[i].Msg.ID = id
				}
			}
			return n, err
		}}
	}
	return c
}

func (d *copier) Append(p driver.Partition, msgs []driver.Message, deadline time.Time, done func([]driver.Outcome)) {
	own := slices.Clone(msgs)
	d.mu.Lock()
	for i := range own {
		if own[i].ID != "" {
			d.n++
			own[i].ID += fmt.Sprintf("##%d-%d", time.Now().UnixNano(), d.n)
		}
	}
	d.mu.Unlock()
	d.Driver.Append(p, own, deadline, done)
}
