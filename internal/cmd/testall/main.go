// Testall runs the tests of every module of the workspace and says at its end what
// it left out. Its arguments go to go test. It is what "make test" calls.
//
// With POSTHORN_FUZZ=5s in its environment it then runs each fuzz test for so long,
// unless -run chooses among the tests. "testall fuzz 1m" does nothing else.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// notTested are modules without packages of their own, which are in no
// workspace.
var notTested = []string{"internal/tools"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	began := time.Now()
	r := newReport(os.Stdout)
	if err := run(ctx, r, os.Args[1:]); err != nil {
		r.broken(err.Error())
	}
	fmt.Printf("\ntook %v\n", time.Since(began).Round(time.Second))
	if !r.summary() {
		os.Exit(1)
	}
}

func run(ctx context.Context, r *report, args []string) error {
	dirs, err := modules(ctx)
	if err != nil {
		return err
	}
	each, only, err := fuzzing(args)
	if err != nil {
		return err
	}
	if only {
		return fuzz(ctx, r, dirs, each)
	}
	for _, dir := range dirs {
		if ctx.Err() != nil {
			return errors.New("interrupted: the rest was not run")
		}
		if err := test(ctx, r, dir, args); err != nil {
			return err
		}
	}
	if each > 0 {
		return fuzz(ctx, r, dirs, each)
	}
	return nil
}

// fuzzing tells for how long each fuzz test is to be run, 0 for not at all, and
// whether that is all there is to do.
func fuzzing(args []string) (each time.Duration, only bool, err error) {
	text := os.Getenv("POSTHORN_FUZZ")
	if only = len(args) == 2 && args[0] == "fuzz"; only {
		text = args[1]
	}
	if text == "" {
		return 0, false, nil
	}
	if each, err = time.ParseDuration(text); err != nil || each <= 0 {
		return 0, false, fmt.Errorf("fuzzing: %q is no time such as 5s", text)
	}
	if !only && slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(strings.TrimLeft(a, "-"), "run") }) {
		return 0, false, nil
	}
	return each, only, nil
}

// test runs the tests of one module.
func test(ctx context.Context, r *report, dir string, args []string) error {
	fmt.Fprintf(r.out, "module %s\n", dir)
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"test", "-json"}, args...), "./...")...)
	// go test hands the interrupt on to the test binaries and waits for them.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = io.MultiWriter(os.Stderr, &stderr)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	before := r.failed()
	readErr := r.read(stdout)
	// go test exits with 1 when a test failed, which the report has then seen.
	if err := cmd.Wait(); err != nil && r.failed() == before {
		return fmt.Errorf("go test in %s: %w: %s", dir, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return readErr
}

// modules returns the folders of all modules in go.work. A module that is in the
// tree and not in go.work is an error: its tests would be forgotten.
func modules(ctx context.Context) ([]string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		var e *exec.ExitError
		if errors.As(err, &e) {
			err = fmt.Errorf("%w: %s", err, e.Stderr)
		}
		return nil, fmt.Errorf("list the modules of the workspace: %w", err)
	}
	work, err := exec.CommandContext(ctx, "go", "env", "GOWORK").Output()
	if err != nil {
		return nil, fmt.Errorf("find go.work: %w", err)
	}
	root := filepath.Dir(strings.TrimSpace(string(work)))
	var dirs []string
	for dir := range strings.Lines(string(out)) {
		rel, err := filepath.Rel(root, strings.TrimSpace(dir))
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, rel)
	}
	return dirs, checkComplete(root, dirs)
}

func checkComplete(root string, dirs []string) error {
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := e.Name()
		if e.IsDir() && path != root && (name == "testdata" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")) {
			return fs.SkipDir
		}
		if name != "go.mod" {
			return nil
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		if !slices.Contains(dirs, rel) && !slices.Contains(notTested, filepath.ToSlash(rel)) {
			return fmt.Errorf("module %s is not in go.work; add it with: go work use ./%s", rel, rel)
		}
		return nil
	})
}
