package deadletter

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
)

// watch waits until the group has handled all of a canary.
func (g *groupJob) watch(ctx context.Context, canary []target, left int) error {
	until := time.Now().Add(g.job.CanaryTime) // monotonic
	for pause := 10 * time.Millisecond; len(canary) > 0; pause = min(2*pause, time.Second) {
		var died, failed []Letter
		waiting := canary[:0:0]
		for p, some := range byLane(canary) {
			stands, err := g.stand(ctx, p, some)
			if err != nil {
				return g.interrupted(err)
			}
			for _, t := range some {
				l, ok := stands[t.name]
				switch {
				case !ok: // handled
				case !l.Died.IsZero() && !t.is(&l): // not an answer that is behind
					died = append(died, l)
				default:
					waiting = append(waiting, t)
					if l.Attempts > 0 {
						failed = append(failed, l)
					}
				}
			}
		}
		canary = waiting
		if len(died) > 0 {
			return &posthorn.Error{Code: posthorn.CodeHandler, Text: fmt.Sprintf(
				"replay to group %q: it gave up again on %d of the canary, the first is %s: %s; the other %d stay dead letters",
				g.spec.Name, len(died), died[0].ID, lastError(&died[0]), left)}
		}
		if len(canary) > 0 && time.Now().After(until) { // monotonic
			why := ""
			if len(failed) > 0 {
				why = fmt.Sprintf("; %d have failed and will be tried again, the first is %s: %s", len(failed), failed[0].ID, lastError(&failed[0]))
			}
			return errorf(posthorn.CodeTimeout, "replay to group %q: %d of the canary are not handled after %v%s; the other %d stay dead letters",
				g.spec.Name, len(canary), g.job.CanaryTime, why, left)
		}
		if len(canary) > 0 {
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return g.interrupted(ctx.Err())
			}
		}
	}
	return nil
}

// stand reads how targets of a lane stand, by name. What is handled is not there.
func (g *groupJob) stand(ctx context.Context, p driver.Partition, targets []target) (map[string]Letter, error) {
	stands := map[string]Letter{}
	for chunk := range slices.Chunk(targets, bodyPage) {
		var names []string
		for _, t := range chunk {
			names = append(names, t.name)
		}
		entries, err := g.b.Driver.Lane(g.spec.Name, p).Get(ctx, names)
		if err != nil {
			return nil, err
		}
		for i := range entries {
			if e := &entries[i]; e.State != driver.Discarded {
				l, _ := g.b.Letter(g.spec.Name, p, e)
				stands[e.Name] = l.(Letter)
			}
		}
	}
	return stands, nil
}

func byLane(targets []target) map[driver.Partition][]target {
	m := map[driver.Partition][]target{}
	for _, t := range targets {
		m[t.p] = append(m[t.p], t)
	}
	return m
}

func lastError(l *Letter) string {
	if len(l.Errors) == 0 {
		return "no error is on record"
	}
	return fmt.Sprintf("%.300s", l.Errors[len(l.Errors)-1])
}
