package embedded_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/deadletter"
	"github.com/posthorn/posthorn/driver/embedded"
)

// A plainClient speaks the protocol by hand: it sends what our own client refuses to,
// and others do not.
type plainClient struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func newPlainClient(t *testing.T, s *embedded.Server) *plainClient {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL(), "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c := &plainClient{t, conn, bufio.NewReader(conn)}
	c.write(`CONNECT {"verbose":false,"pedantic":false,"headers":true,"lang":"none","auth_token":%q}`+"\r\n", testToken)
	return c
}

func (c *plainClient) write(format string, args ...any) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c.conn, format, args...); err != nil {
		c.t.Fatal(err)
	}
}

// store sends a message with these lines of headers, and waits until it is stored.
func (c *plainClient) store(subject, headers, body string) {
	c.t.Helper()
	_ = c.conn.SetDeadline(time.Now().Add(time.Minute))
	block := "NATS/1.0\r\n" + headers + "\r\n"
	c.write("SUB _INBOX.plain 1\r\nUNSUB 1 1\r\nHPUB %s _INBOX.plain %d %d\r\n%s%s\r\n", subject, len(block), len(block)+len(body), block, body)
	for {
		line, err := c.in.ReadString('\n')
		switch {
		case err != nil || strings.HasPrefix(line, "-ERR"):
			c.t.Fatalf("%q: %v", line, err)
		case strings.HasPrefix(line, "PING"):
			c.write("PONG\r\n")
		case strings.HasPrefix(line, "MSG"):
			var ack struct {
				Seq   int
				Error any
			}
			if line, err = c.in.ReadString('\n'); err != nil || json.Unmarshal([]byte(line), &ack) != nil || ack.Seq == 0 {
				c.t.Fatalf("the server answers %q, %v", line, err)
			}
			return
		}
	}
}

// TestOddHeaders: messages that others have stored, with headers that our client
// refuses to send or that leave no room for ours, fail, are tried again and become
// dead letters as others do, and nothing stands still behind them.
func TestOddHeaders(t *testing.T) {
	t.Parallel()
	s, _ := serve(t, t.TempDir(), embedded.ServeOptions{})
	bus, err := posthorn.Open(t.Context(), withToken(s), posthorn.Service("test"), posthorn.Logger(slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelError}))))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := bus.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	made := posthorn.Define[step]("odd.made", posthorn.In(posthorn.DefineTopic("odd", posthorn.TopicConfig{Partitions: 1})), posthorn.Key(func(s step) string { return s.Key }))
	group := bus.Group("g", posthorn.GroupConfig{Retry: posthorn.Retry{Attempts: posthorn.None, Late: 3, LateDelay: 50 * time.Millisecond, MaxLateDelay: 50 * time.Millisecond}})
	type delivery struct {
		seq, attempt int
		headers      map[string]string
	}
	handled := make(chan delivery, 100)
	made.Handle(group, func(_ context.Context, e *posthorn.Event[step]) error {
		handled <- delivery{e.Data.Seq, e.Attempt, e.Headers}
		if e.Data.Seq < 10 && e.Attempt < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	if err := group.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := newPlainClient(t, s)
	const ce = "ce-specversion: 1.0\r\nce-id: %d\r\nce-source: s\r\nce-type: odd.made\r\nce-subject: k\r\nce-datacontenttype: application/json\r\n"
	c.store("ph.t.odd.0", "an odd (name): x\r\n", "foreign")
	c.store("ph.t.odd.0", fmt.Sprintf(ce, 1)+"Straße 7: x\r\nce-my attribute: y\r\n", `{"key":"k","seq":1}`)
	c.store("ph.t.odd.0", "content-type: application/cloudevents+json\r\n", `{"specversion":"1.0","id":"2","source":"s","type":"odd.made","subject":"k","an attribute: x":"y","data":{"key":"k","seq":2}}`)
	if err := made.Publish(t.Context(), bus, step{Key: "k", Seq: 10}); err != nil {
		t.Fatal(err)
	}
	want := map[int]int{1: 3, 2: 3, 10: 1}
	for len(want) > 0 {
		select {
		case d := <-handled:
			if d.seq == 1 && d.headers["Straße 7"] != "x" {
				t.Errorf("attempt %d has the headers %v", d.attempt, d.headers)
			}
			if want[d.seq] == d.attempt {
				delete(want, d.seq)
			}
		case <-time.After(time.Minute):
			t.Fatalf("these are not handled, by number and attempt: %v", want)
		}
	}
	waitSettled(t, bus, "g")
	dead := 0
	for d, err := range bus.DeadLetters(t.Context(), "g") {
		if err != nil {
			t.Fatal(err)
		}
		if dead++; d.Reason != posthorn.CodeForeign || d.Headers["an odd (name)"] != "x" {
			t.Errorf("a dead letter: %+v", d)
		}
	}
	if dead != 1 {
		t.Errorf("%d dead letters, want one", dead)
	}
}

// TestTooLargeForTheLane: a message that fits into its topic and not into the lane,
// where a record comes to it, is a dead letter without its data, and nothing stands
// still behind it.
func TestTooLargeForTheLane(t *testing.T) {
	t.Parallel()
	s, _ := serve(t, t.TempDir(), embedded.ServeOptions{})
	bus, err := posthorn.Open(t.Context(), withToken(s), posthorn.Service("test"), posthorn.Logger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := bus.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	made := posthorn.Define[step]("large.made", posthorn.In(posthorn.DefineTopic("large", posthorn.TopicConfig{Partitions: 1, StrictOrder: true})), posthorn.Key(func(s step) string { return s.Key }))
	group := bus.Group("g", posthorn.GroupConfig{})
	made.Handle(group, func(context.Context, *posthorn.Event[step]) error { return nil })
	if err := group.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	newPlainClient(t, s).store("ph.t.large.0", "x: y\r\n", strings.Repeat("z", 8<<20-30))
	if err := made.Publish(t.Context(), bus, step{Key: "k", Seq: 1}); err != nil {
		t.Fatal(err)
	}
	waitSettled(t, bus, "g")
	var dead []posthorn.DeadLetter
	for d, err := range bus.DeadLetters(t.Context(), "g") {
		if err != nil {
			t.Fatal(err)
		}
		dead = append(dead, d)
	}
	if len(dead) != 1 || dead[0].Reason != posthorn.CodeTooLarge || dead[0].Position != 1 || len(dead[0].Data) > 0 {
		t.Fatalf("dead letters: %+v", dead)
	}
	_, err = deadletter.Replay(t.Context(), bus, deadletter.Query{Groups: []string{"g"}}, deadletter.Job{})
	if err == nil || !strings.Contains(err.Error(), "did not fit into the lane") {
		t.Errorf("replayed without its data: %v", err)
	}
	if n := bus.Stats().Handled; n != 1 {
		t.Errorf("%d events are handled", n)
	}
}
