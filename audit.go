package posthorn

import (
	"context"
	"math/rand/v2"
	"time"
)

// auditEvery is how often the driver is asked to look for what has changed on the
// broker behind our back.
const auditEvery = 5 * time.Minute

// audit has the driver look from time to time. Processes that were started together
// do not look together.
func (b *Bus) audit() {
	defer b.work.Done()
	ctx, cancel := b.untilClosed()
	defer cancel()
	for {
		every := b.opts.auditEvery
		timer := time.NewTimer(every/2 + rand.N(every))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		if err := b.drv.Audit(ctx); err != nil && ctx.Err() == nil {
			b.log.Warn("audit: not all could be looked at on the broker; it is tried again", "error", err)
		}
	}
}

// untilClosed returns a context that ends when the bus begins to close.
func (b *Bus) untilClosed() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		select {
		case <-b.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}
