package posthorn_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
)

// A scripted driver answers each Append when, and as, the test says.
type scripted struct {
	driver.Driver
	calls chan appendCall
}

type appendCall struct {
	s    *scripted
	p    driver.Partition
	msgs []driver.Message
	dead time.Time
	done func([]driver.Outcome)
}

func (s *scripted) Append(p driver.Partition, msgs []driver.Message, deadline time.Time, done func([]driver.Outcome)) {
	s.calls <- appendCall{s, p, msgs, deadline, done}
}

// Ready has callers hand over what they publish by themselves.
func (s *scripted) Ready(driver.Partition) bool { return true }

// store lets it through.
func (c appendCall) store() { c.s.Driver.Append(c.p, c.msgs, c.dead, c.done) }

// answer gives all messages one outcome without storing any.
func (c appendCall) answer(o driver.Outcome) {
	out := make([]driver.Outcome, len(c.msgs))
	for i := range out {
		out[i] = o
	}
	c.done(out)
}

func (c appendCall) bodies() (all string) {
	for _, m := range c.msgs {
		all += string(m.Body) + " "
	}
	return all
}

func openScripted(t *testing.T, opts ...posthorn.Option) (*posthorn.Bus, *scripted) {
	t.Helper()
	open, _ := driver.Lookup("memory")
	d, err := open(t.Context(), &url.URL{Scheme: "memory"}, driver.Env{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	s := &scripted{Driver: d, calls: make(chan appendCall, 100)}
	bus, err := posthorn.OpenDriver(t.Context(), s, append([]posthorn.Option{posthorn.Service("test")}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bus.Close(context.Background()) })
	return bus, s
}

var (
	notNow = driver.Outcome{State: driver.NotStored, Err: errLeader}
	stored = driver.Outcome{State: driver.Stored, Pos: 1}
)

// endOf waits for one event.
func endOf(t *testing.T, p *posthorn.Pending) posthorn.State {
	t.Helper()
	_ = p.Wait(t.Context())
	return p.Results()[0].State
}

func TestPending(t *testing.T) {
	t.Parallel()
	bus, s := openScripted(t)
	p := counted.PublishAsync(t.Context(), bus, 1)
	call := <-s.calls
	select {
	case <-p.Done():
		t.Fatal("it is done before the driver has answered")
	default:
	}
	if p.Err() != nil || p.Results() != nil {
		t.Errorf("before it is done: %v, %v", p.Err(), p.Results())
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Wait(ended); posthorn.CodeOf(err) != posthorn.CodeCanceled {
		t.Errorf("Wait with a context that has ended: %v", err)
	}
	call.store()
	<-p.Done()
	if err := p.Wait(ended); err != nil {
		t.Errorf("Wait when it is done: %v", err)
	}
	r := p.Results()
	if len(r) != 1 || r[0].State != posthorn.Stored || r[0].ID == "" || r[0].Topic != "count" || r[0].Position != 1 || p.Err() != nil {
		t.Errorf("%+v, %v", r, p.Err())
	}
	if got := bus.Stats().Published; got != 1 {
		t.Errorf("%d published", got)
	}
}

// What cannot be published is told by the Pending, the rest is published.
func TestPendingOfSeveral(t *testing.T) {
	t.Parallel()
	bus, s := openScripted(t)
	if p := bus.PublishAsync(t.Context()); p.Wait(t.Context()) != nil {
		t.Errorf("of no events: %v", p.Err())
	}
	keyed := posthorn.Define[string]("many.made", posthorn.Key(func(k string) string { return k }))
	p := bus.PublishAsync(t.Context(), keyed.New("a"), keyed.New(""), nil, keyed.New("b"))
	for stored := 0; stored < 2; {
		call := <-s.calls
		stored += len(call.msgs)
		call.store()
	}
	<-p.Done()
	var pe *posthorn.PublishError
	if !errors.As(p.Err(), &pe) || pe.Count(posthorn.Stored) != 2 || pe.Count(posthorn.NotStored) != 2 {
		t.Fatalf("%v", p.Err())
	}
	for i, want := range []posthorn.Code{"", posthorn.CodeInvalid, posthorn.CodeInvalid, ""} {
		if got := posthorn.CodeOf(p.Results()[i].Err); got != want {
			t.Errorf("event %d: code %q, want %q", i, got, want)
		}
	}
}

// The order of a key is that of the calls, whichever they are.
func TestAsyncKeepsOrder(t *testing.T) {
	t.Parallel()
	bus := openExample()
	defer closeExample(bus)
	const n = 3000
	var got []int
	done := make(chan struct{})
	group := bus.Group("g", posthorn.GroupConfig{})
	counted.Handle(group, func(_ context.Context, e *posthorn.Event[int]) error {
		if got = append(got, e.Data); len(got) == n {
			close(done)
		}
		return nil
	})
	if err := group.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	var pending []*posthorn.Pending
	for i := 0; i < n; i += 6 {
		pending = append(pending, counted.PublishAsync(t.Context(), bus, i), bus.PublishAsync(t.Context(), counted.New(i+1), counted.New(i+2)))
		if err := counted.Publish(t.Context(), bus, i+3); err != nil {
			t.Fatal(err)
		}
		if err := bus.PublishAll(t.Context(), counted.New(i+4), counted.New(i+5)); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range pending {
		if err := p.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	<-done
	if !slices.IsSorted(got) {
		t.Errorf("they came as %v", got)
	}
}

// many makes events enough for a batch beside the one that is under way.
func many(from int) (events []*posthorn.Outgoing) {
	for i := range 40 {
		events = append(events, counted.New(from+i))
	}
	return events
}

// What is refused for the moment goes again before anything else is sent, since what
// else there is may be of its key.
func TestAsyncGoesAgainInOrder(t *testing.T) {
	t.Parallel()
	bus, s := openScripted(t)
	pending := []*posthorn.Pending{counted.PublishAsync(t.Context(), bus, 0)}
	first := <-s.calls
	pending = append(pending, bus.PublishAsync(t.Context(), many(1)...))
	second := <-s.calls
	first.answer(notNow)
	pending = append(pending, bus.PublishAsync(t.Context(), many(41)...))
	second.answer(notNow)
	var order string
	for strings.Count(order, " ") < 81 {
		c := <-s.calls
		order += c.bodies()
		c.store()
	}
	for i, p := range pending {
		if err := p.Wait(t.Context()); err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
	var want strings.Builder
	for i := range 81 {
		fmt.Fprintf(&want, "%d ", i)
	}
	if order != want.String() {
		t.Errorf("they were stored as %s", order)
	}
}

// It does not go again behind an event that came later.
func TestAsyncDoesNotGoAgainBehindALaterOne(t *testing.T) {
	t.Parallel()
	for _, later := range []driver.Outcome{stored, {Err: driver.ErrUnavailable}} {
		bus, s := openScripted(t)
		one := counted.PublishAsync(t.Context(), bus, 0)
		first := <-s.calls
		then := bus.PublishAsync(t.Context(), many(1)...)
		second := <-s.calls
		first.answer(notNow)
		second.answer(later)
		if got := endOf(t, one); got != posthorn.NotStored || !errors.Is(one.Err(), driver.ErrNotNow) {
			t.Errorf("the first is %s: %v", got, one.Err())
		}
		_ = then.Wait(t.Context())
		last := counted.PublishAsync(t.Context(), bus, 99)
		third := <-s.calls
		if got := third.bodies(); got != "99 " {
			t.Errorf("then %s was sent", got)
		}
		third.store()
		if err := last.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestAsyncRoom(t *testing.T) {
	t.Parallel()
	for name, opt := range map[string]posthorn.Option{
		"events": posthorn.MaxPending(2),
		"bytes":  posthorn.MaxPendingBytes(2 * len("countpending.made3 application/json 2026-01-02T03:04:05.123456789Z 0190b4c8-7e5d-7000-8000-0123456789ab test")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bus, s := openScripted(t, opt)
			kept := posthorn.Define[int]("count.made", posthorn.Key(func(int) string { return "pending" }))
			in := []*posthorn.Pending{kept.PublishAsync(t.Context(), bus, 1), kept.PublishAsync(t.Context(), bus, 2)}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if p := kept.PublishAsync(ctx, bus, 3); endOf(t, p) != posthorn.NotStored || posthorn.CodeOf(p.Err()) != posthorn.CodeTimeout {
				t.Errorf("one for whom there is no room: %v", p.Err())
			}
			entered := make(chan *posthorn.Pending)
			go func() { entered <- kept.PublishAsync(t.Context(), bus, 4) }()
			select {
			case <-entered:
				t.Fatal("there is room for a third")
			default:
			}
			go func() {
				for c := range s.calls {
					c.store()
				}
			}()
			for _, p := range append(in, <-entered) {
				if err := p.Wait(t.Context()); err != nil {
					t.Error(err)
				}
			}
			// More than there is room for goes in alone.
			var many []*posthorn.Outgoing
			for i := range 50 {
				many = append(many, kept.New(i))
			}
			if err := bus.PublishAsync(t.Context(), many...).Wait(t.Context()); err != nil {
				t.Error(err)
			}
			_ = bus.Close(context.Background())
			close(s.calls)
		})
	}
}

func TestAsyncEndsAtItsDeadline(t *testing.T) {
	t.Parallel()
	bus, s := openScripted(t, posthorn.PublishTimeout(30*time.Millisecond))
	p := counted.PublishAsync(t.Context(), bus, 1)
	call := <-s.calls
	if got := endOf(t, p); got != posthorn.Unknown || posthorn.CodeOf(p.Err()) != posthorn.CodeUnknown {
		t.Errorf("what the driver has said nothing of is %s: %v", got, p.Err())
	}
	call.store() // too late: it stays unknown
	if got := p.Results()[0].State; got != posthorn.Unknown {
		t.Errorf("it became %s afterwards", got)
	}
	// What is refused until its time is over is surely not stored.
	p = counted.PublishAsync(t.Context(), bus, 2)
	for {
		select {
		case call := <-s.calls:
			call.answer(notNow)
			continue
		case <-p.Done():
		}
		break
	}
	if got := endOf(t, p); got != posthorn.NotStored {
		t.Errorf("what was refused all the time is %s", got)
	}
}

func TestCloseWaitsForAsync(t *testing.T) {
	t.Parallel()
	bus, s := openScripted(t)
	var pending []*posthorn.Pending
	for i := range 10 {
		pending = append(pending, counted.PublishAsync(t.Context(), bus, i))
	}
	closed := make(chan error, 1)
	go func() { closed <- bus.Close(t.Context()) }()
	for stored := 0; stored < 10; {
		c := <-s.calls
		stored += len(c.msgs)
		if len(closed) > 0 {
			t.Fatal("Close returned before all was confirmed")
		}
		c.store()
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	for _, p := range pending {
		select {
		case <-p.Done():
		default:
			t.Fatal("Close returned before all was done")
		}
		if p.Err() != nil {
			t.Error(p.Err())
		}
	}
	if err := counted.PublishAsync(t.Context(), bus, 11).Wait(t.Context()); posthorn.CodeOf(err) != posthorn.CodeClosed {
		t.Errorf("on a closed bus: %v", err)
	}
}

// Close does not wait longer than its context allows.
func TestCloseEndsAsync(t *testing.T) {
	t.Parallel()
	bus, s := openScripted(t, posthorn.PublishTimeout(time.Hour), posthorn.MaxPending(1))
	p := counted.PublishAsync(t.Context(), bus, 1)
	call := <-s.calls
	outside := make(chan *posthorn.Pending)
	go func() { outside <- counted.PublishAsync(t.Context(), bus, 2) }()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	closed := make(chan struct{})
	go func() { defer close(closed); _ = bus.Close(ctx) }()
	if got := endOf(t, p); got != posthorn.Unknown {
		t.Errorf("what was on its way is %s", got)
	}
	if p := <-outside; posthorn.CodeOf(p.Err()) != posthorn.CodeClosed {
		t.Errorf("what had not got in: %v", p.Err())
	}
	call.answer(stored)
	<-closed
}

// A caller on each of many keys, with confirmations that come as they like.
func TestAsyncCallers(t *testing.T) {
	t.Parallel()
	bus := openExample(posthorn.MaxPending(50))
	defer closeExample(bus)
	kept := posthorn.Define[string]("many.kept", posthorn.Key(func(s string) string { return s[:2] }))
	var wg sync.WaitGroup
	for c := range 8 {
		wg.Go(func() {
			var pending []*posthorn.Pending
			for i := range 200 {
				pending = append(pending, kept.PublishAsync(t.Context(), bus, fmt.Sprintf("%02d %d", c, i)))
			}
			for _, p := range pending {
				if err := p.Wait(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := bus.Stats().Published; got != 1600 {
		t.Errorf("%d published", got)
	}
}

// What is published asynchronously for later is confirmed when it waits on the
// broker, and comes when it is due, not before.
func TestAsyncDelayed(t *testing.T) {
	t.Parallel()
	bus := testBus(t)
	type arrival struct {
		n  int
		at time.Time
	}
	got := make(chan arrival, 8)
	group := bus.Group("g", posthorn.GroupConfig{})
	counted.Handle(group, func(_ context.Context, e *posthorn.Event[int]) error {
		got <- arrival{e.Data, time.Now()}
		return nil
	})
	if err := group.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	const delay = 300 * time.Millisecond
	begun := time.Now()
	later := counted.PublishAsync(t.Context(), bus, 1, posthorn.After(delay))
	now := counted.PublishAsync(t.Context(), bus, 2)
	for _, p := range []*posthorn.Pending{later, now} {
		if err := p.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if a := <-got; a.n == 1 && a.at.Sub(begun) < delay {
			t.Errorf("it came after %v, it was due after %v", a.at.Sub(begun), delay)
		}
	}
	if s := bus.Stats(); s.Published != 2 || s.Delayed != 1 {
		t.Errorf("%+v", s)
	}
}
