package posthorn

import (
	"context"
	"time"
)

// Defaults of a group and its handlers.
const (
	DefaultConcurrency = 64
	DefaultTimeout     = 30 * time.Second
	DefaultDrain       = 30 * time.Second
	DefaultWindow      = 8192
	DefaultWindowBytes = 64 << 20
	DefaultCheckpoint  = time.Second
	DefaultBoots       = 3

	DefaultAttempts     = 3
	DefaultDelay        = 100 * time.Millisecond
	DefaultMaxDelay     = 2 * time.Second
	DefaultLate         = 8
	DefaultLateDelay    = 10 * time.Second
	DefaultMaxLateDelay = time.Hour
)

// None switches off what a number of a [Retry] counts, where zero means the
// default.
const None = -1

// A GroupConfig configures a group. A zero field means the default.
type GroupConfig struct {
	// Concurrency is how many handlers of the group run at a time in this
	// process. Default 64.
	Concurrency int
	// Timeout is for how long a handler may run. Then its context ends. What a
	// handler returns soon after (a tenth of the timeout, from 100 ms to 5 s) still
	// is its verdict; of one that does not return the attempt has failed, its slot is
	// given to others, its key only when it returns. Default 30 s.
	Timeout time.Duration
	// Retry is the retry budget. Handlers may have their own, by [WithRetry].
	// Default: that of a zero [Retry].
	Retry Retry
	// Window is how many messages above the lowest unsettled one may be taken
	// from a partition, rounded up to a multiple of 64. Default 8192; the broker may
	// have a lower limit.
	Window int
	// WindowBytes caps the data of all messages that the group holds in memory in
	// this process, in bytes. Default 64 MiB.
	WindowBytes int
	// Checkpoint is how often, at the least, the position is recorded: what a
	// kill can repeat. Default 1 s.
	Checkpoint time.Duration
	// Drain is how long Stop and Run wait for handlers that run. Then their contexts
	// end, and up to 5 s more go to those that heed it and to recording what is
	// settled. The same goes for a partition that is given to another member, while
	// the others go on. Default 30 s.
	Drain time.Duration
	// Boots is how many times a message may be being handled when its process
	// dies, before it is quarantined as a dead letter. Default 3.
	Boots int
	// StrictOrder has the events of one key wait behind one of them that has failed,
	// in order, in all topics of the group: until a late attempt handles it, or until
	// the dead letter that it has become is replayed and handled, or discarded. They
	// wait in the group's lane, through restarts. A key that has a dead letter already
	// waits for it from the next start on. All members of the group have to ask for it.
	// Default: false, except in topics that say so (see TopicConfig): a failed event
	// comes late and the others of its key go on.
	StrictOrder bool
	// RateLimit is how many handlers the group starts a second in this process, at the
	// most, retries among them; it saves up starts for a tenth of a second. It is for
	// going through the past, after a reset or in a new group, without flooding what
	// the handlers call. Default 0: no limit.
	RateLimit float64
	// Start is where the group begins in a topic that is new to it. Default:
	// at the beginning of what is kept.
	Start Start
	// Middleware wraps all handlers of the group; the first is outermost. Default:
	// none.
	Middleware []Middleware
}

// A Retry is a retry budget of two levels. First come Attempts in memory, soon
// after each other; the event's key waits, its slot does not. When they have all
// failed, up to Late further attempts come through the group's lane, later, and
// nothing waits for them. When these have failed too, the event is a dead letter.
type Retry struct {
	// Attempts is how many attempts are made in memory, the first one included.
	// Default 3; None means 1.
	Attempts int
	// Delay is the wait before the second attempt; it doubles up to MaxDelay.
	// Waits are jittered: between half of it and the whole. Defaults 100 ms and 2 s.
	Delay, MaxDelay time.Duration
	// Late is how many attempts follow through the lane. Default 8; None for none.
	Late int
	// LateDelay is the wait before the first late attempt; it doubles up to
	// MaxLateDelay, jittered the same. Defaults 10 s and 1 h.
	LateDelay, MaxLateDelay time.Duration
}

// A Start says where a group begins in a topic that is new to it.
type Start struct {
	kind startKind
	at   time.Time
}

type startKind uint8

const (
	startBeginning startKind = iota
	startNow
	startTime
)

// FromBeginning begins with the first event that is kept. It is the default.
func FromBeginning() Start { return Start{} }

// FromNow begins with what is published next.
func FromNow() Start { return Start{kind: startNow} }

// FromTime begins with the first event that was stored at this time or later.
func FromTime(t time.Time) Start { return Start{kind: startTime, at: t} }

// A Handler handles events without a type of Go's. Its error is the verdict:
// see [EventType.Handle].
type Handler func(ctx context.Context, d *Delivery) error

// A Middleware wraps a handler.
type Middleware func(Handler) Handler

// A HandleOption configures one handler, or one batch handler.
type HandleOption interface {
	BatchOption
	applyHandle(*handlerConfig)
}

type handleOption func(*handlerConfig)

func (f handleOption) applyHandle(c *handlerConfig) { f(c) }
func (f handleOption) applyBatch(c *handlerConfig)  { f(c) }

type handlerConfig struct {
	timeout    time.Duration
	retry      *Retry
	middleware []Middleware
	batch      bool
	batchSize  int
	batchWait  time.Duration
}

// Timeout sets the handler's timeout, in place of the group's.
func Timeout(d time.Duration) HandleOption {
	return handleOption(func(c *handlerConfig) { c.timeout = d })
}

// WithRetry sets the handler's retry budget, in place of the group's.
func WithRetry(r Retry) HandleOption {
	return handleOption(func(c *handlerConfig) { c.retry = &r })
}

// With wraps the handler by middleware, inside of the group's.
func With(m ...Middleware) HandleOption {
	return handleOption(func(c *handlerConfig) { c.middleware = append(c.middleware, m...) })
}
