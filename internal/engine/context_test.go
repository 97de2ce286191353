package engine

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A handler's context behaves as one of the context package, whether it is asked
// when it ends or not.
func TestRunContext(t *testing.T) {
	t.Parallel()
	cause := errors.New("on purpose")
	for _, c := range []struct {
		name  string
		end   func(c *runContext, base context.CancelFunc)
		err   error
		cause error
	}{
		{"runs", func(*runContext, context.CancelFunc) {}, nil, nil},
		{"returned", func(c *runContext, _ context.CancelFunc) { c.finish() }, context.Canceled, context.Canceled},
		{"ended", func(c *runContext, _ context.CancelFunc) { c.end(cause) }, context.Canceled, cause},
		{"ended and returned", func(c *runContext, _ context.CancelFunc) { c.end(cause); c.finish() }, context.Canceled, cause},
		{"late", func(*runContext, context.CancelFunc) { time.Sleep(2 * time.Minute) }, context.DeadlineExceeded, context.DeadlineExceeded},
		{"late and returned", func(c *runContext, _ context.CancelFunc) { time.Sleep(2 * time.Minute); c.Done(); c.finish() }, context.DeadlineExceeded, context.DeadlineExceeded},
		{"base", func(_ *runContext, base context.CancelFunc) { base() }, context.Canceled, context.Canceled},
	} {
		for _, asked := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				base, cancel := context.WithCancel(context.Background())
				defer cancel()
				ctx := &runContext{base: base, deadline: time.Now().Add(time.Minute)}
				defer ctx.finish()
				var done <-chan struct{}
				var child context.Context
				after := make(chan struct{})
				if asked {
					done = ctx.Done()
					var stop context.CancelFunc
					child, stop = context.WithCancel(ctx)
					defer stop()
					context.AfterFunc(ctx, func() { close(after) })
				}
				c.end(ctx, cancel)
				synctest.Wait()
				if ctx.Err() != c.err {
					t.Errorf("%s, asked %v: Err is %v, want %v", c.name, asked, ctx.Err(), c.err)
				}
				if got := context.Cause(ctx); !errors.Is(got, c.cause) {
					t.Errorf("%s, asked %v: the cause is %v, want %v", c.name, asked, got, c.cause)
				}
				for what, ch := range map[string]<-chan struct{}{"done": done, "after": after, "done, asked late": ctx.Done()} {
					if ch == nil || what == "after" && !asked {
						continue
					}
					closed := false
					select {
					case <-ch:
						closed = true
					default:
					}
					if closed != (c.err != nil) {
						t.Errorf("%s, asked %v: %s is closed: %v", c.name, asked, what, closed)
					}
				}
				if ctx.Err() != c.err {
					t.Errorf("%s, asked %v: Err is %v in the end, want %v", c.name, asked, ctx.Err(), c.err)
				}
				if child != nil && child.Err() != c.err {
					t.Errorf("%s: Err of one made from it is %v, want %v", c.name, child.Err(), c.err)
				}
			})
		}
	}
}

// Nobody pays for what nobody asks for.
func TestRunContextCostsNothing(t *testing.T) {
	ctx := &runContext{base: context.Background(), deadline: time.Now().Add(time.Hour)}
	if n := testing.AllocsPerRun(100, func() { _, _ = ctx.Err(), ctx.Value("key"); ctx.finish() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
