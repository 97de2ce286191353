package delay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/posthorn/posthorn/driver"
)

const (
	// recheck is how often the wall clock is read while something waits: it may
	// jump, so no timer runs longer. An event is late by no more than that, and by
	// what it takes to publish it, while a mover runs and the broker answers.
	recheck = time.Second

	// What is in memory at a time, beside the index: maxMoving batches, each of
	// maxBatch events and of maxBatchBytes, or of one event.
	maxBatch      = 128
	maxBatchBytes = 1 << 20
	maxMoving     = 4

	appendTimeout = 10 * time.Second
	firstBackoff  = 50 * time.Millisecond
	lastBackoff   = 10 * time.Second
	// refusedWait is how long an event waits that the broker refuses for what it is.
	refusedWait = time.Minute
	// alarmAfter is how many failures in a row raise an alarm, of those that may
	// pass by themselves.
	alarmAfter = 3
)

// What a trouble can be about, beside a partition and an event.
const (
	aboutJoin  = "join"
	aboutWatch = "watch"
)

// A Config configures a Mover. All fields are set.
type Config struct {
	Topic  driver.TopicSpec // as it stands
	Driver driver.Driver
	Member string // names this process in claims
	Log    *slog.Logger
	Alarm  func(driver.Alarm)
	Now    func() time.Time // the wall clock
	Moved  func(events int) // counts
	// Explain says more of an error of the topic's, for people.
	Explain func(error) error
}

// A Mover is a member of a topic's hidden group.
type Mover struct {
	cfg    Config
	group  string
	cancel context.CancelFunc
	joined chan struct{}

	mu       sync.Mutex
	shift    *shift
	stopping bool
	ending   int               // tenures that are being given back or cleared away
	ended    sync.Cond         // one of them is
	troubles map[string]string // what goes wrong now, by what it is about
	told     bool              // the alarm stands
}

var _ driver.Member = (*Mover)(nil)

// Start joins the hidden group and returns at once. The group exists.
func Start(cfg Config) *Mover {
	m := &Mover{cfg: cfg, group: Topic(cfg.Topic.Name), joined: make(chan struct{}), troubles: map[string]string{}}
	m.ended.L = &m.mu
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	go m.join(ctx)
	return m
}

func (m *Mover) join(ctx context.Context) {
	defer close(m.joined)
	for failed := 1; ; failed++ {
		err := m.cfg.Driver.Join(ctx, m.group, m)
		m.endShift()
		if ctx.Err() != nil {
			return
		}
		m.trouble(aboutJoin, failed, err, "this process is no member of those that publish delayed events of topic %s", m.cfg.Topic.Name)
		if !sleep(ctx, backoff(failed)) {
			return
		}
	}
}

// Stop waits for what is being published, gives the partition back and leaves, all
// of it within ctx. What is not published stays for the next mover.
func (m *Mover) Stop(ctx context.Context) error {
	m.mu.Lock()
	m.stopping = true
	s := m.shift
	m.mu.Unlock()
	var err error
	if s != nil {
		err = s.release(ctx)
	}
	m.await()
	m.cancel()
	<-m.joined
	m.await()
	if err != nil {
		return fmt.Errorf("stop publishing delayed events of topic %s: %w", m.cfg.Topic.Name, err)
	}
	return nil
}

// await waits until nothing is being given back or cleared away.
func (m *Mover) await() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.ending > 0 {
		m.ended.Wait()
	}
}

// later runs f, which ends a tenure, on a goroutine. It is called under mu.
func (m *Mover) later(f func()) {
	m.ending++
	go func() {
		defer func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.ending--
			m.ended.Broadcast()
		}()
		f()
	}()
}

// endShift drops the shift that stands, if any.
func (m *Mover) endShift() {
	m.mu.Lock()
	s := m.shift
	m.shift = nil
	m.mu.Unlock()
	if s != nil {
		s.end()
	}
}

// Subscribed is part of driver.Member.
func (m *Mover) Subscribed(driver.GroupSpec) []string {
	m.calm(aboutJoin)
	return []string{m.group}
}

// Status is part of driver.Member.
func (m *Mover) Status() driver.Status {
	m.mu.Lock()
	s := m.shift
	m.mu.Unlock()
	if s == nil {
		return driver.Status{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return driver.Status{InFlight: len(s.busy)}
}

// Assigned is part of driver.Member.
func (m *Mover) Assigned(t driver.Tenure) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopping {
		m.later(func() {
			ctx, cancel := context.WithTimeout(context.Background(), appendTimeout)
			defer cancel()
			m.returned(release(ctx, t))
		})
		return
	}
	m.shift = newShift(m, t)
	m.shift.start()
}

func (m *Mover) returned(err error) {
	if err != nil {
		m.cfg.Log.Warn("delayed events: the partition was not given back", "topic", m.cfg.Topic.Name, "error", err)
	}
}

// release gives a tenure back. Nothing was ever fetched, so it stands where it
// began.
func release(ctx context.Context, t driver.Tenure) error {
	c := t.Start()
	c.Clean = true
	if err := t.Release(ctx, c); err != nil && !errors.Is(err, driver.ErrLost) {
		return err
	}
	return nil
}

// Revoke is part of driver.Member.
func (m *Mover) Revoke(ctx context.Context, t driver.Tenure) {
	m.mu.Lock()
	s := m.shift
	if s == nil || s.t != t {
		m.mu.Unlock()
		return
	}
	m.shift = nil
	m.mu.Unlock()
	m.returned(s.release(ctx))
}

// Lost is part of driver.Member.
func (m *Mover) Lost(t driver.Tenure, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.shift
	if s == nil || s.t != t {
		return
	}
	m.shift = nil
	m.cfg.Log.Info("delayed events: this process has lost the lane", "topic", m.cfg.Topic.Name, "error", err)
	s.abandon()
	m.later(s.end)
}

// trouble notes that something has failed, and how often in a row. What does not
// pass by itself is an alarm at once.
func (m *Mover) trouble(about string, failed int, err error, format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	m.cfg.Log.Warn("delayed events: "+what, "error", err, "failures", failed)
	if failed < alarmAfter && !lasting(err) {
		return
	}
	if errors.Is(err, driver.ErrTopicFull) {
		err = m.cfg.Explain(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.troubles[about] == "" { // the first word stands, lest each try be told anew
		m.troubles[about] = fmt.Sprintf("%s; it is tried again: %v", what, err)
		m.tell()
	}
}

// calm notes that something works.
func (m *Mover) calm(about string) {
	m.calmAll(func(a string) bool { return a == about })
}

func (m *Mover) calmAll(works func(about string) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := len(m.troubles)
	maps.DeleteFunc(m.troubles, func(about, _ string) bool { return works(about) })
	if len(m.troubles) < n {
		m.tell()
	}
}

// tell raises the alarm, with one of the troubles, or clears it.
func (m *Mover) tell() {
	a := driver.Alarm{Code: driver.AlarmDelayFailed, Thing: m.cfg.Topic.Name}
	if len(m.troubles) == 0 {
		if m.told {
			a.Text, a.Cleared = "delayed events are published again", true
			m.cfg.Alarm(a)
		}
		m.told = false
		return
	}
	first := slices.Sorted(maps.Keys(m.troubles))[0]
	a.Text = m.troubles[first]
	if n := len(m.troubles) - 1; n > 0 {
		a.Text += fmt.Sprintf(" (and %d more of this kind)", n)
	}
	m.told = true
	m.cfg.Alarm(a)
}

// lasting tells whether an error is one that somebody has to mend.
func lasting(err error) bool {
	for _, e := range []error{driver.ErrTopicFull, driver.ErrNoSpace, driver.ErrDenied, driver.ErrNotFound, driver.ErrMismatch, driver.ErrTooLarge, driver.ErrInvalid} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// backoff is how long to wait after so many failures in a row.
func backoff(failed int) time.Duration {
	return min(firstBackoff<<min(failed-1, 20), lastBackoff)
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
