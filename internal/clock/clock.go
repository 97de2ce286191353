// Package clock reads the time of day. It is the only place that does; all other
// code is handed a clock, so that a test can have it jump. Durations are measured
// with time.Now and time.Since, which are monotonic: such a line says so, and a
// test in internal/doctest looks for it.
package clock

import (
	"sync"
	"time"
)

// Wall is the system's time of day.
func Wall() time.Time { return time.Now() }

const (
	// tolerance is by how much the time of day may differ from what has passed
	// without having jumped.
	tolerance = time.Minute
	// Believed is for how long a jump must have stood before it is believed: one
	// that was a mistake has been mended by then, one that mended a mistake stands.
	Believed = time.Hour
)

// A Clock guards the time of day against jumps.
type Clock struct {
	wall func() time.Time
	mono func() time.Time

	mu     sync.Mutex
	at     time.Time // the time of day that is believed
	since  time.Time // when that was, monotonic
	off    time.Duration
	jumped time.Time // since when the time of day is off by that, monotonic; zero: it is not
}

// New returns a clock that believes what wall says now.
func New(wall func() time.Time) *Clock { return newClock(wall, time.Now) }

func newClock(wall, mono func() time.Time) *Clock {
	return &Clock{wall: wall, mono: mono, at: wall().Round(0), since: mono()}
}

// Now is the time of day as it is told, for records and for people.
func (c *Clock) Now() time.Time { return c.wall() }

// Sure is a time of day that has surely been reached. It is for all that must not
// come early: it does not follow a jump forward before that is believed, and a jump
// back it follows at once.
func (c *Clock) Sure() time.Time {
	now, mono := c.wall().Round(0), c.mono()
	c.mu.Lock()
	defer c.mu.Unlock()
	guess := c.at.Add(mono.Sub(c.since))
	off := now.Sub(guess)
	switch {
	case off.Abs() <= tolerance: // clocks are set right by a little all the time
		c.at, c.since, c.jumped = now, mono, time.Time{}
		return now
	case c.jumped.IsZero() || (off-c.off).Abs() > tolerance:
		c.jumped, c.off = mono, off
	case mono.Sub(c.jumped) >= Believed:
		c.at, c.since, c.jumped = now, mono, time.Time{}
		return now
	}
	if now.Before(guess) {
		return now
	}
	return guess
}
