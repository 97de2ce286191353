// Package engine consumes: it takes deliveries from a broker's partitions,
// schedules them by key, runs handlers, and settles what they decided. It is the
// same for all brokers and for both shapes of source, a log and a queue.
//
// One mutex, Group.mu, guards all state of a group: its ready list, its workers,
// and the windows, keys and lane indexes of its tenures. It is held for short,
// constant work only. Calls to the driver are made without it, by three
// goroutines a tenure: the fetcher, the clerk (lane) and the recorder
// (checkpoints, settlements).
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/internal/clock"
)

// A Kind is what a handler decided.
type Kind uint8

const (
	Done Kind = iota // settled
	Fail             // try again, within the budget
	Dead             // dead letter now
	Skip             // settled by the handler's word, without being handled
)

// A Verdict is the end of an attempt.
type Verdict struct {
	Kind Kind
	Err  error         // why, for all but Done
	Code string        // of Err
	Wait time.Duration // Fail: at the least so long, when Asked
	// Asked says that the handler named the wait itself.
	Asked bool
	// Unreadable says that the message could not be read; many in a row pause
	// the group.
	Unreadable bool
}

// A Retry is a retry budget with all its defaults filled in.
type Retry struct {
	Attempts           int
	Delay, MaxDelay    time.Duration
	Late               int
	LateDelay, MaxLate time.Duration
}

// A Handler handles the messages of one event type.
type Handler struct {
	Run func(ctx context.Context, it *Item) Verdict
	// Flush, unless nil, is called when what Run holds back has to go ahead: when
	// the group stops, or a partition is given back. It returns at once.
	Flush   func()
	Timeout time.Duration
	Retry   Retry

	pace time.Duration // how long it has taken of late
}

// Counts are incremented by the engine.
type Counts interface {
	Started()
	Handled(n int)
	Retried(late bool)
	Dead(quarantined bool)
	Skipped(n int) // less than zero: they were not, after all
	Expired()
	Parked()
	Abandoned()
}

// A Config configures a Group. All fields are set.
type Config struct {
	Name        string
	Driver      driver.Driver
	Member      string // names this process in records
	Concurrency int
	Window      int
	WindowBytes int
	MaxPayload  int
	Checkpoint  time.Duration
	Drain       time.Duration // of a partition that is given back
	Boots       int
	Rate        float64             // of starts, a second; 0: no limit
	Handlers    map[string]*Handler // by event type
	Foreign     map[string]*Handler // by topic: for messages without a type
	Unordered   map[string]bool     // by topic
	Strict      map[string]bool     // by topic: others of a key wait behind one that has failed
	Gate        *Gate
	Counts      Counts
	Log         *slog.Logger
	Alarm       func(driver.Alarm)
	Clock       *clock.Clock
	// Structured reads a message that carries its attributes in its body. It says
	// false when the message is no such one, and may be called concurrently.
	Structured func(m *driver.Message) (bool, error)
	// Foreigner is the verdict for a message that no handler gets: foreign, too
	// large, unreadable, or of a type that nothing handles any more.
	Foreigner func(it *Item) Verdict
}

const (
	floodLimit   = 20  // unreadable messages in a row that pause a group
	minFetch     = 16  // messages a Fetch, at first
	maxFetch     = 512 // as soon as so many come
	maxLoaded    = 512 // lane entries of a tenure in memory
	loadBatch    = 128 // parked entries of a key that are loaded at a time
	moveBatch    = 256 // lane operations at a time
	shortWait    = time.Second
	firstBackoff = 50 * time.Millisecond
	lastBackoff  = 2 * time.Second
)

// A Group is a running member of a group.
type Group struct {
	cfg    Config
	log    *slog.Logger
	base   context.Context // of handlers; ends when the drain is over
	cancel context.CancelFunc

	mu        sync.Mutex
	work      sync.Cond // idle workers wait here
	changed   sync.Cond // all others wait here: room, drained
	ready     itemList
	idle      int                  // workers that wait, and are not roused
	waking    bool                 // one is on its way
	workers   map[*worker]struct{} // those of abandoned handlers, too
	abandoned int                  // of these
	running   int                  // items that workers have
	quick     int                  // workers that are expected back at once
	procs     int                  // of these, no more are roused
	limit     *limit               // of starts; nil: none
	soon      bool                 // watch looks after them
	tenures   map[driver.Partition]*tenure
	leaving   map[driver.Tenure]chan struct{} // being released; closed when that is done
	suspects  itemList
	judging   bool // the suspects' goroutine runs
	leaseWait bool // suspects wait for a lease
	sub       *subscription
	unread    int    // unreadable messages in a row
	told      string // why the group's record says that nothing starts
	flood     string // why the group has paused itself
	resumes   int    // on record
	nudges    int    // on record
	paused    bool   // for either
	draining  bool
	returning int       // partitions that are on their way back
	over      bool      // workers end
	watchAt   time.Time // when watch wakes up, monotonic

	wakeW    chan struct{} // watch
	join     context.CancelFunc
	joined   chan struct{}
	joinErr  error
	routines sync.WaitGroup
}

// Start joins the group, which stands as it is told, and returns at once. failed is
// called, at most once, when the membership ends without being asked to.
func Start(cfg Config, stands driver.GroupSpec, failed func(error)) *Group {
	g := &Group{
		cfg:     cfg,
		log:     cfg.Log.With("group", cfg.Name),
		workers: map[*worker]struct{}{},
		procs:   runtime.GOMAXPROCS(0),
		limit:   newLimit(cfg.Rate),
		tenures: map[driver.Partition]*tenure{},
		leaving: map[driver.Tenure]chan struct{}{},
		wakeW:   make(chan struct{}, 1),
		joined:  make(chan struct{}),
	}
	g.work.L, g.changed.L = &g.mu, &g.mu
	g.base, g.cancel = context.WithCancel(context.Background())
	ctx, cancel := context.WithCancel(context.Background())
	g.join = cancel
	for _, hs := range []map[string]*Handler{cfg.Handlers, cfg.Foreign} {
		for _, h := range hs {
			if h != nil {
				h.pace = slowPace
			}
		}
	}
	g.mu.Lock()
	g.watchAt = time.Now().Add(time.Hour) // monotonic
	g.resumes, g.nudges = stands.Resumes, stands.Nudges
	g.takeIn(stands)
	g.takePause(stands)
	g.mu.Unlock()
	go func() {
		defer close(g.joined)
		g.mu.Lock()
		none := g.draining // stopped already: to join now would only be to leave
		g.mu.Unlock()
		if none {
			<-ctx.Done()
			return
		}
		err := cfg.Driver.Join(ctx, cfg.Name, (*member)(g))
		if ctx.Err() == nil {
			g.joinErr = err
			failed(err)
		}
	}()
	g.routines.Add(1)
	go g.watch()
	return g
}

// ErrDrain is returned by Stop when handlers had to be left behind.
var ErrDrain = errors.New("handlers were still running when the drain ended")

// Stop drains: no handler starts any more; those that run finish, with a live
// context, until ctx ends, and are cancelled then; what is settled is recorded and
// the partitions are released.
func (g *Group) Stop(ctx context.Context) error {
	g.mu.Lock()
	g.draining = true
	g.recall()
	for _, t := range g.tenures {
		t.stopFetching()
	}
	g.changed.Broadcast()
	g.mu.Unlock()
	g.flush()

	g.await(ctx, func() bool { return g.running == 0 })
	if ctx.Err() != nil {
		g.cancel() // and a moment to heed it
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterDrain)
	defer cancel()
	g.await(late, func() bool { return g.running == g.abandoned })
	g.mu.Lock()
	left := g.running
	for _, t := range g.tenures {
		t.moveFailed()
	}
	g.mu.Unlock()
	// What is written now is short and worth a moment beyond the drain's end: it
	// keeps finished work from being repeated.
	g.await(late, func() bool { return !g.moving() })
	err := g.releaseAll(late)
	g.await(late, func() bool { return g.returning == 0 })
	g.cancel()
	g.join()
	<-g.joined
	g.mu.Lock()
	g.over = true
	g.idle = 0
	g.work.Broadcast()
	g.changed.Broadcast()
	g.clearAll()
	g.mu.Unlock()
	if left > 0 {
		return fmt.Errorf("%w: %d of group %q", ErrDrain, left, g.cfg.Name)
	}
	g.routines.Wait()
	return err
}

// afterDrain bounds what a stop does after its drain has ended.
const afterDrain = 5 * time.Second

// await waits until a condition holds, or ctx ends.
func (g *Group) await(ctx context.Context, ok func() bool) {
	stop := context.AfterFunc(ctx, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.changed.Broadcast()
	})
	defer stop()
	g.mu.Lock()
	defer g.mu.Unlock()
	for !ok() && ctx.Err() == nil {
		g.changed.Wait()
	}
}

// flush lets go what handlers hold back. What comes to them later asks
// Item.Leaving.
func (g *Group) flush() {
	for _, h := range g.cfg.Handlers {
		if h.Flush != nil {
			h.Flush()
		}
	}
}

func (g *Group) releaseAll(ctx context.Context) error {
	g.mu.Lock()
	var ts []*tenure
	for _, t := range g.tenures {
		ts = append(ts, t)
	}
	g.mu.Unlock()
	errs := make([]error, len(ts))
	var wg sync.WaitGroup
	for i, t := range ts {
		wg.Go(func() { errs[i] = t.release(ctx) })
	}
	wg.Wait()
	return distinct(errs)
}

// distinct joins errors, those with one text once: a broker that is away is so for
// all partitions.
func distinct(errs []error) error {
	seen := map[string]bool{}
	var all []error
	for _, err := range errs {
		if err != nil && !seen[err.Error()] {
			seen[err.Error()] = true
			all = append(all, err)
		}
	}
	return errors.Join(all...)
}

// moving tells whether anything is on its way to a lane.
func (g *Group) moving() bool {
	for _, t := range g.tenures {
		if !t.lost && (len(t.ops) > 0 || t.applying) {
			return true
		}
	}
	return false
}

// member is what the driver sees of a Group.
type member Group

var _ driver.Member = (*member)(nil)

func (m *member) Subscribed(spec driver.GroupSpec) []string {
	g := (*Group)(m)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.takeIn(spec)
	g.takePause(spec)
	g.takeNudge(spec)
	return g.sub.topics()
}

func (m *member) Status() driver.Status { return (*Group)(m).status() }

func (m *member) Assigned(d driver.Tenure) {
	g := (*Group)(m)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.draining {
		g.returning++
		g.routines.Add(1)
		g.leaving[d] = make(chan struct{})
		go g.handBack(d)
		return
	}
	if old := g.tenures[d.Partition()]; old != nil {
		old.lose(fmt.Errorf("%w: it was assigned anew", driver.ErrLost))
	}
	t := newTenure(g, d)
	g.tenures[t.part] = t
	t.start()
}

// handBack releases a partition that came when the group was stopping.
func (g *Group) handBack(d driver.Tenure) {
	defer g.routines.Done()
	ctx, cancel := context.WithTimeout(context.Background(), afterDrain)
	defer cancel()
	if err := g.release(ctx, d, d.Start(), nil); err != nil && !errors.Is(err, driver.ErrLost) {
		g.log.Warn("a partition was not released", "topic", d.Partition().Topic, "partition", d.Partition().N, "error", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left(d)
	g.returning--
	g.changed.Broadcast()
}

// left notes that a tenure was released, or cannot be.
func (g *Group) left(d driver.Tenure) {
	close(g.leaving[d])
	delete(g.leaving, d)
}

// Revoke drains one partition. It returns when ctx ends, too: the draining goes on.
func (m *member) Revoke(ctx context.Context, d driver.Tenure) {
	g := (*Group)(m)
	g.mu.Lock()
	gone := g.leaving[d]
	if t := g.tenures[d.Partition()]; t != nil && t.d == d {
		gone = t.gone
		if !t.closing {
			t.closing = true
			g.recall()
			t.stopFetching()
			g.returning++
			g.routines.Add(1)
			go t.giveBack()
		}
	}
	g.mu.Unlock()
	g.flush()
	if gone == nil {
		return // lost
	}
	select {
	case <-gone:
	case <-ctx.Done():
	}
}

func (m *member) Lost(d driver.Tenure, err error) {
	g := (*Group)(m)
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.tenures[d.Partition()]; t != nil && t.d == d {
		t.lose(err)
	}
}
