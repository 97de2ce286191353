//go:build unix

package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/posthorn/posthorn/examples/shop/inventory"
	"github.com/posthorn/posthorn/examples/shop/logistics"
	"github.com/posthorn/posthorn/examples/shop/notification"
	"github.com/posthorn/posthorn/examples/shop/order"
	"github.com/posthorn/posthorn/examples/shop/payment"
	"github.com/posthorn/posthorn/examples/shop/recommendation"
)

// self is this test binary.
func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// inProcesses is a run in processes, in a directory. What a killed member held is
// free sooner than by default.
func inProcesses(t *testing.T, broker func(path string) Broker, dir, data string) (Config, *output) {
	t.Helper()
	exe, out := self(t), &output{}
	return Config{
		Dir: dir, Keep: true, Data: data, Every: 10 * time.Millisecond, Log: quiet, Out: out, Err: out,
		Apart: func(name string, cfg Config) *exec.Cmd {
			file := ""
			if name == order.Group {
				file = cfg.Data
			}
			return exec.Command(exe, "service", name, cfg.URL, cfg.Dir, file)
		},
		Broker: func(ctx context.Context, dir string, log io.Writer) (*Served, error) {
			s, err := broker(exe)(ctx, dir, log)
			if err == nil {
				s.URL += "&lease=3s"
			}
			return s, err
		},
	}, out
}

// mustBeGone fails if one of the processes that a run has told of is still there.
func mustBeGone(t *testing.T, out *output) {
	t.Helper()
	found := 0
	for line := range strings.Lines(out.String()) {
		var name string
		var id int
		if n, _ := fmt.Sscanf(line, "%s process %d", &name, &id); n < 2 {
			continue
		}
		found++
		if err := syscall.Kill(id, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("%s, process %d, is still there: %v", name, id, err)
		}
	}
	if found < 1+len(Names) {
		t.Errorf("the output tells of %d processes:\n%s", found, out)
	}
}

// TestApart kills services in the middle, starts them again, and wants the books
// to be those of the file.
func TestApart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		broker func(string) Broker
		kill   []string
	}{
		"serve": {Serve, []string{inventory.Group, order.Group, recommendation.Group}},
		"nats":  {NATS, []string{notification.Group, logistics.Group}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, out := inProcesses(t, c.broker, t.TempDir(), slice(t, 600/few))
			cfg.Kill = c.kill
			if err := Run(t.Context(), cfg); err != nil || !strings.Contains(out.String(), "All equal.") {
				t.Fatalf("%v\n%s", err, out)
			}
			if n := strings.Count(out.String(), "takes its place"); n != len(c.kill) {
				t.Errorf("%d processes were killed in the middle; want %v\n%s", n, c.kill, out)
			}
			mustBeGone(t, out)
		})
	}
}

// TestApartInterrupted ends a run in processes in its middle, as Ctrl-C does: all of
// them stop cleanly. It goes on where a run in one process was ended, and another
// one goes on where it was.
func TestApartInterrupted(t *testing.T) {
	t.Parallel()
	dir, data := t.TempDir(), slice(t, 700/few)
	interrupt := func(cfg Config, more int64) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		before := int64(-1)
		cfg.seen = func(p Progress, _ services) {
			var sum int64
			for _, done := range p.tallies() {
				sum += done.n
			}
			if before < 0 {
				before = sum
			}
			if sum > before+more {
				cancel()
			}
		}
		if err := Run(ctx, cfg); err == nil || !Interrupted(err) {
			t.Fatalf("%v; nothing but the interruption is expected\n%s", err, cfg.Out)
		}
	}
	interrupt(Config{Dir: dir, Keep: true, Data: data, Every: 10 * time.Millisecond, Log: quiet, Out: &output{}}, 10)
	cfg, out := inProcesses(t, Serve, dir, data)
	interrupt(cfg, 10)
	mustBeGone(t, out)
	if text := mustEqual(t, Config{Dir: dir, Keep: true, Data: data}); !strings.Contains(text, "going on where an earlier run stopped") {
		t.Errorf("the last run does not go on:\n%s", text)
	}
}

// TestApartHurried kills what does not stop at once, when it is told to.
func TestApartHurried(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hurry := make(chan struct{})
	cfg, out := inProcesses(t, Serve, t.TempDir(), slice(t, 100))
	cfg.Hurry = hurry
	cfg.seen = func(_ Progress, all services) {
		r := all.(*apart).children[payment.Group]
		if err := syscall.Kill(r.process.ID(), syscall.SIGSTOP); err != nil {
			t.Error(err)
		}
		cancel()
		close(hurry)
	}
	if err := Run(ctx, cfg); err == nil || Interrupted(err) || !strings.Contains(err.Error(), "payment (process ") {
		t.Errorf("%v; want a word on payment, which was killed\n%s", err, out)
	}
	mustBeGone(t, out)
}

// TestApartFails wants an error that says what has ended and how, and nobody left.
func TestApartFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*Config)
		want   []string
	}{
		"a service is killed": {func(cfg *Config) {
			cfg.seen = func(_ Progress, all services) {
				if r := all.(*apart).children[payment.Group]; !r.asked.Load() {
					if err := r.process.Kill(); err != nil {
						t.Error(err)
					}
				}
			}
		}, []string{"payment (process ", "signal: killed"}},
		"a service does not start": {func(cfg *Config) {
			start := cfg.Apart
			cfg.Apart = func(name string, cfg Config) *exec.Cmd {
				if name == inventory.Group {
					return exec.Command(self(t), "broken")
				}
				return start(name, cfg)
			}
		}, []string{"inventory (process ", "exit status 3", "this service is broken"}},
		"the broker is killed": {func(cfg *Config) {
			start := cfg.Broker
			var served *Served
			cfg.Broker = func(ctx context.Context, dir string, log io.Writer) (s *Served, err error) {
				served, err = start(ctx, dir, log)
				return served, err
			}
			cfg.seen = func(Progress, services) {
				if err := served.Process.Kill(); err != nil {
					t.Error(err)
				}
			}
		}, []string{"serve (process ", "signal: killed"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, out := inProcesses(t, Serve, t.TempDir(), slice(t, 100))
			c.change(&cfg)
			err := Run(t.Context(), cfg)
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v; want %q in it\n%s", err, want, out)
				}
			}
			mustBeGone(t, out)
		})
	}
}
