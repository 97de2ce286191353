//go:build unix

package compare

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthorn/posthorn/driver/embedded/natstest"
)

const (
	// patience bounds the wait for what is expected to come.
	patience = 60 * time.Second
	// moment is for how long a test looks for what is expected not to come.
	moment = 2 * time.Second
)

// children are what a process of its own does for a test, because it may end it.
var children = map[string]func(url string) error{
	"odd-header": oddHeaderChild,
	"cancel":     cancelChild,
}

func TestMain(m *testing.M) {
	if name := os.Getenv("COMPARE_CHILD"); name != "" {
		if err := children[name](os.Getenv("COMPARE_URL")); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var panicLine = regexp.MustCompile(`(?m)^panic: .*$`)

// runChild runs a child and returns the panic that ended it, "" without one.
func runChild(t *testing.T, name, url string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), "COMPARE_CHILD="+name, "COMPARE_URL="+url)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	line := panicLine.FindString(stderr.String())
	if err != nil && line == "" {
		t.Fatalf("the process of %s: %v: %s", name, err, stderr.String())
	}
	return line
}

// A server is a NATS server with a connection for the test's own looks.
type server struct {
	*natstest.Server
	t  *testing.T
	nc *nats.Conn
	js jetstream.JetStream
}

func start(t *testing.T) *server {
	t.Helper()
	s := &server{Server: natstest.Start(t, natstest.Options{}), t: t}
	var err error
	if s.nc, err = nats.Connect(s.URL()); err == nil {
		t.Cleanup(s.nc.Close)
		s.js, err = jetstream.New(s.nc)
	}
	must(t, err)
	return s
}

// stored is how many messages a stream holds.
func (s *server) stored(stream string) uint64 {
	s.t.Helper()
	st, err := s.js.Stream(s.t.Context(), stream)
	must(s.t, err)
	return st.CachedInfo().State.Msgs
}

// consumer is what the server knows of a Watermill subscriber.
func (s *server) consumer(topic string) *jetstream.ConsumerInfo {
	s.t.Helper()
	c, err := s.js.Consumer(s.t.Context(), topic, consumerName)
	must(s.t, err)
	return c.CachedInfo()
}

// settled waits until the server counts n messages of a topic as dealt with, and no
// other as waiting.
func (s *server) settled(topic string, n uint64) {
	s.t.Helper()
	await(s.t, "the server counts all as acknowledged", func() bool {
		info := s.consumer(topic)
		return info.AckFloor.Stream == n && info.NumPending == 0 && info.NumAckPending == 0
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v until %s", patience, what)
		}
	}
}

// came waits for a signal that has to come.
func came(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("waited %v until %s", patience, what)
	}
}

// within tells whether a signal comes in that time.
func within(d time.Duration, c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	case <-time.After(d):
		return false
	}
}

// watermill notes what was seen of Watermill, and fails when it was not the defect.
func watermill(t *testing.T, defect bool, format string, args ...any) {
	t.Helper()
	t.Logf("Watermill: "+format, args...)
	if !defect {
		t.Error("Watermill passes: sharpen the case, or take it out of docs/compared.md")
	}
}

// ours notes what was seen of Posthorn, and fails when it was not what it promises.
func ours(t *testing.T, kept bool, format string, args ...any) {
	t.Helper()
	t.Logf("Posthorn: "+format, args...)
	if !kept {
		t.Error("Posthorn breaks its promise")
	}
}

// TestPage holds docs/compared.md to the versions of go.mod and to the tests that
// there are. That the tests it names exist is looked at with all other documents.
func TestPage(t *testing.T) {
	page := read(t, "../docs/compared.md")
	for path, mod := range map[string]string{
		"github.com/ThreeDotsLabs/watermill":         "go.mod",
		"github.com/ThreeDotsLabs/watermill-nats/v2": "go.mod",
		"github.com/nats-io/nats.go":                 "go.mod",
		"github.com/nats-io/nats-server/v2":          "../driver/embedded/go.mod", // where the server is built
	} {
		version := regexp.MustCompile(regexp.QuoteMeta(path) + ` v\S+`)
		here := version.FindString(read(t, mod))
		if here == "" {
			t.Fatalf("%s does not require %s", mod, path)
		}
		if !strings.Contains(page, "`"+here+"`") {
			t.Errorf("docs/compared.md does not tell of `%s`", here)
		}
		if there := version.FindString(read(t, "../bench/go.mod")); there != here {
			t.Errorf("bench/go.mod has %s, and %s has %s", there, mod, here)
		}
	}
	files, err := filepath.Glob("*_test.go")
	must(t, err)
	for _, f := range files {
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(t `).FindAllStringSubmatch(read(t, f), -1) {
			if m[1] != "TestPage" && !strings.Contains(page, "`"+m[1]+"`") {
				t.Errorf("docs/compared.md does not tell of %s", m[1])
			}
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	return string(text)
}
