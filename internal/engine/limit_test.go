package engine

import (
	"context"
	"slices"
	"testing"
	"time"
)

func TestLimit(t *testing.T) {
	t.Parallel()
	l, now := newLimit(100), time.Now()
	if d := l.wait(now); d != 0 {
		t.Errorf("the first waits %v", d)
	}
	l.take()
	if d := l.wait(now); d < 9*time.Millisecond || d > 10*time.Millisecond {
		t.Errorf("the second waits %v of 10 ms", d)
	}
	l.giveBack()
	if d := l.wait(now); d != 0 {
		t.Errorf("what is given back waits %v", d)
	}
	l.take()
	now = now.Add(time.Hour)
	n := 0
	for ; l.wait(now) == 0; n++ {
		l.take()
	}
	if n != 10 {
		t.Errorf("%d are saved up in an hour, want those of a tenth of a second", n)
	}
	if l := newLimit(0.5); l.wait(now) != 0 {
		t.Error("a slow one never begins")
	}
	var none *limit
	none.take()
	if newLimit(0) != nil || none.wait(now) != 0 {
		t.Error("no limit limits")
	}
}

// A group starts no more handlers than it may, loses none, and keeps the order.
func TestRateLimit(t *testing.T) {
	t.Parallel()
	shapes(t, func(t *testing.T, shape string) {
		r := newRig(t, shape)
		r.topic("order", 1, "a")
		const rate, n = 200.0, 120
		began := time.Now()
		var starts []time.Duration
		m := r.run("m", map[string]func(context.Context, *Item) Verdict{"a": func(ctx context.Context, it *Item) Verdict {
			r.mu.Lock()
			starts = append(starts, time.Since(began))
			r.mu.Unlock()
			return r.handle(ctx, it)
		}}, func(c *Config) { c.Rate = rate })
		m.deemQuick("a")
		ids := r.publish("order", "k", repeat("a", n)...)
		r.eventually("all are handled", func() bool { return len(r.handled()) == n })
		if !slices.Equal(r.handled(), ids) {
			t.Error("the order is lost")
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for i, at := range starts {
			if most := at.Seconds()*rate + rate*burstTime.Seconds() + 1; float64(i+1) > most {
				t.Fatalf("%d were started within %v, at %v a second", i+1, at, rate)
			}
		}
	})
}
