package posthorn_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
)

// A wall clock that jumps by hours, forward or back, brings no retry early, makes
// nothing expire that should not, deletes nothing that is to be kept, and delays
// nothing for ever.
func TestWallClockJumps(t *testing.T) {
	t.Parallel()
	for name, jump := range map[string]time.Duration{"forward": 6 * time.Hour, "back": -6 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var off atomic.Int64
			now := func() time.Time { return time.Now().Add(time.Duration(off.Load())) }
			bus := testBus(t, posthorn.WallClock(now))
			topic := posthorn.DefineTopic("order", posthorn.TopicConfig{Partitions: 2, Keep: 15 * time.Second})
			placed := posthorn.Define[string]("order.placed", posthorn.In(topic))

			const late = 3 * time.Second // half of it at least
			var mu sync.Mutex
			var failed time.Time
			var waited time.Duration
			var first, later atomic.Int64
			g := bus.Group("g", posthorn.GroupConfig{Retry: posthorn.Retry{Attempts: posthorn.None, Late: 2, LateDelay: late, MaxLateDelay: late}})
			placed.Handle(g, func(_ context.Context, e *posthorn.Event[string]) error {
				mu.Lock()
				defer mu.Unlock()
				switch {
				case e.Data != "fails":
					first.Add(1)
				case e.Attempt == 1:
					failed = time.Now()
					return errors.New("not yet")
				default:
					waited = time.Since(failed)
				}
				return nil
			})
			if err := g.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, data := range []string{"fails", "a", "b"} {
				if err := placed.Publish(t.Context(), bus, data, posthorn.ExpiresAt(now().Add(time.Hour))); err != nil {
					t.Fatal(err)
				}
			}
			until(t, "the first ones are handled", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return first.Load() == 2 && !failed.IsZero()
			})
			off.Store(int64(jump))
			until(t, "the retry comes", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return waited > 0
			})
			if waited < late/2 {
				t.Errorf("the retry came after %v, %v early", waited, late/2-waited)
			}
			// By now retention has looked, and a group that begins at the beginning
			// still finds all of them, none expired.
			h := bus.Group("h", posthorn.GroupConfig{})
			placed.Handle(h, func(context.Context, *posthorn.Event[string]) error { later.Add(1); return nil })
			if err := h.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			until(t, "the second group has handled all", func() bool { return later.Load() == 3 })
			if s := bus.Stats(); s.Expired != 0 || s.Dead != 0 {
				t.Errorf("%d expired, %d dead", s.Expired, s.Dead)
			}
			off.Store(0)
			if err := placed.Publish(t.Context(), bus, "c"); err != nil {
				t.Fatal(err)
			}
			until(t, "it goes on", func() bool { return later.Load() == 4 && first.Load() == 3 })
		})
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}
