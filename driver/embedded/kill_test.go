package embedded_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/embedded"
)

// TestKill kills a process that publishes and handles, and looks whether what it
// had said was confirmed is there, in order, behind a position that is not ahead.
func TestKill(t *testing.T) {
	if dir := os.Getenv("EMBEDDED_TEST_PUBLISH"); dir != "" {
		publishUntilKilled(t, dir)
		return
	}
	t.Parallel()
	dir := t.TempDir()
	confirmed := map[string]bool{}
	for range 5 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), "EMBEDDED_TEST_PUBLISH="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		recorded, killed := false, false
		for n := 0; lines.Scan(); n++ {
			recorded = recorded || lines.Text() == "recorded"
			if n >= 300 && recorded && !killed {
				killed = true
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			if id, ok := strings.CutPrefix(lines.Text(), "confirmed "); ok && strings.HasSuffix(id, ".") {
				confirmed[id] = true
			}
		}
		_ = cmd.Wait()
	}
	if len(confirmed) < 1000 {
		t.Fatalf("only %d were confirmed", len(confirmed))
	}
	b := open(t, dir, embedded.Options{})
	b.topic("order", 1)
	b.mustPublish(order0, event("end", "k"))
	b.group("all", driver.StartAt{}, "order")
	tn, _ := b.tenure("all", "order")
	for id := ""; id != "end"; delete(confirmed, id) {
		id = fetch(t, tn, 1)[0].Msg.ID
	}
	if len(confirmed) > 0 {
		t.Errorf("%d confirmed messages are gone", len(confirmed))
	}
	tn, _ = b.tenure("g", "order")
	if c := tn.Start(); c.Floor == 0 || c.Clean {
		t.Errorf("start %+v", c)
	}
	for _, code := range []string{"messages_missing", "position_ahead", "position_missing"} {
		if a, ok := b.alarm(code); ok {
			t.Error(a)
		}
	}
}

// publishUntilKilled prints the ids that are confirmed, and checkpoints what it
// fetches.
func publishUntilKilled(t *testing.T, dir string) {
	b := open(t, dir, embedded.Options{})
	b.topic("order", 1)
	b.group("g", driver.StartAt{}, "order")
	tn, _ := b.tenure("g", "order")
	go func() {
		into := make([]driver.Delivery, 64)
		for {
			n, err := tn.Fetch(context.Background(), into, 1<<20)
			if err != nil {
				return
			}
			if tn.Checkpoint(context.Background(), driver.Checkpoint{Floor: into[n-1].Pos, Mark: into[n-1].Pos + 100}) == nil {
				fmt.Println("recorded")
			}
		}
	}()
	var mu sync.Mutex
	for i := 0; ; i++ {
		msgs := events(fmt.Sprintf("%d-%d-", os.Getpid(), i), 1+i%7)
		for j := range msgs {
			msgs[j].ID += "."
		}
		b.Append(order0, msgs, time.Now().Add(time.Minute), func(os []driver.Outcome) {
			mu.Lock()
			defer mu.Unlock()
			for j, o := range os {
				if o.State == driver.Stored {
					fmt.Println("confirmed", msgs[j].ID)
				}
			}
		})
	}
}
