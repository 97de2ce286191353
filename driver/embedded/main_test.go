package embedded_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/embedded"
	"github.com/posthorn/posthorn/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// A bed is a driver on a directory, with its alarms.
type bed struct {
	driver.Driver
	t   *testing.T
	dir string

	mu     sync.Mutex
	alarms []driver.Alarm
}

func (b *bed) env() driver.Env {
	return driver.Env{Service: "test", Member: "test-" + rand.Text(), Log: slog.New(slog.NewTextHandler(testWriter{b.t}, &slog.HandlerOptions{Level: slog.LevelWarn})), Now: time.Now, Alarm: func(a driver.Alarm) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.alarms = append(b.alarms, a)
	}}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func open(t *testing.T, dir string, opts embedded.Options) *bed {
	t.Helper()
	b := &bed{t: t, dir: dir}
	d, err := embedded.Open(t.Context(), dir, opts, b.env())
	if err != nil {
		t.Fatal(err)
	}
	b.Driver = d
	t.Cleanup(b.close)
	return b
}

func fresh(t *testing.T) *bed { return open(t, t.TempDir(), embedded.Options{}) }

func (b *bed) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := b.Close(ctx); err != nil {
		b.t.Error(err)
	}
}

// raw connects to the store's server beside the driver.
func (b *bed) raw() (*nats.Conn, nats.JetStreamContext) {
	b.t.Helper()
	nc, err := embedded.Connect(b.t.Context(), b.dir)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(nc.Close)
	js, err := nc.JetStream()
	if err != nil {
		b.t.Fatal(err)
	}
	return nc, js
}

func (b *bed) alarm(code string) (driver.Alarm, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.alarms {
		if a.Code == code {
			return a, true
		}
	}
	return driver.Alarm{}, false
}

func (b *bed) topic(name string, partitions int) driver.TopicSpec {
	b.t.Helper()
	s, err := b.EnsureTopic(b.t.Context(), driver.TopicSpec{Name: name, Hash: driver.HashFNV1a, Partitions: partitions})
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

func (b *bed) group(name string, start driver.StartAt, topics ...string) {
	b.t.Helper()
	types := map[string][]string{}
	for _, t := range topics {
		types[t] = []string{t + ".made"}
	}
	if _, err := b.EnsureGroup(b.t.Context(), driver.GroupSpec{Name: name, Types: types, Start: start}); err != nil {
		b.t.Fatal(err)
	}
}

func event(id, key string) driver.Message {
	return driver.Message{ID: id, Source: "test", Type: "order.made", Key: key, Time: "2026-01-02T03:04:05Z", ContentType: "application/json", Body: []byte(`{"id":"` + id + `"}`)}
}

func events(prefix string, n int) []driver.Message {
	var all []driver.Message
	for i := range n {
		all = append(all, event(fmt.Sprintf("%s%d", prefix, i), "k"))
	}
	return all
}

// publish appends and waits.
func (b *bed) publish(p driver.Partition, msgs ...driver.Message) []driver.Outcome {
	return b.publishBy(time.Minute, p, msgs...)
}

func (b *bed) publishBy(wait time.Duration, p driver.Partition, msgs ...driver.Message) []driver.Outcome {
	c := make(chan []driver.Outcome, 1)
	b.Append(p, msgs, time.Now().Add(wait), func(o []driver.Outcome) { c <- o })
	return <-c
}

func (b *bed) mustPublish(p driver.Partition, msgs ...driver.Message) {
	b.t.Helper()
	for i, o := range b.publish(p, msgs...) {
		if o.State != driver.Stored || o.Err != nil {
			b.t.Fatalf("message %d: %+v", i, o)
		}
	}
}

// A member collects its tenures.
type member struct {
	topics []string
	got    chan driver.Tenure
	lost   chan error
}

func (m *member) Subscribed(driver.GroupSpec) []string  { return m.topics }
func (m *member) Status() driver.Status                 { return driver.Status{} }
func (m *member) Assigned(t driver.Tenure)              { m.got <- t }
func (m *member) Revoke(context.Context, driver.Tenure) {}
func (m *member) Lost(_ driver.Tenure, err error)       { m.lost <- err }

// join joins until the end of the test, or until leave is called.
func (b *bed) join(group string, topics ...string) (m *member, leave func()) {
	ctx, cancel := context.WithCancel(context.Background())
	m = &member{topics: topics, got: make(chan driver.Tenure, 100), lost: make(chan error, 100)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := b.Join(ctx, group, m); err != nil {
			b.t.Error(err)
		}
	}()
	leave = func() { cancel(); <-done }
	b.t.Cleanup(leave)
	return m, leave
}

func (b *bed) tenure(group, topic string) (driver.Tenure, func()) {
	b.t.Helper()
	m, leave := b.join(group, topic)
	return m.next(b.t), leave
}

func (m *member) next(t *testing.T) driver.Tenure {
	t.Helper()
	select {
	case got := <-m.got:
		return got
	case <-time.After(time.Minute):
		t.Fatal("no partition was assigned")
		return nil
	}
}

// fetch fetches n deliveries.
func fetch(t *testing.T, tenure driver.Tenure, n int) []driver.Delivery {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var all []driver.Delivery
	for len(all) < n {
		into := make([]driver.Delivery, n-len(all))
		k, err := tenure.Fetch(ctx, into, 1<<20)
		if err != nil {
			t.Fatalf("after %d of %d: %v", len(all), n, err)
		}
		all = append(all, into[:k]...)
	}
	return all
}

func ids(ds []driver.Delivery) string {
	var s []string
	for _, d := range ds {
		s = append(s, d.Msg.ID)
	}
	return strings.Join(s, " ")
}

func wantErr(t *testing.T, err, want error, words ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}
