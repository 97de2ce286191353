package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthorn/posthorn/driver"
	_ "github.com/posthorn/posthorn/driver/memory"
	"github.com/posthorn/posthorn/internal/clock"
	"github.com/posthorn/posthorn/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// shapes runs a test on both shapes of source.
func shapes(t *testing.T, f func(t *testing.T, shape string)) {
	for _, shape := range []string{"log", "queue"} {
		t.Run(shape, func(t *testing.T) {
			t.Parallel()
			f(t, shape)
		})
	}
}

// A rig is a store in memory and what a test wants to see and to disturb of it.
type rig struct {
	testing.TB
	url *url.URL
	drv driver.Driver // from outside

	mu   sync.Mutex
	done []string // the ids of what was handled, in order

	startBy atomic.Pointer[time.Time]
	wall    atomic.Int64 // how far the wall clock is off, in ns
	deaf    atomic.Bool  // members are not told of a changed record
	records atomic.Int64 // checkpoints that were taken
	refused atomic.Int64 // those that were refused with ErrSubscription
	seq     int

	// onFetch changes what a Fetch returns, before the engine sees it.
	onFetch atomic.Pointer[func(into []driver.Delivery) int]
	onGet   atomic.Pointer[func()] // is called when the engine reads entries of a lane
}

var rigs atomic.Int64

func newRig(t testing.TB, shape string) *rig {
	r := &rig{TB: t, url: &url.URL{Scheme: "memory", Opaque: fmt.Sprintf("engine-%d", rigs.Add(1)), RawQuery: "shape=" + shape}}
	r.drv = r.open("outside")
	return r
}

func (r *rig) now() time.Time { return time.Now().Add(time.Duration(r.wall.Load())) }

func (r *rig) open(member string) driver.Driver {
	open, _ := driver.Lookup("memory")
	d, err := open(r.Context(), r.url, driver.Env{Service: "test", Member: member, Log: slog.New(slog.DiscardHandler), Alarm: func(driver.Alarm) {}, Now: r.now})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = d.Close(context.Background()) })
	return d
}

// topic makes a topic and subscribes group "g" to types in it.
func (r *rig) topic(name string, partitions int, types ...string) {
	r.Helper()
	if _, err := r.drv.EnsureTopic(r.Context(), driver.TopicSpec{Name: name, Hash: driver.HashFNV1a, Partitions: partitions, Keep: time.Hour}); err != nil {
		r.Fatal(err)
	}
	r.subscribe(name, types...)
}

func (r *rig) subscribe(topic string, types ...string) driver.GroupSpec {
	r.Helper()
	spec, err := r.drv.EnsureGroup(r.Context(), driver.GroupSpec{Name: "g", Types: map[string][]string{topic: types}})
	if err != nil {
		r.Fatal(err)
	}
	return spec
}

// publish stores one event of each type in partition 0, all of one key when it is
// not empty. It returns their ids.
func (r *rig) publish(topic, key string, types ...string) []string {
	r.Helper()
	return r.put(driver.Partition{Topic: topic}, key, types...)
}

// publishTo does so in a partition of topic "order".
func (r *rig) publishTo(n int, key string, types ...string) []string {
	r.Helper()
	return r.put(driver.Partition{Topic: "order", N: n}, key, types...)
}

func (r *rig) put(p driver.Partition, key string, types ...string) []string {
	r.Helper()
	msgs := make([]driver.Message, len(types))
	var ids []string
	for i, typ := range types {
		r.seq++
		id := fmt.Sprintf("%s-%d", typ, r.seq)
		ids = append(ids, id)
		msgs[i] = driver.Message{ID: id, Source: "test", Type: typ, Key: key, ContentType: "application/json", Body: []byte("{}")}
	}
	r.store(p, msgs)
	return ids
}

func (r *rig) store(p driver.Partition, msgs []driver.Message) {
	r.Helper()
	stored := make(chan []driver.Outcome, 1)
	r.drv.Append(p, msgs, time.Now().Add(time.Minute), func(o []driver.Outcome) { stored <- o })
	for _, o := range <-stored {
		if o.State != driver.Stored {
			r.Fatal(o.Err)
		}
	}
}

// A member is a running engine.
type runner struct {
	*rig
	*Group
	drv    driver.Driver
	counts counts
	mu     sync.Mutex
	alarms []driver.Alarm
}

type counts struct{ started, handled, retried, dead, skipped, expired, parked, abandoned atomic.Int64 }

func (c *counts) Started()      { c.started.Add(1) }
func (c *counts) Handled(n int) { c.handled.Add(int64(n)) }
func (c *counts) Retried(bool)  { c.retried.Add(1) }
func (c *counts) Dead(bool)     { c.dead.Add(1) }
func (c *counts) Skipped(n int) { c.skipped.Add(int64(n)) }
func (c *counts) Expired()      { c.expired.Add(1) }
func (c *counts) Parked()       { c.parked.Add(1) }
func (c *counts) Abandoned()    { c.abandoned.Add(1) }

// run starts a member with these handlers and settings.
func (r *rig) run(name string, handlers map[string]func(context.Context, *Item) Verdict, with func(*Config)) *runner {
	r.Helper()
	m := &runner{rig: r, drv: r.open(name)}
	cfg := Config{
		Name: "g", Driver: &watched{Driver: m.drv, r: r}, Member: name,
		Concurrency: 16, Window: 1024, WindowBytes: 1 << 20, MaxPayload: 1 << 20,
		Checkpoint: 20 * time.Millisecond, Drain: 30 * time.Second, Boots: 3,
		Handlers: map[string]*Handler{}, Foreign: map[string]*Handler{}, Unordered: map[string]bool{},
		Gate: NewGate(), Counts: &m.counts, Log: slog.New(slog.DiscardHandler), Clock: clock.New(r.now),
		Alarm: func(a driver.Alarm) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.alarms = append(m.alarms, a)
		},
		Structured: func(*driver.Message) (bool, error) { return false, nil },
		Foreigner: func(*Item) Verdict {
			return Verdict{Kind: Dead, Err: errors.New("foreign"), Code: "foreign", Unreadable: true}
		},
	}
	for typ, h := range handlers {
		cfg.Handlers[typ] = &Handler{Run: h, Timeout: 30 * time.Second,
			Retry: Retry{Attempts: 3, Delay: time.Millisecond, MaxDelay: time.Millisecond, Late: 3, LateDelay: time.Millisecond, MaxLate: time.Millisecond}}
	}
	if with != nil {
		with(&cfg)
	}
	stands, err := r.drv.Group(r.Context(), "g")
	if err != nil {
		r.Fatal(err)
	}
	m.Group = Start(cfg, stands, func(err error) { r.Errorf("%s is no member any more: %v", name, err) })
	r.Cleanup(func() { m.stop() })
	return m
}

func (m *runner) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if m.Group.Ended() {
		return
	}
	if err := m.Stop(ctx); err != nil {
		m.Errorf("stop: %v", err)
	}
}

// Ended tells whether the group was stopped.
func (g *Group) Ended() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.over
}

// alarmed tells whether the last word on an alarm is that it stands.
func (m *runner) alarmed(code string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range slices.Backward(m.alarms) {
		if a.Code == code {
			return !a.Cleared
		}
	}
	return false
}

// handle notes that an item was handled.
func (r *rig) handle(_ context.Context, it *Item) Verdict {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = append(r.done, it.Delivery.Msg.ID)
	return Verdict{Kind: Done}
}

func (r *rig) handled() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.done)
}

// times is how often an id was handled.
func (r *rig) times(id string) int {
	n := 0
	for _, d := range r.handled() {
		if d == id {
			n++
		}
	}
	return n
}

func (r *rig) each(want int, ids ...string) bool {
	for _, id := range ids {
		if r.times(id) != want {
			return false
		}
	}
	return true
}

func (r *rig) eventually(what string, ok func() bool) {
	r.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.Fatalf("still not: %s; handled %v", what, r.handled())
		}
	}
}

// never looks for a while that something is not so.
func (r *rig) never(what string, bad func() bool) {
	r.Helper()
	for end := time.Now().Add(150 * time.Millisecond); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if bad() {
			r.Fatalf("%s; handled %v", what, r.handled())
		}
	}
}

// position is where the group stands in partition 0.
func (r *rig) position(topic string, n int) driver.Position {
	r.Helper()
	all, err := r.drv.Positions(context.Background(), "g")
	if err != nil {
		r.Fatal(err)
	}
	for _, p := range all {
		if p.Topic == topic && p.N == n {
			return p
		}
	}
	r.Fatalf("no position in %s", topic)
	return driver.Position{}
}

func (r *rig) lag(topic string) int64 { return r.position(topic, 0).Lag }
func (r *rig) lagOf(n int) int64      { return r.position("order", n).Lag }

// watched is the driver of a member.
type watched struct {
	driver.Driver
	r *rig
}

func (w *watched) Join(ctx context.Context, group string, m driver.Member) error {
	return w.Driver.Join(ctx, group, &watchedMember{Member: m, r: w.r, outer: map[driver.Tenure]*watchedTenure{}})
}

type watchedMember struct {
	driver.Member
	r     *rig
	mu    sync.Mutex
	outer map[driver.Tenure]*watchedTenure
	told  []string
}

// Subscribed is told late to a deaf member.
func (m *watchedMember) Subscribed(spec driver.GroupSpec) []string {
	if m.told == nil || !m.r.deaf.Load() {
		m.told = append([]string{}, m.Member.Subscribed(spec)...)
	}
	return m.told
}

func (m *watchedMember) Assigned(t driver.Tenure) {
	w := &watchedTenure{Tenure: t, r: m.r}
	m.mu.Lock()
	m.outer[t] = w
	m.mu.Unlock()
	m.Member.Assigned(w)
}

func (m *watchedMember) of(t driver.Tenure) *watchedTenure {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.outer[t]
}

func (m *watchedMember) Revoke(ctx context.Context, t driver.Tenure) { m.Member.Revoke(ctx, m.of(t)) }
func (m *watchedMember) Lost(t driver.Tenure, err error)             { m.Member.Lost(m.of(t), err) }

type watchedTenure struct {
	driver.Tenure
	r *rig
}

func (t *watchedTenure) StartBy() time.Time {
	if by := t.r.startBy.Load(); by != nil {
		return *by
	}
	return time.Time{}
}

func (t *watchedTenure) Fetch(ctx context.Context, into []driver.Delivery, maxBytes int) (int, error) {
	for {
		n, err := t.Tenure.Fetch(ctx, into, maxBytes)
		if f := t.r.onFetch.Load(); f != nil && n > 0 {
			n = (*f)(into[:n])
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (t *watchedTenure) Lane() driver.Lane { return &watchedLane{Lane: t.Tenure.Lane(), r: t.r} }

type watchedLane struct {
	driver.Lane
	r *rig
}

func (l *watchedLane) Get(ctx context.Context, names []string) ([]driver.Entry, error) {
	if f := l.r.onGet.Load(); f != nil {
		(*f)()
	}
	return l.Lane.Get(ctx, names)
}

func (t *watchedTenure) Checkpoint(ctx context.Context, c driver.Checkpoint) error {
	return t.r.recorded(t.Tenure.Checkpoint(ctx, c))
}

func (t *watchedTenure) Release(ctx context.Context, c driver.Checkpoint) error {
	return t.r.recorded(t.Tenure.Release(ctx, c))
}

func (r *rig) recorded(err error) error {
	if errors.Is(err, driver.ErrSubscription) {
		r.refused.Add(1)
	} else if err == nil {
		r.records.Add(1)
	}
	return err
}

func repeat(typ string, n int) []string { return slices.Repeat([]string{typ}, n) }
