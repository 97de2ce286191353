package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/posthorn/posthorn/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// Each command says what it does, how, and shows it.
func TestHelp(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.HasParent() {
			if c.Short == "" || c.Long == "" || !strings.Contains(c.Example, "posthorn "+strings.TrimPrefix(c.CommandPath(), "posthorn ")) {
				t.Errorf("%s lacks a text or an example of itself", c.CommandPath())
			}
			if c.Args == nil && c.Name() != "tail" { // whose arguments are topics, as many as one likes
				t.Errorf("%s does not say which arguments it takes", c.CommandPath())
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(Tree())
}

func TestWithToken(t *testing.T) {
	for _, c := range []struct{ url, want string }{
		{"nats://host:4222", "nats://to%2Fken@host:4222"},
		{"nats://a:1,b:2?lease=5s", "nats://to%2Fken@a:1,b:2?lease=5s"},
		{"nats://user:pass@host", "nats://user:pass@host"},
		{"nats://host?creds=file", "nats://host?creds=file"},
		{"nats://host?lease=5s&token-file=f", "nats://host?lease=5s&token-file=f"},
		{"nats:host", "nats:host"},
	} {
		if got := withToken(c.url, "to/ken"); got != c.want {
			t.Errorf("%s: %s, wanted %s", c.url, got, c.want)
		}
	}
	if got := withToken("nats://host", ""); got != "nats://host" {
		t.Error(got)
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0ms", 999 * time.Millisecond: "999ms", 59 * time.Second: "59s", time.Minute: "1m", 61 * time.Second: "1m1s",
		3 * time.Hour: "3h", 50 * time.Hour: "2d2h", 7 * 24 * time.Hour: "7d",
	} {
		if got := span(d); got != want {
			t.Errorf("%v: %s, wanted %s", d, got, want)
		}
	}
}

// What came over the bus does not move the cursor.
func TestPlain(t *testing.T) {
	if got := plain("a\x1b[2Jb\nc\td\u202ee"); got != "a\uFFFD[2Jb c d\uFFFDe" {
		t.Errorf("%q", got)
	}
}

func TestBytesOf(t *testing.T) {
	for n, want := range map[int64]string{-1: "?", 0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 5 << 20: "5.0 MiB", 3 << 40: "3.0 TiB"} {
		if got := bytesOf(n); got != want {
			t.Errorf("%d: %s, wanted %s", n, got, want)
		}
	}
}
