package doctest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// named finds what a code span says of the root package: posthorn.Name, or a method
// of a bus.
var named = regexp.MustCompile(`\b(posthorn|[bB]us)\.([A-Z]\w*)`)

// TestNames looks for each name of the root package that a document uses.
func TestNames(t *testing.T) {
	names := rootNames(t)
	seen := 0
	for _, d := range documents(t) {
		for _, m := range codeSpan.FindAllStringSubmatch(d.prose, -1) {
			for _, n := range named.FindAllStringSubmatch(m[1], -1) {
				seen++
				if of := strings.ToLower(n[1]); !names[of+"."+n[2]] {
					t.Errorf("%s: names %s, which does not exist", d.path, n[0])
				}
			}
		}
	}
	if seen < 50 {
		t.Errorf("only %d names were seen", seen)
	}
}

// rootNames are the exported names of the root package, as posthorn.Name, and the
// methods of a Bus, as bus.Name.
func rootNames(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root(t), "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil {
					names["posthorn."+d.Name.Name] = true
				} else if star, ok := d.Recv.List[0].Type.(*ast.StarExpr); ok {
					if id, ok := star.X.(*ast.Ident); ok && id.Name == "Bus" {
						names["bus."+d.Name.Name] = true
					}
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch s := spec.(type) {
					case *ast.TypeSpec:
						names["posthorn."+s.Name.Name] = true
					case *ast.ValueSpec:
						for _, id := range s.Names {
							names["posthorn."+id.Name] = true
						}
					}
				}
			}
		}
	}
	return names
}
