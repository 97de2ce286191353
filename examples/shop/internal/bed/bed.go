// Package bed is what the tests of the shop's services stand on: a bus in memory, and
// what was published on it.
package bed

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
	_ "github.com/posthorn/posthorn/driver/memory" // memory:
)

// A Service is a service of the shop.
type Service interface {
	Start(context.Context) error
	Stop(context.Context) error
	Close() error
}

// A Bed has a bus of its own, which ends with the test.
type Bed struct {
	Bus      *posthorn.Bus
	Database string // a path for the service's file
	t        *testing.T
}

// New makes a bed.
func New(t *testing.T) *Bed {
	t.Helper()
	bus, err := posthorn.Open(t.Context(), "memory:", posthorn.Service("test"), posthorn.Logger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bus.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return &Bed{Bus: bus, Database: filepath.Join(t.TempDir(), "service.db"), t: t}
}

// Run starts a service that was opened on the bed, and ends it with the test.
func (b *Bed) Run(s Service, err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			b.t.Error(err)
		}
		if err := s.Close(); err != nil {
			b.t.Error(err)
		}
	})
	if err := s.Start(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
}

// Publish publishes events, in this order.
func (b *Bed) Publish(events ...*posthorn.Outgoing) {
	b.t.Helper()
	if err := b.Bus.PublishAll(b.t.Context(), events...); err != nil {
		b.t.Fatal(err)
	}
}

// A Heard is what was heard of one type, in the order in which it came.
type Heard[T any] struct {
	mu  sync.Mutex
	all []*posthorn.Event[T]
}

// Listen hears all events of a type from now on.
func Listen[T any](b *Bed, typ *posthorn.EventType[T]) *Heard[T] {
	b.t.Helper()
	h := &Heard[T]{}
	// One at a time, so that what comes in one order is heard in it.
	group := b.Bus.Group("hears-"+typ.Name(), posthorn.GroupConfig{Concurrency: 1})
	typ.Handle(group, func(_ context.Context, e *posthorn.Event[T]) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.all = append(h.all, e)
		return nil
	})
	if err := group.Start(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	return h
}

// Events returns what was heard. See [Settle] for when that is all.
func (h *Heard[T]) Events() []*posthorn.Event[T] {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.all
}

// Data returns the data of what was heard.
func (h *Heard[T]) Data() []T {
	var data []T
	for _, e := range h.Events() {
		data = append(data, e.Data)
	}
	return data
}

// Settle waits until a group, and after it all who listen, have nothing left to do.
func (b *Bed) Settle(group string) {
	b.t.Helper()
	Settle(b.t, b.Bus, group)
	groups, err := b.Bus.Groups(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	for _, g := range groups {
		Settle(b.t, b.Bus, g.Name)
	}
}

// Settle waits until a group has nothing left to do: what it has settled is handled
// and what follows from it is published.
func Settle(t *testing.T, bus *posthorn.Bus, group string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		g, err := bus.GroupStatus(ctx, group)
		if err != nil {
			t.Fatalf("group %s has not come to its end: %+v, %v", group, g, err)
		}
		if g.Lag+g.Lanes.Due+g.Lanes.Parked == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("group %s has not come to its end: %+v", group, g)
		}
	}
}
