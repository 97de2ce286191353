package embedded

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/jetstream"
)

// DefaultAddr is where Serve listens unless told otherwise.
const DefaultAddr = "127.0.0.1:4222"

// ServeOptions say how a directory is served.
type ServeOptions struct {
	// Addr is host:port. The host is a loopback address; port 0 takes a free one.
	// Default [DefaultAddr].
	Addr string
	// Token is what clients have to name. There is no default.
	Token string
	// Lease is the lease of members that do not choose one. 0: the driver's.
	Lease time.Duration
	// Sync is as in [Options].
	Sync func(ctx context.Context, sync func() error) error
}

// A Server serves one directory to other processes on this machine. They open it
// by its URL, as they would open any NATS server:
//
//	nats://TOKEN@127.0.0.1:4222
//
// A publish is confirmed to them only after a sync of the directory's file system
// that covers it: its acknowledgement goes to the server, which passes it on after
// one sync for all that it has. For other writes they ask for that sync.
type Server struct {
	h     *host
	env   driver.Env
	opts  ServeOptions
	acks  string // what the subjects of acknowledgements begin with
	nc    *nats.Conn
	stops []func()

	waits  chan *nats.Msg // barriers and acknowledgements that wait for a sync
	kick   chan struct{}  // holds one when the status has to be looked at
	cancel context.CancelFunc
	ended  chan struct{}
	close  sync.Once

	mu     sync.Mutex
	status jetstream.ServeStatus
	lost   bool // acknowledgements were, and the log says so
}

// maxWaits bounds what waits for a sync. What is above that, as when the disk hangs
// under many clients, is forgotten: its publishers hear of it at their deadlines, as
// unknown.
const maxWaits = 1 << 16

// Serve serves a directory, which it makes if it does not exist. A store that an
// embedded: bus left behind is served as it is. While a server runs, the directory
// may be opened as embedded: in its own process only.
func Serve(ctx context.Context, dir string, opts ServeOptions, env driver.Env) (*Server, error) {
	l, err := opts.check()
	if err != nil {
		return nil, err
	}
	h, err := acquire(ctx, dir, env, l)
	if err != nil {
		return nil, err
	}
	s := &Server{
		h: h, env: env, opts: opts, waits: make(chan *nats.Msg, maxWaits), kick: make(chan struct{}, 1), ended: make(chan struct{}),
		status: jetstream.ServeStatus{
			Format: jetstream.ServeFormat, Version: version(), Run: rand.Text(), Serial: 1,
			Barrier: !syncAlways || opts.Sync != nil, Lease: opts.Lease,
		},
	}
	s.status.Acks, s.acks = s.status.Barrier, s.status.AckSubject()
	if err := s.start(); err != nil {
		h.release()
		return nil, fmt.Errorf("embedded: serving %s: %w", h.dir, err)
	}
	return s, nil
}

// A listening is where a host listens, and for whom.
type listening struct {
	host  string
	port  int // 0: any
	token string
}

// check reads the options. Errors do not show the token.
func (o *ServeOptions) check() (*listening, error) {
	refuse := func(format string, args ...any) (*listening, error) {
		return nil, fmt.Errorf("embedded: %s: %w", fmt.Sprintf(format, args...), driver.ErrInvalid)
	}
	addr := cmp.Or(o.Addr, DefaultAddr)
	host, port, err := net.SplitHostPort(addr)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil {
		return refuse("the address %q cannot be read: write host:port, %s", addr, DefaultAddr)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return refuse("the address %q can be reached from outside, and a served directory is for this machine alone: write 127.0.0.1:%s; "+
			"for other machines use a NATS cluster", addr, port)
	}
	switch {
	case o.Token == "":
		return refuse("no token: whoever can reach the port could read and write everything; choose one, 20 random characters or more")
	case strings.HasPrefix(o.Token, "$"):
		return refuse("the token begins with '$', which the server takes for the hash of another one: choose another")
	case strings.ContainsAny(o.Token, " \t\r\n"):
		return refuse("the token has spaces or line ends in it: choose another")
	case o.Lease != 0 && o.Lease < jetstream.MinLease:
		return refuse("a lease of %v is shorter than %v: members would lose their partitions in a slow moment", o.Lease, jetstream.MinLease)
	}
	return &listening{host, int(n), o.Token}, nil
}

// probe finds out whether the address is free: the server would only log it.
func (l *listening) probe() error {
	ln, err := net.Listen("tcp", net.JoinHostPort(l.host, strconv.Itoa(l.port)))
	if err != nil {
		return fmt.Errorf("cannot listen on %s: end what listens there, or choose another address: %w: %w",
			net.JoinHostPort(l.host, strconv.Itoa(l.port)), driver.ErrUnavailable, err)
	}
	return ln.Close()
}

func (l *listening) apply(o *server.Options) {
	o.DontListen = false
	o.Host, o.Port = l.host, l.port
	if o.Port == 0 {
		o.Port = server.RANDOM_PORT
	}
	o.Authorization = l.token
}

// version is that of Posthorn in this program.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == "github.com/posthorn/posthorn" && m.Version != "" && m.Version != "v0.0.0" {
			return m.Version
		}
	}
	return cmp.Or(info.Main.Version, "unknown")
}

// URL is where the directory is served, without the token.
func (s *Server) URL() string { return jetstream.Scheme + "://" + s.h.srv.Addr().String() }

// Dir is the directory that is served.
func (s *Server) Dir() string { return s.h.dir }

// start begins to answer.
func (s *Server) start() error {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	var err error
	if s.nc, err = s.h.connect(); err != nil {
		cancel()
		return err
	}
	env := s.env
	env.Alarm = func(a driver.Alarm) {
		s.env.Alarm(a)
		s.wake() // the room may have changed
	}
	s.stops = append(s.stops, s.h.watch(env), s.h.onRestart(s.restarted))
	s.refresh()
	_, err1 := s.nc.Subscribe(jetstream.ServeSubject, func(m *nats.Msg) { s.answer(m, s.current()) })
	_, err2 := s.nc.ChanSubscribe(jetstream.SyncSubject, s.waits)
	_, err3 := s.nc.ChanSubscribe(s.acks+">", s.waits)
	s.nc.SetErrorHandler(s.failed)
	if err := errors.Join(err1, err2, err3, s.nc.Flush()); err != nil {
		s.stop()
		s.nc.Close()
		return err
	}
	go s.run(ctx)
	return nil
}

func (s *Server) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (s *Server) current() jetstream.ServeStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

func (s *Server) answer(m *nats.Msg, v any) { s.publish(m.Reply, encode(v)) }

func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // they are structs of ours
	}
	return data
}

func (s *Server) publish(subject string, data []byte) {
	if err := s.nc.Publish(subject, data); err != nil {
		s.env.Log.Warn("embedded: an answer was not sent", "dir", s.h.dir, "subject", subject, "err", err)
	}
}

// failed is told of errors of the connection: more waits for a sync than may.
func (s *Server) failed(_ *nats.Conn, _ *nats.Subscription, err error) {
	s.mu.Lock()
	told := s.lost
	s.lost = errors.Is(err, nats.ErrSlowConsumer)
	s.mu.Unlock()
	if !told {
		s.env.Log.Error("embedded: more waits for the disk than can be kept; what is forgotten its publishers take for unknown", "dir", s.h.dir, "err", err)
	}
}

// restarted is called when the store was opened anew.
func (s *Server) restarted() {
	s.mu.Lock()
	s.status.Restarts++
	s.status.Serial++
	s.mu.Unlock()
	s.tell()
}

// run syncs for those who wait and tells of changes until it is cancelled. Those for
// whom it syncs then get their answer first.
func (s *Server) run(ctx context.Context) {
	defer close(s.ended)
	var all waiting
	for {
		select {
		case m := <-s.waits:
			all.add(s, m)
			for n := len(s.waits); n > 0; n-- {
				all.add(s, <-s.waits)
			}
			s.cover(ctx, &all)
		case <-s.kick:
			if s.refresh() {
				s.tell()
			}
		case <-ctx.Done():
			return
		}
	}
}

// refresh brings the status up to date and tells whether it has changed.
func (s *Server) refresh() bool {
	full := ""
	if err := s.h.room(); err != nil {
		full = strings.TrimSuffix(err.Error(), ": "+driver.ErrNoSpace.Error())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.Full == full {
		return false
	}
	s.status.Full = full
	s.status.Serial++
	return true
}

func (s *Server) tell() { s.publish(jetstream.NewsSubject, encode(s.current())) }

// waiting is what one sync covers.
type waiting struct {
	barriers []*nats.Msg
	acks     map[string][]jetstream.AckBundle // by the client's box
}

// add takes a barrier or an acknowledgement in.
func (w *waiting) add(s *Server, m *nats.Msg) {
	if m.Subject == jetstream.SyncSubject {
		var r jetstream.SyncRequest
		if status := s.current(); json.Unmarshal(m.Data, &r) != nil || r.Run != status.Run {
			s.answer(m, jetstream.SyncReply{Status: status})
			return
		}
		w.barriers = append(w.barriers, m)
		return
	}
	box, rest, ok := jetstream.AckBox(m.Subject[len(s.acks):])
	if !ok || !jetstream.AckIsNews(m) {
		return
	}
	if w.acks == nil {
		w.acks = map[string][]jetstream.AckBundle{}
	}
	of := w.acks[box]
	if len(of) == 0 || len(of[len(of)-1]) > maxBundle {
		of = append(of, nil)
		w.acks[box] = of
	}
	of[len(of)-1].Add(rest, m.Data)
}

// maxBundle bounds one message of acknowledgements, well below what the server takes.
const maxBundle = 256 << 10

// cover syncs for all who wait, and tells them.
func (s *Server) cover(ctx context.Context, w *waiting) {
	if len(w.barriers) == 0 && len(w.acks) == 0 {
		return
	}
	before := s.current()
	err := s.sync(ctx)
	if err != nil {
		s.syncFailed(err)
	}
	status := s.current()
	for box, bundles := range w.acks {
		switch {
		case err != nil:
			s.publish(jetstream.NotPassed(box), encode(status))
		case before.Restarts != status.Restarts:
			// The store was opened anew meanwhile, of which the clients are told:
			// what became of these nobody knows.
		default:
			for _, b := range bundles {
				s.publish(jetstream.PassedOn(box), b)
			}
		}
	}
	reply := jetstream.SyncReply{Synced: err == nil, Status: status}
	for _, m := range w.barriers {
		s.answer(m, reply)
	}
	clear(w.acks)
	clear(w.barriers)
	w.barriers = w.barriers[:0]
}

// sync fails for good once it has failed.
func (s *Server) sync(ctx context.Context) error {
	if failed := s.current().Failed; failed != "" {
		return errors.New(failed)
	}
	return (&syncer{s.h, Options{Sync: s.opts.Sync}}).Sync(ctx)
}

func (s *Server) syncFailed(err error) {
	s.mu.Lock()
	known := s.status.Failed != ""
	if !known {
		s.status.Failed = fmt.Sprintf("a sync of %s to disk failed: %v", s.h.dir, err)
		s.status.Serial++
	}
	s.mu.Unlock()
	if known {
		return
	}
	s.env.Alarm(driver.Alarm{Code: "sync_failed", Thing: s.h.dir, Text: fmt.Sprintf(
		"a sync of %s to disk failed, nothing is confirmed any more: find out what ails the disk, then start the server anew: %v", s.h.dir, err)})
	s.tell()
}

// Health says why nothing can be stored, if so.
func (s *Server) Health(ctx context.Context) error {
	select {
	case <-s.ended:
		return fmt.Errorf("embedded: the server of %s: %w", s.h.dir, driver.ErrClosed)
	default:
	}
	if failed := s.current().Failed; failed != "" {
		return fmt.Errorf("embedded: %s: nothing is confirmed any more: start the server anew when the disk is mended: %w", failed, driver.ErrUnavailable)
	}
	if err := s.h.room(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, healthWait)
	defer cancel()
	if _, err := s.nc.RequestWithContext(ctx, "$JS.API.INFO", nil); err != nil {
		return fmt.Errorf("embedded: JetStream on %s does not answer: %w: %w", s.h.dir, driver.ErrUnavailable, err)
	}
	return nil
}

const healthWait = 10 * time.Second

// Close ends the server. Clients find it away and wait for it to come back. A
// second call does nothing.
func (s *Server) Close(ctx context.Context) (err error) {
	s.close.Do(func() {
		s.stop()
		select {
		case <-s.ended:
		case <-ctx.Done():
			err = fmt.Errorf("embedded: a sync of %s is still running: %w", s.h.dir, ctx.Err())
		}
		s.nc.Close()
		err = errors.Join(err, s.h.release())
	})
	return err
}

func (s *Server) stop() {
	for _, stop := range s.stops {
		stop()
	}
	s.cancel()
}
