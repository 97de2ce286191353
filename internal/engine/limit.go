package engine

import "time"

// burstTime is for how long starts may be saved up.
const burstTime = 100 * time.Millisecond

// A limit bounds how many handlers are started a second. Group.mu guards it.
type limit struct {
	rate, most float64
	saved      float64 // starts
	at         time.Time
}

// newLimit returns nil for no limit.
func newLimit(rate float64) *limit {
	if rate <= 0 {
		return nil
	}
	return &limit{rate: rate, most: max(1, rate*burstTime.Seconds()), saved: 1}
}

// wait is how long it is until one may be started.
func (l *limit) wait(now time.Time) time.Duration {
	if l == nil {
		return 0
	}
	if !l.at.IsZero() {
		l.saved = min(l.most, l.saved+max(0, now.Sub(l.at).Seconds())*l.rate)
	}
	l.at = now
	if l.saved >= 1 {
		return 0
	}
	return max(time.Duration((1-l.saved)/l.rate*float64(time.Second)), time.Microsecond)
}

func (l *limit) take() {
	if l != nil {
		l.saved--
	}
}

// giveBack undoes a take: it was not started after all.
func (l *limit) giveBack() {
	if l != nil {
		l.saved++
	}
}

// limited tells whether no handler may be started just now, and sees that somebody
// looks again when one may.
func (g *Group) limited() bool {
	if g.limit == nil {
		return false
	}
	now := time.Now() // monotonic
	d := g.limit.wait(now)
	if d > 0 && now.Add(d+2*time.Millisecond).Before(g.watchAt) {
		wake(g.wakeW)
	}
	return d > 0
}
