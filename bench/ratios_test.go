package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// made is a result of made-up measures: in each round ours handles a number of
// messages a second, the other 100, with allocations for each.
func made(ours ...float64) *result {
	r := &row{
		id: "made", section: &section{title: "Made up", text: "Nothing of it\nis true.", metrics: []*metric{rate, allocs, serverCPU}}, what: "256 B",
		entries: []entry{{name: "ours"}, {name: "theirs"}, {name: "nobody's"}},
		claims: []claim{
			{id: "made", of: "ours", against: "theirs", metric: rate, bar: 1.3},
			{id: "made-allocs", of: "ours", against: "theirs", metric: allocs, above: true, bar: 12},
			{id: "made-ideal", of: "ours", metric: rate, ideal: 1000, what: "1,000 a second", bar: 0.1},
			{id: "made-stated", of: "theirs", against: "ours", metric: rate},
			{id: "made-unsteady", of: "ours", against: "theirs", metric: rate, unsteady: true},
			{id: "made-cpu", of: "ours", against: "theirs", metric: serverCPU, bar: 1},
		},
	}
	res := &result{row: r, measures: map[string][]measure{}}
	for _, n := range ours {
		res.measures["ours"] = append(res.measures["ours"], measure{Count: int(n), Elapsed: time.Second, Allocs: uint64(30 * n)})
		res.measures["theirs"] = append(res.measures["theirs"], measure{Count: 100, Elapsed: time.Second, Allocs: 2500})
	}
	return res
}

func TestRatiosAreOfTheirRounds(t *testing.T) {
	r := made(120, 90, 150)
	// The machine is half as fast in the last round, for both.
	for _, who := range []string{"ours", "theirs"} {
		r.measures[who][2].Elapsed *= 2
	}
	s, ok := r.claimed(&r.row.claims[0])
	if want := (spread{1.2, 0.9, 1.5}); !ok || s != want {
		t.Errorf("%v, want %v", s, want)
	}
	if s, ok := r.claimed(&r.row.claims[1]); !ok || s.Median != 5 {
		t.Errorf("allocations: %v", s)
	}
	if _, ok := r.claimed(&r.row.claims[5]); ok {
		t.Error("what was not measured has a ratio")
	}
}

func TestWorse(t *testing.T) {
	higher, lower, above := claim{metric: rate}, claim{metric: p50}, claim{metric: allocs, above: true}
	for _, c := range []struct {
		name    string
		c       *claim
		was, is float64
		want    bool
	}{
		{"the same", &higher, 1, 1, false},
		{"within the tolerance", &higher, 1, 0.86, false},
		{"fallen", &higher, 1, 0.84, true},
		{"better", &higher, 1, 2, false},
		{"slower within the tolerance", &lower, 1, 1.14, false},
		{"slower", &lower, 1, 1.16, true},
		{"quicker", &lower, 1, 0.5, false},
		{"more allocations", &above, 10, 11.6, true},
		{"half an allocation", &above, 0, 0.5, false},
		{"an allocation", &above, 0, 1, true},
		{"fewer than the raw client's, and less so", &above, -10, -8, true},
		{"fewer than the raw client's, and more so", &above, -10, -12, false},
	} {
		if got := c.c.worse(c.was, c.is); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestStoredRatios(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ratios.json")
	if _, err := loadRatios(path); err == nil || !strings.Contains(err.Error(), "make bench STORE=1") {
		t.Error(err)
	}
	good := []*result{made(110, 120, 130)}
	if err := ratiosOf(good).save(path); err != nil {
		t.Fatal(err)
	}
	stored, err := loadRatios(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(stored) != 4 || stored["made"] != 1.2 || stored["made-allocs"] != 5 || stored["made-ideal"] != 0.12 || stored["made-stated"] != 0.833 {
		t.Errorf("stored is %v", stored)
	}
	if fell := stored.fell(good); len(fell) > 0 {
		t.Errorf("of the same run: %v", fell)
	}
	var fallen []string
	for _, f := range stored.fell([]*result{made(80, 80, 110)}) {
		fallen = append(fallen, f.String())
	}
	want := []string{
		"made (Made up: 256 B, ours): stored is 1.20, measured was 0.80 (0.80 to 1.10)",
		"made-ideal (Made up: 256 B, ours): stored is 0.12, measured was 0.08 (0.08 to 0.11)",
	}
	if !slices.Equal(fallen, want) {
		t.Errorf("fallen are\n%s\nwant\n%s", strings.Join(fallen, "\n"), strings.Join(want, "\n"))
	}
	first := stored.fell([]*result{made(80, 80, 110)})
	second := stored.fell([]*result{made(110, 110, 110)}) // within the tolerance
	if twice := seenTwice(first, second); len(second) > 0 || len(twice) > 0 {
		t.Errorf("seen once is %v", twice)
	}
	if twice := seenTwice(first[:1], first); len(twice) != 1 || twice[0].claim.id != "made" {
		t.Errorf("seen twice is %v", twice)
	}
	stored["gone"] = 1
	if m := stored.missing(good, true); !slices.Equal(m, []string{"gone"}) {
		t.Errorf("missing are %v", m)
	}
	if m := stored.missing(good, false); m != nil {
		t.Errorf("of a run of some rows missing are %v", m)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadRatios(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Error(err)
	}
}

// TestStoredNames holds the file to claims that there are.
func TestStoredNames(t *testing.T) {
	stored, err := loadRatios("ratios.json")
	if err != nil {
		t.Fatalf("%v; make bench STORE=1 stores them", err)
	}
	names := map[string]bool{}
	for _, r := range allRows(1) {
		for _, c := range r.claims {
			names[c.id] = !c.unsteady
		}
	}
	for name := range stored {
		if !names[name] {
			t.Errorf("ratios.json holds %s, and no row claims that", name)
		}
	}
}
