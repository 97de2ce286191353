package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A module with every kind of result, run for real.
func TestReport(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module sample\n\ngo 1.26.0\n")
	write("mixed/mixed_test.go", `package mixed

import "testing"

func TestPasses(t *testing.T) { t.Log("left out: P0 perpetual motion: not built yet") }
func TestSkips(t *testing.T)  { t.Skip("needs a moon") }
func TestParent(t *testing.T) {
	t.Run("good", func(t *testing.T) {})
	t.Run("bad", func(t *testing.T) { t.Error("the sky fell") })
	t.Run("also", func(t *testing.T) { t.Skip("needs a moon") })
}
`)
	write("dies/dies_test.go", `package dies

import (
	"os"
	"testing"
)

func TestDies(t *testing.T) { os.Exit(3) }
`)
	write("broken/broken_test.go", "package broken\n\nvar x int = \"\"\n")
	write("leaks/leaks_test.go", `package leaks

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) { m.Run(); println("left behind"); os.Exit(1) }
func TestFine(t *testing.T) {}
`)
	write("empty/empty.go", "package empty\n")

	var out strings.Builder
	r := newReport(&out)
	cmd := exec.Command("go", "test", "-json", "./...")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	lines, _ := cmd.Output()
	if err := r.read(strings.NewReader(string(lines))); err != nil {
		t.Fatal(err)
	}
	if r.summary() {
		t.Error("the summary says that all is well")
	}
	got := out.String()
	for _, want := range []string{
		"mixed_test.go:9: the sky fell",
		"cannot use \"\"",
		"left behind",
		"\n  P0 perpetual motion: not built yet\n    sample/mixed TestPasses\n",
		"\n  needs a moon\n    sample/mixed TestParent/also\n    sample/mixed TestSkips\n",
		"\n  sample/mixed TestParent/bad\n",
		"\n  sample/dies TestDies\n",
		"\n  sample/broken\n",
		"\n  sample/leaks\n",
		"\n3 passed, 4 failed, 2 skipped\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the report lacks %q", want)
		}
	}
	if strings.Contains(got, "sample/empty") {
		t.Error("the report speaks of a package without tests")
	}
	if t.Failed() {
		t.Log(got)
	}
}

func TestNothingRunIsAFailure(t *testing.T) {
	var out strings.Builder
	if newReport(&out).summary() {
		t.Error("the summary says that all is well")
	}
	if !strings.HasSuffix(out.String(), "\n0 passed, 1 failed, 0 skipped\n") {
		t.Errorf("the report ends with %q", out.String())
	}
}

// A subtest's name may hold slashes, without there being tests of the parts.
func TestSlashesInNames(t *testing.T) {
	var out strings.Builder
	r := newReport(&out)
	err := r.read(strings.NewReader(`{"Action":"run","Package":"p","Test":"TestURLs"}
{"Action":"run","Package":"p","Test":"TestURLs/memory://host/x"}
{"Action":"pass","Package":"p","Test":"TestURLs/memory://host/x"}
{"Action":"pass","Package":"p","Test":"TestURLs"}
{"Action":"pass","Package":"p"}
`))
	if err != nil || r.passed != 1 || r.failed() != 0 {
		t.Errorf("%d passed, %d failed, %v:\n%s", r.passed, r.failed(), err, out.String())
	}
}
