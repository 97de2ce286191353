//go:build unix

package processes

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
	_ "github.com/posthorn/posthorn/driver/jetstream"
)

// step and turn are the events of these tests: the second one comes with a later
// version of the service.
type step struct {
	Key string `json:"key"`
	Seq int    `json:"seq"`
}

var (
	stepTaken = posthorn.Define[step]("walk.step", posthorn.Key(func(s step) string { return s.Key }))
	turnTaken = posthorn.Define[step]("walk.turn", posthorn.Key(func(s step) string { return s.Key }))
)

const (
	group     = "walkers"
	memberEnv = "POSTHORN_TEST_MEMBER"
)

// A memberConfig says what a member process does.
type memberConfig struct {
	Name     string
	URL      string
	Dir      string
	Turns    bool          // knows walk.turn, too
	FailEach int           // of so many events, one fails twice before it is handled; 0: none
	Work     time.Duration // of a handler
	Poison   int           // the event of this number kills its process; 0: none
	Fuse     string        // which waits for this file
	Hang     string        // while this file exists, handlers wait, of events before the poison's number apart
	Jump     string        // once this file exists, the wall clock is off
	By       time.Duration // by so much
}

// fails tells whether the event's first attempts are made to fail.
func (c memberConfig) fails(seq int) bool { return c.FailEach > 0 && seq%c.FailEach == 0 }

// now is the member's wall clock.
func (c memberConfig) now() time.Time {
	if c.Jump != "" && exists(c.Jump) {
		return time.Now().Add(c.By)
	}
	return time.Now()
}

var errOnPurpose = errors.New("fails on purpose")

// runMember is the main function of a member process.
func runMember(config string) int {
	var c memberConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError + 1}))
	if os.Getenv("POSTHORN_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	bus, err := posthorn.Open(ctx, c.URL, posthorn.Service("walker"), posthorn.WallClock(c.now), posthorn.Logger(log.With("member", c.Name)))
	if err != nil {
		fmt.Println("open:", err)
		return 1
	}
	f, err := os.OpenFile(filepath.Join(c.Dir, journalFile), os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer f.Close()
	g := bus.Group(group, posthorn.GroupConfig{Concurrency: 64, Checkpoint: 200 * time.Millisecond, Drain: time.Minute,
		Retry: posthorn.Retry{Attempts: posthorn.None, Late: 5, LateDelay: 200 * time.Millisecond, MaxLateDelay: 400 * time.Millisecond}})
	handle := func(ctx context.Context, e *posthorn.Event[step]) error {
		line := func(what string) {
			fmt.Fprintf(f, "%s %s %s %s %d %d %d %d %d\n", what, c.Name, e.Type, e.Key, e.Data.Seq, e.Partition, e.Position, e.Fence, e.Attempt)
		}
		line("start")
		if c.Poison != 0 && e.Data.Seq == c.Poison {
			for !exists(c.Fuse) {
				time.Sleep(5 * time.Millisecond)
			}
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		for c.Hang != "" && e.Data.Seq >= c.Poison && exists(c.Hang) {
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(c.Work)
		switch {
		case c.fails(e.Data.Seq) && e.Attempt <= 2:
			line("fail")
			return errOnPurpose
		}
		line("end")
		return nil
	}
	stepTaken.Handle(g, handle)
	if c.Turns {
		turnTaken.Handle(g, handle)
	}
	if err := g.Start(ctx); err != nil {
		fmt.Println("start:", err)
		return 1
	}
	fmt.Println("ready")
	<-ctx.Done()
	err = g.Stop(context.Background())
	err = errors.Join(err, bus.Close(context.Background()))
	fmt.Println("stopped:", err)
	if err != nil {
		return 1
	}
	return 0
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// A member is a process that was started.
type member struct {
	*process
	memberConfig
}

func (c *crowd) member(t *testing.T, cfg memberConfig) *member {
	t.Helper()
	return c.members(t, cfg, 1)[0]
}

// members starts members beside each other.
func (c *crowd) members(t *testing.T, cfg memberConfig, n int) (all []*member) {
	t.Helper()
	for range n {
		all = append(all, c.launch(t, cfg))
	}
	for _, m := range all {
		m.await(t, "ready")
	}
	return all
}

func (c *crowd) launch(t *testing.T, cfg memberConfig) *member {
	t.Helper()
	cfg.URL, cfg.Dir = cmp.Or(cfg.URL, c.url), c.dir
	c.started++
	cfg.Name = fmt.Sprintf("m%d", c.started)
	text, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &member{start(t, memberEnv+"="+string(text)), cfg}
}

// drain ends the member by a signal, as an orchestrator does, and wants a clean end.
func (m *member) drain(t *testing.T) {
	t.Helper()
	m.signal(t, syscall.SIGTERM)
	m.drained(t)
}

// drained waits for the clean end of a member that was told to.
func (m *member) drained(t *testing.T) {
	t.Helper()
	m.await(t, "stopped: <nil>")
	if err := m.wait(); err != nil {
		t.Fatalf("%s: %v", m.Name, err)
	}
}

// kill ends the member at once, and notes it for the checker.
func (c *crowd) kill(t *testing.T, m *member) {
	t.Helper()
	m.signal(t, syscall.SIGKILL)
	_ = m.wait()
	c.note(t, "killed", m.Name)
}
