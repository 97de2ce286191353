package jetstream

import (
	"sync"

	"github.com/posthorn/posthorn/driver"
)

// alarms remembers what is raised, so that an alarm is told once and cleared when
// its reason has gone.
type alarms struct {
	env driver.Env

	mu     sync.Mutex
	raised map[alarmKey]struct{}
}

type alarmKey struct{ code, thing string }

func (a *alarms) raise(code, thing, text string) {
	k := alarmKey{code, thing}
	a.mu.Lock()
	_, known := a.raised[k]
	a.raised[k] = struct{}{}
	a.mu.Unlock()
	if !known {
		a.env.Alarm(driver.Alarm{Code: code, Thing: thing, Text: text})
	}
}

func (a *alarms) clear(code, thing, text string) {
	k := alarmKey{code, thing}
	a.mu.Lock()
	_, known := a.raised[k]
	delete(a.raised, k)
	a.mu.Unlock()
	if known {
		a.env.Alarm(driver.Alarm{Code: code, Thing: thing, Text: text, Cleared: true})
	}
}
