package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestFuzzed(t *testing.T) {
	const went = "fuzz: elapsed: 0s, gathering baseline coverage: 0/9 completed\nfuzz: elapsed: 3s, execs: 71 (23/sec), new interesting: 0 (total: 9)\nfuzz: elapsed: 5s, execs: 90 (9/sec)\nPASS\n"
	bad := errors.New("exit status 1")
	var out strings.Builder
	r := newReport(&out)
	for _, c := range []struct {
		name string
		outs []string
		errs []error
	}{
		{"FuzzFine", []string{went}, []error{nil}},
		{"FuzzFails", []string{"Failing input written to testdata/fuzz/x\ncontext deadline exceeded\n"}, []error{bad}},
		{"FuzzNothing", []string{"PASS\n", "PASS\n"}, []error{nil, nil}},
		{"FuzzSlow", []string{"fuzz: elapsed: 2s, gathering baseline coverage: 59/96 completed\nPASS\n", went}, []error{nil, nil}},
		{"FuzzLate", []string{"--- FAIL: context deadline exceeded\n", went}, []error{bad, nil}},
		{"FuzzAlwaysLate", []string{"context deadline exceeded\n", "context deadline exceeded\n"}, []error{bad, bad}},
	} {
		runs := 0
		r.fuzzed(fuzzTest{"p", c.name}, time.Second, func(time.Duration) (string, error) { runs++; return c.outs[runs-1], c.errs[runs-1] })
		if runs != len(c.outs) {
			t.Errorf("%s was run %d times", c.name, runs)
		}
	}
	if want := []string{"p FuzzFails", "p FuzzNothing: no input was tried", "p FuzzAlwaysLate"}; !slices.Equal(r.fails, want) || r.passed != 3 {
		t.Errorf("%d passed, failed: %q", r.passed, r.fails)
	}
	if !strings.Contains(out.String(), "fuzz  p FuzzFine  0.0s  90 inputs\n") || !strings.Contains(out.String(), "Failing input written") {
		t.Error(out.String())
	}
}

func TestFuzzTests(t *testing.T) {
	all, err := fuzzTests(t.Context(), "../../..")
	if err != nil || !slices.Contains(all, fuzzTest{"github.com/posthorn/posthorn", "FuzzStructured"}) {
		t.Errorf("%v, %v", all, err)
	}
}

func TestFuzzing(t *testing.T) {
	for _, c := range []struct {
		env  string
		args []string
		each time.Duration
		only bool
		bad  bool
	}{
		{"", []string{"-race"}, 0, false, false},
		{"5s", []string{"-race"}, 5 * time.Second, false, false},
		{"5s", []string{"-race", "-run", "TestX"}, 0, false, false},
		{"5s", []string{"--run=TestX"}, 0, false, false},
		{"", []string{"fuzz", "1m"}, time.Minute, true, false},
		{"", []string{"fuzz", "soon"}, 0, false, true},
		{"-1s", nil, 0, false, true},
	} {
		t.Setenv("POSTHORN_FUZZ", c.env)
		each, only, err := fuzzing(c.args)
		if (err != nil) != c.bad || !c.bad && (each != c.each || only != c.only) {
			t.Errorf("%q, %q: %v, %v, %v", c.env, c.args, each, only, err)
		}
	}
}
