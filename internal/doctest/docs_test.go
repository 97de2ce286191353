package doctest

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// notRun are the commands in documents that no test runs, each with its reason.
// A command ends with "*" when more may follow.
var notRun = map[string]string{
	"make test*":              "the documents are tested by it",
	"make lint*":              "it is a step of .ci/run by itself",
	"make bench*":             "it takes long, and its figures mean nothing beside other tests",
	"make tidy":               "it may change the tree; make lint tells whether it would",
	"make generate":           "it may change the tree; make lint tells whether it would",
	"make demo DATA=*":        "the file is not in the repository",
	"go test ./driver/memory": "make test runs it",
	"cd compare && go test*":  "make test runs it",
	"go test ./driver/embedded -run '^$' -bench*": "it takes long, and its figures mean nothing beside other tests",
	".ci/run": "it calls make test",
	"git *":   "it changes the tree, or needs a network",
	"cat *":   "it shows a file, which the check of paths has seen",
}

// tutorial is the page that TestStart follows step by step.
const tutorial = "docs/start.md"

// A document is a Markdown file with its code blocks apart.
type document struct {
	path   string // from the root
	prose  string // without code blocks
	blocks []block
}

// A block is a fenced code block.
type block struct {
	line   int
	lang   string
	before string // the line of text before it
	text   string
}

func documents(t *testing.T) []document {
	t.Helper()
	top := root(t)
	var docs []document
	err := filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := e.Name()
		if e.IsDir() && path != top && (strings.HasPrefix(name, ".") || name == "testdata" || name == "posthorn-data") {
			return fs.SkipDir
		}
		if e.IsDir() || filepath.Ext(name) != ".md" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		docs = append(docs, split(filepath.ToSlash(rel), string(text)))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(docs) < 5 {
		t.Fatalf("only %d documents were found below %s", len(docs), top)
	}
	return docs
}

func split(path, text string) document {
	d := document{path: path}
	var prose strings.Builder
	var open *block
	before, n := "", 0
	for line := range strings.Lines(text) {
		n++
		fence := strings.HasPrefix(strings.TrimSpace(line), "```")
		switch {
		case fence && open == nil:
			open = &block{line: n, lang: strings.Trim(strings.TrimSpace(line), "`"), before: before}
		case fence:
			d.blocks = append(d.blocks, *open)
			open = nil
		case open != nil:
			open.text += line
		default:
			prose.WriteString(line)
			if s := strings.TrimSpace(line); s != "" {
				before = s
			}
		}
	}
	d.prose = prose.String()
	return d
}

var (
	mdLink   = regexp.MustCompile(`\]\(([^)\s]+)(?: "[^"]*")?\)`)
	codeSpan = regexp.MustCompile("`([^`\n]+)`")
	heading  = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	notSlug  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// TestLinks follows each relative link, its anchor too.
func TestLinks(t *testing.T) {
	docs := documents(t)
	anchors := map[string][]string{}
	for _, d := range docs {
		for _, h := range heading.FindAllStringSubmatch(d.prose, -1) {
			slug := strings.ReplaceAll(notSlug.ReplaceAllString(strings.ToLower(strings.TrimSpace(h[1])), ""), " ", "-")
			anchors[d.path] = append(anchors[d.path], slug)
		}
	}
	for _, d := range docs {
		for _, m := range mdLink.FindAllStringSubmatch(codeSpan.ReplaceAllString(d.prose, ""), -1) {
			target := m[1]
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			file, anchor, _ := strings.Cut(target, "#")
			path := d.path
			if file != "" {
				path = filepath.ToSlash(filepath.Join(filepath.Dir(d.path), file))
			}
			if !exists(t, path) {
				t.Errorf("%s: link to %s, which does not exist", d.path, target)
				continue
			}
			if anchor != "" && !slices.Contains(anchors[path], anchor) {
				t.Errorf("%s: link to %s, but %s has no such heading", d.path, target, path)
			}
		}
	}
}

// folders are those of the root; a code span that begins with one of them is a
// path, and has to exist.
var folders = []string{"bench/", "cmd/", "compare/", "driver/", "internal/", "docs/", "examples/", "interop/", "scripts/", ".ci/"}

// TestPaths looks for each path that a document names in a code span.
func TestPaths(t *testing.T) {
	for _, d := range documents(t) {
		for _, m := range codeSpan.FindAllStringSubmatch(d.prose, -1) {
			span := strings.TrimSuffix(strings.TrimPrefix(m[1], "./"), "/...")
			isPath := slices.ContainsFunc(folders, func(f string) bool { return strings.HasPrefix(span, f) })
			if !isPath || strings.ContainsAny(span, " *<>{}()") {
				continue
			}
			if !exists(t, span) && !exists(t, filepath.Join(filepath.Dir(d.path), span)) {
				t.Errorf("%s: names %s, which does not exist", d.path, m[1])
			}
		}
	}
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Stat(filepath.Join(root(t), filepath.FromSlash(path)))
	return err == nil
}

var makeCall = regexp.MustCompile(`(?:^|[;&|] *)make ([a-z][a-z-]*)`)

// TestMakeTargets looks for each target that a document names.
func TestMakeTargets(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root(t), "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	check := func(d document, text string) {
		for _, m := range makeCall.FindAllStringSubmatch(text, -1) {
			if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(m[1]) + `:`).Match(makefile) {
				t.Errorf("%s: names make %s, but the Makefile has no such target", d.path, m[1])
			}
		}
	}
	for _, d := range documents(t) {
		for _, m := range codeSpan.FindAllStringSubmatch(d.prose, -1) {
			check(d, m[1])
		}
		for _, b := range d.blocks {
			for _, c := range commands(b) {
				check(d, c)
			}
		}
	}
}

// commands returns the commands of a sh block.
func commands(b block) []string {
	if b.lang != "sh" {
		return nil
	}
	var all []string
	for line := range strings.Lines(strings.ReplaceAll(b.text, "\\\n", " ")) {
		line, _, _ = strings.Cut(line, " #")
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			all = append(all, line)
		}
	}
	return all
}

// TestCommands runs the commands of all sh blocks in the root folder, but for those
// listed in notRun, and those of the tutorial, which TestStart runs.
func TestCommands(t *testing.T) {
	ran := map[string]bool{}
	for _, d := range documents(t) {
		for _, b := range d.blocks {
			if slices.Contains([]string{"bash", "shell", "console", ""}, b.lang) {
				t.Errorf("%s:%d: code blocks name their language: sh for commands that are run, text for what is not code", d.path, b.line)
			}
			for _, c := range commands(b) {
				if ran[c] || excepted(c) || d.path == tutorial {
					continue
				}
				ran[c] = true
				t.Run(c, func(t *testing.T) { runCommand(t, d.path, c) })
			}
		}
	}
}

func excepted(command string) bool {
	for c := range notRun {
		prefix, more := strings.CutSuffix(c, "*")
		if command == c || more && strings.HasPrefix(command, prefix) {
			return true
		}
	}
	return false
}

func runCommand(t *testing.T, doc, command string) {
	if os.Getenv("POSTHORN_DOCS") != "run" {
		t.Skip("commands in documents are run by make test (POSTHORN_DOCS=run): they need the other modules' dependencies, and time")
	}
	const store = "posthorn-data" // of the embedded broker, where a program names none
	if !exists(t, store) {
		t.Cleanup(func() { os.RemoveAll(filepath.Join(root(t), store)) })
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", command)
	cmd.Dir = root(t)
	out, err := cmd.CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("no tests to run")) {
		t.Errorf("%s: %s: %v\n%s", doc, command, err, out)
	}
}

var fromFile = regexp.MustCompile(`^<!-- from: (\S+) -->$`)

// TestGoBlocks holds each block of Go to the file that it is taken from, which a
// comment above it names: what is shown is what is compiled and run. The tutorial's
// are files, which TestStart writes and runs.
func TestGoBlocks(t *testing.T) {
	for _, d := range documents(t) {
		for _, b := range d.blocks {
			if b.lang != "go" || d.path == tutorial {
				continue
			}
			m := fromFile.FindStringSubmatch(b.before)
			if m == nil {
				t.Errorf("%s:%d: a block of Go needs a line above it that names its file: <!-- from: path -->", d.path, b.line)
				continue
			}
			file, err := os.ReadFile(filepath.Join(root(t), filepath.FromSlash(m[1])))
			if err != nil {
				t.Errorf("%s:%d: %v", d.path, b.line, err)
				continue
			}
			if !bytes.Contains(file, []byte(b.text)) {
				t.Errorf("%s:%d: the block does not stand in %s as it is here", d.path, b.line, m[1])
			}
		}
	}
}

// TestSplit keeps the tests above from passing because they see nothing.
func TestSplit(t *testing.T) {
	d := split("x.md", "See [a](b.md#c).\n\n<!-- from: x.go -->\n\n```go\nx := 1\n```\n\n```sh\n# a comment\nmake \\\n  demo # and run\n```\n")
	if len(d.blocks) != 2 || d.blocks[0].lang != "go" || d.blocks[0].text != "x := 1\n" || d.blocks[0].before != "<!-- from: x.go -->" {
		t.Errorf("blocks: %+v", d.blocks)
	}
	if c := commands(d.blocks[1]); len(c) != 1 || strings.Join(strings.Fields(c[0]), " ") != "make demo" {
		t.Errorf("commands: %q", c)
	}
	if m := mdLink.FindStringSubmatch(d.prose); m == nil || m[1] != "b.md#c" {
		t.Errorf("link: %q", m)
	}
	for c, want := range map[string]bool{"make demo": false, "make demo DATA=x": true, "make test": true, "go run ./x": false} {
		if excepted(c) != want {
			t.Errorf("excepted(%q) is %v", c, !want)
		}
	}
}

// The README's figures are those that were measured.
func TestFigures(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(root(t), filepath.FromSlash(name)))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	measured := map[string]bool{}
	for line := range strings.Lines(read("docs/benchmarks.md")) {
		measured[line] = true
	}
	_, section, found := strings.Cut(read("README.md"), "## How fast\n")
	section, _, _ = strings.Cut(section, "\n## ")
	rows := 0
	for line := range strings.Lines(section) {
		if !strings.HasPrefix(line, "|") {
			continue
		}
		if rows++; !measured[line] {
			t.Errorf("README.md: docs/benchmarks.md has no such row: %s", line)
		}
	}
	if !found || rows < 3 {
		t.Error("README.md has no figures")
	}
}
