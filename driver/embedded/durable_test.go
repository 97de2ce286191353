package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/embedded"
)

// A gate is a syncer that can be held and broken.
type gate struct {
	begun atomic.Int64
	ended atomic.Int64
	hold  atomic.Pointer[chan struct{}]
	fail  atomic.Pointer[error]
}

func (g *gate) sync(_ context.Context, sync func() error) error {
	g.begun.Add(1)
	if h := g.hold.Load(); h != nil {
		<-*h
	}
	if err := g.fail.Load(); err != nil {
		return *err
	}
	if err := sync(); err != nil {
		return err
	}
	g.ended.Add(1)
	return nil
}

// block holds all syncs until the returned function is called.
func (g *gate) block() (release func()) {
	c := make(chan struct{})
	g.hold.Store(&c)
	return sync.OnceFunc(func() { g.hold.Store(nil); close(c) })
}

func (g *gate) options() embedded.Options { return embedded.Options{Sync: g.sync} }

// eventually waits for what has no signal of its own.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestNothingIsConfirmedBeforeItsSync(t *testing.T) {
	t.Parallel()
	var g gate
	b := open(t, t.TempDir(), g.options())
	b.topic("order", 2)
	var confirmed atomic.Int64
	var early atomic.Int64
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Add(1)
		b.Append(driver.Partition{Topic: "order", N: i % 2}, events(fmt.Sprintf("m%d-", i), 1+i%5), time.Now().Add(time.Minute), func(o []driver.Outcome) {
			defer wg.Done()
			confirmed.Add(1)
			if g.ended.Load() == 0 || o[0].State != driver.Stored {
				early.Add(1)
			}
		})
	}
	wg.Wait()
	if early.Load() != 0 || confirmed.Load() != 200 {
		t.Fatalf("%d of %d were confirmed early or badly", early.Load(), confirmed.Load())
	}

	confirmsBySync(t, b, &g)
}

// confirmsBySync wants a message confirmed by a sync that began after the server had
// stored it, and by no earlier one.
func confirmsBySync(t *testing.T, b *bed, g *gate) {
	t.Helper()
	release := g.block()
	defer release()
	done := make(chan []driver.Outcome, 2)
	send := func(prefix string, n int) {
		before := b.last(order0)
		b.Append(order0, events(prefix, n), time.Now().Add(time.Minute), func(o []driver.Outcome) { done <- o })
		eventually(t, "stored on the server", func() bool { return b.last(order0) == before+uint64(n) })
	}
	begun := g.begun.Load()
	send("held", 3)
	eventually(t, "a sync has begun", func() bool { return g.begun.Load() > begun })
	send("behind", 1) // the sync that runs does not cover it
	select {
	case o := <-done:
		t.Fatalf("confirmed without a sync: %+v", o)
	default:
	}
	n := g.ended.Load()
	release()
	<-done
	if g.ended.Load() == n {
		t.Error("confirmed without a sync")
	}
	<-done
	if g.ended.Load() < n+2 {
		t.Error("a sync that had begun before confirmed what came after")
	}
}

func TestDeadlineWhileSyncHangs(t *testing.T) {
	t.Parallel()
	var g gate
	b := open(t, t.TempDir(), g.options())
	b.topic("order", 1)
	release := g.block()
	defer release()
	o := b.publishBy(50*time.Millisecond, order0, events("a", 2)...)
	for _, o := range o {
		if o.State != driver.Unknown || o.Pos != 0 {
			t.Errorf("%+v", o)
		}
		wantErr(t, o.Err, driver.ErrUnavailable, "PH-T-order-0", "disk")
	}
}

func TestFailingSync(t *testing.T) {
	t.Parallel()
	var g gate
	b := open(t, t.TempDir(), g.options())
	b.topic("order", 1)
	b.group("g", driver.StartAt{}, "order")
	b.mustPublish(order0, event("good", "k"))
	tn, _ := b.tenure("g", "order")
	fetch(t, tn, 1)
	broken := errors.New("the disk is on fire")
	g.fail.Store(&broken)
	o := b.publish(order0, events("a", 2)...)
	for _, o := range o {
		if o.State != driver.Unknown {
			t.Errorf("%+v", o)
		}
		wantErr(t, o.Err, broken, "sync", "restart")
	}
	calls := g.begun.Load()
	g.fail.Store(nil) // what the disk says now is not believed
	if o := b.publish(order0, event("b", "k"))[0]; o.State != driver.NotStored || !errors.Is(o.Err, broken) {
		t.Errorf("%+v", o)
	}
	wantErr(t, b.Health(t.Context()), broken)
	wantErr(t, tn.Checkpoint(t.Context(), driver.Checkpoint{Floor: 1, Mark: 1}), broken)
	wantErr(t, tn.Lane().Apply(t.Context(), put(entry("k", 1, driver.Due))), broken)
	_, err := b.EnsureTopic(t.Context(), driver.TopicSpec{Name: "other", Partitions: 1})
	wantErr(t, err, broken)
	if g.begun.Load() != calls {
		t.Error("the sync was tried again")
	}
	if a, ok := b.alarm("sync_failed"); !ok || a.Thing != b.dir || !strings.Contains(a.Text, "fire") {
		t.Errorf("alarm %+v", a)
	}
}

func TestPositionNeverPassesASync(t *testing.T) {
	t.Parallel()
	var g gate
	b := open(t, t.TempDir(), g.options())
	b.topic("order", 1)
	b.group("g", driver.StartAt{}, "order")
	tn, _ := b.tenure("g", "order")
	release := g.block()
	defer release()
	b.Append(order0, events("a", 5), time.Now().Add(time.Minute), func([]driver.Outcome) {})
	fetch(t, tn, 5) // they can be read before they are durable
	result := make(chan error, 1)
	go func() { result <- tn.Checkpoint(t.Context(), driver.Checkpoint{Floor: 5, Mark: 5}) }()
	for range 20 {
		ps, err := b.Positions(t.Context(), "g")
		if err != nil || ps[0].Floor != 0 {
			t.Fatalf("the record says %+v before the sync, %v", ps, err)
		}
	}
	release()
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	if ps, _ := b.Positions(t.Context(), "g"); ps[0].Floor != 5 {
		t.Errorf("%+v", ps)
	}
}

func TestBootEntriesNeedNoSync(t *testing.T) {
	t.Parallel()
	var g gate
	b := open(t, t.TempDir(), g.options())
	b.topic("order", 1)
	b.group("g", driver.StartAt{}, "order")
	n := g.begun.Load()
	boot := &driver.Entry{Name: driver.EntryName("k", 1, "s", "i"), State: driver.Boot}
	apply(t, b.Lane("g", order0), put(boot))
	if g.begun.Load() != n {
		t.Error("a boot entry was synced")
	}
	apply(t, b.Lane("g", order0), put(entry("k", 1, driver.Parked)))
	if g.begun.Load() == n {
		t.Error("a parked entry was not synced")
	}
}

// copyDir copies a store that nobody has open.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// restore puts the partition streams of an older copy under a store.
func restore(t *testing.T, older, dir string) {
	t.Helper()
	const streams = "jetstream/$G/streams"
	names, err := filepath.Glob(filepath.Join(older, streams, "PH-T-*"))
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, from := range names {
		to := filepath.Join(dir, streams, filepath.Base(from))
		if err := os.RemoveAll(to); err != nil {
			t.Fatal(err)
		}
		copyDir(t, from, to)
	}
}

func TestOlderStore(t *testing.T) {
	t.Parallel()
	for name, floor := range map[string]uint64{"settled": 200, "floor below, finished above": 50} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := fresh(t)
			b.topic("order", 1)
			b.group("g", driver.StartAt{}, "order")
			b.mustPublish(order0, events("a", 100)...)
			b.close()
			older := filepath.Join(t.TempDir(), "older")
			copyDir(t, b.dir, older)

			b = open(t, b.dir, embedded.Options{})
			b.topic("order", 1)
			b.mustPublish(order0, events("lost", 100)...)
			tn, leave := b.tenure("g", "order")
			fetch(t, tn, 200)
			if err := tn.Release(t.Context(), driver.Checkpoint{Floor: floor, Mark: 200, Finished: []byte{1}, Clean: true}); err != nil {
				t.Fatal(err)
			}
			leave()
			b.close()
			restore(t, older, b.dir)

			b = open(t, b.dir, embedded.Options{})
			b.topic("order", 1)
			tn, _ = b.tenure("g", "order")
			want := min(floor, 100)
			if c := tn.Start(); c.Floor != want || c.Mark != 100 || c.Finished != nil {
				t.Errorf("start %+v", c)
			}
			a, ok := b.alarm("position_ahead")
			if !ok || !strings.Contains(a.Text, "PH-T-order-0") || !strings.Contains(a.Text, "200") || !strings.Contains(a.Text, "100") {
				t.Errorf("alarm %+v", a)
			}
			b.mustPublish(order0, events("new", 100)...)
			ds := fetch(t, tn, int(200-want))
			for i, d := range ds[len(ds)-100:] {
				if want := fmt.Sprintf("new%d", i); d.Msg.ID != want {
					t.Fatalf("got %s, want %s", d.Msg.ID, want)
				}
			}
		})
	}
}

func TestAudit(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.topic("order", 1)
	b.group("g", driver.StartAt{}, "order")
	b.mustPublish(order0, events("a", 10)...)
	nc, js := b.raw()
	for _, seq := range []uint64{4, 5} {
		if err := js.DeleteMsg("PH-T-order-0", seq); err != nil {
			t.Fatal(err)
		}
	}
	nc.Close()
	b.close()
	b = open(t, b.dir, embedded.Options{})
	b.topic("order", 1)
	a, ok := b.alarm("messages_missing")
	if !ok || a.Thing != "PH-T-order-0" || !strings.Contains(a.Text, "8 messages between 1 and 10") || !strings.Contains(a.Text, "2 are missing") {
		t.Errorf("alarm %+v", a)
	}
	tn, _ := b.tenure("g", "order")
	if got := ids(fetch(t, tn, 8)); got != "a0 a1 a2 a5 a6 a7 a8 a9" {
		t.Error(got)
	}
	if err := tn.Checkpoint(t.Context(), driver.Checkpoint{Floor: 4, Mark: 10}); err != nil {
		t.Error(err)
	}
}

func TestStreamThatIsGone(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.topic("order", 2)
	b.mustPublish(order0, events("a", 10)...)
	b.close()
	if err := os.RemoveAll(filepath.Join(b.dir, "jetstream/$G/streams/PH-T-order-0")); err != nil {
		t.Fatal(err)
	}
	b = open(t, b.dir, embedded.Options{})
	b.topic("order", 2)
	if a, ok := b.alarm("messages_missing"); !ok || a.Thing != "PH-T-order-0" {
		t.Errorf("alarm %+v", a)
	}
	b.mustPublish(order0, event("b", "k"))
}

func TestLostRecordStartsAtTheBeginning(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.topic("order", 1)
	b.mustPublish(order0, events("a", 3)...)
	b.group("g", driver.StartAt{Now: true}, "order")
	_, js := b.raw()
	if err := js.PurgeStream("PH-STATE", purgeOf("ph.s.at.g.order.0")); err != nil {
		t.Fatal(err)
	}
	tn, _ := b.tenure("g", "order")
	if got := ids(fetch(t, tn, 3)); got != "a0 a1 a2" {
		t.Error(got)
	}
	if _, ok := b.alarm("position_missing"); !ok {
		t.Error("no alarm")
	}
}
