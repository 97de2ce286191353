package posthorn_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"github.com/posthorn/posthorn"
)

// seen is what handlers have seen, by the event's data.
type seen struct {
	mu    sync.Mutex
	times map[string]int
	fence map[string]uint64
}

func newSeen() *seen { return &seen{times: map[string]int{}, fence: map[string]uint64{}} }

func (s *seen) handle(_ context.Context, e *posthorn.Event[string]) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times[e.Data]++
	s.fence[e.Data] = e.Fence
	return nil
}

func (s *seen) all(ids []string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if s.times[id] == 0 {
			return false
		}
	}
	return true
}

func openShared(t *testing.T, name string) *posthorn.Bus {
	t.Helper()
	bus, err := posthorn.Open(t.Context(), "memory:"+name, posthorn.Service("test"), posthorn.Logger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bus.Close(context.Background()) })
	return bus
}

// A rolling deploy: members that know a new type start beside members that do not,
// while both types are published. None of the new events is lost, skipped or dead.
func TestRollingDeploy(t *testing.T) {
	t.Parallel()
	for _, shape := range []string{"log", "queue"} {
		t.Run(shape, func(t *testing.T) {
			t.Parallel()
			name := "rolling-" + shape + "?shape=" + shape
			topic := posthorn.DefineTopic("order", posthorn.TopicConfig{Partitions: 4})
			placed := posthorn.Define[string]("order.placed", posthorn.In(topic))
			cancelled := posthorn.Define[string]("order.cancelled", posthorn.In(topic))
			got := newSeen()
			var want []string
			n := 0
			publish := func(bus *posthorn.Bus, types ...*posthorn.EventType[string]) {
				t.Helper()
				for range 50 {
					for _, typ := range types {
						id := fmt.Sprintf("%s-%d", typ.Name(), n)
						n++
						if err := typ.Publish(t.Context(), bus, id); err != nil {
							t.Fatal(err)
						}
						want = append(want, id)
					}
				}
			}
			member := func(types ...*posthorn.EventType[string]) *posthorn.Bus {
				t.Helper()
				bus := openShared(t, name)
				g := bus.Group("billing", posthorn.GroupConfig{})
				for _, typ := range types {
					typ.Handle(g, got.handle)
				}
				if err := g.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
				return bus
			}
			end := func(bus *posthorn.Bus) {
				t.Helper()
				if err := bus.Close(context.Background()); err != nil {
					t.Error(err)
				}
			}
			outside := openShared(t, name)
			var old, fresh []*posthorn.Bus
			for range 3 {
				old = append(old, member(placed))
			}
			publish(outside, placed)
			for i := range 3 {
				fresh = append(fresh, member(placed, cancelled))
				publish(outside, placed, cancelled)
				end(old[i])
				publish(outside, placed, cancelled)
			}
			until(t, "all are handled", func() bool { return got.all(want) })
			for _, id := range want {
				if got.times[id] != 1 {
					t.Errorf("%s was handled %d times", id, got.times[id])
				}
			}
			for _, bus := range append(old, fresh...) {
				if s := bus.Stats(); s.Dead != 0 || s.Skipped != 0 {
					t.Errorf("%d dead, %d skipped", s.Dead, s.Skipped)
				}
			}
		})
	}
}

// An event's fence is higher with each holder of its partition.
func TestFenceOfAnEvent(t *testing.T) {
	t.Parallel()
	placed := posthorn.Define[string]("order.placed", posthorn.In(posthorn.DefineTopic("order", posthorn.TopicConfig{Partitions: 1})))
	got := newSeen()
	outside := openShared(t, "fence")
	for i := range 3 {
		bus := openShared(t, "fence")
		g := bus.Group("billing", posthorn.GroupConfig{})
		placed.Handle(g, got.handle)
		if err := g.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		ids := []string{fmt.Sprint(i, "a"), fmt.Sprint(i, "b")}
		for _, id := range ids {
			if err := placed.Publish(t.Context(), outside, id); err != nil {
				t.Fatal(err)
			}
		}
		until(t, "they are handled", func() bool { return got.all(ids) })
		if err := bus.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		if got.fence[ids[0]] == 0 || got.fence[ids[0]] != got.fence[ids[1]] {
			t.Errorf("the fences of one holder are %d and %d", got.fence[ids[0]], got.fence[ids[1]])
		}
		if i > 0 && got.fence[ids[0]] <= got.fence[fmt.Sprint(i-1, "a")] {
			t.Errorf("the fence goes from %d to %d", got.fence[fmt.Sprint(i-1, "a")], got.fence[ids[0]])
		}
	}
}
