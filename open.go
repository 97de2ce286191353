package posthorn

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/posthorn/posthorn/driver"
)

// imports says which import brings the driver of a scheme. It is the only place
// in this package that names brokers.
var imports = map[string]string{
	"memory":   "github.com/posthorn/posthorn/driver/memory",
	"embedded": "github.com/posthorn/posthorn/driver/embedded",
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
//	embedded:./dir       the same, stored in dir
//
// Open returns when the broker is ready. ctx bounds the opening only.
func Open(ctx context.Context, rawURL string, opts ...Option) (*Bus, error) {
	o, oerr := newOptions(opts)
	if oerr != nil {
		return nil, oerr
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // without the URL, which may hold a password
		}
		return nil, &Error{Code: CodeInvalid, Text: "open: the URL cannot be read; it looks like embedded:./data", Err: err}
	}
	open, err := opener(u)
	if err != nil {
		return nil, err
	}
	b := newBus(o, u.Redacted())
	d, err := open(ctx, u, b.env())
	if err != nil {
		b.alarms.idle.Wait()
		return nil, wrapf(err, "open %s", u.Redacted())
	}
	return b.start(d), nil
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
		return nil, errorf(CodeInvalid, "open %q: the URL has no scheme; it looks like embedded:./data or memory:", u.Redacted())
	}
	if open, ok := driver.Lookup(u.Scheme); ok {
		return open, nil
	}
	if path, ok := imports[u.Scheme]; ok {
		return nil, errorf(CodeInvalid, "open %s: the driver of %q is not in this program; add: import _ %q", u.Redacted(), u.Scheme, path)
	}
	return nil, errorf(CodeInvalid, "open %s: nothing serves the scheme %q; known are %s", u.Redacted(), u.Scheme, strings.Join(knownSchemes(), ", "))
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
