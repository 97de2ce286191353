package jetstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
)

// The schemes of the URLs.
const (
	Scheme    = "nats"
	SchemeTLS = "tls" // the same, encrypted whether the server asks for it or not
)

func init() {
	driver.Register(Scheme, openURL)
	driver.Register(SchemeTLS, openURL)
}

const (
	connectWait = 10 * time.Second // for one server
	pingEvery   = 5 * time.Second  // a connection that answers two of them not is dead
	maxPings    = 2
	// Trying again begins at once and slows down.
	minReconnect = 50 * time.Millisecond
	maxReconnect = 5 * time.Second
	// awayFor is how long the server may be away before that is an alarm.
	awayFor = 3 * time.Second
)

// A link is a connection that the driver has opened by itself. It comes back by
// itself, for ever. While it is away, and until what answers is known to be the
// same store, nothing is sent.
type link struct {
	t   *target
	env driver.Env
	nc  *nats.Conn

	dials atomic.Int64 // counts attempts to connect
	known atomic.Int64 // the attempt whose server is known to be the store that was opened

	ctx    context.Context // until close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	d       *jsDriver
	early   func(subscription bool, subject string) // hears of missing rights before there is a driver
	served  *served                                 // when the server is a `posthorn serve`
	conns   map[*dialed]struct{}
	dialErr map[string]error
	lastErr error       // of trying to connect again
	alarm   *time.Timer // raises broker_away
	told    bool        // it is raised
	closing bool
}

func openURL(ctx context.Context, u *url.URL, env driver.Env) (driver.Driver, error) {
	t, err := parseTarget(u)
	if err != nil {
		return nil, err
	}
	l, err := dial(ctx, t, env)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.scheme, err)
	}
	d, err := l.open(ctx)
	if err != nil {
		l.close()
		return nil, err
	}
	return d, nil
}

// open makes a driver of the connection.
func (l *link) open(ctx context.Context) (driver.Driver, error) {
	if err := l.checkVersion(); err != nil {
		return nil, err
	}
	opts := Options{
		Instance: l.t.instance, Store: l.t.store(), Lease: l.t.lease, Replicas: l.t.replicas, link: l,
		Close: func(context.Context) error { l.close(); return nil },
	}
	s, err := l.findServed(ctx)
	switch {
	case err != nil:
		return nil, fmt.Errorf("jetstream: %s: %w", l.t.store(), err)
	case s != nil:
		opts = s.options(opts)
	case !l.t.single:
		opts.MinReplicas = 2
	}
	return New(ctx, l.nc, opts, l.env)
}

// A dialed is a connection on its way.
type dialed struct {
	net.Conn
	l *link
}

func (c *dialed) Close() error {
	c.l.mu.Lock()
	delete(c.l.conns, c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

// dial connects within ctx.
func dial(ctx context.Context, t *target, env driver.Env) (*link, error) {
	l := &link{t: t, env: env, conns: map[*dialed]struct{}{}, dialErr: map[string]error{}}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	opts, err := l.natsOptions()
	if err != nil {
		l.cancel()
		return nil, err
	}
	err = l.connect(ctx, opts, t.hosts)
	if errors.Is(err, nats.ErrNoServers) && len(t.hosts) > 1 {
		// The client names the last error only, and not even that when a server
		// was away: ask those that are there what ails them.
		for _, h := range l.reached() {
			if herr := l.connect(ctx, opts, []string{h}); herr != nil {
				err = herr
				break
			}
			l.nc.Close()
		}
	}
	if err != nil {
		l.cancel()
		return nil, l.explain(ctx, err)
	}
	return l, nil
}

// connect ends when ctx does.
func (l *link) connect(ctx context.Context, opts []nats.Option, hosts []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	servers := make([]string, len(hosts))
	for i, h := range hosts {
		servers[i] = "nats://" + h
	}
	stop := context.AfterFunc(ctx, l.cancel)
	done := make(chan error, 1)
	go func() {
		var err error
		l.nc, err = nats.Connect(strings.Join(servers, ","), opts...)
		done <- err
	}()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		l.mu.Lock()
		for c := range l.conns {
			_ = c.Conn.Close()
		}
		l.mu.Unlock()
		err = <-done
	}
	if !stop() {
		if err == nil {
			l.nc.Close()
		}
		return ctx.Err()
	}
	l.known.Store(l.dials.Load())
	return err
}

// reached returns the hosts that could be dialed.
func (l *link) reached() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []string
	for _, h := range l.t.hosts {
		if err, tried := l.dialErr[h]; tried && err == nil {
			all = append(all, h)
		}
	}
	return all
}

// Dial makes a link the dialer of its connection. It is called with the client's
// lock held: so it takes none under which the client may be called.
func (l *link) Dial(network, addr string) (net.Conn, error) {
	l.dials.Add(1)
	ctx, cancel := context.WithTimeout(l.ctx, connectWait)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dialErr[addr] = err
	if err != nil {
		return nil, err
	}
	d := &dialed{c, l}
	l.conns[d] = struct{}{}
	return d, nil
}

func (l *link) natsOptions() ([]nats.Option, error) {
	auth, err := l.t.auth()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, driver.ErrInvalid)
	}
	encrypt, err := l.t.encryption()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, driver.ErrInvalid)
	}
	return []nats.Option{
		nats.Name(l.env.Member),
		auth, encrypt,
		nats.SetCustomDialer(l), nats.SkipHostLookup(),
		nats.Timeout(connectWait), nats.PingInterval(pingEvery), nats.MaxPingsOutstanding(maxPings),
		nats.MaxReconnects(-1), nats.CustomReconnectDelay(reconnectDelay), nats.ReconnectBufSize(-1), nats.IgnoreAuthErrorAbort(),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { l.disconnected(err) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { l.noReconnect(err) }),
		nats.ReconnectHandler(func(*nats.Conn) { l.reconnected() }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { l.failed(err) }),
		nats.ClosedHandler(func(nc *nats.Conn) { l.closed(nc.LastError()) }),
	}, nil
}

// reconnectDelay is exponential with jitter. It is waited after all servers have
// been tried.
func reconnectDelay(round int) time.Duration {
	d := maxReconnect
	if round < 8 {
		d = min(d, minReconnect<<(round-1))
	}
	return d/2 + rand.N(d)
}

// auth says who we are. Files are read at each connection.
func (t *target) auth() (nats.Option, error) {
	nothing := func(*nats.Options) error { return nil }
	switch {
	case t.creds != "":
		if _, err := os.ReadFile(t.creds); err != nil {
			return nil, fileError("creds", t.creds, err)
		}
		return nats.UserCredentials(t.creds), nil
	case t.nkey != "":
		if _, err := os.ReadFile(t.nkey); err != nil {
			return nil, fileError("nkey", t.nkey, err)
		}
		opt, err := nats.NkeyOptionFromSeed(t.nkey)
		if err != nil {
			return nil, fmt.Errorf("parameter %q, file %s: it holds no seed of a user (SU...)", "nkey", t.nkey)
		}
		return opt, nil
	case t.tokenFile != "":
		if _, err := readToken(t.tokenFile); err != nil {
			return nil, fileError("token-file", t.tokenFile, err)
		}
		return nats.TokenHandler(func() string {
			token, _ := readToken(t.tokenFile)
			return token
		}), nil
	case t.token != "":
		return nats.Token(t.token), nil
	case t.user != "" || t.password != "":
		return nats.UserInfo(t.user, t.password), nil
	}
	return nothing, nil
}

func readToken(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	token := string(bytes.TrimSpace(b))
	if token == "" {
		return "", errors.New("it is empty")
	}
	return token, nil
}

// encryption is TLS with verification. Files are read at each connection, so that
// a certificate can be renewed under a running service.
func (t *target) encryption() (nats.Option, error) {
	if !t.tls && t.ca == "" && t.cert == "" {
		return func(*nats.Options) error { return nil }, nil
	}
	if t.ca != "" {
		if _, err := t.roots(); err != nil {
			return nil, err
		}
	}
	if t.cert != "" {
		if _, err := t.certificate(); err != nil {
			return nil, err
		}
	}
	return func(o *nats.Options) error {
		o.Secure = true
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		if t.ca != "" {
			o.RootCAsCB = t.roots
		}
		if t.cert != "" {
			o.TLSCertCB = t.certificate
		}
		return nil
	}, nil
}

func (t *target) roots() (*x509.CertPool, error) {
	b, err := os.ReadFile(t.ca)
	if err != nil {
		return nil, fileError("ca", t.ca, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("parameter %q, file %s: it holds no certificate in PEM", "ca", t.ca)
	}
	return pool, nil
}

func (t *target) certificate() (tls.Certificate, error) {
	for param, path := range map[string]string{"cert": t.cert, "key": t.key} {
		if _, err := os.ReadFile(path); err != nil {
			return tls.Certificate{}, fileError(param, path, err)
		}
	}
	c, err := tls.LoadX509KeyPair(t.cert, t.key)
	if err != nil {
		return c, fmt.Errorf("parameters %q and %q, files %s and %s: %w", "cert", "key", t.cert, t.key, err)
	}
	return c, nil
}

// explain says what an error of connecting means and what to do.
func (l *link) explain(ctx context.Context, err error) error {
	at := strings.Join(l.t.hosts, ", ")
	var (
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
	)
	switch text := err.Error(); {
	case ctx.Err() != nil:
		return fmt.Errorf("no server at %s answered in time: see that it runs and can be reached from here: %w: %w", at, driver.ErrUnavailable, ctx.Err())
	case errors.Is(err, nats.ErrSecureConnWanted):
		return fmt.Errorf("the server at %s does not offer TLS: open it as %s:// without ca, cert and key, or have TLS switched on there: %w: %w", at, Scheme, driver.ErrDenied, err)
	case errors.As(err, &unknown):
		return fmt.Errorf("the certificate of the server at %s is signed by nobody we trust: name the file of the authority that signed it with the parameter \"ca\": %w: %w", at, driver.ErrDenied, err)
	case errors.As(err, &hostname):
		return fmt.Errorf("the certificate of the server at %s is for another name: use a name that is in it as the URL's host, or have the certificate made for this one: %w: %w", at, driver.ErrDenied, err)
	case errors.As(err, &invalid):
		return fmt.Errorf("the certificate of the server at %s, or one in the file of the parameter \"ca\", is not valid: have it renewed: %w: %w", at, driver.ErrDenied, err)
	case strings.Contains(text, "remote error: tls:"), strings.Contains(text, "after TLS handshake"):
		return fmt.Errorf("the server at %s did not take our certificate: name one that it knows with the parameters \"cert\" and \"key\": %w: %w", at, driver.ErrDenied, err)
	case errors.Is(err, nats.ErrTLS):
		return fmt.Errorf("no TLS with the server at %s: %w: %w", at, driver.ErrDenied, err)
	case isAuthError(err):
		return fmt.Errorf("the server at %s refuses us (%s): see to the user and password, the token, creds or nkey in the URL: %w: %w", at, l.t.who(), driver.ErrDenied, err)
	case errors.Is(err, nats.ErrNoInfoReceived) || strings.Contains(text, "nats: expected"):
		return fmt.Errorf("what answers at %s is no NATS server: see to the port: %w: %w", at, driver.ErrUnavailable, err)
	case errors.Is(err, nats.ErrNoServers):
		return fmt.Errorf("no server answers at %s: start it, or correct the URL: %w: %w", at, driver.ErrUnavailable, l.dialErrors(err))
	}
	return fmt.Errorf("no connection to %s: %w: %w", at, driver.ErrUnavailable, err)
}

func isAuthError(err error) bool {
	text := strings.ToLower(err.Error())
	return errors.Is(err, nats.ErrAuthorization) || strings.Contains(text, "authorization") || strings.Contains(text, "authentication") ||
		errors.Is(err, nats.ErrNkeysNotSupported)
}

// who says how we introduced ourselves.
func (t *target) who() string {
	switch {
	case t.creds != "":
		return `by the file of the parameter "creds"`
	case t.nkey != "":
		return `by the file of the parameter "nkey"`
	case t.tokenFile != "":
		return `by the file of the parameter "token-file"`
	case t.token != "":
		return "by the token in the URL"
	case t.user != "" || t.password != "":
		return fmt.Sprintf("as user %q", t.user)
	}
	return "without a name"
}

// dialErrors says why each server could not be reached.
func (l *link) dialErrors(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []error
	for _, h := range l.t.hosts {
		if e := l.dialErr[h]; e != nil {
			all = append(all, e)
		}
	}
	if len(all) == 0 {
		return err
	}
	return errors.New(strings.ReplaceAll(errors.Join(all...).Error(), "\n", "; "))
}

// Versions of the server.
const (
	minMajor, minMinor = 2, 14
	versionWhy         = "fast batches of ADR-50 came with it; see docs/nats.md for what works on which version"
)

// checkVersion refuses a server that is too old.
func (l *link) checkVersion() error {
	v := l.nc.ConnectedServerVersion()
	if major, minor, ok := parseVersion(v); ok && (major > minMajor || major == minMajor && minor >= minMinor) {
		return nil
	}
	return fmt.Errorf("jetstream: the server at %s has version %s, and %d.%d or later is needed (%s): update it: %w",
		l.t.store(), v, minMajor, minMinor, versionWhy, driver.ErrMismatch)
}

func parseVersion(v string) (major, minor int, ok bool) {
	f := strings.SplitN(strings.TrimPrefix(v, "v"), ".", 3)
	if len(f) < 2 {
		return 0, 0, false
	}
	major, err1 := strconv.Atoi(f[0])
	minor, err2 := strconv.Atoi(f[1])
	return major, minor, err1 == nil && err2 == nil
}

// attach makes the driver hear of what happens to the connection.
func (l *link) attach(d *jsDriver) {
	l.mu.Lock()
	l.d = d
	s := l.served
	l.mu.Unlock()
	if s != nil {
		s.whenNewRun(func() {
			if d.syncs.revive() != nil {
				d.env.Alarm(driver.Alarm{Code: "sync_failed", Thing: d.opts.Store, Text: "the server was started anew", Cleared: true})
			}
		})
	}
}

func (l *link) driver() *jsDriver {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.d
}

// gone returns why nothing can be sent now, if so.
func (l *link) gone() error {
	if l.dials.Load() == l.known.Load() && l.nc.IsConnected() {
		return nil
	}
	return fmt.Errorf("jetstream: the connection to %s is lost and is being made anew: %w, %w", l.t.store(), driver.ErrUnavailable, driver.ErrNotNow)
}

// disconnected, noReconnect, reconnected, failed and closed are called by the
// client, one after the other.
func (l *link) disconnected(err error) {
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		return
	}
	l.lastErr = err
	d := l.d
	if l.alarm == nil {
		l.alarm = time.AfterFunc(awayFor, l.raiseAway)
	}
	l.mu.Unlock()
	l.env.Log.Warn("jetstream: the connection is lost, making it anew", "server", l.t.store(), "err", err)
	if d != nil {
		d.restarted()
		d.syncs.interrupt()
	}
}

func (l *link) noReconnect(err error) {
	l.mu.Lock()
	l.lastErr = err
	l.mu.Unlock()
}

// raiseAway is called when the server has been away for a while.
func (l *link) raiseAway() {
	l.mu.Lock()
	if l.closing || l.alarm == nil || l.told {
		l.mu.Unlock()
		return
	}
	l.told = true
	why := l.lastErr
	l.mu.Unlock()
	text := "the server does not answer"
	if why != nil {
		text = l.explain(l.ctx, why).Error()
	}
	l.env.Alarm(driver.Alarm{Code: "broker_away", Thing: l.t.store(), Text: fmt.Sprintf(
		"there is no connection to %s: %s; nothing is published or handled until it is back; it is tried again and again", l.t.store(), text)})
}

func (l *link) reconnected() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return
	}
	if l.d == nil { // being opened: nothing has been taken for this store's yet
		l.known.Store(l.dials.Load())
		return
	}
	l.wg.Go(func() { l.resume(l.d) })
}

// resume finds out who answers now, and goes on if it is the same store.
func (l *link) resume(d *jsDriver) {
	ctx := context.WithValue(l.ctx, pastGate{}, true)
	dial := l.dials.Load()
	for round := 1; dial == l.dials.Load(); round++ { // else the next connection asks by itself
		err := l.recognise(ctx, d)
		if err == nil || errors.Is(err, driver.ErrMismatch) {
			l.back(d, dial)
			return
		}
		l.noReconnect(err)
		select {
		case <-time.After(reconnectDelay(round)):
		case <-l.ctx.Done():
			return
		}
	}
}

// recognise asks the server what it is.
func (l *link) recognise(ctx context.Context, d *jsDriver) error {
	if err := l.checkVersion(); err != nil {
		l.env.Alarm(driver.Alarm{Code: "server_too_old", Thing: l.t.store(), Text: err.Error()})
		return errors.Join(err, driver.ErrUnavailable)
	}
	l.mu.Lock()
	s := l.served
	l.mu.Unlock()
	if s != nil {
		if err := s.ask(ctx); err != nil {
			return err
		}
	}
	return d.checkStore(ctx)
}

// back goes on. With a store that is not ours the driver refuses everything.
func (l *link) back(d *jsDriver, dial int64) {
	l.mu.Lock()
	if l.dials.Load() != dial || l.closing {
		l.mu.Unlock()
		return
	}
	if l.alarm != nil {
		l.alarm.Stop()
		l.alarm = nil
	}
	told := l.told
	l.told = false
	l.known.Store(dial)
	l.mu.Unlock()
	if told {
		l.env.Alarm(driver.Alarm{Code: "broker_away", Thing: l.t.store(), Text: "the connection is there again", Cleared: true})
	}
	l.env.Log.Info("jetstream: connected again", "server", l.nc.ConnectedUrlRedacted())
	d.restarted()
}

// violation is how the server says that a right is missing:
// Permissions Violation for Publish to "subject"
var violation = regexp.MustCompile(`(?i)for (publish|subscription) to "([^"]+)"`)

func (l *link) failed(err error) {
	m := violation.FindStringSubmatch(err.Error())
	if m == nil || !errors.Is(err, nats.ErrPermissionViolation) {
		l.noReconnect(err)
		l.env.Log.Warn("jetstream: the connection", "server", l.t.store(), "err", err)
		return
	}
	subscription := strings.EqualFold(m[1], "subscription")
	l.mu.Lock()
	d, early := l.d, l.early
	l.mu.Unlock()
	switch {
	case d != nil:
		d.denied(subscription, m[2])
	case early != nil:
		early(subscription, m[2])
	}
}

func (l *link) onEarlyViolation(f func(subscription bool, subject string)) {
	l.mu.Lock()
	l.early = f
	l.mu.Unlock()
}

func (l *link) closed(err error) {
	l.mu.Lock()
	closing := l.closing
	l.mu.Unlock()
	if closing || l.driver() == nil {
		return
	}
	l.env.Alarm(driver.Alarm{Code: "broker_away", Thing: l.t.store(), Text: fmt.Sprintf(
		"the server has ended the connection to %s for good: %v; restart this service", l.t.store(), err)})
}

func (l *link) close() {
	l.mu.Lock()
	l.closing = true
	if l.alarm != nil {
		l.alarm.Stop()
	}
	s := l.served
	l.mu.Unlock()
	l.cancel()
	l.wg.Wait()
	if s != nil {
		s.close()
	}
	l.nc.Close()
}
