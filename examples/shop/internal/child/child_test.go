//go:build unix

package child

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// TestMain makes this test binary a child, when its argument says which one.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || strings.HasPrefix(os.Args[1], "-") {
		os.Exit(m.Run())
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	fmt.Println("here")
	switch os.Args[1] {
	case "stops":
		<-signals
		fmt.Fprint(os.Stderr, "stopped")
	case "ignores":
		select {}
	case "fails":
		for i := range 2 * keep {
			fmt.Fprintln(os.Stderr, "line", i)
		}
		os.Exit(7)
	}
	os.Exit(0)
}

// heard collects lines, and what is logged.
type heard struct {
	mu    sync.Mutex
	first chan struct{}
	lines []string
	log   strings.Builder
}

func (h *heard) line(s string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lines = append(h.lines, s); len(h.lines) == 1 {
		close(h.first)
	}
}

func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.Write(p)
}

// begin starts this binary as a child of a kind, and waits until it listens.
func begin(t *testing.T, kind string) (*Process, *heard) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h := &heard{first: make(chan struct{})}
	p, err := Start(kind, exec.Command(exe, kind), h.line, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	})
	<-h.first
	return p, h
}

func TestStop(t *testing.T) {
	t.Parallel()
	p, h := begin(t, "stops")
	for range 2 {
		if err := p.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if want := []string{"here"}; !slices.Equal(h.lines, want) {
		t.Errorf("said %q, want %q", h.lines, want)
	}
	if got, want := h.log.String(), "stops     | stopped\n"; got != want {
		t.Errorf("logged %q, want %q", got, want)
	}
	if err := syscall.Kill(p.ID(), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d is still there: %v", p.ID(), err)
	}
}

func TestStopKills(t *testing.T) {
	t.Parallel()
	p, _ := begin(t, "ignores")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Stop(ended); err == nil || !strings.Contains(err.Error(), "was killed") {
		t.Errorf("Stop: %v", err)
	}
	if err := p.Why(); !strings.Contains(err.Error(), "signal: killed") {
		t.Errorf("Why: %v", err)
	}
}

func TestWhy(t *testing.T) {
	t.Parallel()
	p, _ := begin(t, "fails")
	<-p.Ended()
	for what, err := range map[string]error{"Why": p.Why(), "Stop": p.Stop(t.Context())} {
		text := fmt.Sprint(err)
		for _, want := range []string{"fails (process ", "exit status 7", fmt.Sprintf("line %d", 2*keep-1)} {
			if !strings.Contains(text, want) {
				t.Errorf("%s lacks %q: %s", what, want, text)
			}
		}
		if n := strings.Count(text, "line "); n > keep {
			t.Errorf("%s holds %d lines, want %d at most", what, n, keep)
		}
	}
}

func TestNoProgram(t *testing.T) {
	t.Parallel()
	if _, err := Start("none", exec.Command("./no-such-program"), nil, nil); err == nil || !strings.Contains(err.Error(), "start none") {
		t.Errorf("Start: %v", err)
	}
}

func TestLines(t *testing.T) {
	t.Parallel()
	var got []string
	l := &lines{each: func(s string) { got = append(got, s) }}
	for _, s := range []string{"a", "b\nc\r\n", "\n", strings.Repeat("x", maxLine+1), "d"} {
		if n, err := l.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatal(n, err)
		}
	}
	l.flush()
	if want := []string{"ab", "c", "", strings.Repeat("x", maxLine+1), "d"}; !slices.Equal(got, want) {
		t.Errorf("%d lines: %.20q", len(got), got)
	}
}
