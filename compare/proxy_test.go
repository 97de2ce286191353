//go:build unix

package compare

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
)

// A proxy stands between a client and its server. It counts a mark in what the client
// sends, and can hold back what the server answers.
type proxy struct {
	l    net.Listener
	mark []byte

	mu    sync.Mutex
	seen  int
	gate  chan struct{} // closed: answers pass
	conns []net.Conn
}

func newProxy(t *testing.T, to, mark string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &proxy{l: l, mark: []byte(mark), gate: make(chan struct{})}
	close(p.gate)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				client.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, client, server)
			p.mu.Unlock()
			wg.Go(func() { p.up(server, client) })
			wg.Go(func() { p.down(client, server) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		for _, c := range p.conns {
			c.Close()
		}
		p.mu.Unlock()
		wg.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.l.Addr().String() }

// up passes what the client sends, and counts.
func (p *proxy) up(to, from net.Conn) {
	defer to.Close()
	var tail []byte // what may be the begin of a mark
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			text := append(tail, buf[:n]...)
			found := bytes.Count(text, p.mark)
			if i := bytes.LastIndex(text, p.mark); i >= 0 {
				text = text[i+len(p.mark):]
			}
			tail = bytes.Clone(text[max(0, len(text)-len(p.mark)+1):])
			p.mu.Lock()
			p.seen += found
			p.mu.Unlock()
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// down passes what the server answers, when the gate is open.
func (p *proxy) down(to, from net.Conn) {
	defer to.Close()
	_, _ = io.Copy(writer(func(b []byte) (int, error) {
		p.mu.Lock()
		gate := p.gate
		p.mu.Unlock()
		<-gate
		return to.Write(b)
	}), from)
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

// hold holds back the server's answers and counts anew.
func (p *proxy) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen, p.gate = 0, make(chan struct{})
}

func (p *proxy) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.gate)
}

func (p *proxy) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}
