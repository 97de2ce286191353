package jetstream

import (
	"crypto/rand"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
)

// A mux receives the answers to all that a driver sends, with one subscription.
// The token behind its prefix says whose an answer is.
type mux struct {
	nc     *nats.Conn
	box    string // what is ours of the prefix
	prefix string // with its last dot
	run    string // makes tokens unique on the server
	sub    *nats.Subscription

	mu    sync.Mutex
	next  uint64
	calls map[string]func(*nats.Msg)
}

func newMux(nc *nats.Conn) (*mux, error) {
	inbox := nats.NewInbox()
	m := &mux{nc: nc, box: strings.TrimPrefix(inbox, boxPrefix), prefix: inbox + ".", run: rand.Text()[:12] + "-", calls: map[string]func(*nats.Msg){}}
	sub, err := nc.Subscribe(m.prefix+">", m.receive)
	if err != nil {
		return nil, err
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return nil, err
	}
	m.sub = sub
	return m, nil
}

// add returns a token. Until it is removed, f is called with each message whose
// subject is the prefix and the token, and perhaps more tokens. It must not block.
func (m *mux) add(f func(*nats.Msg)) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.next++
	token := m.run + strconv.FormatUint(m.next, 36)
	m.calls[token] = f
	return token
}

// keep is add for a token that is chosen, and never removed.
func (m *mux) keep(token string, f func(*nats.Msg)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls[token] = f
}

func (m *mux) remove(token string) {
	m.mu.Lock()
	delete(m.calls, token)
	m.mu.Unlock()
}

func (m *mux) receive(msg *nats.Msg) { m.deliver(msg.Subject[len(m.prefix):], msg) }

// deliver hands an answer to whom its token names.
func (m *mux) deliver(token string, msg *nats.Msg) {
	if i := strings.IndexByte(token, '.'); i >= 0 {
		token = token[:i]
	}
	m.mu.Lock()
	f := m.calls[token]
	m.mu.Unlock()
	if f != nil {
		f(msg)
	}
}

func (m *mux) close() { _ = m.sub.Unsubscribe() }
