package delay

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/posthorn/posthorn/driver"
	_ "github.com/posthorn/posthorn/driver/memory"
	"github.com/posthorn/posthorn/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

const topicName = "order"

// A world is a topic in memory, with a wall clock that can jump.
type world struct {
	t    *testing.T
	url  *url.URL
	keep driver.Driver
	spec driver.TopicSpec

	forget bool // to delete what was cancelled

	jump   atomic.Int64 // of the wall clock
	looked atomic.Int64 // at the wall clock
	moved  atomic.Int64

	mu       sync.Mutex
	alarms   []driver.Alarm
	onAppend func(p driver.Partition, msgs []driver.Message) ([]driver.Outcome, bool) // true: that is what became of it
	onApply  func(ops []driver.LaneOp) error
	applied  func(ops []driver.LaneOp)
	onTenure func(driver.Tenure) driver.Tenure
}

func newWorld(t *testing.T, spec driver.TopicSpec) *world {
	t.Helper()
	w := &world{t: t, url: &url.URL{Scheme: "memory", Opaque: strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))}}
	w.keep = w.open()
	spec.Name, spec.Hash, spec.Keep = topicName, driver.HashFNV1a, time.Hour
	var err error
	if w.spec, err = w.keep.EnsureTopic(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	topic, group := Specs(w.spec)
	if _, err := w.keep.EnsureTopic(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
	if _, err := w.keep.EnsureGroup(t.Context(), group); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) now() time.Time {
	w.looked.Add(1)
	return time.Now().Add(time.Duration(w.jump.Load()))
}

func (w *world) alarm(a driver.Alarm) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.alarms = append(w.alarms, a)
}

func (w *world) alarmed() []driver.Alarm {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.alarms)
}

// open opens a driver that ends with the test.
func (w *world) open() driver.Driver {
	w.t.Helper()
	open, _ := driver.Lookup("memory")
	env := driver.Env{Service: "s", Member: fmt.Sprintf("m-%d", rand.Uint64()), Log: slog.New(slog.DiscardHandler), Alarm: w.alarm, Now: time.Now}
	d, err := open(context.Background(), w.url, env)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := d.Close(context.Background()); err != nil {
			w.t.Error(err)
		}
	})
	return d
}

// start starts a mover, which is stopped at the end of the test.
func (w *world) start() *Mover { return w.startOn(w.open()) }

func (w *world) startOn(d driver.Driver) *Mover {
	w.t.Helper()
	m := Start(Config{
		Topic: w.spec, Driver: &hooked{Driver: d, w: w}, Member: "m", Log: slog.New(slog.DiscardHandler),
		Alarm: w.alarm, Now: w.now, Moved: func(n int) { w.moved.Add(int64(n)) },
		Explain: func(err error) error { return fmt.Errorf("explained: %w", err) },
	})
	w.t.Cleanup(func() { w.stop(m) })
	return m
}

func (w *world) stop(m *Mover) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := m.Stop(ctx); err != nil {
		w.t.Errorf("Stop: %v", err)
	}
}

func (w *world) lane() driver.Lane { return w.keep.Lane(Topic(topicName), Partition(topicName)) }

func event(id, key string) driver.Message {
	return driver.Message{ID: id, Source: "s", Type: "order.placed", Key: key, Time: "2026-01-02T03:04:05Z", ContentType: "text/plain", Body: []byte("body of " + id)}
}

// put delays events, all of one key, due after d each.
func (w *world) put(key string, d time.Duration, ids ...string) {
	w.t.Helper()
	var ops []driver.LaneOp
	for _, id := range ids {
		ops = append(ops, driver.LaneOp{Entry: Entry(event(id, key), w.now().Add(d))})
	}
	if err := w.lane().Apply(w.t.Context(), ops); err != nil {
		w.t.Fatal(err)
	}
}

// cancel does what a bus does.
func (w *world) cancel(id string) bool {
	w.t.Helper()
	entries, err := w.lane().Get(w.t.Context(), []string{Name(id)})
	if err != nil {
		w.t.Fatal(err)
	}
	if len(entries) == 0 || !Waits(&entries[0]) {
		return false
	}
	mark := Cancelled(&entries[0])
	if w.lane().Apply(w.t.Context(), []driver.LaneOp{{Entry: mark}}) != nil {
		return false
	}
	if w.forget {
		return true
	}
	return w.lane().Apply(w.t.Context(), []driver.LaneOp{{Entry: mark, Delete: true}}) == nil
}

// published reads the topic.
func (w *world) published() []driver.Delivery {
	w.t.Helper()
	var all []driver.Delivery
	for n := range w.spec.Partitions {
		for above := uint64(0); ; {
			ds, err := w.keep.Read(w.t.Context(), driver.Partition{Topic: topicName, N: n}, above, 1000, true)
			if err != nil {
				w.t.Fatal(err)
			}
			if len(ds) == 0 {
				break
			}
			all, above = append(all, ds...), ds[len(ds)-1].Pos
		}
	}
	return all
}

func ids(ds []driver.Delivery) []string {
	var ids []string
	for _, d := range ds {
		ids = append(ids, d.Msg.ID)
	}
	return ids
}

// left is how many entries the lane has.
func (w *world) left() int {
	w.t.Helper()
	entries, _, err := w.lane().Scan(w.t.Context(), "", 1_000_000)
	if err != nil {
		w.t.Fatal(err)
	}
	return len(entries)
}

func (w *world) want(want ...string) {
	w.t.Helper()
	if got := ids(w.published()); !slices.Equal(got, want) {
		w.t.Errorf("published are %q, want %q", got, want)
	}
}

// hooked is a driver that fails when it is asked to.
type hooked struct {
	driver.Driver
	w *world
}

func (h *hooked) Append(p driver.Partition, msgs []driver.Message, deadline time.Time, done func([]driver.Outcome)) {
	h.w.mu.Lock()
	f := h.w.onAppend
	h.w.mu.Unlock()
	if f != nil {
		if out, ok := f(p, msgs); ok {
			done(out)
			return
		}
	}
	h.Driver.Append(p, msgs, deadline, done)
}

func (h *hooked) Join(ctx context.Context, group string, m driver.Member) error {
	return h.Driver.Join(ctx, group, &hookedMember{Member: m, w: h.w, outer: map[driver.Tenure]driver.Tenure{}})
}

type hookedTenure struct {
	driver.Tenure
	lane driver.Lane
}

func (t *hookedTenure) Lane() driver.Lane { return t.lane }

type hookedMember struct {
	driver.Member
	w     *world
	outer map[driver.Tenure]driver.Tenure
}

func (m *hookedMember) Assigned(t driver.Tenure) {
	var o driver.Tenure = &hookedTenure{Tenure: t, lane: &hookedLane{Lane: t.Lane(), w: m.w}}
	if f := m.w.onTenure; f != nil {
		o = f(o)
	}
	m.outer[t] = o
	m.Member.Assigned(o)
}
func (m *hookedMember) Revoke(ctx context.Context, t driver.Tenure) { m.Member.Revoke(ctx, m.outer[t]) }
func (m *hookedMember) Lost(t driver.Tenure, err error)             { m.Member.Lost(m.outer[t], err) }

func (h *hooked) Lane(group string, p driver.Partition) driver.Lane {
	return &hookedLane{Lane: h.Driver.Lane(group, p), w: h.w}
}

type hookedLane struct {
	driver.Lane
	w *world
}

func (l *hookedLane) Apply(ctx context.Context, ops []driver.LaneOp) error {
	l.w.mu.Lock()
	f, applied := l.w.onApply, l.w.applied
	l.w.mu.Unlock()
	if f != nil {
		if err := f(ops); err != nil {
			return err
		}
	}
	err := l.Lane.Apply(ctx, ops)
	if applied != nil {
		applied(ops)
	}
	return err
}

func (w *world) hook(onAppend func(driver.Partition, []driver.Message) ([]driver.Outcome, bool), onApply func([]driver.LaneOp) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.onAppend, w.onApply = onAppend, onApply
}

func all(n int, o driver.Outcome) []driver.Outcome {
	out := make([]driver.Outcome, n)
	for i := range out {
		out[i] = o
	}
	return out
}

// TestTimes publishes a thousand events over three hours, and a hundred that are
// put while the mover is at work: none is early, none late.
func TestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, driver.TopicSpec{Partitions: 5})
		due := map[string]time.Time{}
		put := func(i int) {
			d := rand.N(3 * time.Hour)
			id := fmt.Sprint("e-", i)
			due[id] = time.Now().Add(d)
			w.put(fmt.Sprint("k-", i%7), d, id)
		}
		for i := range 1000 {
			put(i)
		}
		w.start()
		for i := range 100 {
			time.Sleep(time.Minute)
			put(1000 + i)
		}
		time.Sleep(5 * time.Hour)
		published := w.published()
		if len(published) != len(due) || w.left() != 0 || w.moved.Load() != int64(len(due)) {
			t.Fatalf("%d of %d published, %d left, %d counted", len(published), len(due), w.left(), w.moved.Load())
		}
		for _, d := range published {
			at := due[d.Msg.ID]
			if late := d.Stored.Sub(at); late < 0 || late > recheck {
				t.Errorf("%s was due at %v and published at %v", d.Msg.ID, at, d.Stored)
			}
			if want := event(d.Msg.ID, d.Msg.Key); string(d.Msg.Body) != string(want.Body) || d.Msg.Time != want.Time || d.Msg.Source != want.Source {
				t.Errorf("published is %+v", d.Msg)
			}
		}
	})
}

// TestOrder: by due time; equal ones in the order they were stored, also when a
// mover has died in the middle of a batch, and whatever their names are.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, driver.TopicSpec{Partitions: 1})
		var want []string
		due := w.now().Add(time.Hour)
		for i := range 3 * maxBatch {
			id := fmt.Sprint("equal-", i)
			want = append(want, id)
			w.put("k", due.Sub(w.now()), id)
		}
		w.put("k", time.Hour-time.Second, "before")
		w.put("k", time.Hour+time.Second, "after")
		want = append(append([]string{"before"}, want...), "after")
		dead := w.start()
		// It claims, and is dead before it publishes.
		w.hook(func(_ driver.Partition, msgs []driver.Message) ([]driver.Outcome, bool) {
			if msgs[0].ID == "before" {
				return nil, false
			}
			return all(len(msgs), driver.Outcome{State: driver.Unknown, Err: driver.ErrUnavailable}), true
		}, nil)
		time.Sleep(time.Hour + 100*time.Millisecond)
		w.stop(dead)
		if got := len(w.published()); got != 1 {
			t.Fatalf("%d are published, want 1", got)
		}
		w.hook(nil, nil)
		w.start()
		time.Sleep(time.Minute)
		w.want(want...)
	})
}

// TestWallClockJumps: hours ahead, what is due by then comes at once; hours back,
// nothing comes early.
func TestWallClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, driver.TopicSpec{Partitions: 2})
		w.put("k", time.Hour, "hour")
		w.put("k", 5*time.Hour, "five")
		w.start()
		time.Sleep(time.Minute)
		w.jump.Store(int64(2 * time.Hour))
		time.Sleep(recheck + 10*time.Millisecond)
		w.want("hour")
		w.jump.Store(int64(-10 * time.Hour))
		time.Sleep(6 * time.Hour)
		w.want("hour")
		time.Sleep(9 * time.Hour)
		w.want("hour", "five")
	})
}

// TestIdle: while nothing waits, nothing wakes up.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, driver.TopicSpec{Partitions: 8})
		w.start()
		w.put("k", time.Second, "a")
		time.Sleep(time.Minute)
		w.want("a")
		before := w.looked.Load()
		time.Sleep(24 * time.Hour)
		if n := w.looked.Load() - before; n != 0 {
			t.Errorf("with nothing to do the clock was read %d times in a day", n)
		}
		w.put("k", time.Hour, "b")
		time.Sleep(59 * time.Minute)
		w.want("a")
		time.Sleep(2 * time.Minute)
		w.want("a", "b")
	})
}

// TestUnknownOutcome: what may be stored is appended again under its id.
func TestUnknownOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, driver.TopicSpec{Partitions: 1})
		w.start()
		var tries atomic.Int64
		w.hook(func(p driver.Partition, msgs []driver.Message) ([]driver.Outcome, bool) {
			if tries.Add(1) > 4 {
				return nil, false
			}
			w.keep.Append(p, msgs, time.Now().Add(time.Second), func([]driver.Outcome) {}) // stored, and not heard of
			return all(len(msgs), driver.Outcome{State: driver.Unknown, Err: driver.ErrUnavailable}), true
		}, nil)
		w.put("k", time.Second, "a", "b", "c")
		time.Sleep(1200 * time.Millisecond)
		if w.cancel("a") {
			t.Error("an event that may be published was cancelled")
		}
		time.Sleep(30 * time.Second)
		w.want("a", "b", "c")
		if w.left() != 0 {
			t.Errorf("%d entries are left", w.left())
		}
		w.calmed("cannot be published")
	})
}

// calmed expects that an alarm was raised, and cleared.
func (w *world) calmed(text string) {
	w.t.Helper()
	alarms := w.alarmed()
	if len(alarms) < 2 || alarms[0].Cleared || !strings.Contains(alarms[0].Text, text) || !alarms[len(alarms)-1].Cleared {
		w.t.Errorf("alarms: %+v; want one of %q, cleared in the end", alarms, text)
	}
	for _, a := range alarms {
		if a.Code != driver.AlarmDelayFailed || a.Thing != topicName {
			w.t.Errorf("alarm %+v", a)
		}
	}
}

// TestFull: a partition that is full holds back no other one, raises an alarm, lets
// its events be cancelled, and goes on in order when there is room.
func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, driver.TopicSpec{Partitions: 2})
		keys := [2]string{}
		for i := 0; keys[0] == "" || keys[1] == ""; i++ {
			k := fmt.Sprint("k", i)
			keys[driver.PartitionOf(k, 2)] = k
		}
		w.hook(func(p driver.Partition, msgs []driver.Message) ([]driver.Outcome, bool) {
			return all(len(msgs), driver.Outcome{State: driver.NotStored, Err: driver.ErrTopicFull}), p.N == 0
		}, nil)
		w.start()
		w.put(keys[0], time.Second, "a", "b", "c")
		w.put(keys[1], time.Second, "other")
		w.put(keys[1], 2*time.Hour, "later")
		time.Sleep(3 * time.Hour)
		w.want("other", "later")
		if alarms := w.alarmed(); len(alarms) != 1 || !strings.Contains(alarms[0].Text, "topic order, partition 0") || !strings.Contains(alarms[0].Text, "explained") {
			t.Errorf("alarms: %+v", alarms)
		}
		if !w.cancel("b") {
			t.Error("an event that the full topic refuses cannot be cancelled")
		}
		w.hook(nil, nil)
		time.Sleep(time.Minute)
		w.want("a", "c", "other", "later")
		w.calmed("full")
	})
}

// TestRefusedEvent: one that the broker refuses for what it is holds back none of
// its key, and can be cancelled.
func TestRefusedEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, driver.TopicSpec{Partitions: 1})
		var tries atomic.Int64
		w.hook(func(p driver.Partition, msgs []driver.Message) ([]driver.Outcome, bool) {
			var good []driver.Message
			out := all(len(msgs), driver.Outcome{State: driver.Stored})
			for i := range msgs {
				if msgs[i].ID == "bad" {
					tries.Add(1)
					out[i] = driver.Outcome{State: driver.NotStored, Err: driver.ErrTooLarge}
				} else {
					good = append(good, msgs[i])
				}
			}
			w.keep.Append(p, good, time.Now().Add(time.Second), func([]driver.Outcome) {})
			return out, true
		}, nil)
		w.start()
		w.put("k", time.Second, "a", "bad", "b")
		w.put("k", time.Minute, "c")
		time.Sleep(10 * time.Minute)
		w.want("a", "b", "c")
		if n := tries.Load(); n < 8 || n > 12 {
			t.Errorf("tried %d times in 10 minutes, want about 10", n)
		}
		if alarms := w.alarmed(); len(alarms) != 1 || !strings.Contains(alarms[0].Text, "id bad") {
			t.Errorf("alarms: %+v", alarms)
		}
		if !w.cancel("bad") {
			t.Error("it cannot be cancelled")
		}
		time.Sleep(2 * time.Minute)
		w.want("a", "b", "c")
		w.calmed("too large")
	})
}

// TestDeleteFails: what is published is deleted later, and not published again by
// the same mover, however long that takes.
func TestDeleteFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, driver.TopicSpec{Partitions: 1, Dedup: time.Second})
		w.start()
		w.hook(nil, func(ops []driver.LaneOp) error {
			if ops[0].Delete {
				return driver.ErrUnavailable
			}
			return nil
		})
		w.put("k", time.Second, "a", "b")
		w.put("k", 2*time.Second, "c")
		time.Sleep(time.Hour)
		w.want("a", "b")
		w.hook(nil, nil)
		time.Sleep(time.Minute)
		w.want("a", "b", "c")
		if w.left() != 0 {
			t.Errorf("%d entries are left", w.left())
		}
		w.calmed("unavailable")
	})
}

// TestCancelTells: whatever the moment, an event is either cancelled or published.
func TestCancelTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, driver.TopicSpec{Partitions: 4})
		const n = 2000
		for i := range n {
			w.put(fmt.Sprint(i%13), time.Second, fmt.Sprint("e-", i))
		}
		w.start()
		time.Sleep(time.Second - time.Nanosecond)
		cancelled := map[string]bool{}
		for i := range n {
			id := fmt.Sprint("e-", n-1-i)
			if w.cancel(id) {
				cancelled[id] = true
			}
			if i%100 == 50 {
				time.Sleep(time.Nanosecond)
			}
			runtime.Gosched()
		}
		time.Sleep(time.Minute)
		published := map[string]bool{}
		for _, id := range ids(w.published()) {
			if published[id] || cancelled[id] {
				t.Errorf("%s: published twice %v, cancelled %v", id, published[id], cancelled[id])
			}
			published[id] = true
		}
		if len(published)+len(cancelled) != n || w.left() != 0 {
			t.Errorf("%d published, %d cancelled, of %d; %d left", len(published), len(cancelled), n, w.left())
		}
		t.Logf("%d published, %d cancelled", len(published), len(cancelled))
	})
}

// TestPutAgain: an id that is used again while it is being published, just after
// the entry has gone, is not forgotten.
func TestPutAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, driver.TopicSpec{Partitions: 1, Dedup: time.Second})
		w.start()
		var once atomic.Bool
		w.mu.Lock()
		w.applied = func(ops []driver.LaneOp) {
			if ops[0].Delete && once.CompareAndSwap(false, true) {
				w.put("k", time.Hour, "a")
				time.Sleep(time.Second) // it is told of that before it hears of the deletion
			}
		}
		w.mu.Unlock()
		w.put("k", time.Second, "a")
		time.Sleep(time.Minute)
		w.want("a")
		time.Sleep(2 * time.Hour)
		w.want("a", "a")
	})
}

// TestDueChanges: an event that was cancelled and delayed anew comes at its new
// time only.
func TestDueChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, driver.TopicSpec{Partitions: 3})
		w.start()
		w.put("k", time.Minute, "a")
		time.Sleep(time.Second)
		if !w.cancel("a") {
			t.Fatal("not cancelled")
		}
		w.put("k", time.Hour, "a")
		time.Sleep(58 * time.Minute)
		w.want()
		time.Sleep(3 * time.Minute)
		w.want("a")
	})
}

// TestCancelledIsClearedAway: who cancels may die before the entry is deleted.
func TestCancelledIsClearedAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, driver.TopicSpec{Partitions: 1})
		w.forget = true
		m := w.start()
		w.put("k", time.Minute, "a", "b")
		time.Sleep(time.Second)
		if !w.cancel("a") {
			t.Fatal("not cancelled")
		}
		time.Sleep(time.Hour)
		w.want("b")
		w.stop(m)
		w.start()
		time.Sleep(time.Second)
		if n := w.left(); n != 0 {
			t.Errorf("%d entries are left", n)
		}
	})
}

// lapsing is a tenure whose lease can lapse.
type lapsing struct {
	driver.Tenure
	lapsed *atomic.Bool
}

func (t lapsing) StartBy() time.Time {
	if t.lapsed.Load() {
		return time.Now().Add(-time.Second)
	}
	return time.Now().Add(time.Second)
}

// TestLapsed: a mover whose lease has run out publishes nothing.
func TestLapsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, driver.TopicSpec{Partitions: 1})
		var lapsed atomic.Bool
		lapsed.Store(true)
		w.onTenure = func(t driver.Tenure) driver.Tenure { return lapsing{t, &lapsed} }
		w.start()
		w.put("k", time.Second, "a")
		time.Sleep(time.Hour)
		w.want()
		lapsed.Store(false)
		time.Sleep(time.Minute)
		w.want("a")
		w.calmed("lease")
	})
}

// TestHandOver: one mover after the other, stopped in the middle of things, and
// nothing is published twice or lost.
func TestHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, driver.TopicSpec{Partitions: 3})
		const n = 3000
		var want []string
		for i := range n {
			id := fmt.Sprint("e-", i)
			want = append(want, id)
			w.put(fmt.Sprint(i%11), rand.N(10*time.Second), id)
		}
		m := w.start()
		for range 12 {
			next := w.start()
			time.Sleep(time.Second)
			w.stop(m)
			m = next
		}
		time.Sleep(time.Minute)
		got := ids(w.published())
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) || w.left() != 0 {
			t.Errorf("%d published, %d left", len(got), w.left())
		}
	})
}

// TestNoGroup: without its group a mover says so, and goes on trying.
func TestNoGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, driver.TopicSpec{Partitions: 1})
		m := w.start()
		synctest.Wait()
		if err := w.keep.RemoveGroup(t.Context(), Topic(topicName)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		alarms := w.alarmed()
		if last := alarms[len(alarms)-1]; last.Cleared || !strings.Contains(last.Text, "no member") {
			t.Errorf("alarms: %+v", alarms)
		}
		_, group := Specs(w.spec)
		if _, err := w.keep.EnsureGroup(t.Context(), group); err != nil {
			t.Fatal(err)
		}
		w.put("k", time.Second, "a")
		time.Sleep(time.Minute)
		w.want("a")
		w.stop(m)
		w.calmed("not found")
	})
}

// silent never says what becomes of an Append.
type silent struct{ driver.Driver }

func (silent) Append(driver.Partition, []driver.Message, time.Time, func([]driver.Outcome)) {}

// TestStopIsBounded: Stop waits for what is being published, and no longer than its
// context.
func TestStopIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, driver.TopicSpec{Partitions: 1})
		m := w.startOn(silent{w.open()})
		w.put("k", time.Second, "a")
		time.Sleep(2 * time.Second)
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_ = m.Stop(ctx)
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("Stop took %v", took)
		}
		w.start()
		time.Sleep(time.Minute)
		w.want("a")
	})
}

// TestIndexIsSmall holds what the documents say of the index to what it takes.
func TestIndexIsSmall(t *testing.T) {
	const n = 50_000
	m := &Mover{cfg: Config{Topic: driver.TopicSpec{Name: topicName, Partitions: 8}, Driver: nowhere{}}}
	s := newShift(m, &hookedTenure{})
	defer s.cancel()
	heap := func() uint64 {
		runtime.GC()
		var st runtime.MemStats
		runtime.ReadMemStats(&st)
		return st.HeapAlloc
	}
	before := heap()
	now := time.Now()
	for i := range n {
		e := Entry(event(fmt.Sprintf("0198c6a4-0000-7000-8000-%012d", i), "k"), now)
		e.Rev, e.Msg.Body = uint64(i+1), nil
		s.told(e)
	}
	each := (heap() - before) / n
	t.Logf("%d bytes an entry", each)
	if each > 300 {
		t.Errorf("an entry of the index takes %d bytes", each)
	}
	runtime.KeepAlive(s)
}

type nowhere struct{ driver.Driver }

func (nowhere) Lane(string, driver.Partition) driver.Lane { return nil }
