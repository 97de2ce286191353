package posthorn

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/internal/engine"
)

// A Group is a logical subscriber: each event that it subscribes to is handled
// by one of its members. It is made by [Bus.Group], gets its handlers from
// [EventType.Handle], and runs from Start to Stop, once. It fits frameworks that
// start and stop servers with a context.
type Group struct {
	bus  *Bus
	name string
	cfg  GroupConfig

	mu       sync.Mutex
	err      error // what is wrong with its definition
	handlers []*handlerDef
	state    groupState
	eng      *engine.Group
	ended    chan struct{} // closed when Stop is done
}

type groupState uint8

const (
	groupNew groupState = iota
	groupStarting
	groupRunning
	groupStopping
	groupStopped
)

type handlerDef struct {
	def   *typeDef
	h     Handler
	cfg   handlerConfig
	flush func() // lets go what h holds back; nil if it never does
}

// Group returns the group of this name, which is made by the first call. What is
// wrong with the name or the settings, or a second call with other settings, comes
// out of Run and Start.
func (b *Bus) Group(name string, cfg GroupConfig) *Group {
	b.mu.Lock()
	defer b.mu.Unlock()
	if g := b.groups[name]; g != nil {
		if !reflect.DeepEqual(withoutFuncs(g.cfg), withoutFuncs(cfg)) {
			g.fail(errorf(CodeConflict, "group %q is configured twice on this bus, differently; call bus.Group once and pass the group on", name))
		}
		return g
	}
	g := &Group{bus: b, name: name, cfg: cfg, ended: make(chan struct{})}
	if err := checkName("group", name, maxGroupName); err != nil {
		g.err = err
	} else if err := checkGroup(name, cfg); err != nil {
		g.err = err
	}
	b.groups[name] = g
	return g
}

func withoutFuncs(c GroupConfig) GroupConfig {
	c.Middleware = nil
	return c
}

func checkGroup(name string, c GroupConfig) *Error {
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"Concurrency", int64(c.Concurrency)}, {"Timeout", int64(c.Timeout)}, {"Window", int64(c.Window)},
		{"WindowBytes", int64(c.WindowBytes)}, {"Checkpoint", int64(c.Checkpoint)}, {"Drain", int64(c.Drain)}, {"Boots", int64(c.Boots)},
	} {
		if f.value < 0 {
			return errorf(CodeInvalid, "group %q: %s is negative; leave it zero for the default", name, f.name)
		}
	}
	if c.RateLimit < 0 || math.IsNaN(c.RateLimit) || math.IsInf(c.RateLimit, 0) {
		return errorf(CodeInvalid, "group %q: RateLimit is %v; it is a number of handlers a second, or 0 for no limit", name, c.RateLimit)
	}
	return checkRetry(fmt.Sprintf("group %q", name), c.Retry)
}

func checkRetry(what string, r Retry) *Error {
	if r.Attempts < None || r.Late < None || r.Delay < 0 || r.MaxDelay < 0 || r.LateDelay < 0 || r.MaxLateDelay < 0 {
		return errorf(CodeInvalid, "%s: a number of Retry is negative; zero is the default, posthorn.None switches a level off", what)
	}
	return nil
}

// Name returns the group's name.
func (g *Group) Name() string { return g.name }

func (g *Group) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
	}
}

// HandleRaw subscribes the group to an event type without a definition. Its topic
// is the one that the name says. The handler also gets messages of that topic
// that are no events, unless the group has another raw handler in it.
func (g *Group) HandleRaw(name string, h Handler, opts ...HandleOption) {
	g.add(untyped(name, rawCodec{}), h, opts)
}

func (g *Group) add(def *typeDef, h Handler, opts []HandleOption) {
	var cfg handlerConfig
	for _, o := range opts {
		o.applyHandle(&cfg)
	}
	g.addHandler(&handlerDef{def: def, h: h, cfg: cfg})
}

func (g *Group) addHandler(d *handlerDef) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.checkHandler(d.def, d.h, &d.cfg); err != nil {
		if g.err == nil {
			g.err = err
		}
		if g.state != groupNew {
			g.bus.log.Error("handler refused", "group", g.name, "error", err)
		}
		return
	}
	g.handlers = append(g.handlers, d)
}

func (g *Group) checkHandler(def *typeDef, h Handler, cfg *handlerConfig) error {
	switch {
	case def.err != nil:
		return def.err
	case h == nil:
		return errorf(CodeInvalid, "group %q: the handler of %q is nil", g.name, def.name)
	case g.state != groupNew:
		return errorf(CodeConflict, "group %q: a handler of %q was added after the group was started; add all handlers first", g.name, def.name)
	case cfg.timeout < 0:
		return errorf(CodeInvalid, "group %q: the timeout of the handler of %q is negative", g.name, def.name)
	}
	for _, o := range g.handlers {
		if o.def.name == def.name {
			return errorf(CodeConflict, "group %q has two handlers for %q; do both in one handler, or use two groups if each is to get every event", g.name, def.name)
		}
	}
	if cfg.retry != nil {
		if err := checkRetry(fmt.Sprintf("group %q, handler of %q", g.name, def.name), *cfg.retry); err != nil {
			return err
		}
	}
	return cfg.checkBatch(g, def)
}

// Start registers the group on the broker and runs it. It returns when the group
// is registered; from then on every event of its types reaches it. ctx bounds the
// starting only. A group runs once: starting it again is an error with
// CodeConflict.
func (g *Group) Start(ctx context.Context) error {
	g.mu.Lock()
	switch {
	case g.err != nil:
		defer g.mu.Unlock()
		return g.err
	case g.state != groupNew:
		defer g.mu.Unlock()
		return errorf(CodeConflict, "group %q was started before; a group runs once, from Start or Run to Stop", g.name)
	case len(g.handlers) == 0:
		defer g.mu.Unlock()
		return errorf(CodeInvalid, "group %q has no handler; give it one with EventType.Handle before it is started", g.name)
	}
	g.state = groupStarting
	g.mu.Unlock()
	eng, err := g.start(ctx)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		g.state = groupNew
		return err
	}
	g.eng, g.state = eng, groupRunning
	return nil
}

func (g *Group) start(ctx context.Context) (*engine.Group, error) {
	b := g.bus
	want := driver.GroupSpec{Name: g.name, Types: map[string][]string{}, Start: driver.StartAt{Now: g.cfg.Start.kind == startNow, Time: g.cfg.Start.at}}
	if caps := b.drv.Caps(); !caps.ReadFrom && g.cfg.Start.kind != startNow {
		return nil, errorf(CodeUnsupported, "group %q: this broker cannot start a group at %s (%s); use posthorn.FromNow()", g.name, "the beginning or a time", caps.Missing["P2 beginning"])
	}
	cfg := g.engineConfig()
	for _, h := range g.handlers {
		ot, err := b.topicFor(ctx, h.def)
		if err != nil {
			return nil, wrapf(err, "start group %q", g.name)
		}
		topic := h.def.topic.name
		want.Types[topic] = append(want.Types[topic], h.def.name)
		cfg.Unordered[topic] = ot.spec.Unordered
		if g.cfg.StrictOrder && ot.spec.Unordered {
			return nil, errorf(CodeConflict, "group %q asks for StrictOrder, but topic %q was created with Unordered and keeps no order; "+
				"handle it in a group without StrictOrder, or use a new topic name", g.name, topic)
		}
		cfg.Strict[topic] = g.cfg.StrictOrder || ot.spec.Strict
		eh := g.wrap(h)
		cfg.Handlers[h.def.name] = eh
		if h.def.untyped {
			if _, two := cfg.Foreign[topic]; two {
				eh = nil
			}
			cfg.Foreign[topic] = eh
		}
	}
	for t := range want.Types {
		slices.Sort(want.Types[t])
	}
	stands, err := b.ensureGroup(ctx, want)
	if err != nil {
		return nil, wrapf(err, "start group %q", g.name)
	}
	b.handlesTopics(want.Types)
	return engine.Start(cfg, stands, g.lostMembership), nil
}

func (g *Group) lostMembership(err error) {
	g.bus.alarms.raise(driver.Alarm{Code: "group_ended", Thing: g.name,
		Text: fmt.Sprintf("group %s is not a member any more and handles nothing in this process; restart it: %v", g.name, err)})
}

func orDefault[T int | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

func (g *Group) engineConfig() engine.Config {
	b, c := g.bus, g.cfg
	caps := b.drv.Caps()
	window := orDefault(c.Window, DefaultWindow)
	if !caps.Queue && caps.CheckpointBytes > 0 {
		window = min(window, caps.CheckpointBytes*8)
	}
	return engine.Config{
		Name:        g.name,
		Driver:      b.drv,
		Member:      b.member,
		Concurrency: orDefault(c.Concurrency, DefaultConcurrency),
		Window:      max(window, 64),
		WindowBytes: orDefault(c.WindowBytes, DefaultWindowBytes),
		MaxPayload:  b.opts.maxPayload,
		Checkpoint:  orDefault(c.Checkpoint, DefaultCheckpoint),
		Drain:       orDefault(c.Drain, DefaultDrain),
		Boots:       orDefault(c.Boots, DefaultBoots),
		Rate:        c.RateLimit,
		Handlers:    map[string]*engine.Handler{},
		Foreign:     map[string]*engine.Handler{},
		Unordered:   map[string]bool{},
		Strict:      map[string]bool{},
		Gate:        b.gate,
		Counts:      (*groupCounts)(&b.count),
		Log:         b.log,
		Alarm:       b.alarms.raise,
		Clock:       b.clock,
		Structured:  structured,
		Foreigner:   g.foreigner,
	}
}

func memberName(service string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "?"
	}
	return fmt.Sprintf("%s@%s:%d-%s", service, host, os.Getpid(), strings.ToLower(rand.Text()[:6]))
}

// foreigner is the verdict for a message that no handler gets.
func (g *Group) foreigner(it *engine.Item) engine.Verdict {
	m := &it.Delivery.Msg
	v := engine.Verdict{Kind: engine.Dead, Unreadable: true}
	switch {
	case it.Delivery.Bad != nil:
		v.Err = &Error{Code: CodeUndecodable, Text: "its attributes cannot be read", Err: it.Delivery.Bad}
	case len(m.Body) > g.bus.opts.maxPayload:
		v.Err, v.Unreadable = errorf(CodeTooLarge, "its data is %d bytes, the limit is %d", len(m.Body), g.bus.opts.maxPayload), false
	case m.Type == "":
		v.Err = errorf(CodeForeign, "it is no event: it has no CloudEvents attributes, and the group has no raw handler (or several) for its topic")
	default:
		v.Err, v.Unreadable = errorf(CodeNotFound, "the group has no handler for %s any more", m.Type), false
	}
	v.Code = string(CodeOf(v.Err))
	return v
}

// Stop drains the group: no handler starts any more, those that run finish with
// a live context and a working bus, what they decided is recorded, and all else
// is given back. It waits up to GroupConfig.Drain, and no longer than ctx; after
// that handlers that still run are cancelled and their events come again, and the
// error has CodeTimeout. Stopping twice, or before starting, is harmless.
func (g *Group) Stop(ctx context.Context) error {
	g.mu.Lock()
	switch g.state {
	case groupNew, groupStarting:
		g.mu.Unlock()
		return nil
	case groupStopping, groupStopped:
		g.mu.Unlock()
		select {
		case <-g.ended:
			return nil
		case <-ctx.Done():
			return wrapf(ctx.Err(), "stop group %q", g.name)
		}
	}
	g.state = groupStopping
	g.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, orDefault(g.cfg.Drain, DefaultDrain))
	defer cancel()
	err := g.eng.Stop(ctx)
	g.mu.Lock()
	g.state = groupStopped
	close(g.ended)
	g.mu.Unlock()
	switch {
	case errors.Is(err, engine.ErrDrain):
		return &Error{Code: CodeTimeout, Text: fmt.Sprintf("stop group %q", g.name), Err: err}
	case err != nil:
		return wrapf(err, "stop group %q", g.name)
	}
	return nil
}
