package engine

import (
	"context"
	"sync"
	"time"
)

// A runContext is the context of one handler's run. Most handlers never ask when
// it ends: its timer and channel are made when somebody does.
type runContext struct {
	base     context.Context
	deadline time.Time

	mu     sync.Mutex
	real   context.Context // made on demand
	cancel func(error)     // likewise
	over   bool            // the handler has returned
}

var _ context.Context = (*runContext)(nil)

func (c *runContext) Deadline() (time.Time, bool) { return c.deadline, true }

func (c *runContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.make().Done()
}

func (c *runContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.real != nil:
		return c.real.Err()
	case c.over:
		return context.Canceled
	case c.base.Err() != nil:
		return c.base.Err()
	case !time.Now().Before(c.deadline): // monotonic
		return context.DeadlineExceeded
	}
	return nil
}

// Value finds the context beneath, which the context package looks for.
func (c *runContext) Value(key any) any {
	c.mu.Lock()
	real := c.real
	c.mu.Unlock()
	if real == nil {
		return c.base.Value(key)
	}
	return real.Value(key)
}

// make makes the real context. c.mu is held.
func (c *runContext) make() context.Context {
	if c.real == nil {
		ctx, cancel := context.WithCancelCause(c.base)
		ctx, stop := context.WithDeadlineCause(ctx, c.deadline, context.DeadlineExceeded)
		c.real, c.cancel = ctx, func(cause error) { cancel(cause); stop() }
		if c.over {
			c.cancel(nil)
		}
	}
	return c.real
}

// end ends the context, for a cause.
func (c *runContext) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.make()
	c.cancel(cause)
}

// finish ends it when the handler has returned.
func (c *runContext) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.real != nil {
		c.cancel(nil)
	}
}
