//go:build unix

package processes

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/internal/leaktest"
)

func TestMain(m *testing.M) {
	if config := os.Getenv(memberEnv); config != "" {
		os.Exit(runMember(config))
	}
	if config := os.Getenv(serveEnv); config != "" {
		os.Exit(runServe(config))
	}
	if url := os.Getenv(idleEnv); url != "" {
		os.Exit(runIdle(url))
	}
	if config := os.Getenv(memoryEnv); config != "" {
		os.Exit(runMemory(config))
	}
	leaktest.Main(m)
}

const (
	journalFile = "journal"
	keys        = 40
)

// A crowd is a group of member processes on a broker, a publisher, and the journal
// that all members write.
type crowd struct {
	url     string
	dir     string
	bus     *posthorn.Bus
	driver  driver.Driver // to look at positions
	journal *os.File
	started int

	reading sync.Mutex
	buf     []byte
	rest    []byte // of buf: the beginning of a line
	read    int64
	parsed  []line

	expiry time.Duration // of what round publishes; 0: none
	resend bool          // what is refused is published again, as the same events

	mu        sync.Mutex
	confirmed map[string]int // by type: how many of each key, numbered from 1
	refused   int
}

// nobodyDies has newCrowd take a lease that no member outstays on a busy machine.
var nobodyDies = []string{"lease", "10s"}

func newCrowd(t *testing.T, b broker, params ...string) *crowd {
	t.Helper()
	params = append([]string{"instance", fmt.Sprintf("t%d", time.Now().UnixNano())}, params...)
	address := b.url(t, params...)
	return crowdAt(t, address, address)
}

// crowdAt has members at a URL, and a publisher at another one of the same broker.
func crowdAt(t *testing.T, address, publisher string) *crowd {
	t.Helper()
	c := &crowd{url: address, dir: t.TempDir(), confirmed: map[string]int{}, buf: make([]byte, 64<<10)}
	log := slog.New(slog.DiscardHandler)
	var err error
	if c.bus, err = posthorn.Open(t.Context(), publisher, posthorn.Service("publisher"), posthorn.Logger(log)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.bus.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	c.driver = openDriver(t, c.url)
	if c.journal, err = os.OpenFile(filepath.Join(c.dir, journalFile), os.O_APPEND|os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.journal.Close() })
	return c
}

func (c *crowd) note(t *testing.T, what, who string) {
	t.Helper()
	if _, err := fmt.Fprintf(c.journal, "%s %s\n", what, who); err != nil {
		t.Fatal(err)
	}
}

// round publishes one event of a type for each key. Only what is confirmed counts:
// numbers whose fate is unknown are left out for good.
func (c *crowd) round(t *testing.T, typ *posthorn.EventType[step], seq int) bool {
	t.Helper()
	var batch []*posthorn.Outgoing
	for k := range keys {
		var opts []posthorn.PublishOption
		if c.expiry > 0 {
			opts = append(opts, posthorn.ExpiresAt(time.Now().Add(c.expiry)))
		}
		batch = append(batch, typ.New(step{Key: fmt.Sprint("k", k), Seq: seq}, opts...))
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := c.bus.PublishAll(ctx, batch...)
	c.mu.Lock()
	defer c.mu.Unlock()
	for err != nil {
		if c.refused++; c.refused < 4 || c.refused%100 == 0 {
			t.Logf("batch %d, refused: %v", c.refused, err)
		}
		if !c.resend || ctx.Err() != nil {
			return false
		}
		c.mu.Unlock()
		err = c.bus.PublishAll(ctx, batch...)
		c.mu.Lock()
	}
	for k := range keys {
		c.confirmed[fmt.Sprintf("%s k%d %d", typ.Name(), k, seq)] = 1
	}
	return true
}

// load publishes, in step with the members' work, until stop is called.
func (c *crowd) load(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for seq := 1; ctx.Err() == nil; seq++ {
			c.round(t, stepTaken, seq)
			for ctx.Err() == nil && c.backlog(t) > 1000 {
				time.Sleep(5 * time.Millisecond)
			}
		}
	}()
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); <-done }) }
	t.Cleanup(stop)
	return stop
}

// backlog is how many confirmed events are not handled yet.
func (c *crowd) backlog(t *testing.T) int {
	handled := c.ends(t)
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.confirmed) - handled // some are handled twice: near enough
}

// ends counts the handlers that have ended well.
func (c *crowd) ends(t *testing.T) (n int) {
	t.Helper()
	for _, l := range c.lines(t) {
		if l.what == "end" {
			n++
		}
	}
	return n
}

// settled waits until all that was confirmed is handled.
func (c *crowd) settled(t *testing.T) {
	t.Helper()
	var left []string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if left = c.unhandled(t); len(left) == 0 {
			return
		}
	}
	positions, _ := c.driver.Positions(t.Context(), group)
	members, _ := c.driver.Members(t.Context(), group)
	t.Fatalf("%d of %d confirmed events are not handled, such as %s\npositions %+v\nmembers %+v", len(left), len(c.confirmed), left[0], positions, members)
}

func (c *crowd) unhandled(t *testing.T) (left []string) {
	t.Helper()
	ended := map[string]bool{}
	for _, l := range c.lines(t) {
		if l.what == "end" {
			ended[l.event()] = true
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for e := range c.confirmed {
		if !ended[e] {
			left = append(left, e)
		}
	}
	return left
}

// A line is a line of the journal.
type line struct {
	what, member, typ, key   string
	seq, partition, position int
	fence, attempt           int
}

func (l line) event() string { return fmt.Sprintf("%s %s %d", l.typ, l.key, l.seq) }

// lines returns the journal's lines. It reads what has come since the last call.
func (c *crowd) lines(t *testing.T) []line {
	t.Helper()
	c.reading.Lock()
	defer c.reading.Unlock()
	for {
		n, err := c.journal.ReadAt(c.buf[len(c.rest):], c.read)
		c.read += int64(n)
		text := c.buf[:len(c.rest)+n]
		end := bytes.LastIndexByte(text, '\n') + 1 // what follows is being written
		for l := range bytes.Lines(text[:end]) {
			c.parsed = append(c.parsed, parse(t, string(l)))
		}
		c.rest = c.buf[:copy(c.buf, text[end:])]
		if err != nil || n == 0 {
			return slices.Clip(c.parsed)
		}
	}
}

func parse(t *testing.T, text string) (l line) {
	t.Helper()
	f := strings.Fields(text)
	if len(f) != 2 && len(f) != 9 {
		t.Fatalf("journal: %q has %d fields", text, len(f))
	}
	l.what, l.member = f[0], f[1]
	if len(f) == 2 {
		return l
	}
	l.typ, l.key = f[2], f[3]
	for i, into := range []*int{&l.seq, &l.partition, &l.position, &l.fence, &l.attempt} {
		n, err := strconv.Atoi(f[4+i])
		if err != nil {
			t.Fatalf("journal: %q: %v", text, err)
		}
		*into = n
	}
	return l
}

// balanced waits until the partitions are divided among these members, each with
// about its share.
func (c *crowd) balanced(t *testing.T, members int) {
	t.Helper()
	var positions []driver.Position
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		var err error
		if positions, err = c.driver.Positions(t.Context(), group); err != nil {
			continue // the broker is away
		}
		held := map[string]int{}
		for _, p := range positions {
			held[p.Member]++
		}
		low, high := len(positions), 0
		for _, n := range held {
			low, high = min(low, n), max(high, n)
		}
		if held[""] == 0 && len(held) == members && high-low <= 1 {
			return
		}
	}
	t.Fatalf("the partitions are not divided among %d members: %+v", members, positions)
}

func openDriver(t *testing.T, url string) driver.Driver {
	t.Helper()
	u := mustParse(t, url)
	open, ok := driver.Lookup(u.Scheme)
	if !ok {
		t.Fatalf("nothing serves %s", u.Scheme)
	}
	d, err := open(t.Context(), u, driver.Env{Service: "look", Member: "look", Log: slog.New(slog.DiscardHandler), Now: time.Now, Alarm: func(driver.Alarm) {}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return d
}
