//go:build unix

package main

import (
	"bufio"
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
			args := append([]string{"-data", part, "-dir", dir}, how...)
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
				first := !strings.Contains(text.String(), "orders published")
				text.WriteString(in.Text() + "\n")
				if first && strings.Contains(in.Text(), "orders published") {
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
