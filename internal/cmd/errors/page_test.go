package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var root = filepath.Join("..", "..", "..")

func TestPageIsUpToDate(t *testing.T) {
	want, err := Page(root)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(root, "docs", "errors.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("docs/errors.md is not what the code says; run: make generate")
	}
}

// TestEveryCodeIsInTheTable looks at all code of all modules: each alarm that is
// raised, and each verdict of the engine, has a code of the tables, and no code of
// an alarm stands there for nothing.
func TestEveryCodeIsInTheTable(t *testing.T) {
	known, used := map[string]string{}, map[string]bool{}
	alarms, err := Alarms(root)
	if err != nil {
		t.Fatal(err)
	}
	byConstant := map[string]string{}
	for _, c := range alarms {
		known[c.value], byConstant[c.constant] = "alarm", c.value
	}
	codes, err := Codes(root)
	if err != nil {
		t.Fatal(err)
	}
	verdicts := map[string]bool{}
	for _, c := range codes {
		verdicts[c.value] = true
	}
	found := 0
	eachFile(t, func(name string, f *ast.File) {
		for _, u := range uses(f) {
			switch {
			case u.constant != "":
				used[byConstant[u.constant]] = true
			case u.verdict:
				if !verdicts[u.code] {
					t.Errorf("%s: a verdict with the code %q, which is not in code.go", name, u.code)
				}
				continue
			case known[u.code] == "":
				t.Errorf("%s: an alarm with the code %q, which is not in driver/alarm.go", name, u.code)
			}
			used[u.code] = true
			found++
		}
	})
	if found < 20 {
		t.Errorf("only %d places were found where alarms are raised: the search is broken", found)
	}
	for _, c := range alarms {
		if !used[c.value] {
			t.Errorf("driver/alarm.go: %s is raised nowhere", c.constant)
		}
	}
}

func eachFile(t *testing.T, do func(name string, f *ast.File)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		name := e.Name()
		switch {
		case err != nil:
			return err
		case e.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "drivertest"):
			return fs.SkipDir
		case e.IsDir() || filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") || path == filepath.Join(root, "driver", "alarm.go"):
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		do(path, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A use is a place where a code stands.
type use struct {
	code, constant string
	verdict        bool
}

// raisers are the functions that are handed the code of an alarm.
var raisers = []string{"raise", "clear", "trouble", "calm", "tell"}

func uses(f *ast.File) []use {
	var all []use
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == "driver" && strings.HasPrefix(n.Sel.Name, "Alarm") && n.Sel.Name != "Alarm" {
				all = append(all, use{constant: n.Sel.Name})
			}
		case *ast.CompositeLit:
			typ := nameOf(n.Type)
			if typ != "Alarm" && typ != "Verdict" {
				return true
			}
			for _, e := range n.Elts {
				kv, ok := e.(*ast.KeyValueExpr)
				if ok && nameOf(kv.Key) == "Code" {
					if s, ok := text(kv.Value); ok {
						all = append(all, use{code: s, verdict: typ == "Verdict"})
					}
				}
			}
		case *ast.CallExpr:
			if !slices.Contains(raisers, nameOf(n.Fun)) {
				return true
			}
			for _, a := range n.Args {
				if s, ok := text(a); ok && !strings.Contains(s, " ") {
					all = append(all, use{code: s})
					break
				}
			}
		}
		return true
	})
	return all
}

func nameOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

func text(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(lit.Value)
	return s, err == nil
}

// TestUses holds the search against code in the forms that are in use.
func TestUses(t *testing.T) {
	src := `package p
func f() {
	g.Alarm(driver.Alarm{Code: "one", Text: "not two"})
	d.alarms.raise("three", thing, "a text")
	t.calm(&wait, "four")
	t.trouble(&wait, driver.AlarmFive, "a text", err)
	x := Alarm{Thing: "six"}
	v := Verdict{Code: "seven"}
	other("eight")
}`
	f, err := parser.ParseFile(token.NewFileSet(), "p.go", src, 0)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(uses(f))
	if want := "[{one  false} {three  false} {four  false} { AlarmFive false} {seven  true}]"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestRefused: a comment that lacks its remedy, and two codes that are one.
func TestRefused(t *testing.T) {
	for name, c := range map[string]struct{ src, want string }{
		"no remedy": {"const (\n// CodeA: it broke.\nCodeA = \"a\"\n)", "the comment of CodeA"},
		"twice":     {"const (\n// CodeA: it broke. Remedy: mend it.\nCodeA = \"a\"\n// CodeB: it too. Remedy: mend it.\nCodeB = \"a\"\n)", "CodeB and CodeA are the same"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "code.go"), []byte("package p\n"+c.src), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := Codes(dir); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}
