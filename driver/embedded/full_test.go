package embedded_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/embedded"
)

func purgeOf(subject string) nats.JSOpt { return &nats.StreamPurgeRequest{Subject: subject} }

// smallDisk is a directory with a few MiB.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := mount(t, "tmpfs", "size="+size)
	if dir == "" {
		t.Skip("a full disk cannot be tried without a small tmpfs, and that cannot be mounted here")
	}
	return dir
}

// fill leaves so many bytes free.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 4096)
	for {
		if _, err := f.Write(block); err != nil {
			break
		}
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFullDiskAtOpen(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, "2m")
	free := fill(t, dir)
	_, err := embedded.Open(t.Context(), dir, embedded.Options{}, (&bed{t: t}).env())
	wantErr(t, err, driver.ErrNoSpace, dir, "make room")
	free()
	open(t, dir, embedded.Options{})
}

// TestDiskFillsUp publishes more than there is room for, so fast that a write
// fails in the middle.
func TestDiskFillsUp(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, "12m")
	b := open(t, dir, embedded.Options{})
	b.topic("order", 1)
	b.group("g", driver.StartAt{}, "order")
	b.mustPublish(order0, events("first", 10)...)
	tn, _ := b.tenure("g", "order")
	fetch(t, tn, 10)

	free := fill(t, dir) // behind the server's back: no look at the disk has seen it
	stored := map[string]bool{}
	var doubtful []string
	for i := range 3 {
		m := event(fmt.Sprintf("full%d", i), "k")
		m.Body = make([]byte, 200_000)
		switch o := b.publishBy(200*time.Millisecond, order0, m)[0]; o.State {
		case driver.Stored:
			t.Fatalf("stored on a full disk: %+v", o)
		case driver.NotStored:
			wantErr(t, o.Err, driver.ErrNoSpace)
		case driver.Unknown:
			doubtful = append(doubtful, m.ID)
		}
	}
	wantErr(t, b.Health(t.Context()), driver.ErrNoSpace, dir, "make room")
	eventually(t, "the alarm", func() bool { _, ok := b.alarm("disk_full"); return ok })

	waiting := make(chan driver.Outcome, 1)
	go func() { waiting <- b.publish(order0, event("patient", "k"))[0] }()
	free()
	if o := <-waiting; o.State != driver.Stored {
		t.Fatalf("who waited for room: %+v", o)
	}
	b.mustPublish(order0, event("after", "k"))
	eventually(t, "health", func() bool { return b.Health(t.Context()) == nil })
	b.mu.Lock()
	last := b.alarms[len(b.alarms)-1]
	b.mu.Unlock()
	if last.Code != "disk_full" || !last.Cleared {
		t.Errorf("the alarm is not cleared: %+v", last)
	}
	for !stored["after"] {
		stored[fetch(t, tn, 1)[0].Msg.ID] = true
	}
	if !stored["patient"] {
		t.Errorf("fetched %v", stored)
	}
	t.Logf("unknown: %v; of them stored: %v", doubtful, stored)
	if err := tn.Checkpoint(t.Context(), driver.Checkpoint{Floor: 11, Mark: 11}); err != nil {
		t.Error(err)
	}
}
