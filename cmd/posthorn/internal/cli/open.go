package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver/embedded"
	_ "github.com/posthorn/posthorn/driver/jetstream" // nats://, tls://
)

// urlFile holds, in the directory of a store, the URL at which "posthorn serve"
// serves it.
const urlFile = "posthorn.url"

// open opens the broker. Only a command that stores something makes a store that
// does not exist.
func (a *app) open(ctx context.Context, makes bool, opts ...posthorn.Option) (*posthorn.Bus, error) {
	raw, err := a.brokerURL()
	if err != nil {
		return nil, err
	}
	dir := ""
	switch scheme, _, _ := strings.Cut(raw, ":"); scheme {
	case "memory":
		return nil, usage("--url %s: a bus in memory belongs to one process, and there is nothing in it to see from here; use embedded:./dir, or nats:// with posthorn serve", raw)
	case embedded.Scheme:
		dir = dirOf(raw)
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) && !makes {
			return nil, &posthorn.Error{Code: posthorn.CodeNotFound, Text: fmt.Sprintf("there is no store in %s; name the right one with --url embedded:DIR", dir)}
		}
	case "nats", "tls":
		raw = withToken(raw, os.Getenv("POSTHORN_TOKEN"))
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	opts = append([]posthorn.Option{posthorn.Service("posthorn-cli"), posthorn.Logger(a.logger(slog.LevelWarn)), posthorn.PublishTimeout(a.timeout)}, opts...)
	bus, err := posthorn.Open(ctx, raw, opts...)
	if posthorn.CodeOf(err) == posthorn.CodeLocked && dir != "" {
		return nil, served(dir, err)
	}
	return bus, err
}

// with opens the broker, calls do, and closes it again.
func (a *app) with(ctx context.Context, makes bool, do func(ctx context.Context, bus *posthorn.Bus) error, opts ...posthorn.Option) error {
	bus, err := a.open(ctx, makes, opts...)
	if err != nil {
		return err
	}
	err = do(ctx, bus)
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.timeout)
	defer cancel()
	if cerr := bus.Close(end); err == nil {
		err = cerr
	}
	return err
}

// asking is with, for what is asked of the broker within the timeout.
func (a *app) asking(ctx context.Context, makes bool, do func(ctx context.Context, bus *posthorn.Bus) error) error {
	return a.with(ctx, makes, func(ctx context.Context, bus *posthorn.Bus) error {
		ctx, cancel := context.WithTimeout(ctx, a.timeout)
		defer cancel()
		return do(ctx, bus)
	})
}

func (a *app) brokerURL() (string, error) {
	if a.url != "" {
		return a.url, nil
	}
	if u := os.Getenv("POSTHORN_URL"); u != "" {
		return u, nil
	}
	if _, err := os.Stat(embedded.DefaultDir); err == nil {
		return embedded.Scheme + ":" + embedded.DefaultDir, nil
	}
	return "", usage("no broker is named, and there is no %s here; say --url nats://127.0.0.1:4222 or --url embedded:DIR, or set POSTHORN_URL", embedded.DefaultDir)
}

// dirOf is the directory that a URL of embedded: names, as far as it names one.
func dirOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return embedded.DefaultDir
	}
	dir := u.Path
	if u.Opaque != "" {
		if dir, err = url.PathUnescape(u.Opaque); err != nil {
			dir = u.Opaque
		}
	}
	if dir == "" {
		return embedded.DefaultDir
	}
	return dir
}

// withToken adds a token to a URL that says nothing of who we are.
func withToken(raw, token string) string {
	scheme, rest, ok := strings.Cut(raw, "://")
	hosts, query, _ := strings.Cut(rest, "?")
	if !ok || token == "" || strings.Contains(hosts, "@") {
		return raw
	}
	for _, p := range []string{"token-file=", "creds=", "nkey="} {
		if strings.HasPrefix(query, p) || strings.Contains(query, "&"+p) {
			return raw
		}
	}
	return scheme + "://" + url.User(token).String() + "@" + rest
}

// served adds to a locked store's error where to find who has it open.
func served(dir string, err error) error {
	at := servedAt(dir)
	if at == "" {
		return &posthorn.Error{Code: posthorn.CodeLocked, Err: err,
			Text: "the store is in use"}
	}
	return &posthorn.Error{Code: posthorn.CodeLocked, Err: err,
		Text: fmt.Sprintf("the store is being served; use --url '%s'", at)}
}

// servedAt is the URL at which a store is served; "" when it is not.
func servedAt(dir string) string {
	text, err := os.ReadFile(filepath.Join(dir, urlFile))
	if err != nil {
		return ""
	}
	at := strings.TrimSpace(string(text))
	u, err := url.Parse(at)
	if err != nil {
		return ""
	}
	// A server that was killed leaves its file behind.
	nc, err := net.DialTimeout("tcp", u.Host, time.Second)
	if err != nil {
		return ""
	}
	nc.Close()
	return at
}

// logger writes what the library logs to standard error, without times: a command
// is short.
func (a *app) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(a.diag, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, at slog.Attr) slog.Attr {
		if len(groups) == 0 && at.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return at
	}}))
}
