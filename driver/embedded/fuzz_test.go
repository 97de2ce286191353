package embedded

import (
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/jetstream"
)

// FuzzDirURL: a URL names a directory, or is refused.
func FuzzDirURL(f *testing.F) {
	for _, s := range []string{"embedded:", "embedded:./a%20b", "embedded:///abs?lease=1s", "embedded://host/x", "embedded:a?lease=1ms", "embedded:%00", "embedded:./a?lease=1s&lease=2s", "embedded:#x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := url.Parse(raw)
		if err != nil {
			t.Skip("the core lets no such URL through")
		}
		dir, opts, err := parseURL(u)
		switch {
		case err != nil && !errors.Is(err, driver.ErrInvalid):
			t.Errorf("%q: %v", raw, err)
		case err == nil && dir == "":
			t.Errorf("%q names the directory %q", raw, dir)
		case err == nil && opts.Lease != 0 && opts.Lease < jetstream.MinLease:
			t.Errorf("%q has a lease of %v", raw, opts.Lease)
		}
	})
}

// FuzzServeOptions: nothing is served but on this machine, and no error shows the
// token.
func FuzzServeOptions(f *testing.F) {
	f.Add("127.0.0.1:4222", "x")
	f.Add("localhost:0", " ")
	f.Add("[::1]:1", "$2a$")
	f.Add("0.0.0.0:1", "a@b:c/d")
	f.Add(":4222", "\x00")
	f.Add("127.1:99999", "é")
	f.Fuzz(func(t *testing.T, addr, token string) {
		const secret = "SESAME5417"
		o := ServeOptions{Addr: addr, Token: token + secret}
		l, err := o.check()
		if err != nil {
			if strings.Contains(err.Error(), secret) && !strings.Contains(addr, secret) {
				t.Errorf("%v", err)
			}
			return
		}
		if ip := net.ParseIP(l.host); ip == nil || !ip.IsLoopback() || l.port < 0 || l.port > 65535 {
			t.Errorf("%q is served at %q, port %d", addr, l.host, l.port)
		}
		u, err := url.Parse("nats://" + url.User(o.Token).String() + "@" + net.JoinHostPort(l.host, "1"))
		if err != nil || u.User.Username() != o.Token {
			t.Errorf("nobody can name the token %q in a URL: %v", o.Token, err)
		}
	})
}
