// Package child runs programs as children of this process. Each is watched until
// it has ended, and is ended by its own process id.
package child

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// A Process is a child that was started.
type Process struct {
	name string
	cmd  *exec.Cmd
	last last
	done chan struct{} // closed when it has ended
	err  error         // of waiting for it
}

// Start starts a command under a name. Each line of its standard output is handed
// to line, each of its standard error is written to log, with the name before it;
// either may be nil, and neither is called after Ended. The child gets no Ctrl-C
// from the terminal: it is ended by its parent, when those that need it have ended.
func Start(name string, cmd *exec.Cmd, line func(string), log io.Writer) (*Process, error) {
	p := &Process{name: name, cmd: cmd, done: make(chan struct{})}
	out := &lines{each: func(s string) {
		p.last.add(s)
		if line != nil {
			line(s)
		}
	}}
	errs := &lines{each: func(s string) {
		p.last.add(s)
		if log != nil {
			fmt.Fprintf(log, "%-9s | %s\n", name, s)
		}
	}}
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.WaitDelay = 5 * time.Second // for what it has started itself and left behind
	cmd.SysProcAttr = attributes()
	started := make(chan error)
	go func() {
		// Where the system ends children with their parent, it means the thread that
		// has started them: this one is kept as long as the child runs.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		out.flush()
		errs.flush()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// ID returns the process id.
func (p *Process) ID() int { return p.cmd.Process.Pid }

// Ended is closed when the child has ended.
func (p *Process) Ended() <-chan struct{} { return p.done }

// Why tells how a child has ended, with the last that it has said.
func (p *Process) Why() error {
	<-p.done
	how := p.cmd.ProcessState.String()
	if _, ok := errors.AsType[*exec.ExitError](p.err); p.err != nil && !ok {
		how = p.err.Error()
	}
	text := fmt.Sprintf("%s (process %d) has ended: %s", p.name, p.ID(), how)
	if said := p.last.text(); said != "" {
		text += "; the last that it said:\n" + said
	}
	return errors.New(text)
}

// Stop asks the child to end and waits until it has. When ctx ends before, the
// child is killed. The error tells of an end that was not a clean one; stopping
// what has ended already is harmless.
func (p *Process) Stop(ctx context.Context) error {
	select {
	case <-p.done:
	default:
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return errors.Join(fmt.Errorf("%s (process %d) cannot be asked to end: %w", p.name, p.ID(), err), p.Kill())
		}
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("%s (process %d) was killed before it had stopped", p.name, p.ID()), p.Kill())
	}
	if p.err != nil {
		return p.Why()
	}
	return nil
}

// Kill ends the child at once and waits until it has ended.
func (p *Process) Kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s (process %d): %w", p.name, p.ID(), err)
	}
	<-p.done
	return nil
}
