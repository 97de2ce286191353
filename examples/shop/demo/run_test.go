package demo

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	_ "modernc.org/sqlite"
)

// part is the file that ships with the shop.
const part = "../data/online-retail-part.csv.gz"

// These are set, in the environment, for a process that TestKill starts.
const (
	childDir  = "SHOP_TEST_CHILD_DIR"
	childData = "SHOP_TEST_CHILD_DATA"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := Run(context.Background(), Config{Dir: dir, Keep: true, Data: os.Getenv(childData), Out: os.Stdout, Every: 10 * time.Millisecond, Log: quiet}); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if status, ok := runProgram(os.Args[1:]); ok {
		os.Exit(status)
	}
	os.Exit(m.Run())
}

var quiet = slog.New(slog.DiscardHandler)

// slice writes the first invoices of the part, and some that are out of the
// ordinary, into a file of its own.
func slice(t *testing.T, invoices int) string {
	t.Helper()
	f, err := os.Open(part)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	special := map[string]bool{"InvoiceNo": true, "542806": true, "C542805": true, "A563185": true, "A563186": true, "A563187": true}
	seen := map[string]bool{}
	var out bytes.Buffer
	for in := bufio.NewScanner(z); in.Scan(); {
		number, _, _ := strings.Cut(in.Text(), ",")
		if !special[number] && !seen[number] && len(seen) >= invoices {
			continue
		}
		seen[number] = true
		out.WriteString(in.Text() + "\n")
	}
	path := filepath.Join(t.TempDir(), "slice.csv")
	if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// output collects what a run prints, and calls on each line once it is set.
type output struct {
	mu   sync.Mutex
	text strings.Builder
	on   func(line string)
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.on != nil {
		o.on(string(p))
	}
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// mustEqual runs and fails unless all books are those of the file.
func mustEqual(t *testing.T, cfg Config) string {
	t.Helper()
	out := &output{}
	cfg.Out, cfg.Log = out, quiet
	if err := Run(t.Context(), cfg); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(out.String(), "All equal.") {
		t.Errorf("no word of it that all is equal:\n%s", out)
	}
	return out.String()
}

func TestMemory(t *testing.T) {
	t.Parallel()
	for _, shape := range []string{"log", "queue"} {
		t.Run(shape, func(t *testing.T) {
			t.Parallel()
			text := mustEqual(t, Config{URL: "memory:shop-" + shape + "?shape=" + shape, Dir: t.TempDir(), Data: slice(t, 300/few)})
			for _, want := range []string{"1 events became dead letters", "A563185"} {
				if !strings.Contains(text, want) {
					t.Errorf("the report lacks %q:\n%s", want, text)
				}
			}
		})
	}
}

// TestEmbedded is the demo on a slice. The whole of the part is run by the tests of
// cmd/shop, without the race detector.
func TestEmbedded(t *testing.T) {
	t.Parallel()
	mustEqual(t, Config{Dir: t.TempDir(), Data: slice(t, 600/few)})
}

// TestTampered changes one thing in a database, and wants the table to say so.
func TestTampered(t *testing.T) {
	t.Parallel()
	dir, data := t.TempDir(), slice(t, 10)
	cfg := Config{Dir: dir, Data: data}
	mustEqual(t, cfg)
	for _, c := range []struct{ file, change, undo string }{
		{"payment.db", "update payments set amount = amount + 1 where order_id = '536365'", "update payments set amount = amount - 1 where order_id = '536365'"},
		{"order.db", "update orders set kind = 'adjusted' where id = '536366'", "update orders set kind = 'placed' where id = '536366'"},
		{"inventory.db", "update stock set returned = returned + 1, ordered = ordered + 1 where code = '85123A'", "update stock set returned = returned - 1, ordered = ordered - 1 where code = '85123A'"},
		{"inventory.db", "update stock set chain = zeroblob(32) where code = '71053'", ""},
	} {
		tamper(t, filepath.Join(dir, c.file), c.change)
		out := &output{}
		r := run{Config: Config{Dir: dir, Data: data, Out: out, Log: quiet}}
		if err := r.compare(t.Context()); !errors.Is(err, ErrDiffers) || !strings.Contains(out.String(), "NOT EQUAL") {
			t.Errorf("%s: %v\n%s", c.change, err, out)
		}
		if c.undo != "" {
			tamper(t, filepath.Join(dir, c.file), c.undo)
		}
	}
}

func tamper(t *testing.T, path, change string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	res, err := db.ExecContext(t.Context(), change)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		t.Fatalf("%s: %d rows, %v", change, n, err)
	}
}

// TestInterrupted ends a run in its middle, as Ctrl-C does, and runs again.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	dir, data := t.TempDir(), slice(t, 1200/few)
	ctx, cancel := context.WithCancel(t.Context())
	out := &output{on: func(line string) {
		if _, published, _, ok := counts(line); ok && published > 0 {
			cancel()
		}
	}}
	err := Run(ctx, Config{Dir: dir, Keep: true, Data: data, Out: out, Every: time.Millisecond, Log: quiet})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("the run is not interrupted: %v\n%s", err, out)
	}
	if text := mustEqual(t, Config{Dir: dir, Keep: true, Data: data}); !strings.Contains(text, "going on where an earlier run stopped") {
		t.Errorf("the second run does not go on:\n%s", text)
	}
	// And once more, with nothing left to do.
	mustEqual(t, Config{Dir: dir, Keep: true, Data: data})
	// Another file is refused.
	if err := Run(t.Context(), Config{Dir: dir, Keep: true, Data: slice(t, 10), Out: io.Discard, Log: quiet}); err == nil || !strings.Contains(err.Error(), "another file") {
		t.Errorf("another file: %v", err)
	}
}

// TestKill kills a process in the middle of its run, twice, and runs again.
func TestKill(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, data := t.TempDir(), slice(t, 1200/few)
	for i := range 2 {
		cmd := exec.CommandContext(t.Context(), exe)
		cmd.Env = append(os.Environ(), childDir+"="+dir, childData+"="+data)
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		killed := false
		for in := bufio.NewScanner(stdout); in.Scan(); {
			if !killed && busy(in.Text(), i) {
				killed = true
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil || !killed {
			t.Fatalf("run %d was not killed: %v", i, err)
		}
	}
	mustEqual(t, Config{Dir: dir, Keep: true, Data: data})
}

// busy tells from a line of progress whether the run is in its middle: the goods
// of some orders are reserved, and of more than the round before.
func busy(line string, round int) bool {
	of, _, goods, ok := counts(line)
	return ok && goods > round*of/3 && goods < of-10
}

// counts reads a line of progress.
func counts(line string) (of, published, goods int, ok bool) {
	var seconds float64
	var paid int
	_, err := fmt.Sscanf(strings.TrimSpace(line), "%fs orders published %d of %d, paid %d, with their goods %d", &seconds, &published, &of, &paid, &goods)
	return of, published, goods, err == nil
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"no file":        {Config{Dir: t.TempDir(), Data: "no/such.csv"}, "no/such.csv"},
		"no such scheme": {Config{Dir: t.TempDir(), Data: slice(t, 2), URL: "carrierpigeon:"}, "carrierpigeon"},
		"no directory":   {Config{Dir: filepath.Join(part, "below"), Data: slice(t, 2)}, "the shop's directory"},
	} {
		c.cfg.Out, c.cfg.Log = io.Discard, quiet
		if err := Run(t.Context(), c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, c.want)
		}
	}
}
