package main

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestEventID(t *testing.T) {
	seen := map[string]bool{}
	for _, i := range []int{0, 1, 9, 10, 123_456, 999_999_999_999} {
		id := eventID(i)
		if len(id) != 36 || seen[id] || eventNumber(id) != i {
			t.Errorf("%d is %q, which is %d", i, id, eventNumber(id))
		}
		seen[id] = true
	}
	for _, id := range []string{"", eventID(1)[1:], eventID(1) + "0", strings.Replace(eventID(1), "000000000001", "00000000000x", 1)} {
		if n := eventNumber(id); n != -1 {
			t.Errorf("%q is %d", id, n)
		}
	}
}

func TestPayloadHasItsSize(t *testing.T) {
	for _, size := range []int{bare, 256, 1024} {
		task := task{Size: size, Keys: 100_000}
		make := task.maker()
		for _, i := range []int{0, 99_999, 100_000} {
			body, err := json.Marshal(make.payload(i))
			if err != nil || len(body) != size {
				t.Errorf("event %d of %d bytes has %d: %v", i, size, len(body), err)
			}
		}
		if make.payload(0).Key == make.payload(1).Key || make.payload(0).Key != make.payload(100_000).Key {
			t.Error("keys do not go round")
		}
	}
}

// A lone event is no round, a double and an unknown one fail it.
func TestHandledOnce(t *testing.T) {
	for _, c := range []struct {
		name string
		ids  []int
		want string
	}{
		{"each once", []int{2, 0, 1, 40}, ""},
		{"one twice", []int{2, 0, 2, 1, 40}, "events that were handled more than once: 1"},
		{"a foreign one", []int{2, 0, -1, 1, 40}, "events that were handled and nobody has published: 1"},
		{"beyond the backlog", []int{2, 0, 1, 70, 40}, "events that were handled and nobody has published: 1"},
	} {
		m := newMeter(&task{Count: 4, Backlog: 41})
		err := m.consuming(t.Context(), func() error {
			for _, i := range c.ids {
				id := "foreign"
				if i >= 0 {
					id = eventID(i)
				}
				m.handled(id)
			}
			return nil
		}, func() error { return nil })
		if got := said(err); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func said(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestMissingEventIsFound(t *testing.T) {
	m := newMeter(&task{Count: 2, Backlog: 2})
	ctx, cancel := context.WithCancel(t.Context())
	stopped := false
	err := m.consuming(ctx, func() error { m.handled(eventID(1)); cancel(); return nil }, func() error { stopped = true; return nil })
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "1 of 2 are handled") || !stopped {
		t.Errorf("%v, stopped: %v", err, stopped)
	}
}

// What was under way beyond the count is handled, and does not make figures better.
func TestConsumingCountsItsTask(t *testing.T) {
	m := newMeter(&task{Count: 3, Backlog: 10})
	err := m.consuming(t.Context(), func() error {
		for i := range 5 {
			m.handled(eventID(i))
		}
		return nil
	}, func() error { return nil })
	if err != nil || m.m.Count != 3 || m.m.Total != 5 || m.m.Elapsed <= 0 {
		t.Errorf("%v: %+v", err, m.m)
	}
}

// A consumer that is slow is stopped, and measured by what it has handled.
func TestConsumingIsBounded(t *testing.T) {
	m := newMeter(&task{Count: 3, Backlog: 3, For: time.Millisecond, ToLast: true})
	err := m.consuming(t.Context(), func() error { m.handled(eventID(1)); return nil }, func() error { m.handled(eventID(2)); return nil })
	if err != nil || m.m.Count != 1 || m.m.Total != 2 || m.m.Elapsed < time.Millisecond/2 {
		t.Errorf("%v: %+v", err, m.m)
	}
}

func TestPublishingCountsItsWindow(t *testing.T) {
	m := newMeter(&task{Callers: 4, Warm: time.Millisecond, For: 5 * time.Millisecond})
	var ids []int
	got := make(chan int, 1)
	all := make(chan struct{})
	go func() {
		defer close(all)
		for i := range got {
			ids = append(ids, i)
		}
	}()
	err := m.publishing(t.Context(), func() error {
		return m.callers(func(i int) error { got <- i; return nil })
	})
	close(got)
	<-all
	slices.Sort(ids)
	if err != nil || m.m.Total != len(ids) || m.m.Count < 1 || m.m.Count > m.m.Total || m.m.Elapsed < 5*time.Millisecond {
		t.Errorf("%v: %+v, %d calls", err, m.m, len(ids))
	}
	for i, id := range ids {
		if i != id {
			t.Fatalf("number %d was handed out %s", i, "twice or never")
		}
	}
}

func TestPublishingSaysWhatFailed(t *testing.T) {
	m := newMeter(&task{Callers: 4, For: time.Hour})
	broken := errors.New("the broker is gone")
	err := m.publishing(t.Context(), func() error { return m.callers(func(int) error { return broken }) })
	if !errors.Is(err, broken) {
		t.Error(err)
	}
}

// A handler that stalls is counted with all that was due meanwhile.
func TestPaceIsOpen(t *testing.T) {
	m := newMeter(&task{Rate: 1000, For: 20 * time.Millisecond})
	const stall = 30 * time.Millisecond
	err := m.pace(t.Context(), func(i int) {
		if i == 5 {
			time.Sleep(stall)
		}
		m.arrived(eventID(i))
	})
	if err != nil {
		t.Fatal(err)
	}
	if m.m.Total != 20 || m.m.Count != 20 {
		t.Errorf("%+v", m.m)
	}
	// Event 5 was due before the stall, the last one 14 ms after it.
	for i := 5; i < 20; i++ {
		if least := stall - time.Duration(i-5)*time.Millisecond; m.latency[i] < least {
			t.Errorf("the latency of event %d is %v; it was due %v before the stall ended", i, m.latency[i], least)
		}
	}
}

func TestCPUTimeAndMemory(t *testing.T) {
	if cpuTime(0) == 0 && runtime.GOOS != "linux" {
		t.Skip("the CPU time of processes cannot be told here")
	}
	before := cpuTime(0)
	if before == 0 {
		t.Fatal("this process has had no CPU time")
	}
	for cpuTime(0) < before+2*time.Millisecond {
		json.Valid([]byte(text))
	}
	if resident(0) < 1<<20 {
		t.Errorf("this process is in %d bytes of memory", resident(0))
	}
	if cpuTime(1<<22) != 0 || resident(1<<22) != 0 {
		t.Error("a process that is not there has used something")
	}
}
