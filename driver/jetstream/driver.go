// Package jetstream is the driver for NATS JetStream: a server or a cluster that
// stands elsewhere, and what `posthorn serve` serves. It is used through a URL,
// which docs/nats.md describes:
//
//	import _ "github.com/posthorn/posthorn/driver/jetstream"
//
//	bus, err := posthorn.Open(ctx, "nats://user:password@a:4222,b:4222,c:4222")
//
// Package embedded brings a server inside the process, and uses this one over a
// connection of its own.
//
// What it sets up on the server, for topic "order" and group "inventory":
//
//	PH-STATE                 what is declared and how far groups are, a record a subject
//	PH-T-order-0 ...         a stream a partition; it holds events and nothing else
//	PH-L-inventory           the group's lanes, a message an entry
//	inventory-7 on PH-T-...  the consumer of the group's seventh tenure there
//
// Positions are the sequences of the partition's stream. A group's position is
// the record in PH-STATE; consumers hold nothing that is not in it, live in the
// server's memory, and are made anew from the record whenever they are missing.
package jetstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
)

// Options say how a connection is used. The zero value serves for a server whose
// acknowledgement is as durable as it can be.
type Options struct {
	// Instance keeps several installations on one server apart. It becomes part
	// of all names.
	Instance string
	// Store is what alarms and errors call the broker: a directory, a URL
	// without secrets.
	Store string
	// Sync makes durable what the server has acknowledged. With nil the
	// acknowledgement is enough.
	Sync Syncer
	// Room returns an error that wraps [driver.ErrNoSpace] while the store must
	// take no more events. It is called often. Nil means that there is room.
	Room func() error
	// OnRestart calls f whenever the server has lost what was under way though
	// the connection stands, until stop is called. Nil: that does not happen.
	OnRestart func(f func()) (stop func())
	// Replicas is how many copies of each stream a cluster is asked for. 0: as
	// many as it gives, up to three.
	Replicas int
	// MinReplicas refuses streams that have fewer copies. It is 2 where nothing
	// but copies makes what was acknowledged outlive a server.
	MinReplicas int
	// Lease is how long a member may be silent before others take its partitions.
	// 0: 10 s.
	Lease time.Duration
	// Close is called at the end of Close. It usually ends the connection.
	Close func(context.Context) error

	link *link         // the connection, when the driver has opened it by itself
	acks func() string // of a `posthorn serve`: see acks.go
}

// A Syncer makes durable what a server has written.
type Syncer interface {
	// Sync returns when all that the server had acknowledged before the call is
	// durable. It is called by one goroutine of a driver, and not again after an
	// error: what the system says after a failed sync is not to be believed. (The
	// barrier of a `posthorn serve` is asked again when it was not answered.)
	Sync(ctx context.Context) error
}

// A jsDriver is an open driver.
type jsDriver struct {
	nc    *nats.Conn
	opts  Options
	env   driver.Env
	names names
	mux   *mux
	syncs *syncLoop
	caps  driver.Caps
	// clustered: several servers agree on what is stored. Which of them answers
	// changes, and what one knows another may learn a moment later.
	clustered bool

	unwatch func() // ends OnRestart
	waits   waits
	alarms  alarms
	looks   sync.WaitGroup // at streams that may be gone

	mu       sync.Mutex
	writers  map[driver.Partition]*writer
	feeds    map[*feed]struct{}
	topics   map[string]driver.TopicSpec // opened and audited
	replicas int                         // of the state stream
	storeID  string
	foreign  error // the store is not the one that was opened
	looking  map[string]struct{}
	joins    map[string]int // by group, how often it was joined
	madeUp   string         // the member's name when it was given none
	closed   bool
}

var _ driver.Driver = (*jsDriver)(nil)

// wireRoom is what a message may grow by on the wire and in a lane.
const wireRoom = 32 << 10

// New opens a driver over a connection, which stays the caller's unless
// opts.Close ends it. The server must have JetStream, of version 2.14 or later.
func New(ctx context.Context, nc *nats.Conn, opts Options, env driver.Env) (driver.Driver, error) {
	switch {
	case opts.Lease == 0:
		opts.Lease = DefaultLease
	case opts.Lease < MinLease:
		return nil, fmt.Errorf("jetstream: a lease of %v is shorter than %v: members would lose their partitions in a slow moment: %w",
			opts.Lease, MinLease, driver.ErrInvalid)
	}
	d := &jsDriver{
		nc: nc, opts: opts, env: env, names: newNames(opts.Instance),
		writers: map[driver.Partition]*writer{},
		feeds:   map[*feed]struct{}{},
		unwatch: func() {},
		waits:   waits{m: map[*wait]struct{}{}},
		alarms:  alarms{env: env, raised: map[alarmKey]struct{}{}},
		topics:  map[string]driver.TopicSpec{},
		looking: map[string]struct{}{},

		clustered: nc.ConnectedClusterName() != "",
		joins:     map[string]int{},
		caps: driver.Caps{
			DedupWindow:     defaultDedup,
			ReadFrom:        true,
			CheckpointBytes: 4096,
			MaxMessage:      int(nc.MaxPayload()) - wireRoom,
		},
	}
	var err error
	if d.mux, err = newMux(nc); err != nil {
		return nil, d.unavailable("subscribe", err)
	}
	d.mux.keep(passedOn, d.passed)
	d.mux.keep(notPassed, d.notPassed)
	d.syncs = newSyncLoop(opts.Sync, d.syncFailed)
	if opts.OnRestart != nil {
		d.unwatch = opts.OnRestart(d.restarted)
	}
	if opts.link != nil {
		opts.link.attach(d)
	}
	if err := d.openStore(ctx); err != nil {
		d.unwatch()
		d.mux.close()
		d.syncs.close()
		d.looks.Wait()
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	return d, nil
}

func (d *jsDriver) Caps() driver.Caps { return d.caps }

// Health says why nothing can be stored, if so.
func (d *jsDriver) Health(ctx context.Context) error {
	if err := d.usable(); err != nil {
		return err
	}
	if d.opts.Room != nil {
		if err := d.opts.Room(); err != nil {
			return err
		}
	}
	_, err := d.streamInfo(ctx, d.names.state())
	return err
}

// usable returns why nothing is confirmed any more, if so.
func (d *jsDriver) usable() error {
	d.mu.Lock()
	closed, foreign := d.closed, d.foreign
	d.mu.Unlock()
	switch {
	case closed:
		return fmt.Errorf("jetstream %s: %w", d.opts.Store, driver.ErrClosed)
	case foreign != nil:
		return foreign
	}
	return d.syncs.failed()
}

// gone returns why nothing can be sent now, if so. That passes.
func (d *jsDriver) gone() error {
	if d.opts.link == nil {
		return nil
	}
	return d.opts.link.gone()
}

// syncFailed is called once.
func (d *jsDriver) syncFailed(err error) {
	d.env.Alarm(driver.Alarm{Code: "sync_failed", Thing: d.opts.Store, Text: err.Error()})
}

// Close waits for the appends that are under way.
func (d *jsDriver) Close(ctx context.Context) error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	d.mu.Unlock()
	var errs []error
	for _, w := range d.allWriters() {
		if err := w.drain(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	d.unwatch()
	d.mux.close()
	d.syncs.close()
	d.looks.Wait()
	if d.opts.Close != nil {
		errs = append(errs, d.opts.Close(ctx))
	}
	return errors.Join(errs...)
}

func (d *jsDriver) allWriters() []*writer {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Values(d.writers))
}

// restarted ends all that waits for an answer of the server as it was.
func (d *jsDriver) restarted() {
	d.waits.endAll(errRestarted, "")
	writers := d.allWriters()
	d.mu.Lock()
	var feeds []*feed
	for f := range d.feeds {
		feeds = append(feeds, f)
	}
	d.mu.Unlock()
	for _, w := range writers {
		w.interrupt()
	}
	for _, f := range feeds {
		f.interrupt(errRestarted)
	}
}

var errRestarted = errors.New("the server was started anew, or the connection to it was lost")

// unavailable wraps an error of the connection.
func (d *jsDriver) unavailable(what string, err error) error {
	switch {
	case errors.Is(err, nats.ErrConnectionClosed):
		return fmt.Errorf("jetstream: %s: %w: %w", what, driver.ErrClosed, err)
	case errors.Is(err, driver.ErrDenied):
		return fmt.Errorf("jetstream: %s: %w", what, err)
	}
	return fmt.Errorf("jetstream: %s: %w: %w", what, driver.ErrUnavailable, err)
}

// maxWait ends a request that nobody answers.
const maxWait = 30 * time.Second
