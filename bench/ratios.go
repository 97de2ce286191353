package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"slices"
)

// ratios are what was claimed in a run, by the name of the claim.
type ratios map[string]float64

// tolerance is how much worse a ratio may be than the stored one.
const tolerance = 0.15

func ratiosOf(results []*result) ratios {
	r := ratios{}
	for _, res := range results {
		for i := range res.row.claims {
			if s, ok := res.claimed(&res.row.claims[i]); ok && !res.row.claims[i].unsteady {
				r[res.row.claims[i].id] = math.Round(s.Median*1000) / 1000
			}
		}
	}
	return r
}

func loadRatios(path string) (ratios, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no file %s to compare with; make it with: make bench STORE=1", path)
	}
	if err != nil {
		return nil, err
	}
	var r ratios
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

func (r ratios) save(path string) error {
	text, err := json.MarshalIndent(r, "", "  ") // sorted by name
	if err != nil {
		return err
	}
	return writeWhole(path, string(text)+"\n")
}

// A fall is a ratio that is worse than the stored one.
type fall struct {
	claim *claim
	row   *row
	was   float64
	is    spread
}

func (f fall) String() string {
	return fmt.Sprintf("%s (%s: %s, %s): stored is %s, measured was %s", f.claim.id, f.row.section.title, f.row.what, f.claim.of,
		f.claim.show(f.was), f.claim.showSpread(f.is))
}

// fell returns what is more than the tolerance worse than stored.
func (r ratios) fell(results []*result) []fall {
	var fell []fall
	for _, res := range results {
		for i := range res.row.claims {
			c := &res.row.claims[i]
			was, stored := r[c.id]
			is, ok := res.claimed(c)
			if stored && ok && c.worse(was, is.Median) {
				fell = append(fell, fall{c, res.row, was, is})
			}
		}
	}
	return fell
}

// worse tells whether a figure is more than the tolerance worse than another. A
// difference may be small, so that half of one is no fall.
func (c *claim) worse(was, is float64) bool {
	slack := math.Abs(was) * tolerance
	if c.above {
		slack = max(slack, 0.5)
	}
	if c.lower() {
		return is > was+slack
	}
	return is < was-slack
}

// seenTwice are the falls of a second time that were there the first time as well.
func seenTwice(first, second []fall) []fall {
	return slices.DeleteFunc(second, func(f fall) bool {
		return !slices.ContainsFunc(first, func(g fall) bool { return g.claim.id == f.claim.id })
	})
}

func fellIn(fell []fall, r *row) bool {
	return slices.ContainsFunc(fell, func(f fall) bool { return f.row == r })
}

// missing are the stored names that were not measured; of a run of some rows only
// nothing is missing.
func (r ratios) missing(results []*result, all bool) []string {
	if !all {
		return nil
	}
	have := ratiosOf(results)
	var names []string
	for _, name := range slices.Sorted(maps.Keys(r)) {
		if _, ok := have[name]; !ok {
			names = append(names, name)
		}
	}
	return names
}
