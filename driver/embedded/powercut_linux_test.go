package embedded_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/embedded"
)

const (
	cuts       = 6
	cutWriters = 4
	cutKeys    = 10  // of a writer
	cutBacklog = 100 // so that the group is close behind the writers
	// What does not come for so long is not waited for: the books will tell.
	cutPatience = time.Minute

	roundEnv = "POSTHORN_TEST_ROUND"
	afterEnv = "POSTHORN_TEST_AFTER" // cut when so many events of this round are confirmed
	howEnv   = "POSTHORN_TEST_HOW"
	slowEnv  = "POSTHORN_TEST_SLOW" // before each sync, a wait, as on a disk that is slow
)

// heavy is the data of the events of this test.
type heavy struct {
	Key string `json:"key"`
	Seq int    `json:"seq"`
	Pad string `json:"pad"`
}

var heavyMade = posthorn.Define[heavy]("heavy.made", posthorn.In(posthorn.DefineTopic("heavy", posthorn.TopicConfig{Partitions: 2})),
	posthorn.Key(func(h heavy) string { return h.Key }))

// A cutter publishes and handles, and keeps books of both outside of the disk.
type cutter struct {
	t               *testing.T
	bus             *posthorn.Bus
	round           atomic.Int64
	confirmed, seen *journal
	ok, handled     atomic.Int64 // of this round: confirmed, and handled

	next [cutWriters]int // numbers of this round

	mu    sync.Mutex
	early map[string]int  // by batch of this round that is not confirmed: how many are handled
	done  map[string]bool // batches that are confirmed, or left out
}

func newCutter(t *testing.T, bus *posthorn.Bus, dir string) *cutter {
	return &cutter{t: t, bus: bus, confirmed: openJournal(t, dir, "confirmed"), seen: openJournal(t, dir, "seen")}
}

func (c *cutter) consume(ctx context.Context) {
	c.t.Helper()
	group := c.bus.Group("readers", posthorn.GroupConfig{Concurrency: 16, Checkpoint: 20 * time.Millisecond})
	heavyMade.Handle(group, func(_ context.Context, e *posthorn.Event[heavy]) error {
		c.seen.line("%s %d %d %d", e.Key, e.Data.Seq, e.Partition, e.Position)
		if int64(e.Data.Seq/1_000_000) == c.round.Load() {
			c.handled.Add(1)
			c.mu.Lock()
			if b := batchOf(e.Key, e.Data.Seq); !c.done[b] {
				c.early[b]++
			}
			c.mu.Unlock()
		}
		return nil
	})
	if err := group.Start(ctx); err != nil {
		c.t.Fatal(err)
	}
}

// begin begins a round.
func (c *cutter) begin(round int) {
	c.round.Store(int64(round))
	c.ok.Store(0)
	c.handled.Store(0)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next = [cutWriters]int{}
	c.early, c.done = map[string]int{}, map[string]bool{}
}

func batchOf(key string, seq int) string {
	writer, _, _ := strings.Cut(key, "k")
	return fmt.Sprint(writer, " ", seq)
}

// ahead tells whether something is handled that is not confirmed.
func (c *cutter) ahead() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.early) > 0
}

var pad = strings.Repeat("x", 1000)

// write publishes until ctx ends, or for so many batches if they are limited.
func (c *cutter) write(ctx context.Context, batches int) {
	var wg sync.WaitGroup
	for w := range cutWriters {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil && (batches == 0 || n < batches); n++ {
				for end := time.Now().Add(cutPatience); c.ok.Load()-c.handled.Load() > cutBacklog && ctx.Err() == nil && time.Now().Before(end); {
					time.Sleep(time.Millisecond)
				}
				c.next[w]++
				c.batch(ctx, w, int(c.round.Load())*1_000_000+c.next[w])
			}
		})
	}
	wg.Wait()
}

// batch publishes an event of each of a writer's keys, and notes it if all are
// confirmed. What is unknown or refused is left out for good.
func (c *cutter) batch(ctx context.Context, w, seq int) {
	var events []*posthorn.Outgoing
	var text strings.Builder
	for k := range cutKeys {
		key := fmt.Sprintf("w%dk%d", w, k)
		events = append(events, heavyMade.New(heavy{key, seq, pad}))
		fmt.Fprintf(&text, "%s %d\n", key, seq)
	}
	lines := strings.TrimSuffix(text.String(), "\n")
	err := c.bus.PublishAll(ctx, events...)
	c.mu.Lock()
	b := batchOf(fmt.Sprintf("w%dk", w), seq)
	delete(c.early, b)
	c.done[b] = true
	c.mu.Unlock()
	if err != nil {
		time.Sleep(5 * time.Millisecond) // the server is away
		return
	}
	c.confirmed.line("%s", lines)
	c.ok.Add(cutKeys)
}

// reached waits until so many are confirmed, then for a moment more, and then for one
// at which the group is ahead of the disk. If there is none for long, so be it.
func (c *cutter) reached(ctx context.Context, n int64, moment time.Duration) {
	for end := time.Now().Add(cutPatience); c.ok.Load() < n && ctx.Err() == nil && time.Now().Before(end); {
		time.Sleep(100 * time.Microsecond)
	}
	time.Sleep(moment)
	for end := time.Now().Add(5 * time.Second); !c.ahead() && time.Now().Before(end); {
		time.Sleep(10 * time.Microsecond)
	}
}

// noteStored writes down what is on the disk, and where the group stands, before
// anything has been done about it.
func noteStored(t *testing.T, dir, store string, round int) error {
	positions := openJournal(t, dir, "positions")
	nc, err := embedded.Connect(context.Background(), store)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := nc.JetStream()
	if err != nil {
		return err
	}
	var text strings.Builder
	for p := range 2 {
		stream := fmt.Sprintf("PH-T-heavy-%d", p)
		info, err := js.StreamInfo(stream)
		if errors.Is(err, nats.ErrStreamNotFound) && round == 0 {
			continue
		} else if err != nil {
			return fmt.Errorf("%s: %w", stream, err)
		}
		sub, err := js.SubscribeSync("", nats.BindStream(stream), nats.OrderedConsumer())
		if err != nil {
			return err
		}
		for range info.State.Msgs {
			m, err := sub.NextMsg(time.Minute)
			if err != nil {
				return fmt.Errorf("%s: %w", stream, err)
			}
			_, seq, _ := strings.Cut(string(m.Data), `"seq":`)
			seq, _, _ = strings.Cut(seq, ",")
			fmt.Fprintf(&text, "%s %s\n", m.Header["ce-subject"][0], seq)
		}
		if err := sub.Unsubscribe(); err != nil {
			return err
		}
		m, err := js.GetLastMsg("PH-STATE", fmt.Sprintf("ph.s.at.readers.heavy.%d", p))
		if errors.Is(err, nats.ErrMsgNotFound) {
			continue
		} else if err != nil {
			return err
		}
		var at struct{ Floor, Mark, Seen uint64 }
		if err := json.Unmarshal(m.Data, &at); err != nil {
			return err
		}
		positions.line("%d %d %d %d %d %d", round, p, at.Floor, at.Mark, at.Seen, info.State.LastSeq)
	}
	return os.WriteFile(filepath.Join(dir, fmt.Sprint("stored-", round)), []byte(text.String()), 0o600)
}

func envInt(name string) int {
	n, _ := strconv.Atoi(os.Getenv(name))
	return n
}

// slowly is the syncer of a disk that is slow.
func slowly(wait time.Duration) func(context.Context, func() error) error {
	return func(_ context.Context, sync func() error) error {
		time.Sleep(wait)
		return sync()
	}
}

func cutEnv() driver.Env {
	return driver.Env{Service: "test", Member: "test-" + rand.Text(), Now: time.Now, Alarm: func(a driver.Alarm) { fmt.Println("alarm", a.Code) },
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError + 1}))}
}

// cutEmbedded is the child that has a bus on the disk. It publishes and handles until
// the power is cut; in the last round it goes on until everything is handled.
func cutEmbedded(t *testing.T, dir string) {
	mnt := mountDisk(dir)
	store := filepath.Join(mnt, "store")
	ctx := context.Background()
	var bus *posthorn.Bus
	var err error
	quiet := posthorn.Logger(slog.New(slog.DiscardHandler))
	if slow := envInt(slowEnv); slow == 0 {
		bus, err = posthorn.Open(ctx, "embedded:"+store, posthorn.Service("test"), quiet)
	} else {
		var d driver.Driver
		if d, err = embedded.Open(ctx, store, embedded.Options{Sync: slowly(time.Duration(slow) * time.Millisecond)}, cutEnv()); err == nil {
			bus, err = posthorn.OpenDriver(ctx, d, posthorn.Service("test"), quiet)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	c := newCutter(t, bus, dir)
	round := envInt(roundEnv)
	c.begin(round)
	if err := noteStored(t, dir, store, round); err != nil {
		t.Fatal(err)
	}
	c.consume(ctx)
	if round < cuts {
		go func() {
			c.reached(ctx, int64(envInt(afterEnv)), time.Duration(mrand.IntN(3000))*time.Microsecond)
			cutPower(mnt, uint32(envInt(howEnv)))
		}()
		c.write(ctx, 0)
	}
	c.write(ctx, 20)
	waitSettled(t, bus, "readers")
	if err := bus.Close(ctx); err != nil {
		t.Fatal(err)
	}
	fmt.Println("settled")
}

// cutServe is the child that serves the disk, until its parent has it cut the power
// or closes its input.
func cutServe(t *testing.T, dir string) {
	mnt := mountDisk(dir)
	opts := embedded.ServeOptions{Addr: os.Getenv(addrEnv), Token: testToken, Lease: time.Second}
	if slow := envInt(slowEnv); slow > 0 {
		opts.Sync = slowly(time.Duration(slow) * time.Millisecond)
	}
	store := filepath.Join(mnt, "store")
	// What is there is noted before a client can add to it.
	bus, err := posthorn.Open(t.Context(), "embedded:"+store, posthorn.Service("test"), posthorn.Logger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(noteStored(t, dir, store, envInt(roundEnv)), bus.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	s, err := embedded.Serve(t.Context(), store, opts, cutEnv())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("serving", s.URL())
	if bufio.NewScanner(os.Stdin).Scan() {
		cutPower(mnt, uint32(envInt(howEnv)))
	}
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// TestPowerCut cuts the power six times under load, with a group that handles what is
// not on the disk yet: nothing that was confirmed is missing afterwards, and none of
// it is passed over by the group. Every other round has a disk that syncs slowly, so
// that more is at stake.
func TestPowerCut(t *testing.T) {
	switch dir := os.Getenv(dirEnv); os.Getenv(childEnv) {
	case "cut":
		cutEmbedded(t, dir)
		return
	case "cut-serve":
		cutServe(t, dir)
		return
	}
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("POSTHORN_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("POSTHORN_SEED=%d", seed)
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		d, rnd := newDisk(t), mrand.New(mrand.NewPCG(seed, 1))
		for round := range cuts + 1 {
			c := d.child(t, "TestPowerCut", "cut", cutPlan(rnd, round)...)
			if round == cuts {
				c.read("settled")
				if err := c.wait(); err != nil {
					t.Fatal(err)
				}
				break
			}
			c.read("cut")
			_ = c.wait()
		}
		checkCuts(t, d.dir)
	})
	t.Run("serve", func(t *testing.T) {
		t.Parallel()
		cutTheServer(t, newDisk(t), mrand.New(mrand.NewPCG(seed, 2)))
	})
}

// cutPlan is how a round goes.
func cutPlan(rnd *mrand.Rand, round int) (env []string) {
	how, slow := goingNow, 0
	if rnd.IntN(3) == 0 {
		how = goingWithMeta
	}
	if round%2 == 1 {
		slow = 5 + rnd.IntN(40)
	}
	for name, n := range map[string]int{roundEnv: round, afterEnv: 500 + rnd.IntN(2000), howEnv: how, slowEnv: slow} {
		env = append(env, fmt.Sprintf("%s=%d", name, n))
	}
	return env
}

// cutTheServer has the clients go on, in this process, while the server dies with
// its disk and comes back.
func cutTheServer(t *testing.T, d *disk, rnd *mrand.Rand) {
	addr := "127.0.0.1:0"
	start := func(round int) *diskChild {
		c := d.child(t, "TestPowerCut", "cut-serve", append(cutPlan(rnd, round), addrEnv+"="+addr)...)
		addr = strings.TrimPrefix(c.read("serving"), "serving nats://")
		return c
	}
	server := start(0)
	bus, err := posthorn.Open(t.Context(), "nats://"+testToken+"@"+addr, posthorn.Service("test"), posthorn.Logger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = bus.Close(ctx)
		}
	}()
	c := newCutter(t, bus, d.dir)
	c.consume(t.Context())
	for round := range cuts {
		c.begin(round)
		ctx, cancel := context.WithCancel(t.Context())
		written := make(chan struct{})
		go func() {
			defer close(written)
			c.write(ctx, 0)
		}()
		c.reached(t.Context(), int64(500+rnd.IntN(2000)), time.Duration(rnd.IntN(3000))*time.Microsecond)
		if _, err := fmt.Fprintln(server.in, "cut"); err != nil {
			t.Fatal(err)
		}
		server.read("cut")
		_ = server.wait()
		cancel()
		<-written
		server = start(round + 1)
	}
	c.begin(cuts)
	end := time.Now().Add(cutPatience)
	for c.write(t.Context(), 20); c.ok.Load() < 20*cutKeys && time.Now().Before(end); { // the server comes back in the middle
		c.write(t.Context(), 1)
	}
	eventually(t, "everything is handled", func() bool {
		lag, err := bus.Lag(t.Context(), "readers")
		return err == nil && lag == 0
	})
	closed = true
	if err := bus.Close(t.Context()); err != nil {
		t.Error(err)
	}
	_ = server.in.Close()
	if err := server.wait(); err != nil {
		t.Errorf("the server: %v", err)
	}
	checkCuts(t, d.dir)
}

// checkCuts compares the books. An event's line in them is its key and number.
func checkCuts(t *testing.T, dir string) {
	t.Helper()
	book := func(name string) map[string]int { // event: round
		events := map[string]int{}
		for _, f := range readJournal(t, dir, name) {
			events[f[0]+" "+f[1]] = atoi(t, f[1]) / 1_000_000
		}
		return events
	}
	confirmed, seen := book("confirmed"), book("seen")
	ahead := 0
	for round := 1; round <= cuts; round++ { // what is there after the cut of the round before
		stored := book(fmt.Sprint("stored-", round))
		missing := 0
		for e, r := range confirmed {
			if _, ok := stored[e]; !ok && r < round {
				missing++
			}
		}
		if missing > 0 {
			t.Errorf("cut %d: %d confirmed events are not on the disk", round, missing)
		}
		for e, r := range seen {
			if _, ok := stored[e]; !ok && r == round-1 {
				ahead++
			}
		}
	}
	skipped := 0
	for e := range confirmed {
		if _, ok := seen[e]; !ok {
			if skipped++; skipped <= 20 {
				t.Logf("passed over: %s", e)
			}
		}
	}
	if skipped > 0 {
		t.Errorf("%d of %d confirmed events were passed over by the group", skipped, len(confirmed))
	}
	above := 0
	for _, f := range readJournal(t, dir, "positions") {
		floor, seen, last := atoi(t, f[2]), atoi(t, f[4]), atoi(t, f[5])
		if floor > last {
			t.Errorf("cut %s: the group's floor in partition %s is %d, and the last event on the disk %d", f[0], f[1], floor, last)
		}
		if seen > last {
			above++
		}
	}
	last := map[string]int{}
	begun := map[string]bool{}
	for _, f := range readJournal(t, dir, "seen") {
		if seq := atoi(t, f[1]); !begun[f[0]+" "+f[1]] {
			if seq < last[f[0]] {
				t.Errorf("key %s: %d was first handled after %d, at %s/%s", f[0], seq, last[f[0]], f[2], f[3])
				break
			}
			begun[f[0]+" "+f[1]], last[f[0]] = true, seq
		}
	}
	t.Logf("%d events confirmed, %d handled; the %d cuts took %d that had been stored and handled and were not confirmed; %d times the group had been handed more than there was afterwards",
		len(confirmed), len(seen), cuts, ahead, above)
	if ahead == 0 {
		t.Errorf("no cut took anything that had been stored: the test has tested nothing")
	}
}
