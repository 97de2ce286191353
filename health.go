package posthorn

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// An Alarm is something that a person must know of. Each one is an error in the
// log, a reason in [Bus.Health] for as long as it stands, a count in [Stats] and
// a call of the hook that [OnAlarm] sets. An alarm stands until what it is about
// has ended, or else until the bus is closed. The code "backlog" is told and does not
// stand: a group that is new to a topic begins with events that are there already.
type Alarm struct {
	// Code names the kind of alarm, such as "sync_failed".
	Code string
	// Thing is what the alarm is about: a topic, a group, a directory.
	Thing string
	// Text says what happened, what it means and what to do.
	Text string
	// Since is when it was raised.
	Since time.Time
}

// Health is the state of a bus.
type Health struct {
	// OK is true when the broker answers and no alarm stands.
	OK bool
	// Reasons are the alarms that stand, oldest first. When the broker does not
	// answer, the first has the code "broker_unavailable".
	Reasons []Alarm
}

// Health asks the broker whether it can be reached and stores messages, and
// returns that with the alarms that stand. It takes as long as the broker, and no
// longer than ctx: give it a deadline. A closed bus is not healthy.
func (b *Bus) Health(ctx context.Context) Health {
	h := Health{Reasons: b.alarms.standing()}
	if err := b.drv.Health(ctx); err != nil {
		h.Reasons = slices.Insert(h.Reasons, 0, Alarm{Code: "broker_unavailable", Thing: b.url, Text: trimPrefix(err), Since: b.now()})
	}
	h.OK = len(h.Reasons) == 0
	return h
}

// alarms holds what stands.
type alarms struct {
	log  *slog.Logger
	hook func(Alarm)
	now  func() time.Time
	n    *atomic.Int64

	mu  sync.Mutex
	all map[[2]string]Alarm
	// hooks run one at a time on a goroutine of their own, so that raising an
	// alarm never blocks and Close can wait for them.
	queue   []Alarm
	running bool
	idle    sync.WaitGroup
}

func (a *alarms) raise(d driver.Alarm) {
	id := [2]string{d.Code, d.Thing}
	a.mu.Lock()
	defer a.mu.Unlock()
	old, stands := a.all[id]
	if d.Cleared {
		if stands {
			delete(a.all, id)
			a.log.Info("alarm cleared", "code", d.Code, "thing", d.Thing, "text", d.Text, "since", old.Since)
		}
		return
	}
	al := a.alarm(d)
	if stands {
		al.Since = old.Since
	}
	a.all[id] = al
	if stands && old.Text == d.Text {
		return
	}
	a.log.Error("alarm", "code", al.Code, "thing", al.Thing, "text", al.Text)
	a.spread(al)
}

// tell is for what is true once and needs no mending: it warns, counts and calls the
// hook, as an alarm does, and is no reason of ill health afterwards.
func (a *alarms) tell(d driver.Alarm) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.log.Warn(d.Text, "code", d.Code, "thing", d.Thing)
	a.spread(a.alarm(d))
}

func (a *alarms) alarm(d driver.Alarm) Alarm {
	return Alarm{Code: d.Code, Thing: d.Thing, Text: d.Text, Since: a.now()}
}

// spread counts an alarm and has the hook called.
func (a *alarms) spread(al Alarm) {
	a.n.Add(1)
	if a.hook == nil {
		return
	}
	a.queue = append(a.queue, al)
	if !a.running {
		a.running = true
		a.idle.Add(1)
		go a.callHooks()
	}
}

func (a *alarms) callHooks() {
	defer a.idle.Done()
	for {
		a.mu.Lock()
		if len(a.queue) == 0 {
			a.running = false
			a.mu.Unlock()
			return
		}
		al := a.queue[0]
		a.queue = a.queue[1:]
		a.mu.Unlock()
		a.hook(al)
	}
}

func (a *alarms) standing() []Alarm {
	a.mu.Lock()
	defer a.mu.Unlock()
	var s []Alarm
	for _, al := range a.all {
		s = append(s, al)
	}
	slices.SortFunc(s, func(x, y Alarm) int {
		if c := x.Since.Compare(y.Since); c != 0 {
			return c
		}
		return strings.Compare(x.Code+x.Thing, y.Code+y.Thing)
	})
	return s
}
