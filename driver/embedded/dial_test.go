package embedded_test

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/posthorn/posthorn/driver"
	_ "github.com/posthorn/posthorn/driver/jetstream"
)

// dial opens a nats: URL.
func dial(t *testing.T, rawURL string) *bed {
	t.Helper()
	b, err := tryDial(t, rawURL)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// parseNATS is for URLs with several hosts, which net/url does not know.
func parseNATS(rawURL string) *url.URL {
	scheme, rest, _ := strings.Cut(rawURL, "://")
	u := &url.URL{Scheme: scheme}
	rest, u.RawQuery, _ = strings.Cut(rest, "?")
	if user, host, ok := strings.Cut(rest, "@"); ok {
		rest = host
		if name, pw, ok := strings.Cut(user, ":"); ok {
			u.User = url.UserPassword(name, pw)
		} else {
			u.User = url.User(name)
		}
	}
	u.Host = rest
	return u
}

func tryDial(t *testing.T, rawURL string) (*bed, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return tryDialCtx(ctx, t, rawURL)
}

func tryDialCtx(ctx context.Context, t *testing.T, rawURL string) (*bed, error) {
	t.Helper()
	u := parseNATS(rawURL)
	open, ok := driver.Lookup(u.Scheme)
	if !ok {
		t.Fatalf("nothing serves %s", u.Scheme)
	}
	b := &bed{t: t}
	d, err := open(ctx, u, b.env())
	if err != nil {
		return nil, err
	}
	b.Driver = d
	t.Cleanup(b.close)
	return b, nil
}

func (b *bed) audit() {
	b.t.Helper()
	if err := b.Audit(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
}

// alarmOf is the last alarm of a thing.
func (b *bed) alarmOf(code, thing string) (driver.Alarm, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range slices.Backward(b.alarms) {
		if a.Code == code && a.Thing == thing {
			return a, true
		}
	}
	return driver.Alarm{}, false
}
