// Package memory is a broker in memory: the model that the conformance suite
// compares the others with. It keeps every promise but that of outliving the
// process. Import it for its effect, to open URLs of the scheme "memory":
//
//	memory:              a store of its own
//	memory:name          a store that all opens of the name in this process share
//	memory:?shape=queue  deliveries are settled one by one, as with RabbitMQ;
//	                     the default, shape=log, is read in order, as with Kafka
//
// A named store lasts until its last driver is closed.
package memory

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/posthorn/posthorn/driver"
)

func init() { driver.Register("memory", open) }

var (
	storesMu sync.Mutex
	stores   = map[string]*store{}
)

func open(ctx context.Context, u *url.URL, env driver.Env) (driver.Driver, error) {
	queue, err := shape(u)
	if err != nil {
		return nil, err
	}
	name := u.Opaque
	if u.Host != "" || u.Path != "" {
		return nil, fmt.Errorf("%w: the URL is memory: or memory:name, without slashes", driver.ErrInvalid)
	}
	storesMu.Lock()
	defer storesMu.Unlock()
	s := stores[name]
	if name == "" || s == nil {
		s = newStore(name, queue)
	}
	if s.queue != queue {
		return nil, fmt.Errorf("%w: the store memory:%s is open in this process with the other shape", driver.ErrMismatch, name)
	}
	if name != "" {
		stores[name] = s
	}
	s.users++
	return &memory{store: s, env: env}, nil
}

func shape(u *url.URL) (queue bool, err error) {
	for name, values := range u.Query() {
		if name != "shape" {
			return false, fmt.Errorf("%w: parameter %q is not known; there is shape", driver.ErrInvalid, name)
		}
		switch v := strings.Join(values, ","); v {
		case "log":
		case "queue":
			queue = true
		default:
			return false, fmt.Errorf("%w: shape=%s is not known; there are log and queue", driver.ErrInvalid, v)
		}
	}
	return queue, nil
}

// memory is one opening of a store.
type memory struct {
	store *store
	env   driver.Env

	mu     sync.Mutex
	closed bool
}

var _ driver.Driver = (*memory)(nil)

const (
	maxMessage  = 8 << 20
	dedupWindow = 2 * time.Minute
)

func (m *memory) Caps() driver.Caps {
	return driver.Caps{
		Queue:           m.store.queue,
		DedupWindow:     dedupWindow,
		ReadFrom:        true,
		CheckpointBytes: 4096,
		MaxMessage:      maxMessage,
		Missing:         map[string]string{"P1 durable": "it is memory: what is stored ends with the process"},
	}
}

func (m *memory) check(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return driver.ErrClosed
	}
	return ctx.Err()
}

func (m *memory) Health(ctx context.Context) error { return m.check(ctx) }

// Audit finds nothing: nobody else has a hand in the store.
func (m *memory) Audit(ctx context.Context) error { return m.check(ctx) }

func (m *memory) Close(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	storesMu.Lock()
	defer storesMu.Unlock()
	if m.store.users--; m.store.users == 0 && stores[m.store.name] == m.store {
		delete(stores, m.store.name)
	}
	return nil
}

func (m *memory) Describe(ctx context.Context) ([]driver.Thing, error) {
	if err := m.check(ctx); err != nil {
		return nil, err
	}
	s := m.store
	s.mu.Lock()
	defer s.mu.Unlock()
	var things []driver.Thing
	for _, name := range sortedKeys(s.topics) {
		things = append(things, driver.Thing{Kind: "topic", Name: name,
			Why: fmt.Sprintf("%d partitions in memory", len(s.topics[name].parts))})
	}
	for _, name := range sortedKeys(s.groups) {
		things = append(things, driver.Thing{Kind: "group", Name: name, Why: "positions and lanes in memory"})
	}
	return things, nil
}
