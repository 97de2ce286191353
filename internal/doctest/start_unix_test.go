//go:build unix

package doctest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// stepBound is how long a command may take to print what the page shows; it is
// there to end a test that hangs.
const stepBound = 5 * time.Minute

// TestStart does what the tutorial says, in order: it writes its files and runs its
// commands in an empty folder beside the clone, and compares what they print. A
// comment above a block says what the page's reader sees without it:
//
//	<!-- file: NAME -->      the block is this file
//	<!-- terminal: NAME -->  the block is in another terminal than the first one
//	<!-- any order -->       the lines of the block may come in any order
//	<!-- look again -->      the command is repeated until it prints what is shown
//
// A block of text is what the command before it in its terminal prints. At ^C the
// command is interrupted. What may differ is listed at same.
func TestStart(t *testing.T) {
	if os.Getenv("POSTHORN_DOCS") != "run" {
		t.Skip("commands in documents are run by make test (POSTHORN_DOCS=run): they need the other modules' dependencies, and time")
	}
	dir := t.TempDir()
	if err := os.Symlink(root(t), filepath.Join(dir, "posthorn")); err != nil {
		t.Fatal(err)
	}
	r := &reader{t: t, ids: map[string]string{}, terminals: map[string]*terminal{}, dir: dir}
	defer r.leave()
	steps := readSteps(t)
	for i := range steps {
		r.follow(&steps[i], steps[i+1:])
	}
	for name, term := range r.terminals {
		if term.running() {
			t.Errorf("%s: a command still runs in terminal %q at the end", tutorial, name)
		}
	}
}

// A step is a block of the tutorial and what the comment above it says.
type step struct {
	block
	file, terminal  string
	anyOrder, again bool
}

var comment = regexp.MustCompile(`^<!-- (.*) -->$`)

func readSteps(t *testing.T) []step {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), filepath.FromSlash(tutorial)))
	if err != nil {
		t.Fatal(err)
	}
	var steps []step
	for _, b := range split(tutorial, string(text)).blocks {
		s := step{block: b}
		if m := comment.FindStringSubmatch(b.before); m != nil {
			name, value, _ := strings.Cut(m[1], ": ")
			switch name {
			case "file":
				s.file = value
			case "terminal":
				s.terminal = value
			case "any order":
				s.anyOrder = true
			case "look again":
				s.again = true
			default:
				t.Fatalf("%s:%d: the comment above the block says nothing that is known: %s", tutorial, b.line, b.before)
			}
		}
		if ok := b.lang == "go" && s.file != "" || (b.lang == "sh" || b.lang == "text") && s.file == ""; !ok {
			t.Fatalf("%s:%d: a block of %q cannot be followed", tutorial, b.line, b.lang)
		}
		steps = append(steps, s)
	}
	if len(steps) < 10 {
		t.Fatalf("%s: only %d blocks were found", tutorial, len(steps))
	}
	return steps
}

// A reader sits before the terminals.
type reader struct {
	t         *testing.T
	dir       string            // where the last command of the first terminal left it
	ids       map[string]string // of the page: what stands for it here
	terminals map[string]*terminal
}

// follow does one step. rest are those behind it.
func (r *reader) follow(s *step, rest []step) {
	r.t.Helper()
	term := r.terminals[s.terminal]
	if term == nil {
		term = newTerminal(r.dir)
		r.terminals[s.terminal] = term
	}
	switch s.lang {
	case "go":
		if err := os.WriteFile(filepath.Join(r.dir, s.file), []byte(s.text), 0o644); err != nil {
			r.t.Fatal(err)
		}
	case "sh":
		r.enter(term, s, shownOf(s, rest))
		if s.terminal == "" {
			r.dir = term.dir
		}
	case "text":
		r.compare(term, s)
	}
}

// shownOf is what the page shows of what the last command of a step prints.
func shownOf(s *step, rest []step) []*step {
	var shown []*step
	for i := range rest {
		if rest[i].lang == "go" || rest[i].terminal != s.terminal {
			continue
		}
		if rest[i].lang == "sh" {
			break
		}
		shown = append(shown, &rest[i])
	}
	return shown
}

// enter runs the commands of a block. The last one goes on when the page shows
// where it is interrupted.
func (r *reader) enter(term *terminal, s *step, shown []*step) {
	r.t.Helper()
	all := commands(s.block)
	for i, c := range all {
		if term.running() {
			r.t.Fatalf("%s:%d: the terminal is busy with %s", tutorial, s.line, term.command)
		}
		for page, id := range r.ids {
			c = strings.ReplaceAll(c, page, id)
		}
		r.t.Logf("%s$ %s", s.terminal, c)
		term.start(r.t, c)
		last := i == len(all)-1
		if last && slices.ContainsFunc(shown, func(s *step) bool { return slices.Contains(lines(s.text), "^C") }) {
			return
		}
		term.wait(r.t, s.line)
		for began := time.Now(); last && s.again && r.differ(shown[0], term.output()) != ""; time.Sleep(50 * time.Millisecond) {
			if time.Since(began) > stepBound {
				break // compare says how it differs
			}
			term.start(r.t, c)
			term.wait(r.t, s.line)
		}
	}
}

// compare holds what has been printed against what is shown.
func (r *reader) compare(term *terminal, s *step) {
	r.t.Helper()
	shown := lines(s.text)
	if at := slices.Index(shown, "^C"); at >= 0 {
		before, after := *s, *s
		before.text, after.text = strings.Join(shown[:at], "\n"), strings.Join(shown[at+1:], "\n")
		r.await(term, &before)
		term.interrupt(r.t, s.line)
		s = &after
	} else if term.running() {
		r.await(term, s)
		return
	}
	if what := r.differ(s, term.output()); what != "" {
		r.t.Fatalf("%s:%d: %s", tutorial, s.line, what)
	}
	term.seen += len(term.output())
}

// await waits until a running command has printed as many lines as are shown.
func (r *reader) await(term *terminal, s *step) {
	r.t.Helper()
	n := len(lines(s.text))
	out, ok := term.await(n)
	if !ok {
		r.t.Fatalf("%s:%d: %s has printed\n%s\nand %d lines are shown", tutorial, s.line, term.command, strings.Join(out, "\n"), n)
	}
	if what := r.differ(s, out[:n]); what != "" {
		r.t.Fatalf("%s:%d: %s", tutorial, s.line, what)
	}
	term.seen += n
}

// differ tells how what was printed differs from what is shown; "" when it does not.
func (r *reader) differ(s *step, printed []string) string {
	shown := lines(s.text)
	if s.anyOrder {
		shown, printed = slices.Sorted(slices.Values(shown)), slices.Sorted(slices.Values(printed))
	}
	cut := false
	if n := len(shown); n > 0 && shown[n-1] == "..." {
		cut, shown = true, shown[:n-1]
	}
	differs := len(printed) < len(shown) || len(printed) > len(shown) && !cut
	for i := 0; !differs && i < len(shown); i++ {
		differs = same(shown[i]) != same(printed[i]) || !r.bind(uuid.FindAllString(shown[i], -1), uuid.FindAllString(printed[i], -1))
	}
	if !differs {
		return ""
	}
	return fmt.Sprintf("printed was\n%s\n--- and the page shows\n%s", strings.Join(printed, "\n"), s.text)
}

// bind notes which ids stand for those of the page, and tells whether they always do.
func (r *reader) bind(page, here []string) bool {
	for i := range page {
		if id, known := r.ids[page[i]]; known && id != here[i] {
			return false
		}
		r.ids[page[i]] = here[i]
	}
	return true
}

// leave ends what still runs.
func (r *reader) leave() {
	for _, term := range r.terminals {
		if term.running() {
			_ = syscall.Kill(-term.cmd.Process.Pid, syscall.SIGKILL)
			<-term.ended
		}
	}
}

var (
	uuid = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	// other is what may differ, beside the width of columns.
	other = []struct {
		what *regexp.Regexp
		as   string
	}{
		{uuid, "ID"},
		{regexp.MustCompile(`\d{4}/\d\d/\d\d \d\d:\d\d:\d\d`), "TIME"},
		{regexp.MustCompile(`\d\d:\d\d:\d\d\.\d{3}`), "TIME"},
		{regexp.MustCompile(`\b\d+(ms|s|m\d*s?) ago`), "AGO"},
		{regexp.MustCompile(`shop@[^\s\]]+`), "PROCESS"},
		{regexp.MustCompile(`127\.0\.0\.1:\d+`), "ADDRESS"},
		{regexp.MustCompile(`([ =])/\S+/shop/`), "${1}FOLDER/"},
		{regexp.MustCompile(` +`), " "},
	}
)

// same is a line with what may differ made equal.
func same(line string) string {
	for _, o := range other {
		line = o.what.ReplaceAllString(line, o.as)
	}
	return strings.TrimSpace(line)
}

// lines are those of a text, without line ends.
func lines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

// A terminal runs one command after another, in the folder and with the variables
// that the one before left behind.
type terminal struct {
	dir     string
	env     []string
	command string
	cmd     *exec.Cmd
	ended   chan struct{} // closed when cmd has ended
	seen    int           // lines of its output that were compared

	interrupted bool

	mu  sync.Mutex
	out bytes.Buffer
	err error // of cmd
}

// newTerminal opens one in a folder, without what this test's own call may have set.
func newTerminal(dir string) *terminal {
	term := &terminal{dir: dir}
	for _, v := range os.Environ() {
		switch name, _, _ := strings.Cut(v, "="); name {
		case "GOWORK", "GOFLAGS", "POSTHORN_URL", "POSTHORN_TOKEN":
		default:
			term.env = append(term.env, v)
		}
	}
	return term
}

func (m *terminal) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.out.Write(p)
}

func (m *terminal) running() bool {
	if m.ended == nil {
		return false
	}
	select {
	case <-m.ended:
		return false
	default:
		return true
	}
}

// start runs a command. Behind it bash writes down where it is, and its variables.
func (m *terminal) start(t *testing.T, command string) {
	t.Helper()
	state := filepath.Join(t.TempDir(), "state")
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", command+"\n{ pwd; env -0; } > "+state)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = m.dir, m.env, m, m
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as a terminal does, which interrupts all of it
	m.mu.Lock()
	m.out.Reset()
	m.mu.Unlock()
	m.command, m.cmd, m.seen, m.interrupted, m.ended = command, cmd, 0, false, make(chan struct{})
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := m.ended
	go func() {
		defer close(ended)
		m.err = cmd.Wait()
		if text, err := os.ReadFile(state); err == nil {
			dir, env, _ := strings.Cut(string(text), "\n")
			m.dir, m.env = dir, strings.Split(strings.TrimSuffix(env, "\x00"), "\x00")
		}
	}()
}

// wait waits for the command's end, which has to be a good one.
func (m *terminal) wait(t *testing.T, line int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), stepBound)
	defer cancel()
	select {
	case <-m.ended:
	case <-ctx.Done():
		t.Fatalf("%s:%d: %s goes on and on; it has printed\n%s", tutorial, line, m.command, strings.Join(m.output(), "\n"))
	}
	if m.err != nil && !m.interrupted {
		t.Fatalf("%s:%d: %s: %v\n%s", tutorial, line, m.command, m.err, strings.Join(m.output(), "\n"))
	}
}

// interrupt presses Ctrl-C. How the command ends is shown by what it prints: go run
// ends with 1 then, whatever it has run.
func (m *terminal) interrupt(t *testing.T, line int) {
	t.Helper()
	m.interrupted = true
	if err := syscall.Kill(-m.cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatalf("%s:%d: interrupt %s: %v", tutorial, line, m.command, err)
	}
	m.wait(t, line)
}

// output returns the whole lines that the command has printed and nobody has compared.
func (m *terminal) output() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	text := m.out.String()
	return lines(text[:strings.LastIndexByte(text, '\n')+1])[m.seen:]
}

// await waits until n lines have come, and tells whether they have.
func (m *terminal) await(n int) ([]string, bool) {
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		going := m.running()
		out := m.output()
		if len(out) >= n {
			return out, true
		}
		if !going || time.Since(began) > stepBound {
			return out, false
		}
	}
}

// TestSame keeps TestStart from passing because all is equal to it.
func TestSame(t *testing.T) {
	for _, c := range []struct {
		shown, printed string
		want           bool
	}{
		{"stored 01a1feeb-8c56-70d3-b53a-0c8869d7a410", "stored 01b1feeb-8c56-70d3-b53a-0c8869d7a411", true},
		{"stored 01a1feeb-8c56-70d3-b53a-0c8869d7a410", "stored o-1", false},
		{"a  b", "a b", true},
		{"a b", "ab", false},
		{"packing  0  1 running", "packing  0  2 running", false},
		{"21s ago  it failed [shop@vm:1-a]", "1m2s ago  it failed [shop@other:22-b]", true},
		{"21s ago  it failed [shop@vm:1-a]", "21s ago  it died [shop@vm:1-a]", false},
		{"at nats://127.0.0.1:1?token-file=/home/ada/shop/x", "at nats://127.0.0.1:22?token-file=/tmp/1/shop/x", true},
		{"2026/11/21 16:23:41 ERROR a", "2027/01/02 06:03:01 ERROR a", true},
		{"2026/11/21 16:23:41 ERROR a", "2026/11/21 16:23:41 WARN a", false},
	} {
		if got := same(c.shown) == same(c.printed); got != c.want {
			t.Errorf("%q and %q: %v, want %v", c.shown, c.printed, got, c.want)
		}
	}
	r := &reader{ids: map[string]string{}}
	a, b, c := "01a1feeb-8c56-70d3-b53a-0c8869d7a410", "01b1feeb-8c56-70d3-b53a-0c8869d7a411", "01b1feeb-8c56-70d3-b53a-0c8869d7a412"
	for _, d := range []struct {
		text    string
		printed []string
		differs bool
	}{
		{"stored " + a + "\n", []string{"stored " + b}, false},
		{"why " + a + "\n", []string{"why " + c}, true}, // another one than before
		{"a\n...\n", []string{"a", "b", "c"}, false},
		{"a\n", []string{"a", "b"}, true},
		{"a\nb\n", []string{"a"}, true},
		{"b\na\n", []string{"a", "b"}, true},
	} {
		s := &step{block: block{text: d.text}}
		if got := r.differ(s, d.printed) != ""; got != d.differs {
			t.Errorf("shown %q, printed %q: differs %v, want %v", d.text, d.printed, got, d.differs)
		}
	}
	if s := (&step{block: block{text: "b\na\n"}, anyOrder: true}); r.differ(s, []string{"a", "b"}) != "" {
		t.Error("any order: the order counts")
	}
}
