package posthorn

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/posthorn/posthorn/internal/clock"
)

// Defaults of a bus.
const (
	DefaultPublishTimeout = 10 * time.Second
	DefaultMaxPayload     = 1 << 20

	DefaultMaxPending      = 8192
	DefaultMaxPendingBytes = 32 << 20
)

// An Option configures a bus, in [Open]. Of one that is given twice the last counts,
// where its comment does not say otherwise.
type Option interface{ applyBus(*options) }

type option func(*options)

func (f option) applyBus(o *options) { f(o) }

type options struct {
	service         string
	log             *slog.Logger
	onAlarm         func(Alarm)
	publishTimeout  time.Duration
	maxPayload      int
	maxPending      int
	maxPendingBytes int
	propagate       []string
	middleware      []PublishMiddleware
	now             func() time.Time
	auditEvery      time.Duration
	err             *Error
}

func (o *options) fail(code Code, format string, args ...any) {
	if o.err == nil {
		o.err = errorf(code, format, args...)
	}
}

// Service names the service that opens the bus: it becomes the source of what it
// publishes. Default: the name of the program's file, as far as the grammar of
// names allows.
func Service(name string) Option {
	return option(func(o *options) {
		if err := checkName("service", name, maxServiceName); err != nil {
			o.fail(err.Code, "%s", err.Text)
			return
		}
		o.service = name
	})
}

// Logger sets where the bus logs: alarms and dead letters at level error, what mends
// itself at warn. Default: slog.Default().
func Logger(l *slog.Logger) Option {
	return option(func(o *options) {
		if l == nil {
			o.fail(CodeInvalid, "Logger(nil): leave the option out for slog.Default()")
			return
		}
		o.log = l
	})
}

// OnAlarm sets a hook that is called for each alarm that is raised, not when one
// ends. Calls come one at a time, on a goroutine of their own; Close waits for them, so
// that the hook must not call it. Default: none.
func OnAlarm(hook func(Alarm)) Option {
	return option(func(o *options) { o.onAlarm = hook })
}

// positive makes an option of a number that has to be above zero.
func positive[T int | time.Duration](name string, v T, field func(*options) *T) Option {
	return option(func(o *options) {
		if v <= 0 {
			o.fail(CodeInvalid, "%s(%v): it must be above zero", name, v)
			return
		}
		*field(o) = v
	})
}

// PublishTimeout bounds publishing, and cancelling what is delayed, with a context
// that has no deadline. Default: 10 s.
func PublishTimeout(d time.Duration) Option {
	return positive("PublishTimeout", d, func(o *options) *time.Duration { return &o.publishTimeout })
}

// MaxPayload bounds the data of an event, in bytes, when it is published and
// when it is handled. Default: 1 MiB, and never more than the broker takes.
func MaxPayload(bytes int) Option {
	return positive("MaxPayload", bytes, func(o *options) *int { return &o.maxPayload })
}

// MaxPending bounds how many events of PublishAsync are not confirmed yet, all
// callers together; when there is no room, PublishAsync waits. A call of more events
// than that goes in alone. Default: 8192.
func MaxPending(events int) Option {
	return positive("MaxPending", events, func(o *options) *int { return &o.maxPending })
}

// MaxPendingBytes bounds the same by the size of the events, with their attributes.
// Default: 32 MiB.
func MaxPendingBytes(bytes int) Option {
	return positive("MaxPendingBytes", bytes, func(o *options) *int { return &o.maxPendingBytes })
}

// PublishThrough has each event that the bus publishes pass through middleware; the
// first is outermost. Given again, it adds inside of what was given before.
// Default: none.
func PublishThrough(m ...PublishMiddleware) Option {
	return option(func(o *options) {
		for i, one := range m {
			if one == nil {
				o.fail(CodeInvalid, "PublishThrough: middleware %d is nil", i)
				return
			}
		}
		o.middleware = append(o.middleware, m...)
	})
}

// Propagate registers headers that travel from an event into all that its
// handlers publish, unless that has the header itself. Names are compared without
// regard to case. Given again, it adds to what was given before. Default: none.
func Propagate(headers ...string) Option {
	return option(func(o *options) {
		for _, h := range headers {
			if err := checkHeader(h, ""); err != nil {
				o.fail(err.Code, "%s", err.Text)
			}
		}
		o.propagate = append(o.propagate, headers...)
	})
}

// WallClock sets where the bus takes the time of day from. It is for tests: how
// long something takes is measured with another clock. Default: the system's.
func WallClock(now func() time.Time) Option {
	return option(func(o *options) {
		if now == nil {
			o.fail(CodeInvalid, "WallClock(nil): leave the option out for the system's clock")
			return
		}
		o.now = now
	})
}

func newOptions(opts []Option) (*options, *Error) {
	o := &options{
		log:             slog.Default(),
		publishTimeout:  DefaultPublishTimeout,
		maxPayload:      DefaultMaxPayload,
		maxPending:      DefaultMaxPending,
		maxPendingBytes: DefaultMaxPendingBytes,
		now:             clock.Wall,
		auditEvery:      auditEvery,
	}
	for _, opt := range opts {
		opt.applyBus(o)
	}
	if o.service == "" {
		o.service = programName(os.Args)
	}
	return o, o.err
}

// programName makes a service name of the program's file name.
func programName(args []string) string {
	if len(args) == 0 {
		return "service"
	}
	name := strings.ToLower(strings.TrimSuffix(filepath.Base(args[0]), ".exe"))
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, name)
	name = strings.TrimLeft(name, "-_")
	if len(name) > maxServiceName {
		name = name[:maxServiceName]
	}
	if name == "" {
		return "service"
	}
	return name
}
