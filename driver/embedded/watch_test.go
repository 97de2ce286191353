//go:build unix

package embedded_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
)

func TestWatchMendsItself(t *testing.T) {
	t.Parallel()
	s, js, b := served(t, "")
	l := b.Lane("g", order0)
	told := make(chan uint64, 100)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { ended <- l.Watch(ctx, func(e driver.Entry) { told <- e.Order }) }()
	next := func(what string, want uint64) {
		t.Helper()
		select {
		case got := <-told:
			if got != want {
				t.Fatalf("%s: told of %d, want %d", what, got, want)
			}
		case err := <-ended:
			t.Fatalf("%s: Watch ended: %v", what, err)
		case <-time.After(time.Minute):
			t.Fatalf("%s: not told of %d", what, want)
		}
	}
	next("nothing stands", 0)
	apply(t, l, put(entry("k", 1, driver.Due)))
	next("put", 1)
	for name := range js.ConsumerNames("PH-L-g") {
		if !strings.HasPrefix(name, "watch-") {
			continue
		}
		if err := js.DeleteConsumer("PH-L-g", name); err != nil {
			t.Fatal(err)
		}
	}
	apply(t, l, put(entry("k", 2, driver.Due)))
	next("put after the consumer was deleted", 2)
	s.Kill()
	s.Restart()
	s.WaitReady()
	e := entry("k", 3, driver.Due)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		err := l.Apply(t.Context(), put(e))
		if err == nil || errors.Is(err, driver.ErrConflict) { // an earlier one was stored
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	next("put after the server was killed", 3)
	if err := b.RemoveGroup(t.Context(), "g"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		wantErr(t, err, driver.ErrNotFound)
	case <-time.After(time.Minute):
		t.Fatal("Watch goes on without a group")
	}
}

// A removal that is cut off can be repeated, and one that has removed the group's
// record leaves nothing that a new group of the name would take for its own.
func TestRemovalCutOff(t *testing.T) {
	t.Parallel()
	s, js, b := served(t, "")
	b.mustPublish(order0, events("a", 10)...)
	tn, leave := b.tenure("g", "order")
	fetch(t, tn, 5)
	fence := tn.Fence()
	if err := tn.Release(t.Context(), driver.Checkpoint{Floor: 5, Mark: 5, Clean: true}); err != nil {
		t.Fatal(err)
	}
	leave()
	gone := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	gone(js.DeleteStream("PH-L-g"))
	gone(js.PurgeStream("PH-STATE", &nats.StreamPurgeRequest{Subject: "ph.s.group.g"}))
	b.group("g", driver.StartAt{Now: true}, "order")
	b.mustPublish(order0, event("new", "k"))
	tn, leave = b.tenure("g", "order")
	if got := fetch(t, tn, 1)[0].Msg.ID; got != "new" || tn.Fence() <= fence {
		t.Errorf("a new group from now on begins with %s, fence %d after %d", got, tn.Fence(), fence)
	}
	leave()

	gone(js.DeleteStream("PH-L-g"))
	gone(b.RemoveGroup(t.Context(), "g"))
	_, err := b.Group(t.Context(), "g")
	wantErr(t, err, driver.ErrNotFound, "g")
	if n := len(b.streams(s.URL())); n != 2 {
		t.Errorf("%d streams are left, want those of the state and of the topic: %v", n, b.streams(s.URL()))
	}
	info, err := js.StreamInfo("PH-STATE", &nats.StreamInfoRequest{SubjectsFilter: "ph.s.>"})
	gone(err)
	for subject := range info.State.Subjects {
		if strings.Contains(subject, ".g.") || strings.HasSuffix(subject, ".g") {
			t.Errorf("a record is left: %s", subject)
		}
	}
}
