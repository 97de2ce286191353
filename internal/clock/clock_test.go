package clock

import (
	"testing"
	"time"
)

// hands are the two clocks of a test.
type hands struct{ wall, mono time.Time }

func (h *hands) pass(d time.Duration) { h.wall, h.mono = h.wall.Add(d), h.mono.Add(d) }
func (h *hands) jump(d time.Duration) { h.wall = h.wall.Add(d) }

func TestSure(t *testing.T) {
	t.Parallel()
	start := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	type step struct {
		pass, jump time.Duration
		want       time.Duration // since start
	}
	for name, steps := range map[string][]step{
		"no jump":                 {{pass: time.Hour, want: time.Hour}, {pass: 48 * time.Hour, want: 49 * time.Hour}},
		"forward and back":        {{jump: 6 * time.Hour}, {pass: time.Minute, want: time.Minute}, {jump: -6 * time.Hour, want: time.Minute}, {pass: 2 * time.Hour, want: 2*time.Hour + time.Minute}},
		"back and forward":        {{jump: -6 * time.Hour, want: -6 * time.Hour}, {pass: time.Minute, want: time.Minute - 6*time.Hour}, {jump: 6 * time.Hour, want: time.Minute}},
		"forward for good":        {{jump: 6 * time.Hour}, {pass: 59 * time.Minute, want: 59 * time.Minute}, {pass: time.Minute, want: 7 * time.Hour}, {pass: time.Hour, want: 8 * time.Hour}},
		"back for good":           {{jump: -6 * time.Hour, want: -6 * time.Hour}, {pass: time.Hour, want: -5 * time.Hour}, {jump: 3 * time.Hour, want: -5 * time.Hour}},
		"forward again and again": {{jump: 6 * time.Hour}, {pass: 50 * time.Minute, want: 50 * time.Minute}, {jump: time.Hour, want: 50 * time.Minute}, {pass: 50 * time.Minute, want: 100 * time.Minute}, {pass: 10 * time.Minute, want: 8*time.Hour + 50*time.Minute}},
		"a little at a time":      {{jump: 30 * time.Second, want: 30 * time.Second}, {jump: 30 * time.Second, want: time.Minute}, {pass: time.Hour, want: time.Hour + time.Minute}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := hands{wall: start, mono: time.Now()}
			c := newClock(func() time.Time { return h.wall }, func() time.Time { return h.mono })
			for i, s := range steps {
				h.pass(s.pass)
				h.jump(s.jump)
				if got := c.Sure().Sub(start); got != s.want {
					t.Errorf("step %d: %v, want %v", i, got, s.want)
				}
				if c.Now() != h.wall {
					t.Errorf("step %d: Now is not the wall clock", i)
				}
			}
		})
	}
}
