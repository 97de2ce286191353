package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A fuzzTest is a fuzz test of a package.
type fuzzTest struct{ pkg, name string }

var (
	fuzzFunc = regexp.MustCompile(`(?m)^func (Fuzz\w*)\(\w+ \*testing\.F\)`)
	execs    = regexp.MustCompile(`(?m)^fuzz: elapsed: .*, execs: (\d+)`)
)

// fuzz runs each fuzz test of all modules for that long, one after the other. Its
// seeds have been run already, as tests.
func fuzz(ctx context.Context, r *report, dirs []string, each time.Duration) error {
	fmt.Fprintf(r.out, "fuzzing, %v each\n", each)
	for _, dir := range dirs {
		tests, err := fuzzTests(ctx, dir)
		if err != nil {
			return err
		}
		for _, f := range tests {
			if ctx.Err() != nil {
				return errors.New("interrupted: the rest was not fuzzed")
			}
			r.fuzzed(f, each, func(each time.Duration) (string, error) { return f.run(ctx, dir, each) })
		}
	}
	return nil
}

// fuzzTests finds the fuzz tests of a module.
func fuzzTests(ctx context.Context, dir string) (all []fuzzTest, err error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles", "./...")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list in %s: %w", dir, err)
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath, Dir           string
			TestGoFiles, XTestGoFiles []string
		}
		if err := dec.Decode(&p); err == io.EOF {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list in %s: %w", dir, err)
		}
		for _, file := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			text, err := os.ReadFile(filepath.Join(p.Dir, file))
			if err != nil {
				return nil, err
			}
			for _, m := range fuzzFunc.FindAllSubmatch(text, -1) {
				all = append(all, fuzzTest{p.ImportPath, string(m[1])})
			}
		}
	}
}

// run fuzzes once.
func (f fuzzTest) run(ctx context.Context, dir string, each time.Duration) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run=^$", "-fuzz=^"+f.name+"$", "-fuzztime="+each.String(), "-fuzzminimizetime=10s", f.pkg)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// fuzzed counts what came of fuzzing. Where the machine is so slow that the time was
// up when what is known already had been tried, there is more of it.
func (r *report) fuzzed(f fuzzTest, each time.Duration, run func(each time.Duration) (string, error)) {
	began := time.Now()
	out, err := run(each)
	if err != nil && strings.Contains(out, "context deadline exceeded") && !strings.Contains(out, "Failing input") {
		out, err = run(each) // the end of the time met a worker at a bad moment: no input has failed
	}
	inputs := tried(out)
	if err == nil && inputs == 0 {
		out, err = run(20 * each)
		inputs = tried(out)
	}
	switch {
	case err != nil:
		fmt.Fprintf(r.out, "FAIL  %s %s\n%s\n", f.pkg, f.name, out)
		r.fails = append(r.fails, f.pkg+" "+f.name)
	case inputs == 0:
		fmt.Fprintf(r.out, "FAIL  %s %s: no input was tried\n%s\n", f.pkg, f.name, out)
		r.fails = append(r.fails, f.pkg+" "+f.name+": no input was tried")
	default:
		fmt.Fprintf(r.out, "fuzz  %s %s  %.1fs  %d inputs\n", f.pkg, f.name, time.Since(began).Seconds(), inputs)
		r.passed++
	}
	r.spoke = time.Now()
}

// tried is how many inputs a run has tried, those that were known already apart.
func tried(out string) (inputs int) {
	for _, m := range execs.FindAllStringSubmatch(out, -1) {
		inputs, _ = strconv.Atoi(m[1])
	}
	return inputs
}
