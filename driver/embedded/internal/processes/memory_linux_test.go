package processes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver/embedded/natstest"
)

const memoryEnv = "POSTHORN_TEST_MEMORY"

// The most that a process may have had resident, in MiB, in these tests. What a
// process of this program has before it opens a bus is in it, about 15.
const (
	mostSlow  = 256 // a slow handler, with 1,000,000 waiting
	mostKeys  = 448 // 1,000,000 events of 100,000 keys, as fast as they go
	mostLater = 192 // 10,000 that failed and wait for their next attempt
)

// A memoryConfig says what a process of these tests does.
type memoryConfig struct {
	URL     string
	Group   string        // the group that it is a member of; "": it publishes
	Events  int           // to publish, or to handle well before it ends
	Keys    int           // of the events
	Failing int           // to publish: how many come first that will fail. To handle: how many have to
	Work    time.Duration // of a handler
}

type sack struct {
	Key   string `json:"key"`
	Fails bool   `json:"fails,omitempty"`
	Pad   string `json:"pad"`
}

var sackMade = posthorn.Define[sack]("sack.made", posthorn.Key(func(s sack) string { return s.Key }))

// runMemory is the main function of such a process. At its end it says what it had
// resident at most.
func runMemory(config string) int {
	var c memoryConfig
	err := json.Unmarshal([]byte(config), &c)
	if err == nil {
		var bus *posthorn.Bus
		if bus, err = posthorn.Open(context.Background(), c.URL, posthorn.Service("memory"), posthorn.Logger(slog.New(slog.DiscardHandler))); err == nil {
			if c.Group == "" {
				err = c.publish(bus)
			} else {
				err = c.handle(bus)
			}
			peak, perr := peakMemory()
			err = errors.Join(err, perr, bus.Close(context.Background()))
			fmt.Println("peak", peak)
		}
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func (c memoryConfig) publish(bus *posthorn.Bus) error {
	pad := strings.Repeat("x", 100)
	for n := 0; n < c.Events; {
		var batch []*posthorn.Outgoing
		for ; len(batch) < 2000 && n < c.Events; n++ {
			batch = append(batch, sackMade.New(sack{Key: fmt.Sprint("k", n%c.Keys), Fails: n < c.Failing, Pad: pad}))
		}
		if err := bus.PublishAll(context.Background(), batch...); err != nil {
			return err
		}
	}
	return nil
}

func (c memoryConfig) handle(bus *posthorn.Bus) error {
	g := bus.Group(c.Group, posthorn.GroupConfig{Concurrency: 16, Retry: posthorn.Retry{Attempts: posthorn.None, Late: 3, LateDelay: time.Hour, MaxLateDelay: time.Hour}})
	var ok atomic.Int64
	done := make(chan struct{})
	sackMade.Handle(g, func(_ context.Context, e *posthorn.Event[sack]) error {
		if e.Data.Fails {
			return errOnPurpose
		}
		time.Sleep(c.Work)
		if ok.Add(1) == int64(c.Events) {
			close(done)
		}
		return nil
	})
	if err := g.Start(context.Background()); err != nil {
		return err
	}
	select {
	case <-done:
	case <-time.After(5 * time.Minute):
		return fmt.Errorf("%d of %d events were handled: %+v", ok.Load(), c.Events, bus.Stats())
	}
	for end := time.Now().Add(time.Minute); bus.Stats().Late < int64(c.Failing); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("%d of %d wait for their next attempt", bus.Stats().Late, c.Failing)
		}
	}
	fmt.Println("retried", bus.Stats().Retried, "handled", ok.Load())
	return nil
}

// peakMemory is what this process had resident at most, in MiB.
func peakMemory() (mib int, err error) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(text), "VmHWM:")
	if !ok {
		return 0, errors.New("/proc/self/status tells no VmHWM")
	}
	_, err = fmt.Sscan(rest, &mib)
	return mib >> 10, err
}

// lean builds this test binary as users build their services: without the race
// detector, which takes several times the memory.
func lean(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "lean.test")
	if out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-race=false", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("building it without the race detector: %v: %s", err, out)
	}
	return path
}

// memory runs such a process and returns what it had resident at most.
func memory(t *testing.T, binary string, c memoryConfig) (mib int) {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary)
	cmd.Env = append(os.Environ(), memoryEnv+"="+string(text))
	cmd.Stderr = os.Stderr
	began := time.Now()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, rest, _ := strings.Cut(string(out), "peak")
	if _, err := fmt.Sscan(rest, &mib); err != nil {
		t.Fatalf("it says %q", out)
	}
	what := "publishing"
	if c.Group != "" {
		what = "group " + c.Group
	}
	t.Logf("%s: %d MiB at most, in %v: %s", what, mib, time.Since(began).Round(100*time.Millisecond), strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", ", "))
	return mib
}

// TestMemory has a million events wait for a group: what its member has resident
// stays below a number, be its handler slow or quick, and so it does while 10,000 that
// failed wait for their next attempt, which keep no others from being handled (P4, P9).
func TestMemory(t *testing.T) {
	t.Parallel()
	binary := lean(t)
	waiting := 1_000_000
	if testing.Short() {
		waiting = 100_000
	}
	s := natstest.Start(t, natstest.Options{})
	url := s.URL() + "?durability=server&instance="
	// A group that is there when they are published would do as well: groups begin
	// with the oldest event that is kept.
	memory(t, binary, memoryConfig{URL: url + "a", Events: waiting, Keys: waiting / 10})
	if got := memory(t, binary, memoryConfig{URL: url + "a", Group: "slow", Events: 3000, Work: 20 * time.Millisecond}); got > mostSlow {
		t.Errorf("a slow member has %d MiB with %d events waiting, at most %d are allowed", got, waiting, mostSlow)
	}
	if got := memory(t, binary, memoryConfig{URL: url + "a", Group: "quick", Events: waiting}); got > mostKeys {
		t.Errorf("a member has %d MiB that has handled events of %d keys, at most %d are allowed", got, waiting/10, mostKeys)
	}
	const failing = 10_000
	memory(t, binary, memoryConfig{URL: url + "b", Events: 2 * failing, Keys: failing, Failing: failing})
	if got := memory(t, binary, memoryConfig{URL: url + "b", Group: "later", Events: failing, Failing: failing}); got > mostLater {
		t.Errorf("a member has %d MiB while %d failed events wait, at most %d are allowed", got, failing, mostLater)
	}
}
