//go:build unix

package main

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestInterrupt interrupts a whole run: what it started ends, and nothing is written.
func TestInterrupt(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds servers; go test without -short does it")
	}
	stores, before := t.TempDir(), written(t)
	cmd := exec.Command(os.Args[0], "-dir", stores, "-store")
	cmd.Env = append(os.Environ(), mainEnv+"=1")
	var diag strings.Builder
	cmd.Stderr = &diag
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	server := 0
	lines := bufio.NewReader(out)
	for {
		// A round's line is printed bit by bit: the first contender has its server
		// when its begin is there.
		text, err := lines.ReadString(':')
		if err != nil {
			break
		}
		if server == 0 && strings.HasSuffix(text, "round 1:") {
			server = serverIn(t, stores)
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("it ended with %v", err)
	}
	if d := diag.String(); !strings.Contains(d, "interrupted") || !strings.Contains(d, "nothing was written") {
		t.Errorf("it says %q", d)
	}
	if server == 0 {
		t.Fatal("it measured nothing")
	}
	if err := syscall.Kill(server, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("its server %d is still there: %v", server, err)
	}
	if left, err := os.ReadDir(stores); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
	if after := written(t); after != before {
		t.Errorf("it wrote: before\n%s\nafter\n%s", before, after)
	}
}

// serverIn waits for a server that stores below a folder, and returns its process id.
func serverIn(t *testing.T, dir string) int {
	t.Helper()
	for t.Context().Err() == nil {
		ports, err := filepath.Glob(filepath.Join(dir, "*", "*", "nats-server_*.ports"))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range ports {
			name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(p), "nats-server_"), ".ports")
			if pid, err := strconv.Atoi(name); err == nil {
				return pid
			}
		}
	}
	return 0
}

// written is all that a run may write.
func written(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, pattern := range []string{pageFile + "*", ratioFile + "*"} {
		files, err := filepath.Glob(filepath.Join("..", filepath.FromSlash(pattern)))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			all.WriteString(f + "\n" + string(text))
		}
	}
	return all.String()
}
