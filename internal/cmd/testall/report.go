package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
)

// An event is a line of go test -json; see go doc test2json.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build-output
	Test        string
	Elapsed     float64
	Output      string
	FailedBuild string
}

// A result is what became of one test or package.
type result struct {
	output strings.Builder
	parent bool // it has subtests, and they are what counts
	action string
}

type skip struct{ pkg, test, reason string }

// A report collects the results of many runs of go test.
type report struct {
	out    io.Writer
	passed int
	fails  []string
	skips  []skip
	left   []skip                      // what tests said that they left out, without being skipped
	builds map[string]*strings.Builder // by import path
	tests  map[string]map[string]*result
	ended  int       // tests since the last line
	spoke  time.Time // when that was printed
}

// silence is for how long nothing is printed while tests end.
const silence = time.Minute

func newReport(out io.Writer) *report {
	return &report{out: out, spoke: time.Now(), builds: map[string]*strings.Builder{}, tests: map[string]map[string]*result{}}
}

func (r *report) failed() int { return len(r.fails) }

// broken counts as a failure what kept tests from being run.
func (r *report) broken(what string) {
	fmt.Fprintf(r.out, "FAIL  %s\n", what)
	r.fails = append(r.fails, what)
}

// read takes in the output of one go test -json.
func (r *report) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) == nil && e.Action != "" {
				r.take(e)
			} else {
				// What a test's child process wrote past the test.
				fmt.Fprintf(r.out, "%s", line)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the output of go test: %w", err)
		}
	}
}

func (r *report) take(e event) {
	switch e.Action {
	case "build-output":
		b := r.builds[e.ImportPath]
		if b == nil {
			b = &strings.Builder{}
			r.builds[e.ImportPath] = b
		}
		b.WriteString(e.Output)
	case "output":
		r.result(e).output.WriteString(e.Output)
		if m := leftOut.FindStringSubmatch(e.Output); m != nil {
			r.left = append(r.left, skip{e.Package, e.Test, m[1]})
		}
	case "run":
		r.result(e)
		r.markParent(e)
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.endPackage(e)
			return
		}
		r.progress(e.Package)
		res := r.result(e)
		res.action = e.Action
		if e.Action == "pass" {
			res.output.Reset()
		}
	}
}

// markParent finds the test that a subtest belongs to. A subtest's name may hold
// slashes itself, so it is the longest part of the name that is a test.
func (r *report) markParent(e event) {
	name := e.Test
	for i := strings.LastIndexByte(name, '/'); i > 0; i = strings.LastIndexByte(name, '/') {
		name = name[:i]
		if parent := r.tests[e.Package][name]; parent != nil {
			parent.parent = true
			return
		}
	}
}

// progress tells, once in a while, that a long package is not stuck.
func (r *report) progress(pkg string) {
	if r.ended++; time.Since(r.spoke) > silence {
		fmt.Fprintf(r.out, "...   %s  %d more tests have ended\n", pkg, r.ended)
		r.ended, r.spoke = 0, time.Now()
	}
}

func (r *report) result(e event) *result {
	pkg := r.tests[e.Package]
	if pkg == nil {
		pkg = map[string]*result{}
		r.tests[e.Package] = pkg
	}
	res := pkg[e.Test]
	if res == nil {
		res = &result{}
		pkg[e.Test] = res
	}
	return res
}

// endPackage counts a package's tests and prints a line for it, and all that its
// failed tests wrote.
func (r *report) endPackage(e event) {
	tests := r.tests[e.Package]
	delete(r.tests, e.Package)
	passed, skipped, failed := 0, 0, 0
	names := make([]string, 0, len(tests))
	for name := range tests {
		names = append(names, name)
	}
	slices.Sort(names)
	var failures strings.Builder
	for _, name := range names {
		res := tests[name]
		switch {
		case name == "":
		case res.action == "pass" && !res.parent:
			passed++
		case res.action == "skip":
			skipped++
			r.skips = append(r.skips, skip{e.Package, name, reason(res.output.String())})
		case res.action != "pass" && !(res.parent && failedBelow(tests, name)):
			// Without a result, the process ended in the middle of the test.
			failed++
			r.fails = append(r.fails, e.Package+" "+name)
			fallthrough
		case res.action == "fail":
			failures.WriteString(res.output.String())
		}
	}
	r.passed += passed
	r.ended, r.spoke = 0, time.Now()
	if e.Action == "fail" {
		if b := r.builds[e.FailedBuild]; b != nil {
			failures.WriteString(b.String())
		}
		if pkg := tests[""]; pkg != nil {
			failures.WriteString(pkg.output.String())
		}
		if failed == 0 {
			r.fails = append(r.fails, e.Package)
		}
	}
	switch {
	case e.Action == "fail":
		fmt.Fprintf(r.out, "FAIL  %s  %.1fs\n%s\n", e.Package, e.Elapsed, failures.String())
	case passed+skipped > 0:
		fmt.Fprintf(r.out, "ok    %s  %.1fs  %d passed, %d skipped\n", e.Package, e.Elapsed, passed, skipped)
	}
}

func failedBelow(tests map[string]*result, parent string) bool {
	for name, res := range tests {
		if strings.HasPrefix(name, parent+"/") && res.action != "pass" && res.action != "skip" {
			return true
		}
	}
	return false
}

var (
	frame    = regexp.MustCompile(`^\s*(=== |--- )`)
	location = regexp.MustCompile(`^\s*[\w.-]+\.go:\d+: `)
	leftOut  = regexp.MustCompile(`^\s*[\w.-]+\.go:\d+: left out: (.*\S)`)
)

// reason is what a skipped test said, without the frame that go test puts around it.
func reason(output string) string {
	var said []string
	for line := range strings.Lines(output) {
		line = strings.TrimRight(line, "\n")
		if frame.MatchString(line) || strings.TrimSpace(line) == "" {
			continue
		}
		said = append(said, strings.TrimSpace(location.ReplaceAllString(line, "")))
	}
	if len(said) == 0 {
		return "it gives no reason"
	}
	return strings.Join(said, " ")
}

// summary prints what was left out and why, what failed, and the closing line.
// It tells whether all is well.
func (r *report) summary() bool {
	if all := slices.Concat(r.left, r.skips); len(all) > 0 {
		fmt.Fprintf(r.out, "\nLeft out:\n")
		var order []string
		byReason := map[string][]skip{}
		for _, s := range all {
			if byReason[s.reason] == nil {
				order = append(order, s.reason)
			}
			byReason[s.reason] = append(byReason[s.reason], s)
		}
		for _, why := range order {
			fmt.Fprintf(r.out, "  %s\n", why)
			for _, s := range byReason[why] {
				fmt.Fprintf(r.out, "    %s %s\n", s.pkg, s.test)
			}
		}
	}
	if len(r.fails) > 0 {
		fmt.Fprintf(r.out, "\nFailed:\n")
		for _, f := range r.fails {
			fmt.Fprintf(r.out, "  %s\n", f)
		}
	}
	if r.passed == 0 && len(r.fails) == 0 {
		r.broken("no test was run")
	}
	fmt.Fprintf(r.out, "\n%d passed, %d failed, %d skipped\n", r.passed, len(r.fails), len(r.skips))
	return len(r.fails) == 0
}
