// Package embedded is the driver that needs nothing installed: a NATS JetStream
// server inside the process, which keeps everything in one directory.
//
//	import _ "github.com/posthorn/posthorn/driver/embedded"
//
//	bus, err := posthorn.Open(ctx, "embedded:./data")
//
// embedded: alone is embedded:./posthorn-data. Opens of one directory in one
// process share one server, the last close ends it. A directory belongs to one
// process at a time. The server listens on nothing, unless it is started with
// [Serve], which serves the directory to other processes on this machine.
//
// On Linux a publish is confirmed after a sync of the directory's file system
// that covers it, one sync for all that wait; syncfs writes out what others have
// written there too, so that a volume of its own serves best. Elsewhere the
// server syncs each message.
package embedded

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/jetstream"
)

// Scheme is the scheme of the URLs.
const Scheme = "embedded"

// DefaultDir is the directory of the URL "embedded:".
const DefaultDir = "./posthorn-data"

func init() { driver.Register(Scheme, openURL) }

// Options change how a directory is opened. The zero value is what a URL gives.
type Options struct {
	// Lease is how long a member of a group may be silent before the others take
	// its partitions, 500 ms at least. 0: [jetstream.DefaultLease]. In a URL it is
	// a parameter, embedded:./data?lease=5s.
	Lease time.Duration
	// Sync is called in place of each sync to disk. It calls sync itself, or
	// does not. It is there for tests; nil calls sync.
	Sync func(ctx context.Context, sync func() error) error
}

func openURL(ctx context.Context, u *url.URL, env driver.Env) (driver.Driver, error) {
	dir, opts, err := parseURL(u)
	if err != nil {
		return nil, err
	}
	return Open(ctx, dir, opts, env)
}

// parseURL reads a URL: embedded:./dir is opaque to net/url, embedded:/dir is a
// path.
func parseURL(u *url.URL) (dir string, opts Options, err error) {
	refuse := func(what string) (string, Options, error) {
		return "", opts, fmt.Errorf("embedded: %s: write embedded:./dir or embedded:/dir: %w", what, driver.ErrInvalid)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return refuse(err.Error())
	}
	for name, values := range query {
		if name != "lease" {
			return refuse(fmt.Sprintf("there is no parameter %q", name))
		}
		opts.Lease, err = time.ParseDuration(values[0])
		if err != nil || opts.Lease < jetstream.MinLease || len(values) > 1 {
			return refuse(fmt.Sprintf("lease=%s is not a duration of at least %v", values[0], jetstream.MinLease))
		}
	}
	switch {
	case u.Host != "" || u.User != nil:
		return refuse(fmt.Sprintf("the URL names a host, %q, where a directory belongs", u.Host))
	case u.Fragment != "":
		return refuse(fmt.Sprintf("the URL has a fragment, %q", u.Fragment))
	}
	dir = u.Path
	if u.Opaque != "" {
		if dir, err = url.PathUnescape(u.Opaque); err != nil {
			return refuse(err.Error())
		}
	}
	if dir == "" {
		dir = DefaultDir
	}
	return dir, opts, nil
}

// Open opens the directory, and makes it if it does not exist.
func Open(ctx context.Context, dir string, opts Options, env driver.Env) (driver.Driver, error) {
	h, err := acquire(ctx, dir, env, nil)
	if err != nil {
		return nil, err
	}
	nc, err := h.connect()
	if err != nil {
		h.release()
		return nil, err
	}
	stop := h.watch(env)
	d, err := jetstream.New(ctx, nc, jetstream.Options{
		Store: h.dir, Sync: h.syncer(opts), Room: h.room, OnRestart: h.onRestart, Replicas: 1, Lease: opts.Lease,
		Close: func(context.Context) error {
			stop()
			nc.Close()
			return h.release()
		},
	}, env)
	if err != nil {
		stop()
		nc.Close()
		h.release()
		return nil, h.explain(err)
	}
	return d, nil
}

// Connect returns a raw connection to the server that serves a directory which
// is open in this process, for those who want to speak NATS to it. The caller
// closes it, before the directory is closed.
func Connect(_ context.Context, dir string) (*nats.Conn, error) {
	path, err := realPath(dir)
	if err != nil {
		return nil, err
	}
	h := lookup(path)
	if h == nil {
		return nil, fmt.Errorf("embedded: %s is not open in this process: open a bus on it first: %w", path, driver.ErrNotFound)
	}
	return h.connect()
}

// realPath tells directories apart: absolute, without symbolic links as far as
// it exists.
func realPath(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("embedded: directory %q: %w: %w", dir, driver.ErrInvalid, err)
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		return real, nil
	} else if !os.IsNotExist(err) {
		return abs, nil // making it will tell what is wrong
	}
	return abs, nil
}
