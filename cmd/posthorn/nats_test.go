//go:build unix

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/cmd/posthorn/internal/cli"
	"github.com/posthorn/posthorn/driver/embedded/natstest"
)

// run runs a command line in this process and holds its exit code against the one
// that is wanted.
func run(t *testing.T, want int, args ...string) (out, diag string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := cli.Run(t.Context(), args, strings.NewReader(""), &stdout, &stderr); code != want {
		t.Fatalf("posthorn %s: exit code %d, wanted %d\n%s%s", strings.Join(args, " "), code, want, &stdout, &stderr)
	}
	return stdout.String(), stderr.String()
}

const users = `
accounts { A { jetstream: enabled, users: [
	{user: admin, password: one}
	{user: app, password: two, permissions: {publish: {deny: ["$JS.API.STREAM.CREATE.>"]}}}
] } }`

const declaration = `{"topics": [{"name": "order", "partitions": 2}], "groups": [{"name": "inventory", "types": ["order.placed"]}]}`

// Who may not create learns what an administrator has to make, and goes on once
// it is made.
func TestProvisionWithoutTheRight(t *testing.T) {
	s := natstest.Start(t, natstest.Options{Config: users})
	at := strings.TrimPrefix(s.URL(), "nats://")
	admin, app := "nats://admin:one@"+at+"?durability=server", "nats://app:two@"+at+"?durability=server"
	file := t.TempDir() + "/bus.json"
	if err := os.WriteFile(file, []byte(declaration), 0o600); err != nil {
		t.Fatal(err)
	}

	_, diag := run(t, 5, "--url", app, "provision", file)
	for _, word := range []string{"PH-STATE", `"subjects":["ph.s.>"]`} {
		if !strings.Contains(diag, word) {
			t.Errorf("on an empty server, %s is not named: %s", word, diag)
		}
	}
	run(t, 0, "--url", admin, "topics")
	_, diag = run(t, 5, "--url", app, "provision", file)
	for _, word := range []string{"PH-T-order-0", "PH-T-order-1", "PH-L-inventory", "administrator"} {
		if !strings.Contains(diag, word) {
			t.Errorf("%s is not named: %s", word, diag)
		}
	}
	if strings.Contains(diag, "two") {
		t.Errorf("the password is in the error: %s", diag)
	}

	out, _ := run(t, 6, "--url", app, "provision", "--check", "--json", file)
	nc, err := nats.Connect("nats://"+at, nats.UserInfo("admin", "one"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	made := map[string]bool{"PH-STATE": true}
	for lines := bufio.NewScanner(strings.NewReader(out)); lines.Scan(); {
		var thing struct {
			Needs []struct {
				Name     string
				Settings json.RawMessage
			}
		}
		if err := json.Unmarshal(lines.Bytes(), &thing); err != nil {
			t.Fatal(err)
		}
		for _, n := range thing.Needs {
			if made[n.Name] {
				continue
			}
			made[n.Name] = true
			resp, err := nc.Request("$JS.API.STREAM.CREATE."+n.Name, n.Settings, 10*time.Second)
			if err != nil || strings.Contains(string(resp.Data), `"error"`) {
				t.Fatalf("an administrator makes %s of %s: %v, %s", n.Name, n.Settings, err, resp.Data)
			}
		}
	}
	if len(made) != 4 {
		t.Errorf("what is needed: %v", made)
	}
	out, _ = run(t, 0, "--url", app, "provision", file)
	if !strings.Contains(out, "made") {
		t.Error(out)
	}
	run(t, 0, "--url", app, "pub", "order.placed", "1")
	out, _ = run(t, 0, "--url", app, "groups")
	if !strings.Contains(out, "inventory  1 ") {
		t.Error(out)
	}

	// A stream that somebody has deleted is told, and the rest is shown.
	run(t, 0, "--url", admin, "pub", "stock.short", "1")
	if _, err := nc.Request("$JS.API.STREAM.DELETE.PH-T-order-1", nil, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"topics", "groups"} {
		out, _ = run(t, 0, "--url", app, command)
		if !strings.Contains(out, "trouble") || !strings.Contains(out, "PH-T-order-1") || command == "topics" && !strings.Contains(out, "stock") {
			t.Errorf("%s: %s", command, out)
		}
	}
}
