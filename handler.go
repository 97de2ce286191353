package posthorn

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/posthorn/posthorn/internal/engine"
)

// wrap makes what the engine runs of a handler: its middleware, its scope, its
// verdict.
func (g *Group) wrap(d *handlerDef) *engine.Handler {
	h := d.h
	for _, m := range slices.Backward(append(slices.Clone(g.cfg.Middleware), d.cfg.middleware...)) {
		h = m(h)
	}
	retry := g.cfg.Retry
	if d.cfg.retry != nil {
		retry = *d.cfg.retry
	}
	return &engine.Handler{
		Run:     func(ctx context.Context, it *engine.Item) engine.Verdict { return g.run(ctx, h, it) },
		Flush:   d.flush,
		Timeout: g.timeoutOf(&d.cfg) + d.cfg.batchWait,
		Retry:   retry.withDefaults(),
	}
}

// timeoutOf is for how long a handler may run.
func (g *Group) timeoutOf(c *handlerConfig) time.Duration {
	return orDefault(c.timeout, orDefault(g.cfg.Timeout, DefaultTimeout))
}

func (r Retry) withDefaults() engine.Retry {
	count := func(n, def int) int {
		switch n {
		case 0:
			return def
		case None:
			return 0
		}
		return n
	}
	e := engine.Retry{
		Attempts:  max(1, count(r.Attempts, DefaultAttempts)),
		Delay:     orDefault(r.Delay, DefaultDelay),
		MaxDelay:  orDefault(r.MaxDelay, DefaultMaxDelay),
		Late:      count(r.Late, DefaultLate),
		LateDelay: orDefault(r.LateDelay, DefaultLateDelay),
		MaxLate:   orDefault(r.MaxLateDelay, DefaultMaxLateDelay),
	}
	e.MaxDelay = max(e.MaxDelay, e.Delay)
	e.MaxLate = max(e.MaxLate, e.LateDelay)
	return e
}

// A handling is one run of a handler: its context, and what that leads to, in one
// piece.
type handling struct {
	context.Context
	delivery Delivery
	scope    scope
}

func (h *handling) Value(key any) any {
	if _, ok := key.(scopeKey); ok {
		return &h.scope
	}
	return h.Context.Value(key)
}

// run handles one delivery.
func (g *Group) run(ctx context.Context, h Handler, it *engine.Item) engine.Verdict {
	m := &it.Delivery.Msg
	hctx := &handling{Context: withTrace(ctx, m.Attrs)}
	d, s := &hctx.delivery, &hctx.scope
	d.Data = m.Body
	readMeta(m, &d.Meta)
	p := it.Partition()
	d.Group, d.Topic, d.Partition, d.Position = g.name, p.Topic, p.N, it.Position()
	d.Stored, d.Attempt, d.Fence = it.Delivery.Stored, it.Attempt(), it.Fence()
	s.meta, s.bus, s.item = &d.Meta, g.bus, it
	// A handler that panics or ends its goroutine has returned, too.
	defer s.shut()
	err := h(hctx, d)
	if cerr := s.close(ctx); err == nil {
		err = cerr
	}
	return verdict(err)
}

// verdict reads a handler's error.
func verdict(err error) engine.Verdict {
	if err == nil {
		return engine.Verdict{Kind: engine.Done}
	}
	v := engine.Verdict{Kind: engine.Fail, Err: err, Code: string(CodeOf(err))}
	var permanent *permanentError
	var after *retryAfterError
	var skip *skipError
	switch {
	case errors.As(err, &skip):
		v.Kind = engine.Skip
	case errors.As(err, &permanent):
		v.Kind = engine.Dead
		if c := CodeOf(err); c == CodeHandler {
			v.Code = string(CodePermanent)
		} else {
			v.Unreadable = c == CodeUndecodable
		}
	case errors.As(err, &after):
		v.Asked, v.Wait = true, max(0, after.d)
	}
	return v
}
