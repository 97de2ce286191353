package cli

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/embedded"
	"github.com/posthorn/posthorn/internal/clock"
)

// tokenFile is the token's, in the directory of the store, when none is named.
const tokenFile = "posthorn.token"

// closeWait bounds a clean stop.
const closeWait = 30 * time.Second

func (a *app) serve() *cobra.Command {
	s := &serving{app: a, standing: map[[2]string]driver.Alarm{}}
	c := &cobra.Command{
		Use:   "serve",
		Short: "Be the broker for other processes of this machine",
		Long: `Serve a directory to other processes of this machine, which open it by the URL that
is printed. What embedded: left in the directory is served as it is. Publishing is
confirmed to them when it is on the disk.

It listens on a loopback address only, and wants a token: the one in --token-file, or
in the variable POSTHORN_TOKEN, or else in the file posthorn.token in the directory,
which is made, for this user only, when it does not exist.

While it runs, the file posthorn.url in the directory holds the URL. With
--health-addr it answers GET /healthz with 200 when it stores, and 503 with the
reasons when it does not. It stops cleanly on an interrupt or SIGTERM, and exits
with 0.`,
		Example: `  posthorn serve --dir ./data
  posthorn serve --dir ./data --addr 127.0.0.1:0 --health-addr 127.0.0.1:8222`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return s.run(c.Context()) },
	}
	f := c.Flags()
	f.StringVar(&s.dir, "dir", embedded.DefaultDir, "the directory of the store; it is made if it does not exist")
	f.StringVar(&s.addr, "addr", embedded.DefaultAddr, "where to listen, on a loopback address; port 0 takes a free one")
	f.StringVar(&s.tokenFile, "token-file", "", "the file that holds the token")
	f.StringVar(&s.healthAddr, "health-addr", "", "where to answer /healthz, on a loopback address (default: nowhere)")
	f.DurationVar(&s.lease, "lease", 0, "for how long a member may be silent before others take over, for clients that do not say it")
	return c
}

// A serving is one run of serve.
type serving struct {
	app                              *app
	dir, addr, tokenFile, healthAddr string
	lease                            time.Duration
	server                           *embedded.Server

	mu       sync.Mutex
	standing map[[2]string]driver.Alarm
}

func (s *serving) run(ctx context.Context) (err error) {
	if s.app.url != "" {
		return usage("serve takes --dir and --addr, not --url")
	}
	token, err := s.token()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(s.app.diag, nil))
	env := driver.Env{Service: "posthorn-serve", Member: fmt.Sprintf("posthorn-serve:%d", os.Getpid()), Log: log, Now: clock.Wall,
		Alarm: func(a driver.Alarm) { s.alarm(log, a) }}
	if s.server, err = embedded.Serve(ctx, s.dir, embedded.ServeOptions{Addr: s.addr, Token: token, Lease: s.lease}, env); err != nil {
		if errors.Is(err, driver.ErrLocked) {
			return served(s.dir, err)
		}
		return asError(err)
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWait)
		defer cancel()
		if cerr := s.server.Close(end); err == nil && cerr != nil {
			err = asError(cerr)
		}
	}()
	stop, health, err := s.serveHealth()
	if err != nil {
		return err
	}
	defer stop()
	at := s.url()
	path := filepath.Join(s.dir, urlFile)
	if err := writeNew(path, at+"\n"); err != nil {
		return err
	}
	defer os.Remove(path)
	if err := s.say(at, health); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func (s *serving) say(at, health string) error {
	if s.app.json {
		return s.app.line(struct {
			URL    string `json:"url"`
			Dir    string `json:"dir"`
			Token  string `json:"token_file,omitempty"`
			Health string `json:"health,omitempty"`
		}{at, s.dir, s.tokenFile, health})
	}
	s.app.say("serving %s at %s", s.dir, at)
	if s.tokenFile == "" {
		s.app.say("the token is that of POSTHORN_TOKEN")
	} else {
		s.app.say("the token is in %s", s.tokenFile)
	}
	if health != "" {
		s.app.say("health at %s", health)
	}
	return nil
}

// url is what clients open. It names the token's file and not the token.
func (s *serving) url() string {
	if s.tokenFile == "" {
		return s.server.URL()
	}
	return s.server.URL() + "?token-file=" + strings.ReplaceAll(url.QueryEscape(s.tokenFile), "%2F", "/")
}

// token reads the token, or makes one.
func (s *serving) token() (string, error) {
	if s.tokenFile == "" {
		if t := os.Getenv("POSTHORN_TOKEN"); t != "" {
			return t, nil
		}
		if err := os.MkdirAll(s.dir, 0o700); err != nil {
			return "", asError(fmt.Errorf("the directory %s cannot be made: %w: %w", s.dir, driver.ErrDenied, err))
		}
		s.tokenFile = filepath.Join(s.dir, tokenFile)
		if _, err := os.Stat(s.tokenFile); errors.Is(err, fs.ErrNotExist) {
			if err := writeNew(s.tokenFile, rand.Text()+"\n"); err != nil {
				return "", err
			}
		}
	}
	var err error
	if s.tokenFile, err = filepath.Abs(s.tokenFile); err != nil {
		return "", err
	}
	text, err := os.ReadFile(s.tokenFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", &posthorn.Error{Code: posthorn.CodeNotFound, Text: fmt.Sprintf("there is no token file %s; make it, or leave --token-file out to have one made", s.tokenFile)}
	case err != nil:
		return "", asError(fmt.Errorf("the token file cannot be read: %w: %w", driver.ErrDenied, err))
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return "", usage("the token file %s is empty", s.tokenFile)
	}
	if info, err := os.Stat(s.tokenFile); err == nil && info.Mode().Perm()&0o077 != 0 {
		fmt.Fprintf(s.app.diag, "posthorn: others may read the token file %s; chmod 600 it\n", s.tokenFile)
	}
	return token, nil
}

// writeNew puts a file in place, whole, that only this user may read.
func writeNew(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // with mode 0600
	if err != nil {
		return asError(fmt.Errorf("%s cannot be written: %w: %w", path, driver.ErrDenied, err))
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return asError(fmt.Errorf("%s cannot be written: %w", path, err))
	}
	return nil
}

// asError gives a driver's error its code.
func asError(err error) error {
	code := posthorn.CodeOf(err)
	if code == posthorn.CodeHandler {
		return err
	}
	return &posthorn.Error{Code: code, Text: "serve", Err: err}
}

func (s *serving) alarm(log *slog.Logger, a driver.Alarm) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := [2]string{a.Code, a.Thing}
	if a.Cleared {
		if _, ok := s.standing[id]; ok {
			log.Info("alarm cleared", "code", a.Code, "thing", a.Thing, "text", a.Text)
		}
		delete(s.standing, id)
		return
	}
	s.standing[id] = a
	log.Error("alarm", "code", a.Code, "thing", a.Thing, "text", a.Text)
}

type healthJSON struct {
	OK      bool         `json:"ok"`
	Reasons []reasonJSON `json:"reasons"`
}

type reasonJSON struct {
	Code  string `json:"code"`
	Thing string `json:"thing"`
	Text  string `json:"text"`
}

func (s *serving) health(ctx context.Context) healthJSON {
	h := healthJSON{Reasons: []reasonJSON{}}
	if err := s.server.Health(ctx); err != nil {
		h.Reasons = append(h.Reasons, reasonJSON{Code: "broker_unavailable", Thing: s.dir, Text: oneLine(err)})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.standing {
		h.Reasons = append(h.Reasons, reasonJSON{Code: a.Code, Thing: a.Thing, Text: a.Text})
	}
	slices.SortFunc(h.Reasons, func(x, y reasonJSON) int { return strings.Compare(x.Code+x.Thing, y.Code+y.Thing) })
	h.OK = len(h.Reasons) == 0
	return h
}

// serveHealth answers /healthz, if it is asked to.
func (s *serving) serveHealth() (stop func(), at string, err error) {
	if s.healthAddr == "" {
		return func() {}, "", nil
	}
	host, _, err := net.SplitHostPort(s.healthAddr)
	if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, "", usage("--health-addr %q is no loopback address with a port, such as 127.0.0.1:8222", s.healthAddr)
	}
	ln, err := net.Listen("tcp", s.healthAddr)
	if err != nil {
		return nil, "", asError(fmt.Errorf("--health-addr: %w: %w", driver.ErrUnavailable, err))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		h := s.health(r.Context())
		w.Header().Set("Content-Type", "application/json")
		if !h.OK {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(h)
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = srv.Serve(ln)
	}()
	return func() {
		srv.Close()
		<-ended
	}, "http://" + ln.Addr().String() + "/healthz", nil
}
