package doctest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestComments finds exported names of the packages that users import which have no
// comment. Methods that only satisfy an interface of the standard library need none.
func TestComments(t *testing.T) {
	seen := 0
	for _, dir := range []string{".", "driver", "driver/drivertest", "driver/embedded", "driver/jetstream", "driver/memory"} {
		files, err := filepath.Glob(filepath.Join(root(t), dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, path, text, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			names, bare := comments(file)
			seen += names
			for _, id := range bare {
				t.Errorf("%s: %s is exported and has no comment", fset.Position(id.Pos()), id.Name)
			}
		}
	}
	if seen < 200 {
		t.Errorf("only %d exported names were seen", seen)
	}
}

// comments counts the exported names of a file, and returns those without a comment
// of their own or of their group.
func comments(file *ast.File) (seen int, bare []*ast.Ident) {
	look := func(id *ast.Ident, docs ...*ast.CommentGroup) {
		if !id.IsExported() {
			return
		}
		seen++
		if !slices.ContainsFunc(docs, func(g *ast.CommentGroup) bool { return g.Text() != "" }) {
			bare = append(bare, id)
		}
	}
	for _, decl := range file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil || exportedReceiver(d) && !slices.Contains([]string{"Error", "Unwrap", "String"}, d.Name.Name) {
				look(d.Name, d.Doc)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					look(s.Name, d.Doc, s.Doc)
				case *ast.ValueSpec:
					for _, id := range s.Names {
						look(id, d.Doc, s.Doc, s.Comment)
					}
				}
			}
		}
	}
	return seen, bare
}

func exportedReceiver(d *ast.FuncDecl) bool {
	typ := d.Recv.List[0].Type
	for {
		switch t := typ.(type) {
		case *ast.StarExpr:
			typ = t.X
		case *ast.IndexExpr:
			typ = t.X
		case *ast.Ident:
			return t.IsExported()
		default:
			return false
		}
	}
}

func TestCommentsSees(t *testing.T) {
	const code = `package p

// A is said.
func A() {}

func B() {}

type c struct{}

func (c) D() {}

// E is said.
type E[T any] struct{}

func (*E[T]) F() {}

func (*E[T]) Error() string { return "" }

// Of both.
const (
	G = 1
	H = 2
)

var I, j = 1, 2 // said

var K int
`
	file, err := parser.ParseFile(token.NewFileSet(), "p.go", code, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	seen, bare := comments(file)
	var names []string
	for _, id := range bare {
		names = append(names, id.Name)
	}
	if want := []string{"B", "F", "K"}; seen != 8 || !slices.Equal(names, want) {
		t.Errorf("%d names, without a comment %v; want 8 and %v", seen, names, want)
	}
}
