package drivertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
)

// A rig is what a case works with: names of its own, buses on the harness's
// store, a log and a seed.
type rig struct {
	T
	h        Harness
	c        Case
	caps     driver.Caps
	broken   *brokenWorld // nil in Run
	patience time.Duration
	seed     uint64
	rnd      *rand.Rand // for the case's own goroutine
	id       string
	log      *opLog
	logs     logBuffer
	ctx      context.Context // ends with the case
	cancel   context.CancelFunc
	next     atomic.Int64 // numbers of items

	mu      sync.Mutex
	nodes   []*node
	bare    []driver.Driver
	holders []*holder
	stuck   chan struct{} // closed at the end of the case: releases handlers that block
}

var rigs atomic.Int64

func newRig(t T, h Harness, c Case, caps driver.Caps, broken *brokenWorld, patience time.Duration) *rig {
	r := &rig{T: t, h: h, c: c, caps: caps, broken: broken, patience: patience, log: newOpLog(), stuck: make(chan struct{})}
	r.seed = caseSeed(t, c.Name)
	r.rnd = rand.New(rand.NewPCG(r.seed, 0))
	r.id = fmt.Sprintf("t%x-%x", time.Now().UnixNano()&0xffffffff, rigs.Add(1))
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// finish closes what the case left open and says how to repeat a failure.
func (r *rig) finish() {
	r.Helper()
	close(r.stuck)
	r.mu.Lock()
	nodes, bare, holders := r.nodes, r.bare, r.holders
	r.mu.Unlock()
	for _, h := range holders {
		r.gone(h)
	}
	for _, d := range bare {
		r.closeDriver(d)
	}
	for _, n := range nodes {
		n.cut.letGo()
		ctx, cancel := context.WithTimeout(r.ctx, r.patience)
		if err := n.bus.Close(ctx); err != nil && !n.dead() && !r.Failed() && r.broken == nil {
			r.Errorf("Close: %v", err)
		}
		cancel()
	}
	r.cancel()
	if r.Failed() {
		r.Logf("%s (%s): %s", r.c.Name, r.c.Promise, r.c.Doc)
		r.Logf("repeat with POSTHORN_SEED=%d", r.seed)
		r.Logf("the end of the buses' log:\n%s", r.logs.String())
	}
}

// name is unique to the case, and fit for topics, groups and types.
func (r *rig) name(s string) string { return r.id + "-" + s }

// topic declares a topic of the case.
func (r *rig) topic(name string, partitions int) *posthorn.Topic {
	return posthorn.DefineTopic(r.name(name), posthorn.TopicConfig{Partitions: partitions, Keep: time.Hour})
}

// An item is the data of the events that cases publish.
type item struct {
	K   string `json:"k"`
	N   int    `json:"n"`
	Pad string `json:"pad,omitempty"`
}

type (
	itemType = *posthorn.EventType[item]
	itemFunc = func(ctx context.Context, e *posthorn.Event[item]) error
)

// kind defines an event type of items on a topic.
func (r *rig) kind(t *posthorn.Topic, name string, opts ...posthorn.TypeOption) itemType {
	opts = append([]posthorn.TypeOption{posthorn.In(t), posthorn.Key(func(i item) string { return i.K })}, opts...)
	return posthorn.Define[item](t.Name()+"."+name, opts...)
}

// items makes n items, dealt over the keys in turn.
func (r *rig) items(n int, keys ...string) []item {
	items := make([]item, n)
	for i := range items {
		items[i] = item{K: keys[i%len(keys)], N: int(r.next.Add(1))}
	}
	return items
}

// keys makes n keys.
func keys(n int) []string {
	k := make([]string, n)
	for i := range k {
		k[i] = fmt.Sprintf("key-%d", i)
	}
	return k
}

// quick is a group's configuration in which nothing takes long.
func quick() posthorn.GroupConfig {
	return posthorn.GroupConfig{
		Concurrency: 16,
		Timeout:     20 * time.Second,
		Retry:       quickRetry(),
		Checkpoint:  20 * time.Millisecond,
		Drain:       20 * time.Second,
	}
}

func quickRetry() posthorn.Retry {
	return posthorn.Retry{
		Attempts: 3, Delay: time.Millisecond, MaxDelay: 4 * time.Millisecond,
		Late: 3, LateDelay: 20 * time.Millisecond, MaxLateDelay: 40 * time.Millisecond,
	}
}

// A node is one bus of a case: in a case with a kill, one process.
type node struct {
	r    *rig
	n    int
	bus  *posthorn.Bus
	cut  *probe
	died chan struct{}

	mu     sync.Mutex
	alarms []driver.Alarm
	once   sync.Once
}

// open opens a bus on the harness's store.
func (r *rig) open(opts ...posthorn.Option) *node {
	r.Helper()
	n := &node{r: r, died: make(chan struct{})}
	r.mu.Lock()
	n.n = len(r.nodes)
	r.mu.Unlock()
	drv := r.openDriver(n.raise)
	n.cut = newProbe(drv)
	ctx, cancel := r.deadline()
	defer cancel()
	opts = append([]posthorn.Option{posthorn.Service("suite"), posthorn.Logger(slog.New(slog.NewTextHandler(&r.logs, nil))),
		posthorn.OnAlarm(func(a posthorn.Alarm) { n.raise(driver.Alarm{Code: a.Code, Thing: a.Thing, Text: a.Text}) })}, opts...)
	bus, err := posthorn.OpenDriver(ctx, n.cut, opts...)
	if err != nil {
		r.Fatalf("OpenDriver: %v", err)
	}
	n.bus = bus
	r.mu.Lock()
	r.nodes = append(r.nodes, n)
	r.mu.Unlock()
	return n
}

// openDriver opens the harness's driver, broken where that is asked for.
func (r *rig) openDriver(alarm func(driver.Alarm)) driver.Driver {
	r.Helper()
	env := quietEnv()
	env.Log = slog.New(slog.NewTextHandler(&r.logs, nil))
	if alarm != nil {
		env.Alarm = alarm
	}
	ctx, cancel := r.deadline()
	defer cancel()
	d, err := r.h.Open(ctx, env)
	if err != nil {
		r.Fatalf("Harness.Open: %v", err)
	}
	if r.broken != nil {
		d = r.broken.wrap(d)
	}
	return d
}

// driver opens a driver without a bus; the rig closes it.
func (r *rig) driver() driver.Driver {
	r.Helper()
	d := r.openDriver(nil)
	r.mu.Lock()
	r.bare = append(r.bare, d)
	r.mu.Unlock()
	return d
}

func (r *rig) closeDriver(d driver.Driver) {
	r.Helper()
	ctx, cancel := r.deadline()
	defer cancel()
	if err := d.Close(ctx); err != nil {
		r.Errorf("Driver.Close: %v", err)
	}
}

func quietEnv() driver.Env {
	return driver.Env{Service: "suite", Member: fmt.Sprintf("suite-%x", rand.Uint64()), Log: slog.New(slog.DiscardHandler), Alarm: func(driver.Alarm) {}, Now: time.Now}
}

func (n *node) raise(a driver.Alarm) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !a.Cleared {
		n.alarms = append(n.alarms, a)
	}
}

// alarmed returns the alarms whose text, code or thing contains s.
func (n *node) alarmed(s string) []driver.Alarm {
	n.mu.Lock()
	defer n.mu.Unlock()
	var found []driver.Alarm
	for _, a := range n.alarms {
		if strings.Contains(a.Code+" "+a.Thing+" "+a.Text, s) {
			found = append(found, a)
		}
	}
	return found
}

// deadline is a context for one call.
func (r *rig) deadline() (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.ctx, r.patience)
}

// eventually waits until a condition holds.
func (r *rig) eventually(what string, cond func() bool) {
	r.Helper()
	r.eventuallyf(func() string { return what }, cond)
}

func (r *rig) eventuallyf(what func() string, cond func() bool) {
	r.Helper()
	deadline := time.Now().Add(r.patience)
	wait := 200 * time.Microsecond
	for {
		asked := time.Now()
		if cond() {
			return
		}
		if time.Now().After(deadline) {
			r.Fatalf("after %v still not: %s", r.patience, what())
		}
		// Not more than a tenth of the time for asking: hundreds of cases share the machine.
		time.Sleep(max(wait, min(10*time.Since(asked), 200*time.Millisecond)))
		wait = min(2*wait, 10*time.Millisecond)
	}
}

// wait waits for a condition on a goroutine of a handler, and tells whether it came.
func (r *rig) wait(cond func() bool) bool {
	for deadline := time.Now().Add(r.patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if cond() {
			return true
		}
	}
	return false
}

// never gives what must not happen some time to happen. That it is short can
// hide a defect on a slow day, and cannot make a sound driver fail.
func (r *rig) never(what string, cond func() bool) {
	r.Helper()
	for range 30 {
		if cond() {
			r.Fatalf("happened: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// group starts a group of a node with the handlers that add sets up.
func (n *node) group(name string, cfg posthorn.GroupConfig, add func(g *posthorn.Group)) *posthorn.Group {
	n.r.Helper()
	g := n.bus.Group(n.r.name(name), cfg)
	add(g)
	ctx, cancel := n.r.deadline()
	defer cancel()
	if err := g.Start(ctx); err != nil {
		n.r.Fatalf("start group %s: %v", name, err)
	}
	return g
}

// listen starts a group with one recorded handler for each type.
func (n *node) listen(name string, cfg posthorn.GroupConfig, fn itemFunc, types ...itemType) *posthorn.Group {
	n.r.Helper()
	return n.group(name, cfg, func(g *posthorn.Group) {
		for _, t := range types {
			t.Handle(g, n.recorded(name, fn))
		}
	})
}

func ok(context.Context, *posthorn.Event[item]) error { return nil }

var errHandler = errors.New("the handler says no")

// recorded wraps a handler by the log. What a killed bus does counts no more.
func (n *node) recorded(group string, fn itemFunc) itemFunc {
	return func(ctx context.Context, e *posthorn.Event[item]) error {
		if n.dead() {
			return errKilled
		}
		o := op{bus: n.n, group: group, id: e.ID, key: e.Key, n: e.Data.N, attempt: e.Attempt, note: fmt.Sprint("position ", e.Position)}
		n.r.log.start(o)
		o.what, o.note = opEnd, "it panicked"
		defer func() { n.r.log.end(o, !n.dead()) }()
		err := fn(ctx, e)
		if o.note = fmt.Sprint(err); err == nil {
			o.what, o.note = opEffect, ""
		}
		return err
	}
}

// block waits for release, the end of the context, the kill or the end of the case.
func (n *node) block(ctx context.Context, release <-chan struct{}) error {
	select {
	case <-release:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-n.died:
		return errKilled
	case <-n.r.stuck:
		return errors.New("the case is over")
	}
}

// publish publishes a batch of items and records what became of each.
func (n *node) publish(t itemType, items ...item) {
	n.r.Helper()
	if err := n.tryPublish(t, items...); err != nil {
		n.r.Fatalf("publish %d: %v", len(items), err)
	}
}

func (n *node) tryPublish(t itemType, items ...item) error {
	ctx, cancel := n.r.deadline()
	defer cancel()
	return n.publishUnder(ctx, t, items...)
}

func (n *node) publishUnder(ctx context.Context, t itemType, items ...item) error {
	out := make([]*posthorn.Outgoing, len(items))
	for i, it := range items {
		out[i] = t.New(it)
	}
	err := n.bus.PublishAll(ctx, out...)
	n.published(items, out, err)
	return err
}

// published records the outcome of a publish.
func (n *node) published(items []item, out []*posthorn.Outgoing, err error) {
	var pe *posthorn.PublishError
	if err != nil && !errors.As(err, &pe) {
		n.r.Errorf("PublishAll returned %T, not a *posthorn.PublishError: %v", err, err)
		return
	}
	for i, it := range items {
		o := op{what: opConfirmed, bus: n.n, id: out[i].ID(), key: it.K, n: it.N}
		if pe != nil {
			switch pe.Results[i].State {
			case posthorn.NotStored:
				o.what = opRefused
			case posthorn.Unknown:
				o.what = opUnknown
			}
		}
		n.r.log.add(o)
	}
}

// effects waits until a group has had an effect for n items.
func (r *rig) effects(group string, n int) {
	r.Helper()
	r.eventuallyf(func() string {
		return fmt.Sprintf("effects of %d items in group %s; there are %d, missing %s", n, group, len(r.log.items(opEffect, group)), brief(r.log.missing(group)))
	}, func() bool { return len(r.log.items(opEffect, group)) >= n })
}

// settled waits until a group has settled everything.
func (n *node) settled(group string) {
	n.r.Helper()
	var lag int64
	var err error
	n.r.eventuallyf(func() string { return fmt.Sprintf("group %s has settled everything: lag %d, %v", group, lag, err) }, func() bool {
		ctx, cancel := n.r.deadline()
		defer cancel()
		lag, err = n.bus.Lag(ctx, n.r.name(group))
		return err == nil && lag == 0
	})
}

// deadLetters reads the dead letters of a group and records them.
func (n *node) deadLetters(group string) []posthorn.DeadLetter {
	n.r.Helper()
	ctx, cancel := n.r.deadline()
	defer cancel()
	var dead []posthorn.DeadLetter
	for d, err := range n.bus.DeadLetters(ctx, n.r.name(group)) {
		if err != nil && n.dead() {
			return nil
		}
		if err != nil {
			n.r.Errorf("DeadLetters: %v", err)
			break
		}
		dead = append(dead, d)
	}
	return dead
}

// recordDead puts the dead letters into the log, once each.
func (n *node) recordDead(group string) []posthorn.DeadLetter {
	n.r.Helper()
	dead := n.deadLetters(group)
	known := map[string]bool{}
	for _, o := range n.r.log.of(opDead, group) {
		known[o.id] = true
	}
	byID := map[string]int{}
	for _, o := range n.r.log.all(func(o op) bool { return o.what == opConfirmed || o.what == opUnknown }) {
		byID[o.id] = o.n
	}
	for _, d := range dead {
		if !known[d.ID] {
			n.r.log.add(op{what: opDead, bus: n.n, group: group, id: d.ID, key: d.Key, n: byID[d.ID], attempt: d.Attempts, note: string(d.Reason)})
		}
	}
	return dead
}

// hasDead waits until a group has n dead letters and returns them.
func (n *node) hasDead(group string, want int) []posthorn.DeadLetter {
	n.r.Helper()
	var dead []posthorn.DeadLetter
	n.r.eventuallyf(func() string { return fmt.Sprintf("%d dead letters in group %s; there are %d", want, group, len(dead)) }, func() bool {
		dead = n.deadLetters(group)
		return len(dead) >= want || n.r.Failed()
	})
	return n.recordDead(group)
}

// ended waits until all that is confirmed has ended in a group, and then holds
// the log against the promises.
func (n *node) ended(group string) {
	n.r.Helper()
	n.r.eventuallyf(func() string {
		return fmt.Sprintf("all ended in group %s; missing %s", group, brief(n.r.log.missing(group)))
	}, func() bool {
		n.recordDead(group)
		return len(n.r.log.missing(group)) == 0 || n.r.Failed()
	})
	n.r.checkLog(group)
}

func (r *rig) checkLog(group string) {
	r.Helper()
	for i, w := range r.log.check(group) {
		if i == 5 {
			r.Errorf("... and more")
			break
		}
		r.Errorf("%s", w)
	}
}

// onceEach fails unless the group had exactly one effect for each item.
func (r *rig) onceEach(group string, n int) {
	r.Helper()
	if rep := r.log.repeats(group); len(rep) > 0 {
		r.Errorf("handled twice by group %s: %s", group, brief(rep))
	}
	if got := len(r.log.items(opEffect, group)); got != n {
		r.Errorf("group %s had effects for %d items, want %d", group, got, n)
	}
}

// stop drains a group.
func (r *rig) stop(g *posthorn.Group) {
	r.Helper()
	ctx, cancel := r.deadline()
	defer cancel()
	if err := g.Stop(ctx); err != nil {
		r.Errorf("Stop: %v", err)
	}
}

// close ends a bus cleanly.
func (n *node) close() {
	n.r.Helper()
	ctx, cancel := n.r.deadline()
	defer cancel()
	if err := n.bus.Close(ctx); err != nil {
		n.r.Errorf("Close: %v", err)
	}
}

// kill ends a bus as a kill of its process would, as far as the store and other
// processes can tell.
func (n *node) kill() {
	n.r.Helper()
	n.cutOff()
	n.bury()
}

// cutOff is the moment of the kill. It may be called by a handler.
func (n *node) cutOff() {
	n.once.Do(func() {
		n.r.log.add(op{what: opKill, bus: n.n})
		n.cut.Cut()
		close(n.died)
	})
}

// bury clears away what is left of a killed bus in this process.
func (n *node) bury() {
	n.r.Helper()
	ctx, cancel := context.WithTimeout(n.r.ctx, 10*time.Second)
	defer cancel()
	_ = n.bus.Close(ctx) // it has lost its broker: whatever it says is right
}

func (n *node) dead() bool {
	// While the kill is under way, calls that have begun still reach the store:
	// until it is over handlers go on as always, or what they do would reach it, too.
	if n.cut.gone.Load() {
		return true
	}
	select {
	case <-n.died:
		return true
	default:
		return false
	}
}

// A logBuffer keeps the end of the log of the buses of a case.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	const most = 4 << 10
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Write(p)
	if l.b.Len() > 2*most {
		l.b.Next(l.b.Len() - most)
	}
	return len(p), nil
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
