package leaktest

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if os.Getenv("LEAKTEST_LEAK") != "" {
		grace = 50 * time.Millisecond
	}
	Main(m)
}

func TestWaitForAGoroutineThatEnds(t *testing.T) {
	go time.Sleep(50 * time.Millisecond)
	if left := Wait(5 * time.Second); len(left) != 0 {
		t.Fatalf("%d goroutines are left:\n%s", len(left), strings.Join(left, "\n\n"))
	}
}

func TestWaitNamesWhatIsLeft(t *testing.T) {
	end := make(chan struct{})
	defer close(end)
	go leak(end)
	left := Wait(20 * time.Millisecond)
	if len(left) != 1 || !strings.Contains(left[0], "leaktest.leak(") {
		t.Fatalf("%d goroutines are left, want the one in leak:\n%s", len(left), strings.Join(left, "\n\n"))
	}
}

func leak(end chan struct{}) { <-end }

// A test binary that leaks exits with 1, though its tests pass.
func TestMainExits(t *testing.T) {
	if os.Getenv("LEAKTEST_LEAK") != "" {
		go leak(nil)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestMainExits$")
	cmd.Env = append(os.Environ(), "LEAKTEST_LEAK=1")
	out, err := cmd.CombinedOutput()
	if err == nil || cmd.ProcessState.ExitCode() != 1 {
		t.Fatalf("the run ended with %v, want exit status 1:\n%s", err, out)
	}
	if !strings.Contains(string(out), "after the last test: 1\n") || !strings.Contains(string(out), "leaktest.leak(") {
		t.Fatalf("the output does not name what was left:\n%s", out)
	}
}
