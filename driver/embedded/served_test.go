package embedded_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/embedded"
)

const (
	addrEnv = "POSTHORN_TEST_ADDR"
	holdEnv = "POSTHORN_TEST_HOLD" // a file: while it is there, no sync completes
)

const testToken = "hush-a-token-of-tests"

// serve serves a directory in this process.
func serve(t *testing.T, dir string, opts embedded.ServeOptions) (*embedded.Server, *bed) {
	t.Helper()
	b := &bed{t: t, dir: dir}
	opts.Addr, opts.Token = cmp.Or(opts.Addr, "127.0.0.1:0"), testToken
	s, err := embedded.Serve(t.Context(), dir, opts, b.env())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s, b
}

func withToken(s *embedded.Server) string {
	return strings.Replace(s.URL(), "://", "://"+testToken+"@", 1)
}

// A servedChild is a process of its own that serves a directory.
type servedChild struct {
	t    *testing.T
	dir  string
	addr string // the same after a restart
	hold string
	cmd  *exec.Cmd
	in   io.WriteCloser
}

// serveChild serves a directory in a child process.
func serveChild(t *testing.T, dir string) *servedChild {
	t.Helper()
	c := &servedChild{t: t, dir: dir, addr: "127.0.0.1:0", hold: filepath.Join(t.TempDir(), "hold")}
	c.start()
	t.Cleanup(c.kill)
	return c
}

func (c *servedChild) start() {
	c.t.Helper()
	c.cmd = exec.Command(os.Args[0], "-test.run=^TestServedChild$", "-test.v=false")
	c.cmd.Env = append(os.Environ(), childEnv+"=serve", dirEnv+"="+c.dir, addrEnv+"="+c.addr, holdEnv+"="+c.hold)
	c.cmd.Stderr = os.Stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		c.t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "nats://") {
		c.t.Fatalf("the child does not serve: %q", lines.Text())
	}
	c.addr = strings.TrimPrefix(lines.Text(), "nats://")
}

func (c *servedChild) url() string { return "nats://" + testToken + "@" + c.addr }

// kill ends it as a crash does.
func (c *servedChild) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// close ends it cleanly.
func (c *servedChild) close() {
	c.t.Helper()
	_ = c.in.Close()
	if err := c.cmd.Wait(); err != nil {
		c.t.Errorf("the serving child: %v", err)
	}
}

// holdSyncs lets no sync complete until release is called.
func (c *servedChild) holdSyncs() (release func()) {
	c.t.Helper()
	if err := os.WriteFile(c.hold, nil, 0o600); err != nil {
		c.t.Fatal(err)
	}
	return func() {
		if err := os.Remove(c.hold); err != nil {
			c.t.Error(err)
		}
	}
}

// TestServedChild is the child.
func TestServedChild(t *testing.T) {
	if os.Getenv(childEnv) != "serve" {
		return // it is the child of other tests
	}
	env := driver.Env{
		Service: "serve", Member: "serve", Now: time.Now, Alarm: func(driver.Alarm) {},
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	}
	hold := os.Getenv(holdEnv)
	s, err := embedded.Serve(t.Context(), os.Getenv(dirEnv), embedded.ServeOptions{
		Addr: os.Getenv(addrEnv), Token: testToken,
		Sync: func(ctx context.Context, sync func() error) error {
			for {
				if _, err := os.Stat(hold); err != nil || ctx.Err() != nil {
					return sync()
				}
				time.Sleep(time.Millisecond)
			}
		},
	}, env)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(s.URL())
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent closes it
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestServe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	before := open(t, dir, embedded.Options{}) // what embedded: leaves behind is served as it is
	before.topic("order", 1)
	before.group("g", driver.StartAt{}, "order")
	before.mustPublish(order0, events("a", 10)...)
	_, err := embedded.Serve(t.Context(), dir, embedded.ServeOptions{Token: testToken, Addr: "127.0.0.1:0"}, before.env())
	wantErr(t, err, driver.ErrLocked, dir, "serve it first")
	before.close()

	s, _ := serve(t, dir, embedded.ServeOptions{})
	b := dial(t, withToken(s))
	inside := open(t, dir, embedded.Options{}) // the same server
	inside.mustPublish(order0, events("b", 10)...)
	b.mustPublish(order0, events("c", 10)...)
	tn, _ := b.tenure("g", "order")
	if got := ids(fetch(t, tn, 30)); !strings.HasPrefix(got, "a0 ") || !strings.HasSuffix(got, " c9") {
		t.Errorf("fetched %s", got)
	}
	b.audit()
	if err := s.Health(t.Context()); err != nil {
		t.Error(err)
	}
	if len(b.alarms) > 0 {
		t.Errorf("alarms: %+v", b.alarms)
	}
	things, err := b.Describe(t.Context())
	if text := fmt.Sprint(things, err, s.URL(), s.Dir()); strings.Contains(text, testToken) || strings.Contains(text, "hush") {
		t.Errorf("the token shows: %s", text)
	}

	addr := strings.TrimPrefix(s.URL(), "nats://")
	_, err = tryDial(t, s.URL())
	wantErr(t, err, driver.ErrDenied, addr)
	_, err = tryDial(t, "nats://"+testToken+"x@"+addr)
	wantErr(t, err, driver.ErrDenied, addr, "token")
	if strings.Contains(err.Error(), "hush") {
		t.Errorf("the token shows: %v", err)
	}
	_, err = embedded.Serve(t.Context(), t.TempDir(), embedded.ServeOptions{Token: testToken, Addr: addr}, b.env())
	wantErr(t, err, driver.ErrUnavailable, addr, "another address")
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Errorf("a second close: %v", err)
	}
}

func TestServeRefuses(t *testing.T) {
	t.Parallel()
	for word, opts := range map[string]embedded.ServeOptions{
		"no token":        {},
		"begins with '$'": {Token: "$2a$11$hush"},
		"spaces":          {Token: "hush hush"},
		"reached from":    {Token: "hush", Addr: "0.0.0.0:4222"},
		"NATS cluster":    {Token: "hush", Addr: ":4222"},
		"127.0.0.1:4222":  {Token: "hush", Addr: "192.0.2.1:4222"},
		"host:port":       {Token: "hush", Addr: "127.0.0.1"},
		"cannot be read":  {Token: "hush", Addr: "127.0.0.1:x"},
		"shorter than":    {Token: "hush", Lease: time.Millisecond},
		"from outside":    {Token: "hush", Addr: "example.com:4222"},
	} {
		dir := filepath.Join(t.TempDir(), "store")
		s, err := embedded.Serve(t.Context(), dir, opts, (&bed{t: t}).env())
		if err == nil {
			_ = s.Close(t.Context())
		}
		wantErr(t, err, driver.ErrInvalid, word)
		if strings.Contains(err.Error(), "hush") {
			t.Errorf("the token shows: %v", err)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: the directory was made", word)
		}
	}
}

// A publish is confirmed after the barrier, and one sync serves all who wait.
func TestServeConfirmsAfterTheBarrier(t *testing.T) {
	t.Parallel()
	var held atomic.Bool
	var syncs atomic.Int32
	goOn := make(chan struct{})
	s, _ := serve(t, t.TempDir(), embedded.ServeOptions{Sync: func(ctx context.Context, sync func() error) error {
		syncs.Add(1)
		if held.Load() {
			<-goOn
		}
		return sync()
	}})
	b := dial(t, withToken(s))
	b.topic("order", 1)
	b.group("g", driver.StartAt{}, "order")
	tn, _ := b.tenure("g", "order")
	held.Store(true)
	before := syncs.Load()
	const callers = 50
	done := make(chan driver.Outcome, callers)
	for i := range callers {
		go func() { done <- b.publish(order0, event(fmt.Sprint("a", i), "k"))[0] }()
	}
	fetch(t, tn, callers) // they are stored, and can be read
	if len(done) > 0 {
		t.Errorf("%d of %d were confirmed before the barrier", len(done), callers)
	}
	floor := make(chan error, 1)
	go func() { floor <- tn.Checkpoint(t.Context(), driver.Checkpoint{Floor: callers, Mark: callers}) }()
	held.Store(false)
	close(goOn)
	for range callers {
		if o := <-done; o.State != driver.Stored {
			t.Errorf("after the barrier: %+v", o)
		}
	}
	if err := <-floor; err != nil {
		t.Error(err)
	}
	if n := syncs.Load() - before; n > 10 {
		t.Errorf("%d syncs for %d who waited together", n, callers)
	}
}

// What was confirmed is there after a kill of the server; what was not is said to
// be unknown, or is confirmed later, and clients go on by themselves.
func TestServerKilledAfterConfirmation(t *testing.T) {
	t.Parallel()
	c := serveChild(t, t.TempDir())
	b := dial(t, c.url())
	b.topic("order", 1)
	b.group("g", driver.StartAt{}, "order")
	m, _ := b.join("g", "order")
	tn := m.next(t)
	confirmed := map[string]bool{}
	for round := range 5 {
		for i := range 20 {
			id := fmt.Sprintf("%d-%d", round, i)
			if o := b.publish(order0, event(id, "k"))[0]; o.State == driver.Stored {
				confirmed[id] = true
			}
		}
		release := c.holdSyncs()
		pending := make(chan driver.Outcome, 1)
		go func() { pending <- b.publishBy(20*time.Second, order0, event(fmt.Sprintf("%d-held", round), "k"))[0] }()
		time.Sleep(20 * time.Millisecond) // it waits for the barrier then, as a rule; it holds either way
		if len(pending) > 0 {
			t.Error("confirmed while no sync completed")
		}
		c.kill()
		release()
		c.start()
		if o := <-pending; o.State == driver.Stored {
			confirmed[fmt.Sprintf("%d-held", round)] = true
		} else {
			wantErr(t, o.Err, driver.ErrUnavailable)
		}
	}
	if len(confirmed) < 90 {
		t.Fatalf("only %d were confirmed", len(confirmed))
	}
	end := b.publish(order0, event("end", "k"))[0]
	if end.State != driver.Stored {
		t.Fatalf("at the end: %+v", end)
	}
	for seen := false; !seen; {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		into := make([]driver.Delivery, 100)
		n, err := tn.Fetch(ctx, into, 1<<20)
		cancel()
		if errors.Is(err, driver.ErrLost) {
			tn = m.next(t)
		}
		for _, d := range into[:n] {
			delete(confirmed, d.Msg.ID)
			seen = seen || d.Msg.ID == "end"
		}
	}
	if len(confirmed) > 0 {
		t.Errorf("confirmed and lost: %v", confirmed)
	}
	c.close()
}

// A sync that fails on the server is the end of confirming, for its clients too,
// until the server is started anew.
func TestServeSyncFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var broken atomic.Bool
	fail := func(ctx context.Context, sync func() error) error {
		if broken.Load() {
			return errors.New("the disk is on fire")
		}
		return sync()
	}
	s, own := serve(t, dir, embedded.ServeOptions{Sync: fail})
	b := dial(t, withToken(s))
	b.topic("order", 1)
	b.mustPublish(order0, event("a", "k"))
	broken.Store(true)
	o := b.publish(order0, event("b", "k"))[0]
	if o.State != driver.Unknown {
		t.Errorf("%+v", o)
	}
	wantErr(t, o.Err, driver.ErrUnavailable, "on fire", dir)
	broken.Store(false)
	if o := b.publish(order0, event("c", "k"))[0]; o.State != driver.NotStored {
		t.Errorf("after a sync that failed: %+v", o)
	}
	wantErr(t, s.Health(t.Context()), driver.ErrUnavailable, "on fire")
	wantErr(t, b.Health(t.Context()), driver.ErrUnavailable, "on fire")
	if a, ok := own.alarm("sync_failed"); !ok || !strings.Contains(a.Text, dir) {
		t.Errorf("the server's alarms: %+v", own.alarms)
	}
	if _, ok := b.alarm("sync_failed"); !ok {
		t.Errorf("the client's alarms: %+v", b.alarms)
	}
	addr := strings.TrimPrefix(s.URL(), "nats://")
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	serve(t, dir, embedded.ServeOptions{Addr: addr})
	eventually(t, "confirming again", func() bool { return b.publishBy(time.Second, order0, event("d", "k"))[0].State == driver.Stored })
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.alarms[len(b.alarms)-1]; a.Code != "sync_failed" || !a.Cleared {
		t.Errorf("the alarm is not cleared: %+v", b.alarms)
	}
}

// A full disk is an error for clients as well, and passes.
func TestServeDiskFull(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, "12m")
	s, own := serve(t, dir, embedded.ServeOptions{})
	b := dial(t, withToken(s))
	b.topic("order", 1)
	b.group("g", driver.StartAt{}, "order")
	b.mustPublish(order0, events("first", 10)...)
	tn, _ := b.tenure("g", "order")
	fetch(t, tn, 10)
	free := fill(t, dir)
	eventually(t, "the server to see it", func() bool { return s.Health(t.Context()) != nil })
	wantErr(t, s.Health(t.Context()), driver.ErrNoSpace, dir, "make room")
	eventually(t, "the client to hear of it", func() bool { return b.Health(t.Context()) != nil })
	wantErr(t, b.Health(t.Context()), driver.ErrNoSpace, dir, "make room")
	wantErr(t, b.publishBy(100*time.Millisecond, order0, event("no", "k"))[0].Err, driver.ErrNoSpace, dir)
	_, err := tryDial(t, withToken(s)+"?lease=2s") // one that comes now hears of it too
	if err != nil {
		t.Errorf("opening: %v", err)
	}
	if _, ok := own.alarm("disk_full"); !ok {
		t.Errorf("the server's alarms: %+v", own.alarms)
	}
	waiting := make(chan driver.Outcome, 1)
	go func() { waiting <- b.publish(order0, event("patient", "k"))[0] }()
	free()
	if o := <-waiting; o.State != driver.Stored {
		t.Errorf("who waited for room: %+v", o)
	}
	eventually(t, "health", func() bool { return b.Health(t.Context()) == nil && s.Health(t.Context()) == nil })
	if got := ids(fetch(t, tn, 1)); got != "patient" {
		t.Errorf("fetched %s", got)
	}
}
