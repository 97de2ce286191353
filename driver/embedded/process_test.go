package embedded_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/embedded"
)

// The tests in this file run whole processes: a bus with its groups, started
// again and again by the test binary itself.

const (
	childEnv = "POSTHORN_TEST_CHILD" // which child this process is
	dirEnv   = "POSTHORN_TEST_DIR"
)

// step is the data of the events of these tests.
type step struct {
	Key string `json:"key"`
	Seq int    `json:"seq"`
}

var stepTaken = posthorn.Define[step]("walk.step", posthorn.Key(func(s step) string { return s.Key }))

// child starts this binary as a child that runs one test.
func child(t *testing.T, test, role, dir string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+test+"$", "-test.v=false")
	cmd.Env = append(os.Environ(), childEnv+"="+role, dirEnv+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, bufio.NewScanner(out)
}

// A journal is a file of lines that outlives its process.
type journal struct{ f *os.File }

func openJournal(t *testing.T, dir, name string) *journal {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return &journal{f}
}

// line writes one line at once, so that a kill leaves no half of it behind others.
func (j *journal) line(format string, args ...any) {
	_, _ = j.f.WriteString(fmt.Sprintf(format, args...) + "\n")
}

func readJournal(t *testing.T, dir, name string) [][]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	var lines [][]string
	for line := range strings.Lines(string(b)) {
		if strings.HasSuffix(line, "\n") {
			lines = append(lines, strings.Fields(line))
		}
	}
	return lines
}

func openBus(t *testing.T, dir string) *posthorn.Bus {
	t.Helper()
	bus, err := posthorn.Open(t.Context(), "embedded:"+filepath.Join(dir, "store"), posthorn.Service("test"),
		posthorn.Logger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError + 1}))))
	if err != nil {
		t.Fatal(err)
	}
	return bus
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestCrash kills a process that publishes and handles under load twenty times.
// Nothing that was confirmed is lost, each key keeps its order, and nothing at or
// below a recorded floor is handled again.
func TestCrash(t *testing.T) {
	if os.Getenv(childEnv) == "crash" {
		crashChild(t, os.Getenv(dirEnv), true)
		return
	}
	t.Parallel()
	dir := t.TempDir()
	const rounds = 20
	hit := 0
	for round := range rounds {
		cmd, out := child(t, "TestCrash", "crash", dir)
		for n := 0; out.Scan(); {
			if strings.HasPrefix(out.Text(), "handled") {
				if n++; n == 10+3*round {
					if err := cmd.Process.Kill(); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() >= 0 {
			t.Fatalf("round %d: the child ended by itself: %v", round, err)
		}
	}
	crashChild(t, dir, false)
	started, ended := map[string]int{}, map[string]int{}
	for _, f := range readJournal(t, dir, "effects") {
		switch f[0] {
		case "s":
			started[f[1]+" "+f[2]]++
		case "h":
			ended[f[1]+" "+f[2]]++
		}
	}
	repeated := 0
	for k, n := range started {
		if n > ended[k] {
			hit++
		}
		if n > 1 {
			repeated++
		}
	}
	checkCrash(t, dir)
	t.Logf("%d events handled, %d of them started more than once; %d starts were cut off by the %d kills", len(ended), repeated, hit, rounds)
	if hit == 0 {
		t.Error("no kill hit a handling in flight: the test has tested nothing")
	}
}

// crashChild publishes (when told to) and handles, until it is killed, or until all
// that was confirmed has been handled.
func crashChild(t *testing.T, dir string, publish bool) {
	ctx := context.Background()
	confirmed, effects := openJournal(t, dir, "confirmed"), openJournal(t, dir, "effects")
	bus := openBus(t, dir)
	group := bus.Group("walkers", posthorn.GroupConfig{Concurrency: 64, Checkpoint: 100 * time.Millisecond})
	var handled atomic.Int64
	var busy sync.Map
	stepTaken.Handle(group, func(ctx context.Context, e *posthorn.Event[step]) error {
		if _, beside := busy.LoadOrStore(e.Key, true); beside {
			effects.line("beside %s %d", e.Key, e.Data.Seq)
		}
		effects.line("s %s %d %d %d", e.Key, e.Data.Seq, e.Partition, e.Position)
		time.Sleep(time.Duration(e.Data.Seq%5) * time.Millisecond) // work, so that kills hit it
		effects.line("h %s %d %d %d", e.Key, e.Data.Seq, e.Partition, e.Position)
		busy.Delete(e.Key)
		if publish && handled.Add(1)%10 == 0 {
			fmt.Println("handled", handled.Load())
		}
		return nil
	})
	if err := group.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if !publish {
		waitSettled(t, bus, "walkers")
		if err := bus.Close(ctx); err != nil {
			t.Fatal(err)
		}
		return
	}
	go logFloors(t, dir, effects)
	rounds := openJournal(t, dir, "rounds")
	rounds.line("begun")
	first := len(readJournal(t, dir, "rounds")) * 1_000_000 // above all that came before
	seq := first
	for ; ; seq++ {
		for ahead := int64(400); int64(seq-first)*40-handled.Load() > ahead; {
			time.Sleep(time.Millisecond) // a backlog would only make the last round long
		}
		var batch []*posthorn.Outgoing
		for k := range 40 {
			batch = append(batch, stepTaken.New(step{Key: fmt.Sprint("k", k), Seq: seq}))
		}
		if err := bus.PublishAll(ctx, batch...); err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		for k := range 40 {
			fmt.Fprintf(&text, "k%d %d\n", k, seq)
		}
		confirmed.line("%s", strings.TrimSuffix(text.String(), "\n"))
	}
}

// logFloors notes the recorded floors: what is at or below one does not come again.
func logFloors(t *testing.T, dir string, effects *journal) {
	env := driver.Env{Service: "test", Member: "test-" + rand.Text(), Log: slog.New(slog.DiscardHandler), Now: time.Now, Alarm: func(driver.Alarm) {}}
	d, err := embedded.Open(context.Background(), filepath.Join(dir, "store"), embedded.Options{}, env)
	if err != nil {
		t.Error(err)
		return
	}
	for {
		positions, err := d.Positions(context.Background(), "walkers")
		if err != nil {
			t.Error(err)
			return
		}
		for _, p := range positions {
			effects.line("f %d %d", p.N, p.Floor)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// waitSettled waits until a group has no lag.
func waitSettled(t *testing.T, bus *posthorn.Bus, group string) {
	t.Helper()
	for end := time.Now().Add(3 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		lag, err := bus.Lag(context.Background(), group)
		if err != nil {
			t.Fatal(err)
		}
		if lag == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("a lag of %d is left: %+v", lag, bus.Stats())
		}
	}
}

func checkCrash(t *testing.T, dir string) {
	t.Helper()
	effects := readJournal(t, dir, "effects")
	last := map[string]int{}     // by key: highest sequence seen
	done := map[string]bool{}    // key and sequence
	floor := map[string]string{} // by partition
	for _, f := range effects {
		switch f[0] {
		case "beside":
			t.Errorf("two of key %s at a time", f[1])
		case "f":
			floor[f[1]] = f[2]
		case "s":
			if fl := floor[f[3]]; fl != "" && atoi(t, f[4]) <= atoi(t, fl) {
				t.Errorf("position %s of partition %s was started again, below the recorded floor %s", f[4], f[3], fl)
			}
			seq := atoi(t, f[2])
			id := f[1] + " " + f[2]
			if !done[id] && seq < last[f[1]] {
				t.Errorf("key %s: %d was first started after %d", f[1], seq, last[f[1]])
			}
			last[f[1]] = max(last[f[1]], seq)
			done[id] = done[id] || false
		case "h":
			done[f[1]+" "+f[2]] = true
		}
		if t.Failed() {
			return
		}
	}
	missing := 0
	all := readJournal(t, dir, "confirmed")
	for _, f := range all {
		if len(f) == 2 && !done[f[0]+" "+f[1]] {
			missing++
		}
	}
	if missing > 0 {
		t.Errorf("%d of %d confirmed events were not handled", missing, len(all))
	}
	if len(all) < 1000 {
		t.Errorf("only %d events were confirmed", len(all))
	}
}

// TestPoison has one message that kills its process among 64 in flight: it is
// quarantined, and its neighbours are handled.
func TestPoison(t *testing.T) {
	if os.Getenv(childEnv) == "poison" {
		poisonChild(t, os.Getenv(dirEnv))
		return
	}
	t.Parallel()
	dir := t.TempDir()
	deaths := 0
	for ; ; deaths++ {
		cmd, out := child(t, "TestPoison", "poison", dir)
		ended := false
		for out.Scan() {
			ended = ended || out.Text() == "all settled"
		}
		_ = cmd.Wait()
		if ended {
			break
		}
		if deaths > 2*posthorn.DefaultBoots {
			t.Fatalf("the process has died %d times", deaths)
		}
	}
	// The first start was not suspect; each of the others was counted.
	if want := posthorn.DefaultBoots + 1; deaths != want {
		t.Errorf("the process died %d times, stated are %d", deaths, want)
	}
	bus := openBus(t, dir)
	dead := 0
	for d, err := range bus.DeadLetters(t.Context(), "eaters") {
		if err != nil {
			t.Fatal(err)
		}
		dead++
		if d.Reason != posthorn.CodeQuarantined || d.Headers["poison"] != "yes" || d.Attempts != posthorn.DefaultBoots {
			t.Errorf("dead letter %s, reason %s, attempts %d, headers %v", d.ID, d.Reason, d.Attempts, d.Headers)
		}
	}
	if err := bus.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if dead != 1 {
		t.Errorf("%d dead letters, want the poison alone", dead)
	}
	handled := map[string]bool{}
	for _, f := range readJournal(t, dir, "effects") {
		handled[f[1]] = true
	}
	for i := range poisonCount {
		if i != poisonCount/2 && !handled[strconv.Itoa(i)] {
			t.Errorf("neighbour %d was not handled", i)
		}
	}
}

const poisonCount = 400

func poisonChild(t *testing.T, dir string) {
	ctx := context.Background()
	effects := openJournal(t, dir, "effects")
	bus := openBus(t, dir)
	if _, err := os.Stat(filepath.Join(dir, "published")); err != nil {
		var batch []*posthorn.Outgoing
		for i := range poisonCount {
			opts := []posthorn.PublishOption{}
			if i == poisonCount/2 {
				opts = append(opts, posthorn.WithHeader("poison", "yes"))
			}
			batch = append(batch, stepTaken.New(step{Key: fmt.Sprint("k", i%80), Seq: i}, opts...))
		}
		if err := bus.PublishAll(ctx, batch...); err != nil {
			t.Fatal(err)
		}
		openJournal(t, dir, "published").line("yes")
	}
	group := bus.Group("eaters", posthorn.GroupConfig{Concurrency: 64})
	stepTaken.Handle(group, func(ctx context.Context, e *posthorn.Event[step]) error {
		if e.Headers["poison"] != "" {
			time.Sleep(20 * time.Millisecond) // so that others are in flight
			if self, err := os.FindProcess(os.Getpid()); err == nil {
				_ = self.Kill()
			}
			select {}
		}
		time.Sleep(5 * time.Millisecond)
		effects.line("h %d", e.Data.Seq)
		return nil
	})
	if err := group.Start(ctx); err != nil {
		t.Fatal(err)
	}
	waitSettled(t, bus, "eaters")
	if err := bus.Close(ctx); err != nil {
		t.Fatal(err)
	}
	fmt.Println("all settled")
}

// TestDrainOnSignal interrupts a process with 500 handlers in flight. They
// finish, nothing is lost, and nothing is handled twice, over both runs.
func TestDrainOnSignal(t *testing.T) {
	if os.Getenv(childEnv) == "drain" {
		drainChild(t, os.Getenv(dirEnv))
		return
	}
	t.Parallel()
	dir := t.TempDir()
	bus := openBus(t, dir)
	var batch []*posthorn.Outgoing
	for i := range drainCount {
		batch = append(batch, stepTaken.New(step{Key: fmt.Sprint("k", i), Seq: i}))
	}
	if err := bus.PublishAll(t.Context(), batch...); err != nil {
		t.Fatal(err)
	}
	if err := bus.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for run := range 2 {
		cmd, out := child(t, "TestDrainOnSignal", "drain", dir)
		clean := false
		for out.Scan() {
			switch text := out.Text(); {
			case text == "interrupt me":
				if err := cmd.Process.Signal(os.Interrupt); err != nil {
					t.Fatal(err)
				}
			case strings.HasPrefix(text, "stopped"):
				t.Log("run", run, text)
				clean = text == "stopped: <nil>"
			}
		}
		if err := cmd.Wait(); err != nil || !clean {
			t.Fatalf("run %d did not stop cleanly: %v", run, err)
		}
	}
	counts := map[string]int{}
	for _, f := range readJournal(t, dir, "effects") {
		counts[f[1]]++
	}
	for i := range drainCount {
		if n := counts[strconv.Itoa(i)]; n != 1 {
			t.Errorf("event %d was handled %d times", i, n)
		}
	}
}

const drainCount = 1000

func drainChild(t *testing.T, dir string) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	effects := openJournal(t, dir, "effects")
	already := len(readJournal(t, dir, "effects"))
	bus := openBus(t, dir)
	group := bus.Group("walkers", posthorn.GroupConfig{Concurrency: 500, Drain: time.Minute})
	var running atomic.Int64
	full := min(500, int64(drainCount-already))
	stepTaken.Handle(group, func(hctx context.Context, e *posthorn.Event[step]) error {
		if running.Add(1) == full {
			fmt.Println("interrupt me")
		}
		<-ctx.Done() // in flight until the signal has come
		if hctx.Err() != nil {
			return hctx.Err() // the drain must leave the handler its context
		}
		effects.line("h %d", e.Data.Seq)
		return nil
	}, posthorn.Timeout(2*time.Minute))
	err := bus.Run(ctx)
	fmt.Println("stopped:", err)
	if err := bus.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}
