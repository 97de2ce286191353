//go:build unix

package embedded_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/embedded"
	"github.com/posthorn/posthorn/driver/embedded/natstest"
	"github.com/posthorn/posthorn/driver/jetstream"
)

// eavesdrop hears what is sent to a subject of a server from now on.
func eavesdrop(t *testing.T, url, subject string) (*nats.Conn, *nats.Subscription) {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	sub, err := nc.SubscribeSync(subject)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return nc, sub
}

// heard counts what has been sent so far.
func heard(t *testing.T, nc *nats.Conn, sub *nats.Subscription) int {
	t.Helper()
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	n, _, err := sub.Pending()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The acknowledgement of a publish is passed on by a sync that began after the server
// had it; nobody asks for a barrier.
func TestServePassesAcknowledgementsOn(t *testing.T) {
	t.Parallel()
	var g gate
	s, _ := serve(t, t.TempDir(), embedded.ServeOptions{Sync: g.sync})
	b := dial(t, withToken(s))
	b.dir = s.Dir()
	b.topic("order", 1)
	nc, barriers := eavesdrop(t, withToken(s), jetstream.SyncSubject)
	b.mustPublish(order0, event("one", "k"))
	b.mustPublish(order0, events("some", 100)...)
	if o := b.publish(order0, event("one", "k"))[0]; o.State != driver.Stored || !o.Dup || o.Pos != 1 {
		t.Errorf("a copy: %+v", o)
	}
	for _, o := range b.publish(order0, event("small", "k"), tooLarge()) {
		if big := o.State == driver.NotStored; big {
			wantErr(t, o.Err, driver.ErrTooLarge)
		} else if o.State != driver.Stored {
			t.Errorf("beside one that is too large: %+v", o)
		}
	}

	confirmsBySync(t, b, &g)
	if n := heard(t, nc, barriers); n > 0 {
		t.Errorf("%d barriers were asked for", n)
	}
}

func tooLarge() driver.Message {
	m := event("large", "k")
	m.Body = make([]byte, 8<<20)
	return m
}

// A serve that passes nothing on is asked for the barrier.
func TestServeOfAnOlderVersion(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t, natstest.Options{})
	nc, _ := eavesdrop(t, server.URL(), "unused")
	answer := func(subject string, with func(*nats.Msg) any) {
		if _, err := nc.Subscribe(subject, func(m *nats.Msg) {
			data, err := json.Marshal(with(m))
			if err != nil {
				t.Error(err)
			}
			_ = m.Respond(data)
		}); err != nil {
			t.Fatal(err)
		}
	}
	status := jetstream.ServeStatus{Format: jetstream.ServeFormat, Version: "older", Run: "r", Serial: 1, Barrier: true}
	hold := make(chan struct{}, 1)
	hold <- struct{}{}
	answer(jetstream.ServeSubject, func(*nats.Msg) any { return status })
	answer(jetstream.SyncSubject, func(m *nats.Msg) any {
		hold <- struct{}{}
		defer func() { <-hold }()
		return jetstream.SyncReply{Synced: true, Status: status}
	})
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	<-hold
	b := dial(t, server.URL())
	b.topic("order", 1)
	b.mustPublish(order0, event("a", "k"))
	hold <- struct{}{}
	done := make(chan driver.Outcome, 1)
	go func() { done <- b.publish(order0, event("b", "k"))[0] }()
	eventually(t, "stored on the server", func() bool { return lastOf(t, server.URL(), "PH-T-order-0") == 2 })
	select {
	case o := <-done:
		t.Fatalf("confirmed without the barrier: %+v", o)
	default:
	}
	<-hold
	if o := <-done; o.State != driver.Stored || o.Pos != 2 {
		t.Errorf("after the barrier: %+v", o)
	}
}

// More than can wait for a sync is unknown to who published it, is logged, and
// passes.
func TestServeOverloaded(t *testing.T) {
	t.Parallel()
	var g gate
	var mu sync.Mutex
	var log bytes.Buffer
	env := (&bed{t: t}).env()
	env.Log = slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(p)
	}), nil))
	s, err := embedded.Serve(t.Context(), t.TempDir(), embedded.ServeOptions{Addr: "127.0.0.1:0", Token: testToken, Sync: g.sync}, env)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	b := dial(t, withToken(s))
	b.topic("order", 1)
	nc, _ := eavesdrop(t, withToken(s), "unused")
	m, err := nc.Request(jetstream.ServeSubject, nil, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var status jetstream.ServeStatus
	if err := json.Unmarshal(m.Data, &status); err != nil || !status.Acks {
		t.Fatalf("%+v, %v", status, err)
	}
	release := g.block()
	defer release()
	full := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.Contains(log.String(), "more waits for the disk")
	}
	for i := 0; !full(); i++ {
		if err := nc.Publish(status.AckSubject()+"somebody.t"+fmt.Sprint(i), []byte(`{"stream":"S","seq":1}`)); err != nil {
			t.Fatal(err)
		}
		if i > 1<<20 {
			t.Fatal("all of it waits")
		}
	}
	o := b.publishBy(200*time.Millisecond, order0, event("over", "k"))[0]
	if o.State != driver.Unknown {
		t.Errorf("over: %+v", o)
	}
	wantErr(t, o.Err, driver.ErrUnavailable, "PH-T-order-0")
	release()
	eventually(t, "what waited to be gone", func() bool {
		return b.publishBy(5*time.Second, order0, event("over", "k"))[0].State == driver.Stored
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A stream that is away says nothing to serve. Its publishers find out, and what they
// publish then is surely not stored, until it is there again.
func TestServeStreamAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, _ := serve(t, dir, embedded.ServeOptions{})
	b := dial(t, withToken(s))
	b.topic("order", 1)
	b.mustPublish(order0, event("a", "k"))
	nc, barriers := eavesdrop(t, withToken(s), jetstream.SyncSubject)
	ask := func(subject string, body []byte) []byte {
		m, err := nc.Request(subject, body, 10*time.Second)
		if err != nil || bytes.Contains(m.Data, []byte(`"error"`)) {
			t.Fatalf("%s: %v: %s", subject, err, m.Data)
		}
		return m.Data
	}
	var info struct{ Config json.RawMessage }
	if err := json.Unmarshal(ask("$JS.API.STREAM.INFO.PH-T-order-0", nil), &info); err != nil {
		t.Fatal(err)
	}
	ask("$JS.API.STREAM.DELETE.PH-T-order-0", nil)
	begun := time.Now()
	o := b.publishBy(time.Minute, order0, event("b", "k"))[0]
	if o.State != driver.Unknown || time.Since(begun) > 30*time.Second {
		t.Errorf("to a stream that is gone, after %v: %+v", time.Since(begun), o)
	}
	wantErr(t, o.Err, driver.ErrUnavailable, "PH-T-order-0", "no stream")
	o = b.publishBy(time.Minute, order0, event("c", "k"))[0]
	if o.State != driver.NotStored {
		t.Errorf("to a stream that is known to be gone: %+v", o)
	}
	wantErr(t, o.Err, driver.ErrNotNow)
	eventually(t, "the alarm", func() bool { _, ok := b.alarmOf("stream_missing", "PH-T-order-0"); return ok })
	ask("$JS.API.STREAM.CREATE.PH-T-order-0", info.Config)
	before := heard(t, nc, barriers)
	b.mustPublish(order0, event("d", "k"))
	asked := heard(t, nc, barriers)
	if asked != before+1 {
		t.Errorf("%d barriers were asked for when the stream was there again", asked-before)
	}
	b.mustPublish(order0, events("e", 10)...)
	if n := heard(t, nc, barriers); n != asked {
		t.Errorf("%d more barriers were asked for", n-asked)
	}
}
