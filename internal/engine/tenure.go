package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// A tenure is the engine's side of a driver.Tenure: a partition and its lane.
// Its fields are guarded by Group.mu, except where they are said to belong to one
// goroutine.
type tenure struct {
	g         *Group
	d         driver.Tenure
	part      driver.Partition
	queue     bool // the shape of the source
	unordered bool
	strict    bool
	share     int // of the window, for one key
	name      string
	knows     *subscription // what follows from it:
	serves    bool          // see served

	// The fetcher is asked to end by stop; done is closed when the three
	// goroutines have ended.
	stop    context.CancelFunc
	ctx     context.Context
	all     context.Context // of the clerk and the recorder
	stopAll context.CancelFunc
	fetched chan struct{}
	skip    []bool // the fetcher's own
	clerk   chan struct{}
	scribe  chan struct{}

	ending   sync.Once     // release
	gone     chan struct{} // closed when it is not held any more
	endErr   error         // of it
	lost     bool
	closing  bool // no handler starts
	running  int  // handlers
	suspects int  // messages from the partition that may have killed a process, unsettled
	unclean  bool // there are more of these than it knows
	held     int  // messages in memory that came from the partition
	bytes    int  // of all messages in memory

	// Log.
	win     *window
	mark    uint64 // recorded
	trial   uint64 // what is at or below it, and not settled, is suspect; 0 after a clean start; constant
	gated   itemList
	doubts  bool   // what is passed over has to be looked at again, with more types
	seen    uint64 // how far that is done
	upTo    uint64 // how far it goes
	top     uint64 // highest position that was let go
	ahead   int    // made ready and not started
	step    uint64 // by how much the mark is raised
	raised  time.Time
	writes  time.Duration // what a record has taken of late
	starts  int           // since raised
	raise   bool
	changes int // results that are not recorded
	since   time.Time
	press   bool // the fetcher waits for what is passed over to be recorded
	refused int  // how often in a row the record was, with ErrSubscription
	// Queue.
	order    uint64
	settling []driver.Settlement
	flushing int      // settlements that are on their way
	flushed  int      // that were carried out
	unserved itemList // of types that are recorded and have no handler here

	stalled itemList // ready, but no handler may be started: see stalls
	hold    []heldItem
	oldest  *Item // that holds the floor back
	newest  *Item

	keys     map[string]*keyQueue
	parked   int                    // of all keys
	early    map[*keyQueue]struct{} // parked above what has been fetched
	freeKeys []*keyQueue
	blocked  map[string]*keyQueue // by the name of the entry that the key waits for

	// Lane.
	ops      []*laneOp
	applying bool
	due      dueHeap
	loads    []*keyQueue
	live     map[string]struct{} // the names of its entries in memory
	waiting  map[*Item]struct{}
	mending  *time.Timer // ends the watch on it; nil without one
	remend   bool        // another one is asked for
	mendedAt time.Time   // when it told of the last entry

	roomC   sync.Cond // the fetcher waits here for room
	waits   bool      // it does
	anyRoom bool      // it waits for a position to fit
	awaits  *keyQueue // it waits for a key

	wakeC chan struct{} // the clerk
	wakeS chan struct{} // the recorder
}

func newTenure(g *Group, d driver.Tenure) *tenure {
	p := d.Partition()
	t := &tenure{
		g: g, d: d, part: p,
		gone:      make(chan struct{}),
		name:      fmt.Sprintf("%s/%d", p.Topic, p.N),
		queue:     g.cfg.Driver.Caps().Queue,
		unordered: g.cfg.Unordered[p.Topic],
		strict:    g.cfg.Strict[p.Topic],
		share:     max(16, g.cfg.Window/8),
		keys:      map[string]*keyQueue{},
		early:     map[*keyQueue]struct{}{},
		blocked:   map[string]*keyQueue{},
		waiting:   map[*Item]struct{}{},
		live:      map[string]struct{}{},
		step:      minStep,
		wakeC:     make(chan struct{}, 1),
		wakeS:     make(chan struct{}, 1),
		fetched:   make(chan struct{}),
		clerk:     make(chan struct{}),
		scribe:    make(chan struct{}),
		order:     d.Fence() << 40,
	}
	t.roomC.L = &g.mu
	start := d.Start()
	t.win = newWindow(start.Floor, g.cfg.Window)
	t.win.load(start.Finished)
	t.mark = max(start.Mark, start.Floor)
	if !start.Clean {
		t.trial = start.Mark
	}
	t.ctx, t.stop = context.WithCancel(context.Background())
	t.all, t.stopAll = context.WithCancel(context.Background())
	return t
}

// start runs the tenure. Group.mu is held.
func (t *tenure) start() {
	t.g.routines.Add(3)
	go t.fetch()
	go t.keepLane()
	go t.keepRecord()
}

// stopFetching ends the fetcher. Group.mu is held.
func (t *tenure) stopFetching() {
	t.stop()
	t.roomC.Broadcast()
}

// idleNow tells whether starts are to be held back.
func (t *tenure) idleNow() bool { return t.lost || t.closing || t.g.draining || t.g.paused }

// stalls tells whether no handler may be started just now: the lease is about to
// end, or the topic will be given back because a handler is missing.
func (t *tenure) stalls() bool { return t.lapsed() || !t.served() }

func (t *tenure) lapsed() bool { return t.lapsedAt(time.Now()) } // monotonic

func (t *tenure) lapsedAt(now time.Time) bool {
	by := t.d.StartBy()
	return !by.IsZero() && !now.Before(by)
}

// unstall lets go what was held back, if it may be started now.
func (t *tenure) unstall() {
	if t.stalled.n == 0 || t.stalls() {
		return
	}
	for it := t.stalled.take(); it != nil; {
		next := it.next
		it.next = nil
		t.letGo(it)
		it = next
	}
}

// settle ends an item that came from the window or from the lane.
func (t *tenure) settle(it *Item) {
	switch {
	case it.entry != nil:
		t.unblock(it.entry.Name)
		t.drop(it)
	case it.booted && (t.queue || !it.skipped):
		t.unboot(it)
	default:
		t.leave(it)
	}
}

// leave takes an item out of the window: it is settled, or the lane has it.
func (t *tenure) leave(it *Item) {
	t.delist(it)
	t.bytes -= it.size()
	t.held--
	if it.counted {
		t.suspects--
	}
	it.where = nowhere
	it.left()
	if t.lost {
		return
	}
	switch {
	case t.queue:
		t.settling = append(t.settling, driver.Settlement{Pos: it.Delivery.Pos})
	case it.skipped:
		t.win.pass(it.order)
	default:
		t.win.settle(it.order)
	}
	if t.doubts {
		t.wakeRecorder() // it may be waiting for room
	}
	t.noted(1)
	t.progress()
}

// noted counts results that have to be recorded.
func (t *tenure) noted(n int) {
	if n == 0 {
		return
	}
	if t.changes == 0 {
		t.since = time.Now() // monotonic
		t.wakeRecorder()
	}
	if t.changes += n; t.changes >= checkpointEvery && t.changes-n < checkpointEvery || t.fills() {
		t.wakeRecorder()
	}
}

// fills tells whether what is passed over takes up so much of the window that it
// is worth a record.
func (t *tenure) fills() bool { return !t.queue && t.win.gain() >= t.win.size/4 }

// forget takes an item that came from the lane out of memory.
func (t *tenure) forget(it *Item) {
	t.bytes -= it.size()
	delete(t.live, it.entry.Name)
	it.where = nowhere
	it.left()
	if len(t.live) == maxLoaded-1 && t.due.Len() > 0 {
		t.wakeClerk()
	}
	if t.doubts {
		t.wakeRecorder()
	}
	t.progress()
}

func (it *Item) left() {
	if it.judged != nil {
		close(it.judged)
		it.judged = nil
	}
}

// progress wakes those who wait for room or for the end.
func (t *tenure) progress() {
	if t.waits && (t.anyRoom || t.roomy(t.roomNow())) || t.awaits != nil && t.awaits.roomy(t) {
		t.roomC.Signal()
	}
	t.g.changed.Broadcast()
}

// lose ends a tenure that the broker has given to somebody else.
func (t *tenure) lose(err error) {
	if t.lost {
		return
	}
	t.lost = true
	t.g.log.Warn("partition lost", "topic", t.part.Topic, "partition", t.part.N, "error", err)
	t.stop()
	t.stopAll()
	t.g.recall()
	t.cancelRuns(driver.ErrLost)
	for it := range t.waiting {
		it.timer.Stop()
		it.left()
	}
	for _, l := range []*itemList{&t.gated, &t.stalled, &t.unserved} {
		for it := l.take(); it != nil; it = it.next {
			it.left()
		}
	}
	if t.g.tenures[t.part] == t {
		delete(t.g.tenures, t.part)
		close(t.gone)
	}
	t.roomC.Broadcast()
	t.g.nudge() // the others have its share of the room
	t.progress()
}

// release ends a tenure that has been drained. A second call waits for the first.
func (t *tenure) release(ctx context.Context) error {
	t.ending.Do(func() { t.endErr = t.letGoOf(ctx) })
	return t.endErr
}

func (t *tenure) letGoOf(ctx context.Context) error {
	g := t.g
	t.stop()
	g.mu.Lock()
	t.closing = true
	g.recall()
	g.changed.Broadcast()
	t.roomC.Broadcast()
	g.mu.Unlock()
	<-t.fetched
	t.stopAll()
	g.mu.Lock()
	g.changed.Broadcast()
	g.mu.Unlock()
	<-t.clerk
	<-t.scribe
	g.mu.Lock()
	if t.lost {
		g.mu.Unlock()
		return nil
	}
	t.lost = true // what comes later is not settled any more
	settling := t.settling
	t.settling = nil
	c := t.last(t.unsure())
	if t.unsure() {
		t.uncountSkipped()
	}
	delete(g.tenures, t.part)
	g.leaving[t.d] = t.gone
	g.nudge()
	g.changed.Broadcast()
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.left(t.d)
	}()
	var err error
	if t.queue && len(settling) > 0 {
		err = t.d.Settle(ctx, settling)
	}
	return errors.Join(err, g.release(ctx, t.d, c, func() driver.Checkpoint {
		g.mu.Lock()
		defer g.mu.Unlock()
		t.uncountSkipped()
		return t.last(true)
	}))
}

// uncountSkipped leaves what is passed over to the next holder, who counts it.
func (t *tenure) uncountSkipped() {
	if !t.queue {
		t.g.cfg.Counts.Skipped(-t.win.overs)
		t.win.overs = 0 // not twice
	}
}

// release releases a tenure with c or, when the subscription has grown meanwhile,
// with what sure returns.
func (g *Group) release(ctx context.Context, d driver.Tenure, c driver.Checkpoint, sure func() driver.Checkpoint) error {
	err := d.Release(ctx, c)
	for wait := (backoff{}); errors.Is(err, driver.ErrSubscription); err = d.Release(ctx, c) {
		if wait.d > 0 && !wait.sleep(ctx) {
			return err
		}
		wait.d = firstBackoff
		if sure != nil {
			c, sure = sure(), nil
		}
		if err := g.askRecord(ctx); err != nil {
			g.log.Warn("the group's record cannot be read", "error", err)
		}
	}
	return err
}

// last is the checkpoint that the tenure ends with.
func (t *tenure) last(sure bool) driver.Checkpoint {
	c := t.checkpoint(sure)
	c.Clean = !t.unclean && t.running == 0 && t.suspects == 0 && (t.queue || c.Floor >= t.trial)
	for _, k := range t.keys {
		c.Clean = c.Clean && k.stuck == 0
	}
	return c
}

// checkpoint is how far the tenure is. The mark stays as it is recorded.
func (t *tenure) checkpoint(sure bool) driver.Checkpoint {
	if t.queue {
		return driver.Checkpoint{}
	}
	floor, finished := t.win.recorded(sure)
	return driver.Checkpoint{Floor: floor, Mark: max(t.mark, floor), Finished: finished}
}

func (t *tenure) wakeClerk()    { wake(t.wakeC) }
func (t *tenure) wakeRecorder() { wake(t.wakeS) }

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// ended tells whether an error means that the tenure is over, and notes it.
func (t *tenure) ended(err error) bool {
	if errors.Is(err, driver.ErrLost) {
		t.g.mu.Lock()
		t.lose(err)
		t.g.mu.Unlock()
		return true
	}
	return t.all.Err() != nil
}

// A backoff waits longer from failure to failure.
type backoff struct {
	d      time.Duration
	failed int
}

func (b *backoff) sleep(ctx context.Context) bool {
	b.d = min(max(2*b.d, firstBackoff), lastBackoff)
	timer := time.NewTimer(jitter(b.d))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// trouble notes a failure of the driver: the first in a row in the log, the third as
// an alarm.
func (t *tenure) trouble(b *backoff, code, what string, err error) {
	if t.all.Err() != nil || t.ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return // it is being stopped
	}
	level := slog.LevelDebug
	if b.failed++; b.failed == 1 {
		level = slog.LevelWarn
	}
	t.g.log.Log(t.all, level, what, "topic", t.part.Topic, "partition", t.part.N, "error", err, "failures", b.failed)
	if b.failed == 3 {
		t.g.cfg.Alarm(driver.Alarm{Code: code, Thing: t.g.cfg.Name + " " + t.name,
			Text: fmt.Sprintf("group %s, %s: %s, and it is tried again: %v", t.g.cfg.Name, t.name, what, err)})
	}
}

// calm ends it, or the alarm of a partition that is not held any more.
func (t *tenure) calm(b *backoff, code string) {
	if b.failed >= 3 {
		t.g.cfg.Alarm(driver.Alarm{Code: code, Thing: t.g.cfg.Name + " " + t.name, Text: "it works again, or the partition is not held here any more", Cleared: true})
	}
	*b = backoff{}
}

// jitter returns between half of d and d.
func jitter(d time.Duration) time.Duration {
	if d <= 1 {
		return d
	}
	return d/2 + rand.N(d/2)
}

func unixMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
