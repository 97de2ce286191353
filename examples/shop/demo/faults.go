package demo

import (
	"context"
	"errors"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/internal/chance"
)

// What fails in the demo fails on purpose, and for the same events in each run:
//
//   - the payment gateway is busy when it is first asked, for one order in 50;
//   - the handlers of the other services fail at first, for one event in 200, 500
//     or 1,000;
//   - the mail server turns away one letter in 200, until the first late retry;
//   - the mail provider has a bad day: see outage.go;
//   - an adjustment that asks for money and names no customer is a letter to
//     nobody: a dead letter;
//   - a poison order is a dead letter of all who handle orders: see poison.go;
//   - with a process for each service, one of them is killed: see apart.go.

// inOrderFaults are the faults of those who handle events in the order of their keys
// and keep that order in their books. What fails there keeps its place, with one
// exception: when the process is stopped while an event waits for its second
// attempt, the event goes to the group's lane and comes back late, behind others of
// its key. The order is then another one than the file's, and the table would say so.
// So nothing is made to fail there where a run may be stopped and gone on with.
func inOrderFaults(cfg Config) []posthorn.Middleware {
	if cfg.Keep {
		return nil
	}
	return []posthorn.Middleware{failFirst(1000)}
}

// errOnPurpose is what failFirst fails with.
var errOnPurpose = errors.New("failed on purpose")

// failFirst fails the first attempt for one event in n, which the event's id
// chooses.
func failFirst(n uint32) posthorn.Middleware {
	return func(next posthorn.Handler) posthorn.Handler {
		return func(ctx context.Context, d *posthorn.Delivery) error {
			if d.Attempt == 1 && chance.OneIn(n, d.ID) {
				return errOnPurpose
			}
			return next(ctx, d)
		}
	}
}

// lettersRetry is short, so that nobody waits long for the demo: a shop would
// leave minutes between late retries. There are as many as a few restarts need,
// since the mail server that is played here forgets whom it has turned away.
var lettersRetry = posthorn.Retry{
	Attempts: 2, Delay: 10 * time.Millisecond,
	Late: 20, LateDelay: 500 * time.Millisecond, MaxLateDelay: 2 * time.Second,
}
