package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A measure is what a client process writes, as JSON, to its standard output.
type measure struct {
	Total   int           // what was confirmed or handled, all in all
	Stored  int           // publish, fill: what the broker holds in the end
	Count   int           // what the figures are of
	Elapsed time.Duration // for Count
	Allocs  uint64        // of the client process, for Count
	Client  time.Duration // its CPU time, for Count
	Server  time.Duration // the server's, likewise

	P50, P99, P999 time.Duration // pace
	Late           time.Duration // pace: by how much publishing began too late, the median

	ClientRSS, ServerRSS int64

	Size int64 // of a program

	Open    time.Duration // from Open to the first one handled
	Process time.Duration // from the start of the process to the first one handled
}

// A meter measures in a client process. Its methods are safe for concurrent use.
type meter struct {
	t    *task
	over atomic.Bool  // publish: enough
	done atomic.Int64 // confirmed or handled

	m measure
	// confirmed tells what is confirmed, where done counts what is sent; nil
	// elsewhere.
	confirmed func() int64

	seen    []atomic.Uint32 // a bit for each event that waits
	twice   atomic.Int64
	unknown atomic.Int64
	epoch   time.Time
	firstAt atomic.Int64  // when the first one was handled, since epoch
	lastAt  atomic.Int64  // when the last one of the task was, likewise
	all     chan struct{} // closed then

	interval time.Duration   // pace: between two events
	latency  []time.Duration // pace: by the number of the event
}

// A reading is the state of all counters at one time.
type reading struct {
	at             time.Time
	done           int64
	allocs         uint64
	client, server time.Duration
}

func newMeter(t *task) *meter { return &meter{t: t, epoch: time.Now(), all: make(chan struct{})} }

func (m *meter) read() reading {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	r := reading{at: time.Now(), done: m.done.Load(), allocs: mem.Mallocs, client: cpuTime(0)}
	if m.confirmed != nil {
		r.done = m.confirmed()
	}
	if m.t.PID > 0 {
		r.server = cpuTime(m.t.PID)
	}
	return r
}

// add makes what happened between two readings part of the measure.
func (m *meter) add(from, to reading) {
	m.m.Count += int(to.done - from.done)
	m.m.Elapsed += to.at.Sub(from.at)
	m.m.Allocs += to.allocs - from.allocs
	m.m.Client += to.client - from.client
	m.m.Server += to.server - from.server
}

// publishing runs work, which publishes until the meter is over, and measures
// what is confirmed in the window.
func (m *meter) publishing(ctx context.Context, work func() error) error {
	ended := make(chan error, 1)
	go func() { ended <- work() }()
	wait := func(d time.Duration) error {
		select {
		case err := <-ended:
			return errors.Join(errors.New("publishing ended by itself"), err)
		case <-time.After(d):
			return ctx.Err()
		}
	}
	err := wait(m.t.Warm)
	from := m.read()
	if err == nil {
		err = wait(m.t.For)
	}
	to := m.read()
	// However slow it is, something has to be measured.
	for err == nil && to.done <= from.done {
		err = wait(time.Millisecond)
		to = m.read()
	}
	m.add(from, to)
	m.over.Store(true)
	if err != nil {
		return err
	}
	err = <-ended
	m.m.Total = int(m.done.Load())
	return err
}

// callers runs callers until the meter is over. Each hands call the number of the
// next event, and waits for it.
func (m *meter) callers(call func(i int) error) error {
	var next atomic.Int64
	return together(m.t.Callers, func() error {
		for !m.over.Load() {
			if err := call(int(next.Add(1) - 1)); err != nil {
				return err
			}
			m.done.Add(1)
		}
		return nil
	})
}

// together runs n goroutines and joins their errors.
func together(n int, f func() error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// expect makes the meter ready for events that are handled, those of one backlog.
func (m *meter) expect(backlog int) {
	m.seen = make([]atomic.Uint32, (backlog+31)/32)
	m.done.Store(0)
	m.firstAt.Store(0)
	m.all = make(chan struct{})
}

// handled takes note of an event that is handled.
func (m *meter) handled(id string) {
	i := eventNumber(id)
	if i < 0 || i/32 >= len(m.seen) {
		m.unknown.Add(1)
		return
	}
	if bit := uint32(1) << (i % 32); m.seen[i/32].Or(bit)&bit != 0 {
		m.twice.Add(1)
		return
	}
	switch m.done.Add(1) {
	case 1:
		m.firstAt.Store(int64(time.Since(m.epoch)))
		if m.t.Count == 1 {
			close(m.all)
		}
	case int64(m.t.Count):
		m.lastAt.Store(int64(time.Since(m.epoch)))
		close(m.all)
	}
}

// consuming measures one consumer of a backlog. start starts it, and stop stops it
// cleanly: what it has handled is then settled on the broker.
func (m *meter) consuming(ctx context.Context, start, stop func() error) error {
	m.expect(m.t.Backlog)
	from := m.read()
	if err := start(); err != nil {
		return err
	}
	var limit <-chan time.Time // never, unless there is one
	if m.t.For > 0 {
		limit = time.After(m.t.For)
	}
	// What is handled beyond the count, since it was under way, does not make the
	// figures better.
	count, last := int64(m.t.Count), time.Time{}
	var err error
	select {
	case <-m.all:
		last = m.epoch.Add(time.Duration(m.lastAt.Load()))
	case <-limit:
		count, last = max(1, m.done.Load()), time.Now()
	case <-ctx.Done():
		err = fmt.Errorf("%d of %d are handled: %w", m.done.Load(), count, ctx.Err())
	}
	err = errors.Join(err, stop())
	to := m.read()
	m.m.Total += int(to.done)
	from.done, to.done = 0, count
	from.at = m.epoch.Add(time.Duration(m.firstAt.Load()))
	if m.t.ToLast {
		to.at = last
	}
	m.add(from, to)
	return errors.Join(err, m.once())
}

// once says whether each event was handled once.
func (m *meter) once() error {
	if n := m.twice.Load(); n > 0 {
		return fmt.Errorf("events that were handled more than once: %d", n)
	}
	if n := m.unknown.Load(); n > 0 {
		return fmt.Errorf("events that were handled and nobody has published: %d", n)
	}
	return nil
}

// pace publishes at the task's rate: event i is due at i times the interval after
// the begin, however long others take, and its latency counts from then on until
// it is handled.
func (m *meter) pace(ctx context.Context, publish func(i int)) error {
	warm := int(m.t.Warm.Seconds() * float64(m.t.Rate))
	n := warm + max(1, int(m.t.For.Seconds()*float64(m.t.Rate)))
	m.t.Count = n
	m.interval = time.Second / time.Duration(m.t.Rate)
	m.latency = make([]time.Duration, n)
	m.expect(n)
	m.epoch = time.Now().Add(50 * time.Millisecond)
	late := make([]time.Duration, n)
	var from reading
	sleeper := newSleeper()
	defer sleeper.close()
	for i := range n {
		if i == warm {
			from = m.read()
		}
		sleeper.until(m.due(i))
		late[i] = time.Since(m.due(i))
		publish(i)
	}
	select {
	case <-m.all:
	case <-ctx.Done():
		return fmt.Errorf("%d of %d are handled: %w", m.done.Load(), n, ctx.Err())
	}
	to := m.read()
	m.m.Total = int(to.done)
	m.add(from, to)
	m.m.Count = n - warm
	m.m.P50, m.m.P99, m.m.P999 = percentiles(m.latency[warm:])
	m.m.Late, _, _ = percentiles(late[warm:])
	return m.once()
}

func (m *meter) due(i int) time.Time { return m.epoch.Add(time.Duration(i) * m.interval) }

// arrived takes note of an event whose latency counts.
func (m *meter) arrived(id string) {
	if i := eventNumber(id); i >= 0 && i < len(m.latency) {
		m.latency[i] = time.Since(m.due(i))
	}
	m.handled(id)
}

func percentiles(d []time.Duration) (p50, p99, p999 time.Duration) {
	d = slices.Clone(d)
	slices.Sort(d)
	at := func(p float64) time.Duration { return d[min(len(d)-1, int(p*float64(len(d))))] }
	return at(0.50), at(0.99), at(0.999)
}

// holding waits until the process has taken in what it takes in, and notes what
// memory it and the server need.
func (m *meter) holding(ctx context.Context) error {
	const still, patience, tick = 5, 100, 100 * time.Millisecond
	for rest, high, n := 0, int64(0), 0; rest < still && n < patience; n++ {
		select {
		case <-time.After(tick):
		case <-ctx.Done():
			return ctx.Err()
		}
		if now := resident(0); now > high+high/100 {
			high, rest = now, 0
		} else {
			rest++
		}
	}
	m.m.ClientRSS, m.m.ServerRSS = resident(0), resident(m.t.PID)
	m.m.Total, m.m.Count = 1, 1
	return nil
}

// starting notes how long it took until the first event was handled. opened is
// when the client was told to open the broker.
func (m *meter) starting(ctx context.Context, opened time.Time) error {
	select {
	case <-m.all:
	case <-ctx.Done():
		return ctx.Err()
	}
	m.m.Open, m.m.Process = time.Since(opened), time.Since(m.t.Began)
	m.m.Total, m.m.Count = 1, 1
	return nil
}

// local measures from the first event published to the last one handled, by one
// publisher, who waits for each to be published.
func (m *meter) local(ctx context.Context, publish func(i int) error) error {
	m.expect(m.t.Count)
	from := m.read()
	for i := range m.t.Count {
		if err := publish(i); err != nil {
			return err
		}
	}
	select {
	case <-m.all:
	case <-ctx.Done():
		return fmt.Errorf("%d of %d are handled: %w", m.done.Load(), m.t.Count, ctx.Err())
	}
	to := m.read()
	m.m.Total = int(to.done)
	m.add(from, to)
	return m.once()
}
