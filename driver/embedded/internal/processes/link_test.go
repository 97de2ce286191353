//go:build unix

package processes

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// A link is a line to a broker that can be cut in several ways.
type link struct {
	listener net.Listener
	to       string
	wg       sync.WaitGroup

	mu      sync.Mutex
	changed *sync.Cond
	conns   map[net.Conn]struct{}
	holds   [2]bool       // by way: what is sent does not arrive
	held    [2]int        // bytes that a hold has kept back, since it began
	delay   time.Duration // of each piece, both ways
	closed  bool
}

// The ways through a link.
const (
	toBroker = iota
	toClient
)

// newLink listens on loopback for connections to a broker.
func newLink(t *testing.T, to string) *link {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{listener: ln, to: to, conns: map[net.Conn]struct{}{}}
	l.changed = sync.NewCond(&l.mu)
	l.wg.Go(l.accept)
	t.Cleanup(l.close)
	return l
}

func (l *link) addr() string { return l.listener.Addr().String() }

func (l *link) accept() {
	for {
		client, err := l.listener.Accept()
		if err != nil {
			return
		}
		broker, err := net.Dial("tcp", l.to)
		if err != nil || !l.add(client, broker) {
			client.Close()
			if err == nil {
				broker.Close()
			}
			continue
		}
		l.wg.Go(func() { l.carry(toBroker, broker, client) })
		l.wg.Go(func() { l.carry(toClient, client, broker) })
	}
}

func (l *link) add(conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	for _, c := range conns {
		l.conns[c] = struct{}{}
	}
	return true
}

// carry passes on what comes, until one end is closed.
func (l *link) carry(way int, to, from net.Conn) {
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, c := range []net.Conn{to, from} {
			c.Close()
			delete(l.conns, c)
		}
		l.changed.Broadcast()
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && l.pass(way, n, from) {
			_, werr := to.Write(buf[:n])
			if werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// pass waits until what was sent may arrive. It returns false when it never will.
func (l *link) pass(way, n int, from net.Conn) bool {
	l.mu.Lock()
	if d := l.delay; d > 0 {
		l.mu.Unlock()
		time.Sleep(d)
		l.mu.Lock()
	}
	defer l.mu.Unlock()
	if l.holds[way] {
		l.held[way] += n
	}
	for l.holds[way] && l.stands(from) {
		l.changed.Wait()
	}
	return l.stands(from)
}

func (l *link) stands(c net.Conn) bool {
	_, ok := l.conns[c]
	return ok && !l.closed
}

// hold keeps back what is sent on some ways.
func (l *link) hold(ways ...int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = [2]int{}
	for _, w := range ways {
		l.holds[w] = true
	}
}

// hit tells whether a hold has kept anything back on each of its ways.
func (l *link) hit() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for way, holds := range l.holds {
		if holds && l.held[way] == 0 {
			return false
		}
	}
	return true
}

// slow delays each piece that is sent.
func (l *link) slow(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delay = d
}

// heal lets arrive what was held.
func (l *link) heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holds = [2]bool{}
	l.changed.Broadcast()
}

// reset ends all connections. What is held is lost, as what a line had not delivered.
// It returns how many there were.
func (l *link) reset() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.conns) / 2
	for c := range l.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		c.Close()
		delete(l.conns, c)
	}
	l.holds = [2]bool{}
	l.changed.Broadcast()
	return n
}

func (l *link) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.listener.Close()
	l.reset()
	l.wg.Wait()
}

// TestLink holds the link itself to what the scenario takes for granted.
func TestLink(t *testing.T) {
	t.Parallel()
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	defer wg.Wait()
	defer echo.Close()
	l := newLink(t, echo.Addr().String())
	c, err := net.Dial("tcp", l.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 2)
	say := func(text string, wait time.Duration) error {
		if _, err := c.Write([]byte(text)); err != nil {
			return err
		}
		_ = c.SetReadDeadline(time.Now().Add(wait))
		_, err := io.ReadFull(c, buf)
		return err
	}
	if err := say("ab", patience); err != nil || string(buf) != "ab" {
		t.Fatalf("%q, %v", buf, err)
	}
	for _, way := range []int{toBroker, toClient} {
		l.hold(way)
		if err := say("cd", 100*time.Millisecond); err == nil {
			t.Errorf("what is held on way %d arrives", way)
		}
		if !l.hit() {
			t.Errorf("a hold on way %d that has hit says that it has not", way)
		}
		l.heal()
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "cd" {
			t.Errorf("healed: %q, %v", buf, err)
		}
	}
	l.slow(50 * time.Millisecond)
	began := time.Now()
	if err := say("ef", patience); err != nil || time.Since(began) < 100*time.Millisecond {
		t.Errorf("a slow line takes %v, %v", time.Since(began), err)
	}
	l.slow(0)
	l.hold(toClient)
	if n := l.reset(); n != 1 {
		t.Errorf("%d connections are ended, want 1", n)
	}
	if err := say("gh", patience); err == nil {
		t.Error("a connection that was ended goes on")
	}
}
