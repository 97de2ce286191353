package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestPage(t *testing.T) {
	r := row{job: jobs[0], runs: 3, took: 90 * time.Second, bad: []string{"17"}}
	r.read([]byte("--- SKIP: TestPowerCut/serve (0.00s)\n    storm_test.go:5: 4 waves: all is well\n    x_test.go:6: of no interest\n--- PASS: TestX (1s)\n"))
	s := soak{began: time.Now(), first: 15, commit: "abc, a commit", rows: []row{r, {job: jobs[1], runs: 3}}}
	got := s.page()
	for _, want := range []string{"Commit abc, a commit.", "| model | " + jobs[0].what + " | 3 | 1 | 1m30s |", "Failed: model, seed 17.",
		"Left out of model: TestPowerCut/serve.", "- model: 4 waves: all is well", "from seed 15"} {
		if !strings.Contains(got, want) {
			t.Errorf("the page lacks %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "no interest") || !s.failed() {
		t.Error(got)
	}
}

// A job that names no test would pass for ever.
func TestJobs(t *testing.T) {
	for _, j := range jobs {
		files, err := filepath.Glob(filepath.Join("../../..", j.dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			found = found || strings.Contains(string(text), "func "+strings.Trim(j.run, "^$"))
		}
		if !found {
			t.Errorf("%s: there is no %s in %s", j.name, j.run, j.dir)
		}
	}
}
