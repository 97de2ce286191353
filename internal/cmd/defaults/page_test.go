package main

import (
	"bytes"
	"go/parser"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPageIsUpToDate(t *testing.T) {
	root := filepath.Join("..", "..", "..")
	want, err := Page(root)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(root, "docs", "defaults.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("docs/defaults.md is not what the code says; run: make generate")
	}
}

func TestFormat(t *testing.T) {
	for _, c := range []struct{ name, expr, want string }{
		{"DefaultKeep", "7 * 24 * time.Hour", "7 days"},
		{"DefaultDelay", "100 * time.Millisecond", "100 ms"},
		{"DefaultWindowBytes", "64 << 20", "64 MiB"},
		{"DefaultWindow", "8192", "8192"},
		{"DefaultDir", `"./posthorn-data"`, "`./posthorn-data`"},
	} {
		e, err := parser.ParseExpr(c.expr)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := format(c.name, e); err != nil || got != c.want {
			t.Errorf("%s = %s: got %q, %v, want %q", c.name, c.expr, got, err, c.want)
		}
	}
}

// A comment that says another number than the constant is found, and so is one that
// says nothing.
func TestCommentAtOdds(t *testing.T) {
	for comment, want := range map[string]string{
		"Concurrency is how many run. Default 32.": `"32", but DefaultConcurrency is 64`,
		"Concurrency is how many run.":             "the comment of Concurrency says no default",
	} {
		dir := t.TempDir()
		src := "package p\n\nconst DefaultConcurrency = 64\n\ntype GroupConfig struct {\n\t// " + comment + "\n\tConcurrency int\n}\n"
		if err := os.WriteFile(filepath.Join(dir, "p.go"), []byte(src), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Page(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", comment, err)
		}
	}
}
