package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A code is a constant with what its comment says.
type code struct {
	constant, value     string
	about, what, remedy string
}

const intro = `<!-- Made from the code by internal/cmd/errors. To change it, change the code and run: make generate -->

# Errors and alarms

Every error of Posthorn has a code from a closed set, ` + "`posthorn.CodeOf(err)`" + `, and a text that names the thing it is about and the remedy. What stands here is what can be said in general; the text of an error says more. Dead letters have the same codes as their reason.

An alarm is something that a person must know of: an error in the log, a reason in ` + "`Bus.Health`" + ` for as long as it stands, a count in ` + "`Bus.Stats`" + ` and a call of the hook that ` + "`posthorn.OnAlarm`" + ` sets. It has a code, the thing that it is about and a text.

- [Error codes](#error-codes)
- [Alarms](#alarms)
`

// Page makes docs/errors.md from the code below root.
func Page(root string) ([]byte, error) {
	codes, err := Codes(root)
	if err != nil {
		return nil, err
	}
	alarms, err := Alarms(root)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString(intro)
	b.WriteString("\n## Error codes\n\n| code | what happened | remedy |\n| --- | --- | --- |\n")
	for _, c := range codes {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", c.value, cell(c.what), cell(c.remedy))
	}
	b.WriteString("\n## Alarms\n\n| code | of | what happened | remedy |\n| --- | --- | --- | --- |\n")
	for _, c := range alarms {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", c.value, c.about, cell(c.what), cell(c.remedy))
	}
	return b.Bytes(), nil
}

var command = regexp.MustCompile(`posthorn groups [a-z]+( --to now)?|GroupConfig\.Start: posthorn\.FromNow\(\)`)

// cell is a sentence as a cell of a table.
func cell(s string) string {
	s = strings.ReplaceAll(s, "|", `\|`)
	s = command.ReplaceAllString(s, "`$0`")
	return strings.ToUpper(s[:1]) + s[1:]
}

// Codes returns the error codes, in the order of the code.
func Codes(root string) ([]code, error) {
	return constants(filepath.Join(root, "code.go"), "Code", regexp.MustCompile(`^(): (.+?) Remedy: (.+\.)$`))
}

// Alarms returns the codes of alarms, by name.
func Alarms(root string) ([]code, error) {
	all, err := constants(filepath.Join(root, "driver", "alarm.go"), "Alarm", regexp.MustCompile(`^, of (.+?): (.+?) Remedy: (.+\.)$`))
	slices.SortFunc(all, func(a, b code) int { return strings.Compare(a.value, b.value) })
	return all, err
}

// constants reads the string constants of a file whose names begin with a prefix.
// form splits a comment, behind the name, into what it is about, what happened and
// the remedy.
func constants(file, prefix string, form *regexp.Regexp) ([]code, error) {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	var all []code
	seen := map[string]string{}
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, s := range g.Specs {
			v := s.(*ast.ValueSpec)
			name := v.Names[0].Name
			if !strings.HasPrefix(name, prefix) {
				continue
			}
			c := code{constant: name}
			lit, ok := v.Values[0].(*ast.BasicLit)
			if !ok {
				return nil, fmt.Errorf("%s: %s is not a literal", file, name)
			}
			if c.value, err = strconv.Unquote(lit.Value); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", file, name, err)
			}
			if other, ok := seen[c.value]; ok {
				return nil, fmt.Errorf("%s: %s and %s are the same", file, name, other)
			}
			seen[c.value] = name
			doc := strings.Join(strings.Fields(v.Doc.Text()), " ")
			m := form.FindStringSubmatch(strings.TrimPrefix(doc, name))
			if m == nil {
				return nil, fmt.Errorf("%s: the comment of %s is not of the form that internal/cmd/errors reads: %q", file, name, doc)
			}
			c.about, c.what, c.remedy = m[1], m[2], m[3]
			all = append(all, c)
		}
	}
	return all, nil
}
