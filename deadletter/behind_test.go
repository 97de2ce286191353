package deadletter_test

import (
	"context"
	"log/slog"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/deadletter"
	"github.com/posthorn/posthorn/driver"
)

// behind is a driver whose lanes, from outside, are read from a replica that is behind:
// after an entry was put, it is seen twice more as it was.
type behind struct {
	driver.Driver
	mu  sync.Mutex
	was map[string]*glimpse // by entry
}

type glimpse struct {
	e    driver.Entry
	left int
}

func (b *behind) Lane(group string, p driver.Partition) driver.Lane {
	return &behindLane{Lane: b.Driver.Lane(group, p), b: b}
}

type behindLane struct {
	driver.Lane
	b *behind
}

func (l *behindLane) Apply(ctx context.Context, ops []driver.LaneOp) error {
	var names []string
	for _, o := range ops {
		names = append(names, o.Entry.Name)
	}
	before, err := l.Lane.Get(ctx, names)
	if err != nil {
		return err
	}
	err = l.Lane.Apply(ctx, ops)
	l.b.mu.Lock()
	defer l.b.mu.Unlock()
	for _, e := range before {
		if e.State == driver.Dead {
			l.b.was[e.Name] = &glimpse{e, 2}
		}
	}
	return err
}

func (l *behindLane) Get(ctx context.Context, names []string) ([]driver.Entry, error) {
	es, err := l.Lane.Get(ctx, names)
	l.b.mu.Lock()
	defer l.b.mu.Unlock()
	stands := map[string]driver.Entry{}
	for _, e := range es {
		stands[e.Name] = e
	}
	es = nil
	for _, name := range names {
		e, ok := stands[name]
		if g := l.b.was[name]; g != nil && g.left > 0 {
			g.left--
			e, ok = g.e, true
		}
		if ok {
			es = append(es, e)
		}
	}
	return es, err
}

// Answers that are behind are neither taken for what somebody else has done nor for
// another death.
func TestBehind(t *testing.T) {
	open, _ := driver.Lookup("memory")
	d, err := open(t.Context(), &url.URL{Scheme: "memory", Opaque: "behind"}, driver.Env{Service: "shop", Member: "m", Log: slog.New(slog.DiscardHandler), Alarm: func(driver.Alarm) {}, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	bus, err := posthorn.OpenDriver(t.Context(), &behind{Driver: d, was: map[string]*glimpse{}}, posthorn.Service("shop"), posthorn.Logger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{T: t, bus: bus, handled: make(chan posthorn.Event[order], 100)}
	t.Cleanup(func() { s.check(bus.Close(context.Background())) })
	s.dead(6)
	for _, note := range []string{"one", "two", "three"} {
		l, err := deadletter.Get(t.Context(), bus, "billing", "id-0")
		s.check(err)
		l[0].Revision = 0
		if _, err := deadletter.Edit(t.Context(), bus, l[0], deadletter.Change{Data: []byte(`{"id":"o-0","note":"` + note + `"}`)}); err != nil {
			t.Errorf("%s: %v", note, err)
		}
	}
	s.mended.Store(true)
	r, err := deadletter.Replay(t.Context(), bus, deadletter.Query{}, deadletter.Job{Canary: 2})
	if s.check(err); r.Done != 6 || r.Skipped != 0 {
		t.Errorf("%+v", r)
	}
	s.until("all are handled", func() bool { return len(s.handled) == 6 })
	for range 6 {
		if e := s.next(); e.ID == "id-0" && e.Data.Note != "three" {
			t.Errorf("%+v", e)
		}
	}
}
