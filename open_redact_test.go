package posthorn

import (
	"net/url"
	"strings"
	"testing"
)

func TestURLsShowNoSecrets(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"nats://h:4222":                              "nats://h:4222",
		"nats://ann:hush@h:4222,i:4222":              "nats://ann:xxxxx@h:4222,i:4222",
		"nats://hush@h":                              "nats://xxxxx@h",
		"nats://h?token=hush&lease=3s":               "nats://h?lease=3s&token=xxxxx",
		"nats://h?nkey=hush":                         "nats://h?nkey=xxxxx",
		"nats://ann:12/hush@h":                       "nats://xxxxx/xxxxx",
		"nats://h#hush":                              "nats://h#xxxxx",
		"embedded:./data":                            "embedded:./data",
		"nats://[::1]:1,[::2]:2?durability=server":   "nats://[::1]:1,[::2]:2?durability=server",
		"nats://ann:hush@[::1]:4222,b:4222?ca=a.pem": "nats://ann:xxxxx@[::1]:4222,b:4222?ca=xxxxx",
	} {
		u, err := parseURL(raw)
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		if got := redact(u); got != want {
			t.Errorf("%s is shown as %s, want %s", raw, got, want)
		}
	}
	for _, raw := range []string{"nats://ann:hush/hush@h", "nats://hush%zz@h", "nats://ann:hush hush@h:x"} {
		if _, err := parseURL(raw); err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", raw, err)
		}
	}
	var u *url.URL
	u, _ = parseURL("nats://u:p@a:1,b:2")
	if pw, _ := u.User.Password(); pw != "p" || u.Host != "a:1,b:2" {
		t.Errorf("parsed %+v", u)
	}
}
