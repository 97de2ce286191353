package main

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// rooms are folders whose constants Default* have comments of their own.
var rooms = []string{"deadletter", "driver/jetstream", "driver/embedded", "driver/memory"}

// sections are what the root package configures, in the order of the page: the
// fields of a struct, or the functions that return an option.
var sections = []struct{ title, strukt, option string }{
	{"A bus: options of `Open`", "", "Option"},
	{"An event type: options of `Define`", "", "TypeOption"},
	{"A topic: `TopicConfig`", "TopicConfig", ""},
	{"A group: `GroupConfig`", "GroupConfig", ""},
	{"A retry budget: `Retry`", "Retry", ""},
	{"A batch handler: options of `HandleBatch`", "", "BatchOption"},
	{"What `Tail` shows: `TailConfig`", "TailConfig", ""},
	{"Where `Why` looks: `WhyConfig`", "WhyConfig", ""},
}

// A row is one line of a table.
type row struct{ name, value, what string }

// Page makes docs/defaults.md from the code below root.
func Page(root string) ([]byte, error) {
	pkg, err := parse(root)
	if err != nil {
		return nil, err
	}
	consts, err := pkg.defaults()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString("<!-- Made from the code by internal/cmd/defaults. To change it, change the code and run: make generate -->\n\n# Defaults\n\n" +
		"What holds when a program says nothing. A zero field of a config means its default. What a URL can say stands in [running on NATS](nats.md#the-url), the flags of the commands in [the command posthorn](cli.md).\n")
	used := map[string]bool{}
	for _, s := range sections {
		rows, err := pkg.rows(s.strukt, s.option, consts, used)
		if err != nil {
			return nil, err
		}
		table(&b, s.title, rows)
	}
	for name := range consts {
		if !used[name] {
			return nil, fmt.Errorf("constant %s belongs to no field or option of this page", name)
		}
	}
	for _, dir := range rooms {
		rows, err := roomRows(filepath.Join(root, dir))
		if err != nil {
			return nil, err
		}
		if len(rows) > 0 {
			table(&b, "`"+dir+"`", rows)
		}
	}
	return b.Bytes(), nil
}

func table(b *bytes.Buffer, title string, rows []row) {
	fmt.Fprintf(b, "\n## %s\n\n| name | default | what it is |\n| --- | --- | --- |\n", title)
	for _, r := range rows {
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", r.name, r.value, strings.ReplaceAll(r.what, "|", `\|`))
	}
}

// A pkg is the declarations of a package.
type pkg struct{ files []*ast.File }

func parse(dir string) (*pkg, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	p := &pkg{}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		p.files = append(p.files, f)
	}
	return p, nil
}

// defaults returns the values of the constants Default*.
func (p *pkg) defaults() (map[string]string, error) {
	values := map[string]string{}
	err := p.eachDefault(func(name string, value ast.Expr, _ string) error {
		v, err := format(name, value)
		values[name] = v
		return err
	})
	return values, err
}

func (p *pkg) eachDefault(do func(name string, value ast.Expr, doc string) error) error {
	for _, f := range p.files {
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			for _, s := range g.Specs {
				v := s.(*ast.ValueSpec)
				for i, id := range v.Names {
					if !strings.HasPrefix(id.Name, "Default") || len(v.Values) <= i {
						continue
					}
					if err := do(id.Name, v.Values[i], docOf(v.Doc, v.Comment, g.Doc)); err != nil {
						return fmt.Errorf("%s: %w", id.Name, err)
					}
				}
			}
		}
	}
	return nil
}

func docOf(groups ...*ast.CommentGroup) string {
	for _, g := range groups {
		if g != nil {
			return strings.Join(strings.Fields(g.Text()), " ")
		}
	}
	return ""
}

// A setting is a field or option with its comment.
type setting struct {
	name, doc string
	shared    bool // the comment is about several fields
}

func (p *pkg) settings(strukt, option string) []setting {
	var all []setting
	for _, f := range p.files {
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if option != "" && d.Recv == nil && d.Name.IsExported() && returns(d, option) {
					all = append(all, setting{name: d.Name.Name, doc: docOf(d.Doc)})
				}
			case *ast.GenDecl:
				all = append(all, fields(d, strukt)...)
			}
		}
	}
	return all
}

func returns(d *ast.FuncDecl, name string) bool {
	if d.Type.Results == nil || len(d.Type.Results.List) != 1 {
		return false
	}
	id, ok := d.Type.Results.List[0].Type.(*ast.Ident)
	return ok && id.Name == name
}

func fields(d *ast.GenDecl, strukt string) []setting {
	var all []setting
	for _, s := range d.Specs {
		t, ok := s.(*ast.TypeSpec)
		if !ok || t.Name.Name != strukt {
			continue
		}
		st, ok := t.Type.(*ast.StructType)
		if !ok {
			continue
		}
		for _, f := range st.Fields.List {
			for _, id := range f.Names {
				all = append(all, setting{id.Name, docOf(f.Doc, f.Comment), len(f.Names) > 1})
			}
		}
	}
	return all
}

// saysDefault finds the sentence of a comment that states the default.
var saysDefault = regexp.MustCompile(`(?:^| )Defaults?:? (.*?)\.(?: |$)`)

// rows lists the settings with their defaults, which a sentence of each comment has
// to say, and a constant too where there is one.
func (p *pkg) rows(strukt, option string, consts map[string]string, used map[string]bool) ([]row, error) {
	var rows []row
	for _, s := range p.settings(strukt, option) {
		said := saysDefault.FindStringSubmatch(s.doc)
		value, isConst := consts["Default"+s.name]
		switch {
		case said == nil:
			return nil, fmt.Errorf("the comment of %s says no default; each setting has one", s.name)
		case isConst && !says(said[1], value):
			return nil, fmt.Errorf("the comment of %s says that the default is %q, but Default%s is %s", s.name, said[1], s.name, value)
		case isConst:
			used["Default"+s.name] = true
			if !s.shared {
				value = said[1] // which may say more
			}
		default:
			value = said[1]
		}
		rows = append(rows, row{s.name, link(value), link(strings.TrimSpace(saysDefault.ReplaceAllString(s.doc, " ")))})
	}
	return rows, nil
}

// says tells whether a sentence holds a value as whole words.
func says(sentence, value string) bool {
	return regexp.MustCompile(`(^|[ ,;])` + regexp.QuoteMeta(value) + `($|[ ,;])`).MatchString(sentence)
}

var docLink = regexp.MustCompile(`\[\*?([A-Z][\w.]*)\]`)

// link turns a doc link into code.
func link(s string) string { return docLink.ReplaceAllString(s, "`$1`") }

func roomRows(dir string) ([]row, error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	p, err := parse(dir)
	if err != nil {
		return nil, err
	}
	var rows []row
	err = p.eachDefault(func(name string, value ast.Expr, doc string) error {
		v, err := format(name, value)
		rows = append(rows, row{name, v, link(doc)})
		return err
	})
	return rows, err
}

// format evaluates a constant's expression and writes it for people.
func format(name string, e ast.Expr) (string, error) {
	v, isTime, err := eval(e)
	if err != nil {
		return "", err
	}
	if v.Kind() == constant.String {
		return "`" + constant.StringVal(v) + "`", nil
	}
	n, ok := constant.Int64Val(constant.ToInt(v))
	switch {
	case !ok:
		return v.ExactString(), nil
	case isTime:
		return duration(time.Duration(n)), nil
	case strings.Contains(name, "Bytes") || strings.Contains(name, "Payload"):
		return bytesSize(n), nil
	}
	return strconv.FormatInt(n, 10), nil
}

func duration(d time.Duration) string {
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "days"}, {time.Hour, "h"}, {time.Minute, "min"}, {time.Second, "s"}, {time.Millisecond, "ms"}} {
		if d >= u.unit && d%u.unit == 0 {
			return fmt.Sprintf("%d %s", d/u.unit, u.name)
		}
	}
	return d.String()
}

func bytesSize(n int64) string {
	for _, u := range []struct {
		unit int64
		name string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n >= u.unit && n%u.unit == 0 {
			return fmt.Sprintf("%d %s", n/u.unit, u.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

var units = map[string]time.Duration{
	"Nanosecond": time.Nanosecond, "Microsecond": time.Microsecond, "Millisecond": time.Millisecond,
	"Second": time.Second, "Minute": time.Minute, "Hour": time.Hour,
}

// eval computes the few forms of expressions that the constants use.
func eval(e ast.Expr) (v constant.Value, isTime bool, err error) {
	switch e := e.(type) {
	case *ast.BasicLit:
		return constant.MakeFromLiteral(e.Value, e.Kind, 0), false, nil
	case *ast.ParenExpr:
		return eval(e.X)
	case *ast.SelectorExpr:
		if x, ok := e.X.(*ast.Ident); ok && x.Name == "time" {
			if u, ok := units[e.Sel.Name]; ok {
				return constant.MakeInt64(int64(u)), true, nil
			}
		}
	case *ast.BinaryExpr:
		x, xTime, err := eval(e.X)
		if err != nil {
			return nil, false, err
		}
		y, yTime, err := eval(e.Y)
		if err != nil {
			return nil, false, err
		}
		if e.Op == token.SHL {
			n, _ := constant.Uint64Val(y)
			return constant.Shift(x, e.Op, uint(n)), xTime, nil
		}
		return constant.BinaryOp(x, e.Op, y), xTime || yTime, nil
	}
	return nil, false, fmt.Errorf("an expression of a form (%T) that internal/cmd/defaults does not compute", e)
}
