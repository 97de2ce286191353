// Package leaktest fails a test binary that leaves goroutines behind.
package leaktest

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// grace is how long goroutines may take to end after the last test.
var grace = 10 * time.Second

// Main runs the tests of a package and exits. When they pass, but goroutines are
// still there after a grace period, it prints their stacks and exits with 1.
//
//	func TestMain(m *testing.M) { leaktest.Main(m) }
//
// After a failure nothing is checked: a test that stopped half-way leaves
// goroutines, and its own message is the one to read.
func Main(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if left := Wait(grace); len(left) > 0 {
			fmt.Fprintf(os.Stderr, "leaktest: goroutines left %v after the last test: %d\n\n%s\n",
				grace, len(left), strings.Join(left, "\n\n"))
			code = 1
		}
	}
	os.Exit(code)
}

// Wait returns as soon as no goroutine is left but the caller's and those of the
// runtime and the testing package. After the grace period it returns the stacks
// of those that are.
func Wait(grace time.Duration) []string {
	deadline := time.Now().Add(grace)
	pause := time.Millisecond
	for {
		left := goroutines()
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(pause)
		pause = min(2*pause, 100*time.Millisecond)
	}
}

// goroutines returns the stacks of all goroutines that somebody has to answer for.
func goroutines() []string {
	buf := make([]byte, 1<<20)
	n := runtime.Stack(buf, true)
	for n == len(buf) {
		buf = make([]byte, 2*len(buf))
		n = runtime.Stack(buf, true)
	}
	// The first stack is the caller's own.
	_, others, _ := strings.Cut(strings.TrimSpace(string(buf[:n])), "\n\n")
	var left []string
	for s := range strings.SplitSeq(others, "\n\n") {
		if s != "" && !exempt(s) {
			left = append(left, s)
		}
	}
	return left
}

// exempt names what lives as long as the process does, by the functions that
// stand in the stack.
func exempt(stack string) bool {
	for _, f := range []string{
		"testing.(*M).",               // the test binary's main goroutine, when Wait is called by a test
		"testing.(*T).Run(",           // a parent test that waits for the caller
		"testing.runFuzzing(",         // go test -fuzz
		"testing.runFuzzTests(",       //
		"os/signal.signal_recv(",      // after the first signal.Notify
		"os/signal.loop(",             //
		"runtime.ensureSigM(",         //
		"runtime/trace.Start.",        // go test -trace
		"runtime/pprof.profileWriter", // go test -cpuprofile
	} {
		if strings.Contains(stack, f) {
			return true
		}
	}
	return false
}
