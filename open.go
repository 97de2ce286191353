package posthorn

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/posthorn/posthorn/driver"
)

// imports says which import brings the driver of a scheme. It is the only place
// in this package that names brokers.
var imports = map[string]string{
	"memory":   "github.com/posthorn/posthorn/driver/memory",
	"embedded": "github.com/posthorn/posthorn/driver/embedded",
	"nats":     "github.com/posthorn/posthorn/driver/jetstream",
	"tls":      "github.com/posthorn/posthorn/driver/jetstream",
}

// Open opens a bus on the broker that the URL names. The driver's package has to
// be imported for its effect:
//
//	import _ "github.com/posthorn/posthorn/driver/embedded"
//
// The URLs are
//
//	memory:              a bus of its own, in memory
//	memory:name          shared by all that open the name in this process
//	embedded:            a JetStream server in this process, stored in ./posthorn-data
//	embedded:./dir       the same, stored in dir; ?lease=5s as below
//	nats://host:4222     a NATS server or cluster with JetStream, or a `posthorn serve`
//	tls://host:4222      the same, encrypted whether the server asks for it or not
//
// A nats: URL may name several servers, with commas between, and who is asking:
// nats://user:password@a:4222,b:4222, or nats://token@a:4222. What is not a letter
// or a digit in a password or token is written as % and two hexadecimal digits.
// Its parameters are
//
//	creds=FILE, nkey=FILE, token-file=FILE   who is asking, from a file
//	ca=FILE                                  who signs the server's certificate
//	cert=FILE&key=FILE                       our own certificate
//	instance=NAME                            keeps installations on one server apart
//	lease=10s                                how long a member may be silent; default: 10 s
//	replicas=N                               copies of what is stored; default: up to 3
//	durability=server                        accept a server that may lose what it confirmed
//
// Open returns when the broker is ready. ctx bounds the opening only, and without a
// deadline the driver sets one. What is wrong with the URL or an option is an error
// with CodeInvalid; a broker that does not answer has CodeUnavailable, one that
// refuses who is asking CodeDenied, a directory that another process has open
// CodeLocked. Errors and logs never show a password or token.
func Open(ctx context.Context, rawURL string, opts ...Option) (*Bus, error) {
	o, oerr := newOptions(opts)
	if oerr != nil {
		return nil, oerr
	}
	u, perr := parseURL(rawURL)
	if perr != nil {
		return nil, perr
	}
	open, err := opener(u)
	if err != nil {
		return nil, err
	}
	b := newBus(o, redact(u))
	d, err := open(ctx, u, b.env())
	if err != nil {
		b.alarms.idle.Wait()
		return nil, wrapf(err, "open %s", redact(u))
	}
	return b.start(d), nil
}

// parseURL reads a URL that may name several hosts with commas between. Its
// errors do not show what may be a password.
func parseURL(raw string) (*url.URL, *Error) {
	single, hosts := firstHost(raw)
	u, err := url.Parse(single)
	if err == nil {
		if hosts != "" {
			u.Host = hosts
		}
		return u, nil
	}
	if strings.Contains(raw, "@") {
		return nil, errorf(CodeInvalid, "open: the URL cannot be read; in a user name, password or token, "+
			"'/', '?', '#', '@', ':' and '%%' are written as %%2F, %%3F, %%23, %%40, %%3A and %%25")
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	return nil, &Error{Code: CodeInvalid, Text: "open: the URL cannot be read; it looks like embedded:./data or nats://host:4222", Err: err}
}

// firstHost leaves out all hosts but the first, and returns all of them if there
// are several: net/url knows of one.
func firstHost(raw string) (single, hosts string) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return raw, ""
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	at := strings.LastIndexByte(rest[:end], '@') + 1
	all := rest[at:end]
	first, _, several := strings.Cut(all, ",")
	if !several {
		return raw, ""
	}
	return scheme + "://" + rest[:at] + first + rest[end:], all
}

// plainParams are parameters whose values may be shown.
var plainParams = []string{"shape", "instance", "lease", "replicas", "durability"}

// redact is the URL as it may be shown: without passwords and tokens, also those
// that stand where they do not belong.
func redact(u *url.URL) string {
	shown := *u
	if u.User != nil {
		shown.User = url.User("xxxxx") // a name alone is a token
		if _, ok := u.User.Password(); ok {
			shown.User = url.UserPassword(u.User.Username(), "xxxxx")
		}
	}
	if strings.Contains(u.Path, "@") { // what looks like the host is half of a password
		shown.Host, shown.Path, shown.RawPath = "xxxxx", "/xxxxx", ""
	}
	if strings.Contains(u.Opaque, "@") {
		shown.Opaque = "xxxxx"
	}
	if u.Fragment != "" {
		shown.Fragment, shown.RawFragment = "xxxxx", ""
		if strings.Contains(u.Fragment, "@") {
			shown.Host = "xxxxx"
		}
	}
	if u.RawQuery != "" {
		q, err := url.ParseQuery(u.RawQuery)
		for name := range q {
			if strings.Contains(name, "@") {
				delete(q, name)
				shown.Host, name = "xxxxx", "xxxxx"
			}
			if !slices.Contains(plainParams, name) {
				q[name] = []string{"xxxxx"}
			}
		}
		if shown.RawQuery = q.Encode(); err != nil {
			shown.RawQuery = "xxxxx"
		}
	}
	return shown.String()
}

// OpenDriver opens a bus on a driver that is open already. The bus closes it.
// It is for drivers that are not registered, and for tests; the driver's alarms
// reach the bus only if its Env was made to.
func OpenDriver(ctx context.Context, d driver.Driver, opts ...Option) (*Bus, error) {
	o, oerr := newOptions(opts)
	if oerr != nil {
		return nil, oerr
	}
	if err := ctx.Err(); err != nil {
		return nil, wrapf(err, "open")
	}
	return newBus(o, "driver").start(d), nil
}

func opener(u *url.URL) (driver.Opener, error) {
	if u.Scheme == "" {
		return nil, errorf(CodeInvalid, "open %q: the URL has no scheme; it looks like embedded:./data or nats://host:4222", redact(u))
	}
	if open, ok := driver.Lookup(u.Scheme); ok {
		return open, nil
	}
	if path, ok := imports[u.Scheme]; ok {
		return nil, errorf(CodeInvalid, "open %s: the driver of %q is not in this program; add: import _ %q", redact(u), u.Scheme, path)
	}
	if _, err := strconv.ParseUint(u.Opaque, 10, 16); err == nil { // host:port
		return nil, errorf(CodeInvalid, "open %s: the URL has no scheme; if it names a server, write nats://%s", redact(u), redact(u))
	}
	return nil, errorf(CodeInvalid, "open %s: nothing serves the scheme %q; known are %s", redact(u), u.Scheme, strings.Join(knownSchemes(), ", "))
}

func knownSchemes() []string {
	names := driver.Schemes()
	for s := range imports {
		if !slices.Contains(names, s) {
			names = append(names, fmt.Sprintf("%s (not imported)", s))
		}
	}
	slices.Sort(names)
	return names
}
