// Command bench measures Posthorn beside the raw NATS client and Watermill, on the
// same broker, and writes docs/benchmarks.md. It is what "make bench" calls.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

func main() {
	if os.Getenv(clientEnv) != "" {
		if err := clientMain(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "make bench:", err)
		os.Exit(1)
	}
}

const (
	pageFile  = "docs/benchmarks.md"
	ratioFile = "bench/ratios.json"
	minRounds = 5
)

// settings are those of a run.
type settings struct {
	root, dir string
	rows      string
	rounds    int
	quick     bool
	long      bool
	check     bool
	store     bool
}

func run(ctx context.Context, args []string, out io.Writer) error {
	var s settings
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&s.root, "root", "..", "the folder of the repository")
	f.StringVar(&s.dir, "dir", "", "where the brokers store; its disk is part of what is measured (default: the system's folder for temporary files)")
	f.StringVar(&s.rows, "row", "", "measure only the rows whose names match this regular expression; nothing is written")
	f.IntVar(&s.rounds, "rounds", minRounds, "how many rounds; the page is written from five on")
	f.BoolVar(&s.quick, "quick", false, "one short round of each, to see that it works; its figures say nothing, and nothing is written")
	f.BoolVar(&s.long, "long", false, "also the rows that need much time and disk")
	f.BoolVar(&s.check, "check", false, "compare with the stored ratios; nothing is written, and the end is an error when one fell")
	f.BoolVar(&s.store, "store", false, "write the ratios of this run to "+ratioFile+" as well")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("%q is no flag", f.Arg(0))
	}
	return s.run(ctx, out)
}

// whole tells whether the run is one whose figures are written.
func (s *settings) whole() bool { return s.rows == "" && !s.quick && !s.check && s.rounds >= minRounds }

func (s *settings) run(ctx context.Context, out io.Writer) error {
	if s.store && !s.whole() {
		return fmt.Errorf("the ratios are stored from a whole run only, of all rows and %d rounds, without a check", minRounds)
	}
	if s.rounds < 1 {
		return fmt.Errorf("there is at least one round, not %d", s.rounds)
	}
	rows, err := s.choose()
	if err != nil {
		return err
	}
	var want ratios
	if s.check {
		if want, err = loadRatios(filepath.Join(s.root, ratioFile)); err != nil {
			return err
		}
	}
	lab, end, err := s.lab(ctx, out)
	if err != nil {
		return err
	}
	defer end()
	began := time.Now()
	results, err := lab.run(ctx, rows)
	if err != nil {
		return errors.Join(err, errors.New("nothing was written"))
	}
	took := time.Since(began)
	p := page{results: results, about: about(lab, s), all: s.rows == ""}
	fmt.Fprintf(out, "\n%s\ntook %v\n", p.figures(), took.Round(time.Second))
	if s.check {
		return s.compare(ctx, lab, want, results, out)
	}
	if !s.whole() {
		fmt.Fprintln(out, "nothing was written: that takes all rows and", minRounds, "rounds")
		return nil
	}
	if err := writeWhole(filepath.Join(s.root, pageFile), p.text()); err != nil {
		return err
	}
	fmt.Fprintln(out, pageFile, "is written")
	if !s.store {
		return nil
	}
	if err := ratiosOf(results).save(filepath.Join(s.root, ratioFile)); err != nil {
		return err
	}
	fmt.Fprintln(out, ratioFile, "is written")
	return nil
}

// choose returns the rows of this run.
func (s *settings) choose() ([]*row, error) {
	scale := 1.0
	if s.quick {
		scale = 0.02
		s.rounds = 1
	}
	match, err := regexp.Compile(s.rows)
	if err != nil {
		return nil, fmt.Errorf("rows: %w", err)
	}
	var chosen []*row
	for _, r := range allRows(scale) {
		if r.long && !s.long || r.extra && s.rows == "" || !match.MatchString(r.id) {
			continue
		}
		chosen = append(chosen, r)
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no row matches %q; there are %s", s.rows, rowNames(allRows(scale)))
	}
	return chosen, nil
}

// lab builds what is needed. end removes it.
func (s *settings) lab(ctx context.Context, out io.Writer) (l *lab, end func(), err error) {
	root, err := filepath.Abs(s.root)
	if err != nil {
		return nil, nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	programs := filepath.Join(root, ".build", "bench")
	if err := os.MkdirAll(programs, 0o755); err != nil {
		return nil, nil, err
	}
	fmt.Fprintln(out, "building the servers and the programs whose size is measured")
	bin, err := build(ctx, root, programs)
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp(s.dir, "posthorn-bench-")
	if err != nil {
		return nil, nil, err
	}
	return newLab(bin, self, dir, s.rounds, out), func() { _ = os.RemoveAll(dir) }, nil
}

// compare says which ratios fell. What seems to have fallen is measured again, and
// fell if it is seen twice.
func (s *settings) compare(ctx context.Context, l *lab, want ratios, results []*result, out io.Writer) error {
	fell := want.fell(results)
	if len(fell) > 0 {
		fmt.Fprintf(out, "%d ratios seem to have fallen; their rows are measured a second time\n", len(fell))
		var again []*row
		for _, r := range results {
			if fellIn(fell, r.row) {
				again = append(again, r.row)
			}
		}
		second, err := l.run(ctx, again)
		if err != nil {
			return err
		}
		fell = seenTwice(fell, want.fell(second))
	}
	for _, name := range want.missing(results, s.rows == "") {
		fmt.Fprintf(out, "%s: it is stored, and nothing of that name was measured\n", name)
	}
	if len(fell) == 0 {
		fmt.Fprintf(out, "no ratio is more than %.0f %% worse than the stored one\n", 100*tolerance)
		return nil
	}
	for _, f := range fell {
		fmt.Fprintln(out, f)
	}
	return fmt.Errorf("%d ratios are more than %.0f %% worse than those stored in %s", len(fell), 100*tolerance, ratioFile)
}

// writeWhole writes a file, all of it or nothing.
func writeWhole(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
