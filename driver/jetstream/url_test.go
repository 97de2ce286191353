package jetstream

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/posthorn/posthorn/driver"
)

func TestParseTarget(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]target{
		"nats://h":                   {hosts: []string{"h:4222"}},
		"nats://h:1/":                {hosts: []string{"h:1"}},
		"nats://a,b:2,c":             {hosts: []string{"a:4222", "b:2", "c:4222"}},
		"nats://[::1]":               {hosts: []string{"[::1]:4222"}},
		"tls://h":                    {hosts: []string{"h:4222"}, tls: true},
		"nats://u:p%40ss@h":          {hosts: []string{"h:4222"}, user: "u", password: "p@ss"},
		"nats://tok@h":               {hosts: []string{"h:4222"}, token: "tok"},
		"nats://h?token-file=f":      {hosts: []string{"h:4222"}, tokenFile: "f"},
		"nats://h?creds=./f":         {hosts: []string{"h:4222"}, creds: "./f"},
		"nats://h?nkey=f":            {hosts: []string{"h:4222"}, nkey: "f"},
		"nats://h?ca=a&cert=b&key=c": {hosts: []string{"h:4222"}, ca: "a", cert: "b", key: "c"},
		"nats://h?instance=a.b-c_1":  {hosts: []string{"h:4222"}, instance: "a.b-c_1"},
		"nats://h?lease=500ms":       {hosts: []string{"h:4222"}, lease: MinLease},
		"nats://h?replicas=5":        {hosts: []string{"h:4222"}, replicas: 5},
		"nats://h?durability=server": {hosts: []string{"h:4222"}, single: true},
		"nats://h?replicas=1&lease=2m&durability=server": {hosts: []string{"h:4222"}, replicas: 1, lease: 2 * time.Minute, single: true},
	} {
		u := mustParse(t, raw)
		want.scheme = u.Scheme
		got, err := parseTarget(u)
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		if !reflect.DeepEqual(*got, want) {
			t.Errorf("%s\n got %+v\nwant %+v", raw, *got, want)
		}
	}
}

func mustParse(t *testing.T, raw string) *url.URL {
	t.Helper()
	single := raw
	scheme, rest, _ := strings.Cut(raw, "://")
	first, more, _ := strings.Cut(rest, ",")
	if more != "" { // as posthorn.Open does it
		single = scheme + "://" + first
	}
	u, err := url.Parse(single)
	if err != nil {
		t.Fatal(err)
	}
	if more != "" {
		u.Host += "," + more
	}
	return u
}

func TestBadTargets(t *testing.T) {
	t.Parallel()
	for raw, word := range map[string]string{
		"nats:h":                                       "names no server",
		"nats:///x":                                    "names no server",
		"nats://h/hush":                                "%2F",
		"nats://h#hush":                                "%23",
		"nats://h:0":                                   "no server",
		"nats://h:99999":                               "no server",
		"nats://a,,b":                                  "no server",
		"nats://h?speed=hush":                          `"speed"`,
		"nats://h?token=hush":                          `"token"`,
		"nats://h?password=hush":                       `"password"`,
		"nats://h?lease=1s&lease=2s":                   "2 times",
		"nats://h?lease=100ms":                         "500ms",
		"nats://h?lease=hush":                          "duration",
		"nats://h?replicas=0":                          "1 to 5",
		"nats://h?replicas=hush":                       "1 to 5",
		"nats://h?replicas=1":                          "durability=server",
		"nats://h?durability=hush":                     `"server"`,
		"nats://h?instance=UPPER":                      "a-z",
		"nats://h?instance=a..b":                       "a-z",
		"nats://h?instance=abcdefghijklmnopqrstuvwxyz": "24",
		"nats://h?creds=":                              "path",
		"nats://h?cert=hush":                           "come together",
		"nats://h?key=hush":                            "come together",
		"nats://u:hush@h?creds=f":                      "more than once",
		"nats://hush@h?nkey=f":                         "more than once",
		"nats://h?token-file=hush&creds=hush":          "more than once",
		"nats://h?%zz":                                 "name=value",
		"nats://h?a;b":                                 "name=value",
	} {
		_, err := parseTarget(mustParse(t, raw))
		if err == nil || !errors.Is(err, driver.ErrInvalid) || !strings.Contains(err.Error(), word) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v, which should say %q", raw, err, word)
		}
	}
}

// What stands in place of a file may be the secret itself.
func TestFilesThatAreNot(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ param, value, word string }{
		{"creds", "SUAhush", "does not exist"},
		{"nkey", "SUAhush", "does not exist"},
		{"token-file", "hush", "does not exist"},
		{"ca", "hush", "does not exist"},
		{"nkey", empty, "no seed"},
		{"token-file", empty, "empty"},
		{"ca", empty, "no certificate"},
		{"cert", empty, empty},
	} {
		raw := "nats://h?" + c.param + "=" + c.value
		if c.param == "cert" {
			raw += "&key=" + c.value
		}
		l, err := dial(t.Context(), must(parseTarget(mustParse(t, raw))), driver.Env{})
		if err == nil {
			l.close()
		}
		if err == nil || !errors.Is(err, driver.ErrInvalid) || !strings.Contains(err.Error(), `"`+c.param+`"`) || !strings.Contains(err.Error(), c.word) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", raw, err)
		}
	}
}

func must(t *target, err error) *target {
	if err != nil {
		panic(err)
	}
	return t
}

func TestReconnectDelay(t *testing.T) {
	t.Parallel()
	for round := 1; round < 100; round++ {
		if d := reconnectDelay(round); d < minReconnect/2 || d > maxReconnect*3/2 {
			t.Errorf("round %d waits %v", round, d)
		}
	}
	if d := reconnectDelay(1); d > 2*minReconnect {
		t.Errorf("the first wait is %v", d)
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	for v, want := range map[string][2]int{"2.14.0": {2, 14}, "v2.15.2": {2, 15}, "2.16.0-beta.1": {2, 16}, "3.0": {3, 0}} {
		major, minor, ok := parseVersion(v)
		if !ok || [2]int{major, minor} != want {
			t.Errorf("%s: %d %d %v", v, major, minor, ok)
		}
	}
	for _, v := range []string{"", "2", "x.y.z"} {
		if _, _, ok := parseVersion(v); ok {
			t.Errorf("%q is a version", v)
		}
	}
}
