//go:build unix

package processes

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/embedded"
	"github.com/posthorn/posthorn/driver/embedded/natstest"
)

// A broker is where a crowd works.
type broker struct {
	base string
	// stop and resume stop and continue all of its processes.
	stop, resume func()
	// crash ends one process of it as a crash does, and starts it again.
	crash func(t *testing.T)
	// freeze stops one process of several, until thaw. It is nil where there is one only.
	freeze func() (thaw func())
}

// lease is short, so that a takeover does not take long.
const lease = time.Second

// url opens the broker, with parameters by name and value.
func (b broker) url(t *testing.T, params ...string) string {
	u := mustParse(t, b.base)
	q := u.Query()
	q.Set("lease", lease.String())
	for i := 0; i < len(params); i += 2 {
		q.Set(params[i], params[i+1])
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// mustParse parses a URL that may name several hosts.
func mustParse(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func startServer(t *testing.T) broker {
	s := natstest.Start(t, natstest.Options{})
	return broker{base: s.URL() + "?durability=server", stop: s.Stop, resume: s.Continue, crash: func(*testing.T) {
		s.Kill()
		s.Restart()
	}}
}

func startCluster(t *testing.T) broker {
	c := natstest.StartCluster(t, 3, natstest.Options{})
	each := func(f func(*natstest.Server)) func() {
		return func() {
			for _, s := range c.Servers {
				f(s)
			}
		}
	}
	next := 0
	return broker{base: c.URL(), stop: each((*natstest.Server).Stop), resume: each((*natstest.Server).Continue), crash: func(*testing.T) {
		s := c.Servers[next%3]
		next++
		s.Kill()
		s.Restart()
	}, freeze: func() func() {
		s := c.Servers[next%3]
		s.Stop()
		return s.Continue
	}}
}

const (
	serveEnv     = "POSTHORN_TEST_SERVE" // the directory
	serveAddrEnv = "POSTHORN_TEST_SERVE_ADDR"
	serveToken   = "loopback-only-and-for-tests"
)

func startServe(t *testing.T) broker {
	dir := t.TempDir()
	p := start(t, serveEnv+"="+dir, serveAddrEnv+"=127.0.0.1:0")
	var addr string
	if _, err := fmt.Sscan(p.await(t, "serving"), new(string), &addr); err != nil {
		t.Fatal(err)
	}
	return broker{base: "nats://" + serveToken + "@" + addr,
		stop:   func() { p.signal(t, syscall.SIGSTOP) },
		resume: func() { p.signal(t, syscall.SIGCONT) },
		crash: func(t *testing.T) {
			p.signal(t, syscall.SIGKILL)
			_ = p.wait()
			p = start(t, serveEnv+"="+dir, serveAddrEnv+"="+addr)
			p.await(t, "serving")
		}}
}

// runServe is the main function of a process that serves a directory.
func runServe(dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	env := driver.Env{Service: "serve", Member: "serve", Now: time.Now, Alarm: func(a driver.Alarm) { fmt.Fprintln(os.Stderr, a.Text) },
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))}
	s, err := embedded.Serve(ctx, dir, embedded.ServeOptions{Addr: os.Getenv(serveAddrEnv), Token: serveToken}, env)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("serving", strings.TrimPrefix(s.URL(), "nats://"))
	<-ctx.Done()
	if err := s.Close(context.Background()); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}
