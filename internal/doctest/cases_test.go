package doctest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/posthorn/posthorn/driver/drivertest"
)

var (
	testName = regexp.MustCompile(`^(Test|Benchmark|Example|Fuzz)[A-Z]\w*$`)
	testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Benchmark|Example|Fuzz)\w*)\(`)
)

// TestNamedTests looks for each test and each case of the suite that a document
// calls its witness.
func TestNamedTests(t *testing.T) {
	funcs := map[string]bool{}
	err := filepath.WalkDir(root(t), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range testFunc.FindAllSubmatch(text, -1) {
			funcs[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	groups := map[string][]string{} // of cases, by their first part
	for _, c := range drivertest.Cases() {
		group, _, _ := strings.Cut(c.Name, "/")
		groups[group] = append(groups[group], c.Name)
	}
	for _, d := range documents(t) {
		for _, m := range codeSpan.FindAllStringSubmatch(d.prose, -1) {
			name := m[1]
			group, _, isCase := strings.Cut(name, "/")
			switch {
			case testName.MatchString(name) && !funcs[name]:
				t.Errorf("%s: names %s, but no such test exists", d.path, name)
			case isCase && groups[group] != nil && name != group+"/*" && !slices.Contains(groups[group], name):
				t.Errorf("%s: names the case %s, but the suite has no such case", d.path, name)
			}
		}
	}
}
