package posthorn_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
)

// A reluctant driver cannot store the first batches, as a cluster that chooses a
// leader.
type reluctant struct {
	driver.Driver
	mu    sync.Mutex
	left  int
	err   error
	calls int
}

func (r *reluctant) Append(p driver.Partition, msgs []driver.Message, deadline time.Time, done func([]driver.Outcome)) {
	r.mu.Lock()
	r.calls++
	refuse := r.left != 0
	if r.left > 0 {
		r.left--
	}
	r.mu.Unlock()
	if !refuse {
		r.Driver.Append(p, msgs, deadline, done)
		return
	}
	out := make([]driver.Outcome, len(msgs))
	for i := range out {
		out[i] = driver.Outcome{State: driver.NotStored, Err: r.err}
	}
	done(out)
}

func openReluctant(t *testing.T, left int, err error) (*posthorn.Bus, *reluctant) {
	t.Helper()
	open, _ := driver.Lookup("memory")
	d, oerr := open(t.Context(), &url.URL{Scheme: "memory"}, driver.Env{Now: time.Now})
	if oerr != nil {
		t.Fatal(oerr)
	}
	r := &reluctant{Driver: d, left: left, err: err}
	bus, oerr := posthorn.OpenDriver(t.Context(), r, posthorn.Service("test"))
	if oerr != nil {
		t.Fatal(oerr)
	}
	t.Cleanup(func() {
		if err := bus.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return bus, r
}

var errLeader = fmt.Errorf("no leader: %w, %w", driver.ErrUnavailable, driver.ErrNotNow)

var counted = posthorn.Define[int]("count.made", posthorn.Key(func(int) string { return "k" }))

func TestPublishWaitsForALeader(t *testing.T) {
	t.Parallel()
	bus, _ := openReluctant(t, 3, errLeader)
	var batch []*posthorn.Outgoing
	for i := range 10 {
		batch = append(batch, counted.New(i))
	}
	if err := bus.PublishAll(t.Context(), batch...); err != nil {
		t.Fatal(err)
	}
	got := make(chan int, 10)
	group := bus.Group("g", posthorn.GroupConfig{})
	counted.Handle(group, func(_ context.Context, e *posthorn.Event[int]) error {
		got <- e.Data
		return nil
	})
	if err := group.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if n := <-got; n != i {
			t.Fatalf("event %d came in place %d", n, i)
		}
	}
}

func TestPublishGivesUpAtItsDeadline(t *testing.T) {
	t.Parallel()
	bus, r := openReluctant(t, -1, errLeader)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := counted.Publish(ctx, bus, 1)
	if !errors.Is(err, driver.ErrNotNow) && !errors.Is(err, context.DeadlineExceeded) || bus.Stats().NotStored != 1 {
		t.Errorf("%v, %+v; want that it is known not to be stored", err, bus.Stats())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.calls < 2 {
		t.Errorf("it was tried %d times", r.calls)
	}
}

// What will not pass by itself is told at once, and one try is made.
func TestPublishDoesNotWaitForTheRest(t *testing.T) {
	t.Parallel()
	bus, r := openReluctant(t, -1, driver.ErrUnavailable)
	if err := counted.Publish(t.Context(), bus, 1); !errors.Is(err, driver.ErrUnavailable) {
		t.Error(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.calls != 1 {
		t.Errorf("it was tried %d times", r.calls)
	}
}
