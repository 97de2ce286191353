package embedded_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/embedded"
)

// TestOvertaken: a server comes back without the last events that a member had read, as
// after a power cut, and others have published to their positions before the member is
// connected again. What it had read is no reason to pass over what stands there now:
// neither does it read on behind it, nor is its position recorded.
func TestOvertaken(t *testing.T) {
	for name, next := range map[string]func(context.Context, driver.Tenure) error{
		"fetch": func(ctx context.Context, tn driver.Tenure) error {
			_, err := tn.Fetch(ctx, make([]driver.Delivery, 10), 1<<20)
			return err
		},
		"checkpoint": func(ctx context.Context, tn driver.Tenure) error {
			return tn.Checkpoint(ctx, driver.Checkpoint{Floor: 8, Mark: 8})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, older := t.TempDir(), filepath.Join(t.TempDir(), "older")
			before := open(t, dir, embedded.Options{})
			before.topic("order", 1)
			before.group("g", driver.StartAt{}, "order")
			before.mustPublish(order0, events("a", 5)...)
			before.close()
			copyDir(t, dir, older)

			s, _ := serve(t, dir, embedded.ServeOptions{})
			b := dial(t, withToken(s))
			m, _ := b.join("g", "order")
			tn := m.next(t)
			b.mustPublish(order0, events("lost", 3)...)
			fetch(t, tn, 8)
			addr := strings.TrimPrefix(s.URL(), "nats://")
			if err := s.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			restore(t, older, dir)
			elsewhere, _ := serve(t, dir, embedded.ServeOptions{})
			dial(t, withToken(elsewhere)).mustPublish(order0, events("new", 5)...)
			if err := elsewhere.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			serve(t, dir, embedded.ServeOptions{Addr: addr})

			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			eventually(t, "the connection", func() bool { return b.Health(ctx) == nil })
			wantErr(t, next(ctx, tn), driver.ErrLost)
			if got, want := ids(fetch(t, m.next(t), 10)), "a0 a1 a2 a3 a4 new0 new1 new2 new3 new4"; got != want {
				t.Errorf("the next tenure reads %s, want %s", got, want)
			}
		})
	}
}
