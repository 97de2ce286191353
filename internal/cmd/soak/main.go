// Soak runs what draws at random again and again, with a seed for each run, fuzzes for
// long, and writes docs/soak.md. It is what "make soak" calls.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// A job is tests of a package that are run with each seed.
type job struct {
	name, what string
	dir        string // of the package
	run        string // for go test -run
	once       bool   // it draws nothing: one run is enough
}

var jobs = []job{
	{name: "model", what: "the conformance suite on memory:", dir: "driver/memory", run: "^TestConformance"},
	{name: "embedded", what: "the conformance suite on embedded:", dir: "driver/embedded", run: "^TestConformance$"},
	{name: "crash", what: "a process that publishes and handles is killed twenty times", dir: "driver/embedded", run: "^TestCrash$"},
	{name: "power", what: "six power cuts under load, embedded and through serve", dir: "driver/embedded", run: "^TestPowerCut$"},
	{name: "serve", what: "member processes on posthorn serve: kills, a storm, stops, outages, crashes", dir: "driver/embedded/internal/processes", run: "^TestServe$"},
	{name: "server", what: "the same on one NATS server", dir: "driver/embedded/internal/processes", run: "^TestServer$"},
	{name: "cluster", what: "the same on a cluster of three", dir: "driver/embedded/internal/processes", run: "^TestCluster$"},
	{name: "memory", what: "a million events wait for a group", dir: "driver/embedded/internal/processes", run: "^TestMemory$", once: true},
}

const page = "docs/soak.md"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	s := soak{began: time.Now()}
	only := flag.String("only", "", "a regular expression that chooses jobs by name, fuzz among them")
	flag.IntVar(&s.seeds, "seeds", 10, "how many seeds")
	flag.Uint64Var(&s.first, "first", uint64(time.Now().Unix()), "the first seed")
	flag.DurationVar(&s.fuzz, "fuzz", 10*time.Minute, "for how long each fuzz test is run")
	flag.Parse()
	err := s.run(ctx, *only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
	}
	if err != nil || s.failed() {
		os.Exit(1)
	}
}

type soak struct {
	began  time.Time
	seeds  int
	first  uint64
	fuzz   time.Duration
	commit string
	rows   []row
}

// A row is what came of a job.
type row struct {
	job
	runs  int
	took  time.Duration
	bad   []string // the seeds of runs that failed
	left  []string // why something was left out
	lines []string // of the last run, what its tests said of themselves
}

func (s *soak) failed() bool {
	for _, r := range s.rows {
		if len(r.bad) > 0 {
			return true
		}
	}
	return false
}

func (s *soak) run(ctx context.Context, only string) error {
	chosen, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	if s.commit, err = commit(ctx); err != nil {
		return err
	}
	for _, j := range jobs {
		if !chosen.MatchString(j.name) {
			continue
		}
		r, err := s.runJob(ctx, j)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if ctx.Err() != nil {
			break
		}
		s.rows = append(s.rows, r)
	}
	if ctx.Err() == nil && s.fuzz > 0 && chosen.MatchString("fuzz") {
		s.rows = append(s.rows, s.runFuzz(ctx))
	}
	if ctx.Err() != nil {
		return errors.New("interrupted: " + page + " is as it was")
	}
	if len(s.rows) == 0 {
		return fmt.Errorf("no job is called %q", only)
	}
	return os.WriteFile(page, []byte(s.page()), 0o644)
}

// commit names what is tested. What differs from the commit is said.
func commit(ctx context.Context) (string, error) {
	id, err := exec.CommandContext(ctx, "git", "log", "-1", "--format=%h, %s").Output()
	if err != nil {
		return "", fmt.Errorf("git log: %w", err)
	}
	changed, err := exec.CommandContext(ctx, "git", "status", "--porcelain", "--", ".", ":!"+page).Output()
	if err != nil {
		return "", fmt.Errorf("git status: %w", err)
	}
	text := strings.TrimSpace(string(id))
	if len(changed) > 0 {
		text += " (with changes that are not committed)"
	}
	return text, nil
}

func (s *soak) runJob(ctx context.Context, j job) (row, error) {
	r := row{job: j}
	began := time.Now()
	binary, err := filepath.Abs(filepath.Join(".build", "soak", j.name+".test"))
	if err != nil {
		return r, err
	}
	build := exec.CommandContext(ctx, "go", "test", "-race", "-c", "-o", binary, ".")
	build.Dir = j.dir
	if out, err := build.CombinedOutput(); err != nil {
		return r, fmt.Errorf("building the tests of %s: %w: %s", j.dir, err, out)
	}
	for n := range s.seeds {
		if ctx.Err() != nil || j.once && n > 0 {
			break
		}
		seed := s.first + uint64(n)
		cmd := exec.CommandContext(ctx, binary, "-test.v", "-test.timeout=60m", "-test.run="+j.run)
		cmd.Dir = j.dir
		cmd.Env = append(os.Environ(), fmt.Sprintf("POSTHORN_SEED=%d", seed), "POSTHORN_MATRIX=")
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		cmd.WaitDelay = time.Minute
		start := time.Now()
		out, err := cmd.CombinedOutput()
		if ctx.Err() != nil {
			break
		}
		r.runs++
		verdict := "ok"
		if err != nil {
			verdict = "FAIL"
			r.bad = append(r.bad, fmt.Sprint(seed))
			fmt.Printf("%s\n", out)
		}
		r.read(out)
		fmt.Printf("%-4s  %-9s seed %d  %v\n", verdict, j.name, seed, time.Since(start).Round(100*time.Millisecond))
	}
	r.took = time.Since(began)
	return r, nil
}

var (
	skipped = regexp.MustCompile(`(?m)^\s*--- SKIP: (\S+)`)
	said    = regexp.MustCompile(`(?m)^\s+[\w.-]+_test\.go:\d+: (.*\d+ (?:events|waves|MiB).*)$`)
)

func (r *row) read(out []byte) {
	r.left, r.lines = nil, nil
	for _, m := range skipped.FindAllSubmatch(out, -1) {
		r.left = append(r.left, string(m[1]))
	}
	for _, m := range said.FindAllSubmatch(out, -1) {
		r.lines = append(r.lines, string(m[1]))
	}
}

func (s *soak) runFuzz(ctx context.Context) row {
	r := row{job: job{name: "fuzz", what: fmt.Sprintf("each fuzz test for %v", s.fuzz), once: true}, runs: 1}
	began := time.Now()
	cmd := exec.CommandContext(ctx, "go", "run", "./internal/cmd/testall", "fuzz", s.fuzz.String())
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	if err := cmd.Run(); err != nil {
		r.bad = []string{"any: see what make fuzz says"}
	}
	fmt.Print(out.String())
	tests, inputs := 0, 0
	for line := range strings.Lines(out.String()) {
		var pkg, name, took string
		var n int
		if _, err := fmt.Sscanf(line, "fuzz %s %s %s %d inputs", &pkg, &name, &took, &n); err == nil {
			tests++
			inputs += n
		}
	}
	r.lines = []string{fmt.Sprintf("%d fuzz tests, %d inputs", tests, inputs)}
	r.took = time.Since(began)
	return r
}

// page is the report.
func (s *soak) page() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# The last long run\n\n"+
		"Written by `make soak`, which runs what draws at random again and again, with the race detector and a seed for each run, and fuzzes. "+
		"`POSTHORN_SEED` repeats a run, as far as the machine's timing lets it.\n\n"+
		"Commit %s.\n\nOn %s with %d cores, %s, %s/%s; %v in all, from seed %d.\n\n", s.commit, s.began.UTC().Format(time.DateOnly), runtime.NumCPU(), runtime.Version(),
		runtime.GOOS, runtime.GOARCH, time.Since(s.began).Round(time.Second), s.first)
	b.WriteString("| job | what | runs | failed | took |\n| --- | --- | --- | --- | --- |\n")
	for _, r := range s.rows {
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %v |\n", r.name, r.what, r.runs, len(r.bad), r.took.Round(time.Second))
	}
	for _, r := range s.rows {
		for _, seed := range r.bad {
			fmt.Fprintf(&b, "\nFailed: %s, seed %s.\n", r.name, seed)
		}
		if len(r.left) > 0 {
			fmt.Fprintf(&b, "\nLeft out of %s: %s.\n", r.name, strings.Join(r.left, ", "))
		}
	}
	b.WriteString("\nWhat the tests said of themselves in the last run of each:\n")
	for _, r := range s.rows {
		for _, l := range r.lines {
			fmt.Fprintf(&b, "\n- %s: %s", r.name, l)
		}
	}
	b.WriteString("\n")
	return b.String()
}
