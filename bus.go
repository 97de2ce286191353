package posthorn

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/internal/clock"
	"github.com/posthorn/posthorn/internal/engine"
)

// A Bus is an open broker. It publishes events and runs groups. All methods are
// safe for concurrent use. Those that ask the broker do so as long as ctx allows;
// without a deadline the driver ends a request that nobody answers (JetStream: after
// 30 s), with CodeUnavailable or CodeTimeout. After [Bus.Close] they fail with CodeClosed.
type Bus struct {
	opts   *options
	url    string
	log    *slog.Logger
	drv    driver.Driver
	alarms *alarms
	member string // names this opening of the bus among all others
	count  counters
	gate   *engine.Gate
	clock  *clock.Clock
	// publisher is all publishing middleware, or nil without any.
	publisher Publisher
	pendings  *pendings
	callers   atomic.Int32  // who is in PublishAll
	done      chan struct{} // closed when Close has begun
	// handles wakes who looks for delayed events in topics that groups handle.
	handles chan struct{}
	work    sync.WaitGroup

	known sync.Map // the open topics of types that were published, by *typeDef

	mu     sync.Mutex
	closed bool
	types  map[string]*typeDef
	topics map[string]*openTopic
	delays map[string]*delayed // by topic
	groups map[string]*Group
	bad    []error // what is wrong with groups that were asked for

	closeOnce sync.Once
	closeErr  error
}

func newBus(o *options, url string) *Bus {
	b := &Bus{
		opts:    o,
		url:     url,
		log:     o.log,
		member:  memberName(o.service),
		gate:    engine.NewGate(),
		clock:   clock.New(o.now),
		done:    make(chan struct{}),
		types:   map[string]*typeDef{},
		topics:  map[string]*openTopic{},
		delays:  map[string]*delayed{},
		handles: make(chan struct{}, 1),
		groups:  map[string]*Group{},
	}
	b.publisher = b.chain(o.middleware)
	b.pendings = newPendings(o.maxPending, o.maxPendingBytes)
	b.alarms = &alarms{log: o.log, hook: o.onAlarm, now: b.now, n: &b.count.alarms, all: map[[2]string]Alarm{}}
	return b
}

func (b *Bus) start(d driver.Driver) *Bus {
	b.drv = d
	b.work.Add(3)
	go b.retain()
	go b.audit()
	go b.findDelayed()
	return b
}

func (b *Bus) now() time.Time { return b.opts.now() }

func (b *Bus) env() driver.Env {
	return driver.Env{Service: b.opts.service, Member: b.member, Log: b.log, Alarm: b.alarms.raise, Now: b.now}
}

// Run starts all groups and waits until ctx ends; then it stops them all, each
// within its GroupConfig.Drain, with the bus still working. It returns nil after
// a clean stop, and an error with CodeTimeout when handlers were left behind: their
// events come again. When a group cannot be started, those that were are stopped and
// the error is returned; a bus without groups is an error with CodeInvalid. The bus
// stays open. Groups run once: a second Run is an error with CodeConflict.
func (b *Bus) Run(ctx context.Context) error {
	groups, err := b.allGroups()
	if err != nil {
		return err
	}
	if len(groups) == 0 {
		return errorf(CodeInvalid, "run: the bus has no group; make one with bus.Group and give it a handler")
	}
	var started []*Group
	for _, g := range groups {
		if err = g.Start(ctx); err != nil {
			break
		}
		started = append(started, g)
	}
	if err == nil {
		select {
		case <-ctx.Done():
		case <-b.done:
			err = errorf(CodeClosed, "run: the bus was closed")
		}
	} else if ctx.Err() != nil {
		err = nil // it was asked to end before all groups had started
	}
	return firstError(err, stopAll(context.WithoutCancel(ctx), started))
}

func stopAll(ctx context.Context, groups []*Group) error {
	errs := make([]error, len(groups))
	var wg sync.WaitGroup
	for i, g := range groups {
		wg.Go(func() { errs[i] = g.Stop(ctx) })
	}
	wg.Wait()
	return firstError(errs...)
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *Bus) allGroups() ([]*Group, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.bad) > 0 {
		return nil, b.bad[0]
	}
	var groups []*Group
	for _, g := range b.groups {
		groups = append(groups, g)
	}
	return groups, nil
}

// Close stops all groups, waits for what is being published, asynchronously too,
// and closes the broker. Groups drain within their GroupConfig.Drain, all of it within
// ctx. The error is the first of what went wrong: CodeTimeout for handlers that were
// left behind, whose events come again. The bus is closed even then. Closing twice is
// harmless: the second call waits for the first. A handler or hook must not call it.
func (b *Bus) Close(ctx context.Context) error {
	b.closeOnce.Do(func() { b.closeErr = b.close(ctx) })
	return b.closeErr
}

func (b *Bus) close(ctx context.Context) error {
	groups, _ := b.allGroups()
	err := stopAll(ctx, groups)
	b.mu.Lock()
	b.closed = true
	close(b.done)
	var writers []*writer
	for _, t := range b.topics {
		writers = append(writers, t.writers...)
	}
	var delays []*delayed
	for _, d := range b.delays {
		writers, delays = append(writers, d.writer), append(delays, d)
	}
	b.mu.Unlock()
	b.known.Clear() // what is published from now on is refused where the bus is looked at
	b.pendings.close(ctx)
	for _, w := range writers {
		w.close()
	}
	err = firstError(err, b.stopMovers(ctx, delays))
	b.work.Wait()
	if cerr := b.drv.Close(ctx); cerr != nil && err == nil {
		err = wrapf(cerr, "close %s", b.url)
	}
	b.alarms.idle.Wait()
	return err
}

// declare checks a definition against those that the bus knows of.
func (b *Bus) declare(d *typeDef) error {
	if d.err != nil {
		return d.err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return errorf(CodeClosed, "event type %q: the bus is closed", d.name)
	}
	if d.untyped {
		return nil // it says nothing that could be at odds
	}
	old, ok := b.types[d.name]
	if !ok {
		b.types[d.name] = d
		return nil
	}
	if old == d {
		return nil
	}
	if what := d.differs(old); what != "" {
		return errorf(CodeConflict, "event type %q is defined twice on this bus, with a different %s; define it once, in a package that both sides import", d.name, what)
	}
	return nil
}
