//go:build unix

package main

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestCtrlC interrupts the command, and runs it again as it says.
func TestCtrlC(t *testing.T) {
	t.Parallel()
	for name, how := range map[string][]string{
		"one process": nil,
		"processes":   {"-processes", "-posthorn", broker},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "kept")
			args := append([]string{"-data", slice(t, 10_000), "-dir", dir}, how...)
			cmd := exec.CommandContext(t.Context(), command, args...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			cmd.Stderr = os.Stderr
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var text strings.Builder
			for in := bufio.NewScanner(stdout); in.Scan(); {
				first := !strings.Contains(text.String(), "| steps ")
				text.WriteString(in.Text() + "\n")
				if first && strings.Contains(in.Text(), "| steps ") {
					// As a terminal does: to the whole process group.
					if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := cmd.Wait(); cmd.ProcessState.ExitCode() != interrupted || !strings.Contains(text.String(), "-dir "+dir) {
				t.Fatalf("%v; status 130 and a word on how to go on are expected\n%s", err, text.String())
			}
			if status, out := shop(t, args...); status != 0 || !strings.Contains(out, "All equal.") {
				t.Errorf("the second run: status %d\n%s", status, out)
			}
		})
	}
}

// TestServe places an order over HTTP when the table is printed, as the command says.
func TestServe(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), command, "-data", slice(t, 50), "-http", "127.0.0.1:0")
	cmd.Stdout = io.Discard
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for in := bufio.NewScanner(stderr); in.Scan(); {
		text.WriteString(in.Text() + "\n")
		if !strings.Contains(in.Text(), "/cancel") { // the last line
			continue
		}
		url := in.Text()[strings.Index(in.Text(), "http://"):strings.Index(in.Text(), "/orders")]
		for _, c := range []struct {
			method, path, body string
			status             int
		}{
			{"POST", "/orders", `{"id": "W1", "customer": "17850", "lines": [{"stock_code": "85123A", "quantity": 2, "unit_price": "2.55"}]}`, http.StatusAccepted},
			{"GET", "/orders/W1", "", http.StatusOK},
			{"POST", "/orders/W1/cancel", "", http.StatusAccepted},
			{"GET", "/orders/W2", "", http.StatusNotFound},
		} {
			req, err := http.NewRequestWithContext(t.Context(), c.method, url+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			answer, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(answer.Body)
			if err != nil || answer.StatusCode != c.status {
				t.Errorf("%s %s: %s %s, %v", c.method, c.path, answer.Status, body, err)
			}
			if err := answer.Body.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, text.String())
	}
}
