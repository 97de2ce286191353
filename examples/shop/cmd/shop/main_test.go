package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// part is the file that ships with the shop.
const part = "../../data/online-retail-part.csv.gz"

// command is the shop, as a newcomer builds it; broker is the program posthorn.
var command, broker string

func TestMain(m *testing.M) {
	os.Exit(build(m))
}

func build(m *testing.M) int {
	dir, err := os.MkdirTemp("", "shop-test-*")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	command, broker = filepath.Join(dir, "shop"), filepath.Join(dir, "posthorn")
	for path, program := range map[string]string{command: ".", broker: "github.com/posthorn/posthorn/cmd/posthorn"} {
		if out, err := exec.Command("go", "build", "-o", path, program).CombinedOutput(); err != nil {
			fmt.Printf("go build %s: %v\n%s", program, err, out)
			return 1
		}
	}
	return m.Run()
}

// slice writes the first lines of the part into a file of its own.
func slice(t *testing.T, lines int) string {
	t.Helper()
	f, err := os.Open(part)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for in := bufio.NewScanner(z); lines >= 0 && in.Scan(); lines-- {
		out.WriteString(in.Text() + "\n")
	}
	path := filepath.Join(t.TempDir(), "slice.csv")
	if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// shop runs the command to its end.
func shop(t *testing.T, args ...string) (status int, out string) {
	t.Helper()
	text, err := exec.CommandContext(t.Context(), command, args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit != nil {
		status = exit.ExitCode()
	}
	return status, string(text)
}

// TestDemo is `make demo`: the part that ships, on the embedded broker.
func TestDemo(t *testing.T) {
	t.Parallel()
	status, out := shop(t, "-data", part)
	if status != 0 || strings.Contains(out, "NOT EQUAL") {
		t.Errorf("status %d", status)
	}
	for _, want := range []string{"All equal.", "2,546", "491", "1,268,699.550", "128,263.200", "-11,062.060", "3,466",
		"1 invoices not in one piece", "4 invoices with two dates", "5 events became dead letters", "order.adjusted of A563185", "order.placed of POISON", "942,318", "the mail provider was away"} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	t.Log(out)
}

// TestService runs one service as a process of its own, which is what the flags of
// a run in processes are made of.
func TestService(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args   string
		status int
		want   string
	}{
		{"-service payment -url nats://127.0.0.1:1 -dir " + t.TempDir(), 1, "127.0.0.1:1"},
		{"-service paymint -url nats://127.0.0.1:1 -dir " + t.TempDir(), 1, "there are order, payment"},
		{"-service payment -url nats://127.0.0.1:1", 2, "-service needs -dir"},
		{"-service payment -dir " + t.TempDir(), 2, "write nats://"},
		{"-service payment -processes", 2, "choose one"},
		{"-processes", 2, "one of -posthorn, -nats and -url"},
		{"-processes -url embedded:./x", 2, "belongs to one process"},
		{"-processes -posthorn x -http 127.0.0.1:0", 2, "-service order takes it"},
		{"-processes -data " + part + " -posthorn ./no-such-program", 1, "no-such-program"},
		{"-posthorn x", 2, "go with -processes"},
	} {
		if status, out := shop(t, strings.Fields(c.args)...); status != c.status || !strings.Contains(out, c.want) {
			t.Errorf("shop %s: status %d, want %d with %q:\n%s", c.args, status, c.status, c.want, out)
		}
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, c := range []struct {
		args   string
		status int
		want   string
	}{
		{"-help", 0, "Exit status: 0 all equal"},
		{"-colour", 2, "-colour"},
		{"all", 2, `unexpected argument "all"`},
		{"-http 0.0.0.0:8080", 2, "only loopback"},
		{"-http 8080", 2, "-http 8080"},
		{"-url memory: -dir " + dir, 2, "leave -dir out"},
		{"-data no/such.csv", 1, "no/such.csv"},
		{"-data main.go", 1, "the header InvoiceNo"},
		{"-data " + part + " -url pigeon:", 1, "pigeon"},
	} {
		if status, out := shop(t, strings.Fields(c.args)...); status != c.status || !strings.Contains(out, c.want) {
			t.Errorf("shop %s: status %d, want %d with %q:\n%s", c.args, status, c.status, c.want, out)
		}
	}
}
