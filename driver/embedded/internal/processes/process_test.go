//go:build unix

package processes

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience bounds each wait. It is long because the machine may be busy.
const patience = 90 * time.Second

// A process is this test binary, run again as something else.
type process struct {
	cmd   *exec.Cmd
	lines chan string
	err   error
	ended chan struct{}
}

func start(t testing.TB, env ...string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, lines: make(chan string, 100), ended: make(chan struct{})}
	go func() {
		defer close(p.lines)
		for in := bufio.NewScanner(out); in.Scan(); {
			select {
			case p.lines <- in.Text():
			default: // nobody reads so much
			}
		}
	}()
	go func() {
		defer close(p.ended)
		p.err = waitFor(cmd)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = cmd.Process.Kill()
		<-p.ended
	})
	return p
}

// waitFor waits for the process without closing the pipe under its reader.
func waitFor(cmd *exec.Cmd) error {
	state, err := cmd.Process.Wait()
	if err == nil && !state.Success() {
		err = &exec.ExitError{ProcessState: state}
	}
	return err
}

func (p *process) wait() error {
	<-p.ended
	return p.err
}

func (p *process) signal(t testing.TB, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// await waits for a line of the process's output that begins so, and returns it.
func (p *process) await(t testing.TB, prefix string) string {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				t.Fatalf("the process ended before it said %q", prefix)
			}
			if strings.HasPrefix(line, prefix) {
				return line
			}
			t.Logf("process %d: %s", p.cmd.Process.Pid, line)
		case <-timeout:
			t.Fatalf("the process does not say %q", prefix)
		}
	}
}
