package embedded

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/jetstream"
)

const (
	// maxPayload is the server's own limit. What a user may publish is limited
	// by the bus, to less.
	maxPayload = 8 << 20
	// startWait is how long the server may take to read its directory.
	startWait = 10 * time.Minute
)

// A host serves one directory for all who have it open.
type host struct {
	dir    string
	lock   *os.File
	store  *os.File // the directory, for syncfs; a handle that is collected is closed
	srv    *server.Server
	listen *listening // nil: on nothing
	space  *space

	refs int // guarded by hostsMu

	mu       sync.Mutex
	syncDead error
	watchers map[int]driver.Env
	restarts map[int]func() // called after JetStream was started anew
	nextID   int
}

var (
	hostsMu sync.Mutex
	hosts   = map[string]*host{}
)

// acquire returns the directory's host and counts the caller in.
func acquire(ctx context.Context, dir string, env driver.Env, listen *listening) (*host, error) {
	hostsMu.Lock()
	defer hostsMu.Unlock()
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	path, err := realPath(dir)
	if err != nil {
		return nil, err
	}
	if h := hosts[path]; h != nil {
		if listen != nil {
			return nil, fmt.Errorf("embedded: directory %s is open in this process already: serve it first, then open it: %w", path, driver.ErrLocked)
		}
		h.refs++
		return h, nil
	}
	h := &host{dir: path, listen: listen, watchers: map[int]driver.Env{}, restarts: map[int]func(){}, refs: 1}
	if err := h.start(ctx, env); err != nil {
		return nil, h.explain(err)
	}
	hosts[path] = h
	return h, nil
}

func lookup(path string) *host {
	hostsMu.Lock()
	defer hostsMu.Unlock()
	return hosts[path]
}

func makeDir(dir string) error {
	if dir == "" {
		return fmt.Errorf("embedded: no directory: %w", driver.ErrInvalid)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return (&host{dir: dir}).explain(err)
	}
	return nil
}

// explain tells what an error of the file system means for the directory.
func (h *host) explain(err error) error {
	switch {
	case errors.Is(err, driver.ErrLocked) || errors.Is(err, driver.ErrDenied) || errors.Is(err, driver.ErrNoSpace):
		return err
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("embedded: directory %s: the disk is full: make room, then open it again: %w: %w", h.dir, driver.ErrNoSpace, err)
	case errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.EPERM):
		return fmt.Errorf("embedded: directory %s cannot be made or written: choose another, or see to its rights: %w: %w", h.dir, driver.ErrDenied, err)
	}
	return fmt.Errorf("embedded: directory %s: %w", h.dir, err)
}

func (h *host) start(ctx context.Context, env driver.Env) (err error) {
	if h.lock, err = lockDir(h.dir); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			h.stop()
		}
	}()
	if h.store, err = os.Open(h.dir); err != nil {
		return err
	}
	h.space = newSpace(h)
	if err := h.space.atOpen(); err != nil {
		return err
	}
	if h.listen != nil {
		if err := h.listen.probe(); err != nil {
			return err
		}
	}
	if h.srv, err = server.NewServer(h.options()); err != nil {
		return fmt.Errorf("the server: %w", err)
	}
	h.srv.SetLoggerV2(&logger{h: h, log: env.Log}, false, false, false)
	h.srv.Start()
	if err := h.ready(ctx); err != nil {
		return err
	}
	if h.listen == nil {
		if err := h.clearMembers(ctx); err != nil {
			return err
		}
	}
	h.space.run()
	return nil
}

// clearMembers frees what a process held that was killed: the lock says that it is
// not there any more. Members in processes that the directory is served to may be.
func (h *host) clearMembers(ctx context.Context) error {
	nc, err := h.connect()
	if err != nil {
		return err
	}
	defer nc.Close()
	return jetstream.ClearMembers(ctx, nc, "")
}

func (h *host) options() *server.Options {
	o := &server.Options{
		ServerName:             "posthorn",
		DontListen:             true,
		NoSigs:                 true,
		JetStream:              true,
		StoreDir:               h.dir,
		DisableJetStreamBanner: true,
		SyncAlways:             syncAlways,
		MaxPayload:             maxPayload,
		MaxPending:             256 << 20,
		WriteDeadline:          time.Minute,
		// The disk is the limit, not a share of what is free at the start.
		JetStreamMaxStore:  1 << 50,
		JetStreamMaxMemory: 1 << 40,
	}
	if h.listen != nil {
		h.listen.apply(o)
	}
	return o
}

// ready waits until the server has read its directory.
func (h *host) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	for !h.srv.ReadyForConnections(10 * time.Millisecond) {
		if ctx.Err() != nil || !h.srv.Running() {
			return fmt.Errorf("the server did not start: %w", errors.Join(driver.ErrUnavailable, ctx.Err()))
		}
	}
	if !h.srv.JetStreamEnabled() {
		return fmt.Errorf("the server could not open its store, see the log: %w", driver.ErrUnavailable)
	}
	return nil
}

// connect makes a connection that buffers nothing while there is no server.
func (h *host) connect() (*nats.Conn, error) {
	token := ""
	if h.listen != nil {
		token = h.listen.token
	}
	nc, err := nats.Connect("", nats.InProcessServer(h.srv), nats.Name("posthorn"), nats.Token(token),
		nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0), nats.ReconnectBufSize(-1))
	if err != nil {
		return nil, fmt.Errorf("embedded: directory %s: %w: %w", h.dir, driver.ErrUnavailable, err)
	}
	return nc, nil
}

// release counts one out. The last one ends the server.
func (h *host) release() error {
	hostsMu.Lock()
	defer hostsMu.Unlock()
	if h.refs--; h.refs > 0 {
		return nil
	}
	delete(hosts, h.dir)
	h.stop()
	return nil
}

func (h *host) stop() {
	if h.space != nil {
		h.space.stop()
	}
	if h.srv != nil {
		h.srv.Shutdown()
		h.srv.WaitForShutdown()
	}
	if h.store != nil {
		h.store.Close()
	}
	if h.lock != nil {
		h.lock.Close()
	}
}

// watch makes alarms about the directory reach one who has it open.
func (h *host) watch(env driver.Env) (stop func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.nextID++
	id := h.nextID
	h.watchers[id] = env
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.watchers, id)
	}
}

// onRestart makes f be called when JetStream has been started anew.
func (h *host) onRestart(f func()) (stop func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.nextID++
	id := h.nextID
	h.restarts[id] = f
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.restarts, id)
	}
}

func (h *host) restarted() {
	h.mu.Lock()
	all := slices.Collect(maps.Values(h.restarts))
	h.mu.Unlock()
	for _, f := range all {
		f()
	}
}

func (h *host) alarm(a driver.Alarm) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, env := range h.watchers {
		env.Alarm(a)
	}
}

func (h *host) room() error { return h.space.full() }

// A syncer is the host's, seen from one driver.
type syncer struct {
	h    *host
	opts Options
}

func (h *host) syncer(opts Options) jetstream.Syncer {
	if syncAlways && opts.Sync == nil {
		return nil
	}
	return &syncer{h, opts}
}

func (s *syncer) Sync(ctx context.Context) error {
	if s.opts.Sync != nil {
		return s.opts.Sync(ctx, s.h.sync)
	}
	return s.h.sync()
}

// sync makes durable what was written. After an error it gives that error for
// good: the system reports a failed write once, to one of those who ask.
func (h *host) sync() error {
	h.mu.Lock()
	dead := h.syncDead
	h.mu.Unlock()
	if dead != nil {
		return dead
	}
	err := syncStore(h.store)
	if err != nil {
		h.mu.Lock()
		h.syncDead = err
		h.mu.Unlock()
	}
	return err
}
