package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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
	share     int // of the window, for one key
	name      string

	// The fetcher is asked to end by stop; done is closed when the three
	// goroutines have ended.
	stop    context.CancelFunc
	ctx     context.Context
	all     context.Context // of the clerk and the recorder
	stopAll context.CancelFunc
	fetched chan struct{}
	clerk   chan struct{}
	scribe  chan struct{}

	lost     bool
	closing  bool // no handler starts
	running  int  // handlers
	suspects int  // messages from the partition that may have killed a process, unsettled
	held     int  // messages in memory that came from the partition
	bytes    int  // of all messages in memory

	// Log.
	win     *window
	mark    uint64 // recorded
	trial   uint64 // what is at or below it, and not settled, is suspect; 0 after a clean start; constant
	gated   itemList
	top     uint64 // highest position that was let go
	ahead   int    // made ready and not started
	step    uint64 // by how much the mark is raised
	raised  time.Time
	starts  int // since raised
	raise   bool
	changes int // results that are not recorded
	since   time.Time
	// Queue.
	order    uint64
	settling []driver.Settlement
	flushing int // settlements that are on their way
	flushed  int // that were carried out

	keys     map[string]*keyQueue
	early    map[*keyQueue]struct{} // parked above what has been fetched
	freeKeys []*keyQueue

	// Lane.
	ops      []*laneOp
	applying bool
	due      dueHeap
	loads    []*keyQueue
	live     map[string]struct{} // the names of its entries in memory
	waiting  map[*Item]struct{}

	wakeC chan struct{} // the clerk
	wakeS chan struct{} // the recorder
}

func newTenure(g *Group, d driver.Tenure) *tenure {
	p := d.Partition()
	t := &tenure{
		g: g, d: d, part: p,
		name:      fmt.Sprintf("%s/%d", p.Topic, p.N),
		queue:     g.cfg.Driver.Caps().Queue,
		unordered: g.cfg.Unordered[p.Topic],
		share:     max(16, g.cfg.Window/8),
		keys:      map[string]*keyQueue{},
		early:     map[*keyQueue]struct{}{},
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

func (t *tenure) stopFetching() { t.stop() }

// idleNow tells whether starts are to be held back.
func (t *tenure) idleNow() bool { return t.lost || t.closing || t.g.draining || t.g.paused }

// fetch takes messages in until it is stopped.
func (t *tenure) fetch() {
	defer t.g.routines.Done()
	defer close(t.fetched)
	if !t.loadIndex() {
		return
	}
	into := make([]driver.Delivery, maxFetch)
	var wait backoff
	for {
		n, bytes := t.room()
		if n == 0 {
			return
		}
		n, err := t.d.Fetch(t.ctx, into[:min(n, maxFetch)], bytes)
		if n > 0 {
			if !t.admit(into[:n]) {
				return
			}
			clear(into[:n])
		}
		switch {
		case t.ctx.Err() != nil:
			return
		case err == nil:
			t.calm(&wait, "fetch_failed")
		case errors.Is(err, driver.ErrLost):
			t.g.mu.Lock()
			t.lose(err)
			t.g.mu.Unlock()
			return
		default:
			t.trouble(&wait, "fetch_failed", "messages cannot be fetched", err)
			if !wait.sleep(t.ctx) {
				return
			}
		}
	}
}

// room waits until more may be taken in and says how much. It returns 0 when
// the tenure is to end.
func (t *tenure) room() (messages, bytes int) {
	g := t.g
	stop := context.AfterFunc(t.ctx, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.changed.Broadcast()
	})
	defer stop()
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		if t.lost || t.ctx.Err() != nil {
			return 0, 0
		}
		share := max(g.cfg.WindowBytes/max(1, len(g.tenures)), 1)
		messages, bytes = t.roomNow(), share-t.bytes
		if !g.paused && messages > 0 && bytes > 0 {
			return messages, bytes
		}
		g.changed.Wait()
	}
}

func (t *tenure) roomNow() int {
	if t.queue {
		return t.g.cfg.Window - t.held
	}
	return t.win.room()
}

// admit takes a batch in. It returns false when the tenure is to end.
func (t *tenure) admit(batch []driver.Delivery) bool {
	items := make([]Item, len(batch))
	for i := range batch {
		t.prepare(&items[i], batch[i])
	}
	standing, ok := t.standing(items)
	if !ok {
		return false
	}
	g := t.g
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range items {
		it := &items[i]
		if !t.queue {
			for !t.account(it.order) {
				if t.lost || t.ctx.Err() != nil {
					return false
				}
				g.changed.Wait()
			}
			if t.win.settled(it.order) {
				t.win.advance()
				continue
			}
		}
		t.held++
		t.bytes += it.size()
		if it.suspect {
			it.counted = true
			t.suspects++
		}
		t.take(it, standing)
	}
	for k := range t.early {
		if k.first <= t.win.high {
			delete(t.early, k)
			t.nextOf(k)
		}
	}
	t.progress()
	return true
}

// account makes room for a position in the window, and says false when it does
// not fit yet.
func (t *tenure) account(pos uint64) bool {
	w := t.win
	if pos <= w.high {
		return true
	}
	if !w.fits(pos) && w.high != w.floor {
		return false
	}
	w.skipTo(pos)
	w.high = pos
	w.advance()
	return true
}

// prepare fills an item from a delivery, without the lock.
func (t *tenure) prepare(it *Item, d driver.Delivery) {
	it.Delivery, it.t, it.order = d, t, d.Pos
	if t.queue {
		t.order++
		it.order = t.order
		it.suspect = d.Again
	} else {
		it.suspect = d.Pos <= t.trial
	}
	it.rec.Stored = unixMilli(d.Stored)
	if m := &it.Delivery.Msg; d.Bad == nil && (m.Type == "" || m.ContentType == "application/cloudevents+json") && len(m.Body) <= t.g.cfg.MaxPayload {
		if ok, err := t.g.cfg.Structured(m); ok && err != nil {
			it.Delivery.Bad = err
		}
		d = it.Delivery
	}
	it.expires = expiryOf(&d.Msg)
}

// expiryOf is when a message loses its use; zero for never.
func expiryOf(m *driver.Message) time.Time {
	for _, a := range m.Attrs {
		if a.Name == "expirytime" {
			at, _ := time.Parse(time.RFC3339Nano, a.Value)
			return at
		}
	}
	return time.Time{}
}

// standing looks which suspects the lane has already: what left the window for
// the lane before an unclean end is not handled from the window too.
func (t *tenure) standing(items []Item) (map[string]driver.Entry, bool) {
	var names []string
	for i := range items {
		if items[i].suspect {
			names = append(names, t.entryName(&items[i]))
		}
	}
	if len(names) == 0 {
		return nil, true
	}
	var wait backoff
	for {
		entries, err := t.d.Lane().Get(t.ctx, names)
		if err == nil {
			t.calm(&wait, "lane_failed")
			m := make(map[string]driver.Entry, len(entries))
			for _, e := range entries {
				m[e.Name] = e
			}
			return m, true
		}
		if t.ended(err) {
			return nil, false
		}
		t.trouble(&wait, "lane_failed", "the lane cannot be read", err)
		if !wait.sleep(t.ctx) {
			return nil, false
		}
	}
}

// entryName names the entry of an item. A queue's handles say nothing that lasts:
// there, copies of a message share an entry.
func (t *tenure) entryName(it *Item) string {
	m := &it.Delivery.Msg
	order := it.order
	if t.queue && m.ID != "" { // foreign messages have no id to tell them apart
		order = 0
	}
	return driver.EntryName(m.Key, order, m.Source, m.ID)
}

// take decides what becomes of an item that has come in.
func (t *tenure) take(it *Item, standing map[string]driver.Entry) {
	g := t.g
	m := &it.Delivery.Msg
	if it.suspect {
		if e, ok := standing[t.entryName(it)]; ok {
			if e.State != driver.Boot {
				t.settle(it) // the lane has it
				return
			}
			stored := it.rec.Stored
			it.rec, _ = decodeRecord(e.Head)
			it.rec.Stored, it.known = stored, it.rec.Attempts
			it.booted, it.bootRev = true, e.Rev
		}
	}
	switch {
	case it.Delivery.Bad != nil, m.Type == "", len(m.Body) > g.cfg.MaxPayload:
		it.h = g.cfg.Foreign[t.part.Topic]
		if it.h == nil || it.Delivery.Bad != nil || len(m.Body) > g.cfg.MaxPayload {
			t.bury(it, g.cfg.Foreigner(it))
			return
		}
	case !g.cfg.Types[t.part.Topic][m.Type]:
		g.cfg.Counts.Skipped()
		t.settle(it)
		return
	default:
		it.h = g.cfg.Handlers[m.Type]
	}
	t.admitKeyed(it)
}

func (t *tenure) admitKeyed(it *Item) {
	it.kq = t.keyOf(it.Delivery.Msg.Key)
	if it.kq != nil && it.kq.spills(t, it.order) {
		t.park(it)
		return
	}
	t.enqueue(it)
}

// settle ends an item that came from the window or from the lane.
func (t *tenure) settle(it *Item) {
	switch {
	case it.entry != nil:
		t.drop(it)
	case it.booted:
		t.unboot(it)
	default:
		t.leave(it)
	}
}

// leave takes an item out of the window: it is settled, or the lane has it.
func (t *tenure) leave(it *Item) {
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
	if t.queue {
		t.settling = append(t.settling, driver.Settlement{Pos: it.Delivery.Pos})
	} else {
		t.win.settle(it.order)
	}
	t.changed()
}

// changed notes a result that has to be recorded.
func (t *tenure) changed() {
	t.changes++
	if t.changes == 1 {
		t.since = time.Now()
		t.wakeRecorder()
	} else if t.changes%checkpointEvery == 0 {
		t.wakeRecorder()
	}
	t.progress()
}

// forget takes an item that came from the lane out of memory.
func (t *tenure) forget(it *Item) {
	t.bytes -= it.size()
	delete(t.live, it.entry.Name)
	it.where = nowhere
	it.left()
	if len(t.live) == maxLoaded-1 && t.due.Len() > 0 {
		t.wakeClerk()
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
func (t *tenure) progress() { t.g.changed.Broadcast() }

// lose ends a tenure that the broker has given to somebody else.
func (t *tenure) lose(err error) {
	if t.lost {
		return
	}
	t.lost = true
	t.g.log.Warn("partition lost", "topic", t.part.Topic, "partition", t.part.N, "error", err)
	t.stop()
	t.stopAll()
	for r := range t.g.runs {
		if r.it.t == t && r.cancel != nil { // else it has just begun: see setCancel
			r.cancel(driver.ErrLost)
		}
	}
	for it := range t.waiting {
		it.timer.Stop()
		it.left()
	}
	for _, l := range []*itemList{&t.gated} {
		for it := l.take(); it != nil; it = it.next {
			it.left()
		}
	}
	if t.g.tenures[t.part] == t {
		delete(t.g.tenures, t.part)
	}
	t.progress()
}

// release ends a tenure that has been drained.
func (t *tenure) release(ctx context.Context) error {
	g := t.g
	t.stop()
	<-t.fetched
	g.mu.Lock()
	lost := t.lost
	clean := t.running == 0 && t.suspects == 0 && (t.queue || t.win.floor >= t.trial)
	for _, k := range t.keys {
		clean = clean && k.stuck == 0
	}
	g.mu.Unlock()
	t.stopAll()
	g.mu.Lock()
	g.changed.Broadcast()
	g.mu.Unlock()
	<-t.clerk
	<-t.scribe
	if lost {
		return nil
	}
	g.mu.Lock()
	t.lost = true // what comes later is not settled any more
	settling := t.settling
	t.settling = nil
	c := t.checkpoint()
	c.Clean = clean
	delete(g.tenures, t.part)
	g.changed.Broadcast()
	g.mu.Unlock()
	var err error
	if t.queue && len(settling) > 0 {
		err = t.d.Settle(ctx, settling)
	}
	return errors.Join(err, t.d.Release(ctx, c))
}

// checkpoint is how far the tenure is. The mark stays as it is recorded.
func (t *tenure) checkpoint() driver.Checkpoint {
	if t.queue {
		return driver.Checkpoint{}
	}
	return driver.Checkpoint{Floor: t.win.floor, Mark: max(t.mark, t.win.floor), Finished: t.win.finished()}
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

// trouble notes a failure of the driver, and raises an alarm when it is not the
// first in a row.
func (t *tenure) trouble(b *backoff, code, what string, err error) {
	b.failed++
	t.g.log.Warn(what, "topic", t.part.Topic, "partition", t.part.N, "error", err, "failures", b.failed)
	if b.failed == 3 {
		t.g.cfg.Alarm(driver.Alarm{Code: code, Thing: t.g.cfg.Name + " " + t.name,
			Text: fmt.Sprintf("group %s, %s: %s, and it is tried again: %v", t.g.cfg.Name, t.name, what, err)})
	}
}

// calm ends it.
func (t *tenure) calm(b *backoff, code string) {
	if b.failed >= 3 {
		t.g.cfg.Alarm(driver.Alarm{Code: code, Thing: t.g.cfg.Name + " " + t.name, Text: "it works again", Cleared: true})
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
