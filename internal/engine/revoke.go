package engine

import (
	"context"
	"errors"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// errRevoked is the cause of a handler's context that ends because its partition
// is given to somebody else.
var errRevoked = errors.New("the partition is given to another member")

// giveBack drains a partition and releases it, while the others go on. Handlers
// that run may finish within the group's drain; then their contexts end. One that
// ignores it is left behind: its message is unfinished for the next holder, whose
// fencing number is higher.
func (t *tenure) giveBack() {
	g := t.g
	defer g.routines.Done()
	drained := func() bool { return t.lost || t.running == 0 }
	ctx, cancel := context.WithTimeout(context.Background(), g.cfg.Drain)
	defer cancel()
	g.await(ctx, drained)

	late, cancel := context.WithTimeout(context.Background(), moment(g.cfg.Drain))
	defer cancel()
	g.mu.Lock()
	t.cancelRuns(errRevoked)
	g.mu.Unlock()
	g.await(late, drained)

	end, cancel := context.WithTimeout(context.Background(), afterDrain)
	defer cancel()
	g.mu.Lock()
	left := t.running
	t.moveFailed()
	g.mu.Unlock()
	g.await(end, func() bool { return t.lost || len(t.ops) == 0 && !t.applying })
	err := t.release(end)
	if errors.Is(err, driver.ErrLost) {
		err = nil // somebody else has it, which was the aim
	}
	if left > 0 || err != nil {
		g.log.Warn("a partition was not given back cleanly", "topic", t.part.Topic, "partition", t.part.N, "handlers", left, "error", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.returning--
	g.changed.Broadcast()
}

// cancelRuns ends the contexts of the handlers that run.
func (t *tenure) cancelRuns(cause error) {
	for w := range t.g.workers {
		if r := w.running(); r != nil && r.it.t == t {
			r.ctx.end(cause)
		}
	}
}

// moment is how long handlers whose context has ended may take to notice.
func moment(drain time.Duration) time.Duration {
	return min(max(drain/6, 100*time.Millisecond), afterDrain)
}
