package main

import (
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden file anew")

func TestPage(t *testing.T) {
	p := page{results: []*result{made(120, 90, 150)}, about: []string{"taken nowhere", "of nothing"}, all: true}
	got := p.text()
	const golden = "testdata/page.md"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the page is not as %s has it (go test -run Page -update writes it anew):\n%s", golden, got)
	}
}

// TestPageHidesNothing looks for each claim of each row, whatever was measured.
func TestPageHidesNothing(t *testing.T) {
	var results []*result
	claims := 0
	for _, r := range allRows(1) {
		results = append(results, &result{row: r})
		claims += len(r.claims)
	}
	p := page{results: results, all: true}
	if n := strings.Count(p.bars(), "| not measured |"); n != claims {
		t.Errorf("%d of %d claims are in the table:\n%s", n, claims, p.bars())
	}
	if strings.Contains(p.bars(), "not run") {
		t.Error("the table says that something was not run")
	}
	p.results = nil
	if !strings.Contains(p.bars(), "not run: it takes `make bench LONG=1`") {
		t.Error("the table does not say what was not run")
	}
}
