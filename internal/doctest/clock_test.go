package doctest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// clockless are the folders whose code may read the clock as it likes, each with
// its reason.
var clockless = map[string]string{
	"internal/clock":                     "it is the one place",
	"internal/cmd":                       "tools of this repository, which run by themselves",
	"internal/leaktest":                  "it is part of tests",
	"driver/drivertest":                  "it is part of tests",
	"driver/embedded/natstest":           "it is part of tests",
	"driver/embedded/internal/processes": "it is part of tests",
	"bench":                              "it measures, and writes down when",
	"compare":                            "it is tests",
	"cmd/posthorn":                       "a program for people, who have the system's clock before their eyes",
	"examples":                           "a user's code",
	"interop":                            "it is tests",
}

// TestClock finds code that reads the wall clock by itself: a bus is handed its
// clock, so that a test can have it jump. What measures a duration with time.Now,
// time.Since or time.Until says so by the word monotonic, in a comment on the line
// or on the function.
func TestClock(t *testing.T) {
	top := root(t)
	seen := 0
	err := filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if e.IsDir() {
			if _, ok := clockless[rel]; ok || path != top && strings.HasPrefix(e.Name(), ".") || e.Name() == "testdata" {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(rel) != ".go" || strings.HasSuffix(rel, "_test.go") {
			return nil
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		seen++
		for _, line := range clockReads(fset, file) {
			t.Errorf("%s:%d: it reads the clock; take the time of day from the clock that the code is handed, "+
				"or say that only a duration is measured: // monotonic", rel, line)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 50 {
		t.Errorf("only %d files were looked at", seen)
	}
	for dir := range clockless {
		if !exists(t, dir) {
			t.Errorf("%s is excepted and does not exist", dir)
		}
	}
}

// clockReads are the lines of a file that read the clock without the word.
func clockReads(fset *token.FileSet, file *ast.File) []int {
	name := timeName(file)
	if name == "" {
		return nil
	}
	said := map[int]bool{}
	for _, group := range file.Comments {
		for _, c := range group.List {
			if strings.Contains(c.Text, "monotonic") {
				said[fset.Position(c.Pos()).Line] = true
			}
		}
	}
	var lines []int
	for _, decl := range file.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && strings.Contains(f.Doc.Text(), "monotonic") {
			continue
		}
		ast.Inspect(decl, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			pkg, ok := sel.X.(*ast.Ident)
			if !ok || pkg.Name != name || !slices.Contains([]string{"Now", "Since", "Until"}, sel.Sel.Name) {
				return true
			}
			if line := fset.Position(sel.Pos()).Line; !said[line] {
				lines = append(lines, line)
			}
			return true
		})
	}
	return lines
}

// timeName is what a file calls package time; "" when it does not import it.
func timeName(file *ast.File) string {
	for _, imp := range file.Imports {
		if imp.Path.Value != `"time"` {
			continue
		}
		if imp.Name != nil {
			return imp.Name.Name
		}
		return "time"
	}
	return ""
}

func TestClockReads(t *testing.T) {
	for _, c := range []struct {
		code string
		want []int
	}{
		{"package p\nimport \"time\"\nvar x = time.Now\n", []int{3}},
		{"package p\nimport clock \"time\"\nfunc f() {\n\t_ = clock.Now()\n\t_ = clock.Since(x) // monotonic\n\t_ = clock.Until(x)\n}\n", []int{4, 6}},
		{"package p\nimport \"time\"\n// f is monotonic.\nfunc f() { _ = time.Now() }\n", nil},
		{"package p\nfunc f() { _ = time.Now() }\n", nil},
		{"package p\nimport \"time\"\nvar x = time.Second\n", nil},
	} {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, "p.go", c.code, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if got := clockReads(fset, file); !slices.Equal(got, c.want) {
			t.Errorf("%q: lines %v, want %v", c.code, got, c.want)
		}
	}
}
