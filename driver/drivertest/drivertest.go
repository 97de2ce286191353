// Package drivertest is the conformance suite of Posthorn's drivers: one set of
// cases that holds every broker to the same promises.
//
// A driver runs it from its tests:
//
//	func TestConformance(t *testing.T) {
//		drivertest.Run(t, drivertest.Harness{Open: func(ctx context.Context, env driver.Env) (driver.Driver, error) {
//			return open(ctx, dir, env)
//		}})
//	}
//
// Most cases work on a bus, through the public API, and so prove the engine and
// the driver together; those whose names begin with "seam/" call the driver. Each
// case has a topic and groups of its own, so that they run in parallel on one
// store, and says in its Doc what it proves. [Cases] lists them.
//
// # Faults
//
// A kill is simulated in the process: from one moment on, every call of the old
// bus fails and nothing of it reaches the store any more; then a new bus is opened
// on the same store.
//
// # The suite is itself tested
//
// [RunBroken] runs it against drivers that each break one promise. Each has to
// fail its case, and no other than those that are listed beside it with the
// reason.
//
// # Seeds
//
// What a case draws at random comes from a seed, which is printed when the case
// fails; the environment variable POSTHORN_SEED repeats it. A case records what
// was published, confirmed, started and finished in a log, and a checker reads it.
package drivertest

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// A Harness connects the suite to a driver.
type Harness struct {
	// Open opens the driver on the harness's store. The suite calls it many
	// times, also while other drivers that it returned are open, and all of them
	// must work on the same store. A harness whose store would vanish with the
	// last driver keeps one open itself.
	Open func(ctx context.Context, env driver.Env) (driver.Driver, error)

	// Patience bounds each wait of a case that is expected to pass. Default 30 s.
	Patience time.Duration

	// BrokenPatience bounds each wait of a case that a broken driver is expected
	// to fail. Default 2 s.
	BrokenPatience time.Duration

	// BrokenOwn has RunBroken run each broken driver against its own case only, as
	// -short does. The whole matrix is for drivers that answer at once.
	BrokenOwn bool

	// Skip leaves cases out, by name, with the reason. It is for what the
	// harness cannot do; what the driver cannot do belongs to its Caps.
	Skip map[string]string
}

func (h Harness) withDefaults() Harness {
	h.Patience = cmp.Or(h.Patience, 30*time.Second)
	h.BrokenPatience = cmp.Or(h.BrokenPatience, 2*time.Second)
	return h
}

// T is what a case reports to. *testing.T is one. Fatalf is called on the
// goroutine of the case only.
type T interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
	Cleanup(func())
}

var _ T = (*testing.T)(nil)

// A Case proves one thing.
type Case struct {
	// Name is unique and fit for go test -run.
	Name string
	// Promise is the promise of the design that it belongs to, or the number of
	// a defect of the peers'.
	Promise string
	// Doc says what it proves.
	Doc string
	// needs returns why a driver cannot run it, or "".
	needs func(driver.Caps) string
	run   func(*rig)
}

// Cases lists the cases of the suite, by name.
func Cases() []Case {
	all := slices.Concat(publishCases, asyncCases, groupCases, contentCases, handlerCases, retryCases, orderCases,
		derivedCases, batchCases, contextCases, drainCases, killCases, boundCases, retentionCases, seamCases, adminCases, memberCases, delayedCases, laneCases, deadCases, strictCases, randomCases)
	slices.SortFunc(all, func(a, b Case) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Run runs all cases. It ends by printing what was left out, and fails when a
// goroutine of a bus is left.
func Run(t *testing.T, h Harness) {
	t.Helper()
	h = h.withDefaults()
	caps, done := keepOpen(t, h)
	defer done()
	before := busGoroutines()
	left := leftOut(caps)
	t.Run("case", func(t *testing.T) {
		for _, c := range Cases() {
			if why := c.leftOut(h, caps); why != "" {
				left = append(left, fmt.Sprintf("case %s (%s): %s", c.Name, c.Promise, why))
				continue
			}
			t.Run(c.Name, func(t *testing.T) {
				t.Parallel()
				r := newRig(t, h, c, caps, nil, h.Patience)
				defer r.finish()
				c.run(r)
			})
		}
	})
	checkLeaks(t, before)
	for _, l := range left {
		t.Log("left out: " + l)
	}
	if len(left) == 0 {
		t.Log("left out: nothing")
	}
}

// notYet is what no driver is asked for today.
var notYet = []string{
	"P5 members in processes of their own, killed or paused: the suite's members are in one; a driver whose store others can reach shows it in its own tests",
	"P10 deadlines into calls: calls are not built yet",
}

func leftOut(caps driver.Caps) []string {
	left := slices.Clone(notYet)
	for _, k := range slices.Sorted(maps.Keys(caps.Missing)) {
		left = append(left, "the driver: "+k+": "+caps.Missing[k])
	}
	return left
}

func (c Case) leftOut(h Harness, caps driver.Caps) string {
	if why, ok := h.Skip[c.Name]; ok {
		return why
	}
	if c.needs != nil {
		return c.needs(caps)
	}
	return ""
}

// keepOpen opens the driver once for the whole run, so that a store in memory
// stays.
func keepOpen(t *testing.T, h Harness) (driver.Caps, func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), h.Patience)
	defer cancel()
	d, err := h.Open(ctx, quietEnv())
	if err != nil {
		t.Fatalf("Harness.Open: %v", err)
	}
	return d.Caps(), func() {
		ctx, cancel := context.WithTimeout(context.Background(), h.Patience)
		defer cancel()
		if err := d.Close(ctx); err != nil {
			t.Errorf("Close of the first driver: %v", err)
		}
	}
}

// caseSeed is the seed of a case: POSTHORN_SEED, or a new one.
func caseSeed(t T, name string) uint64 {
	if s := os.Getenv("POSTHORN_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("POSTHORN_SEED=%q is no number", s)
		}
		return n
	}
	h := fnv.New64a()
	fmt.Fprint(h, name, time.Now().UnixNano())
	return h.Sum64() >> 16
}

// busGoroutines returns the stacks of all goroutines that belong to a bus, by
// what they have in common: their functions.
func busGoroutines() map[string]int {
	buf := make([]byte, 8<<20)
	buf = buf[:runtime.Stack(buf, true)]
	n := map[string]int{}
	for g := range strings.SplitSeq(string(buf), "\n\n") {
		head, stack, _ := strings.Cut(g, "\n")
		if !strings.HasPrefix(head, "goroutine ") || strings.Contains(stack, "testing.tRunner(") {
			continue
		}
		if strings.Contains(stack, "posthorn/internal/") || strings.Contains(stack, "posthorn/posthorn.(") {
			n[stack]++
		}
	}
	return n
}

func checkLeaks(t T, before map[string]int) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		left := busGoroutines()
		for s := range before {
			delete(left, s)
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			for s, n := range left {
				t.Errorf("%d goroutine(s) of a closed bus are left:\n%s", n, s)
			}
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A recorder is the T of a case that runs against a broken driver.
type recorder struct {
	mu       sync.Mutex
	failed   bool
	text     []string
	cleanups []func()
}

var _ T = (*recorder)(nil)

func (r *recorder) Helper()                         {}
func (r *recorder) Logf(format string, args ...any) {}
func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = true
	r.text = append(r.text, fmt.Sprintf(format, args...))
}
func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}
func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}
func (r *recorder) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}

// first is the first failure, on one line.
func (r *recorder) first() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.text) == 0 {
		return ""
	}
	line, _, _ := strings.Cut(r.text[0], "\n")
	if len(line) > 160 {
		line = line[:160] + "..."
	}
	return line
}

// record runs a case and returns what it reported.
func record(run func(T)) *recorder {
	rec := &recorder{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			for _, f := range slices.Backward(rec.cleanups) {
				f()
			}
		}()
		defer func() {
			if v := recover(); v != nil {
				rec.Errorf("the case panicked: %v", v)
			}
		}()
		run(rec)
	}()
	<-done
	return rec
}
