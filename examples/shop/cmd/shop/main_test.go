package main

import (
	"bufio"
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

// command is the shop, as a newcomer builds it.
var command string

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
	command = filepath.Join(dir, "shop")
	if out, err := exec.Command("go", "build", "-o", command, ".").CombinedOutput(); err != nil {
		fmt.Printf("go build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
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
		"1 invoices not in one piece", "4 invoices with two dates", "1 events became dead letters", "order.adjusted of A563185"} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	t.Log(out)
}

// TestCtrlC interrupts the command, and runs it again as it says.
func TestCtrlC(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "kept")
	cmd := exec.CommandContext(t.Context(), command, "-data", part, "-dir", dir)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for in := bufio.NewScanner(stdout); in.Scan(); {
		first := !strings.Contains(text.String(), "orders published")
		text.WriteString(in.Text() + "\n")
		if first && strings.Contains(in.Text(), "orders published") {
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != interrupted || !strings.Contains(text.String(), "-dir "+dir) {
		t.Fatalf("%v; status 130 and a word on how to go on are expected\n%s", err, text.String())
	}
	if status, out := shop(t, "-data", part, "-dir", dir); status != 0 || !strings.Contains(out, "All equal.") {
		t.Errorf("the second run: status %d\n%s", status, out)
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
