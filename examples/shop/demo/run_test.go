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
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/notification"
	"github.com/posthorn/posthorn/examples/shop/order"
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
			for _, want := range []string{"5 events became dead letters", "A563185", "POISON"} {
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
	mustEqual(t, Config{Dir: t.TempDir(), Data: slice(t, 500/few)})
}

// TestTampered changes one thing in a database after the other, and wants the table
// to say so.
func TestTampered(t *testing.T) {
	t.Parallel()
	dir, data := t.TempDir(), slice(t, 30)
	mustEqual(t, Config{Dir: dir, Data: data})
	dead := []posthorn.DeadLetter{{Meta: posthorn.Meta{Group: notification.Group}}} // of A563185
	for _, group := range poisoned {
		dead = append(dead, posthorn.DeadLetter{Meta: posthorn.Meta{Group: group}})
	}
	compare := func(dead []posthorn.DeadLetter) (string, error) {
		out := &output{}
		r := run{Config: Config{Dir: dir, Data: data, Out: out, Log: quiet}}
		err := r.compare(t.Context(), dead)
		return out.String(), err
	}
	differs := func(what string, dead []posthorn.DeadLetter) {
		if text, err := compare(dead); !errors.Is(err, ErrDiffers) || !strings.Contains(text, "NOT EQUAL") {
			t.Errorf("%s: %v\n%s", what, err, text)
		}
	}
	if text, err := compare(dead); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	differs("a dead letter is missing", dead[1:])
	differs("a dead letter too many", append(dead, posthorn.DeadLetter{Meta: posthorn.Meta{Group: order.Group}}))
	for _, c := range []struct{ file, change, undo string }{
		{"payment.db", "update payments set amount = amount + 1 where order_id = '536365'", "update payments set amount = amount - 1 where order_id = '536365'"},
		{"order.db", "update orders set kind = 'adjusted' where id = '536366'", "update orders set kind = 'placed' where id = '536366'"},
		{"order.db", "update steps set detail = '1.000' where order_id = '536366' and type = 'payment.captured'", "update steps set detail = '22.200' where order_id = '536366' and type = 'payment.captured'"},
		{"order.db", "insert into steps select order_id, 'another', type, service, at, detail from steps where order_id = '536366' and type = 'points.given'", "delete from steps where event = 'another'"},
		{"inventory.db", "update stock set returned = returned + 1, ordered = ordered + 1 where code = '85123A'", "update stock set returned = returned - 1, ordered = ordered - 1 where code = '85123A'"},
		{"logistics.db", "update parcels set country = 'Utopia' where order_id = '536365'", "update parcels set country = 'United Kingdom' where order_id = '536365'"},
		{"logistics.db", "update parcels set units = units + 1 where order_id = '536365'", "update parcels set units = units - 1 where order_id = '536365'"},
		{"customer.db", "update customers set country = 'Utopia' where id = '17850'", "update customers set country = 'United Kingdom' where id = '17850'"},
		{"coupon.db", "update coupons set customer = '1' where customer = '17850'", "update coupons set customer = '17850' where customer = '1'"},
		{"points.db", "update accounts set given = given + 1 where customer = '17850'", "update accounts set given = given - 1 where customer = '17850'"},
		{"recommendation.db", "update pairs set orders = orders + 1 where a = '22632' and b = '22633'", "update pairs set orders = orders - 1 where a = '22632' and b = '22633'"},
		{"notification.db", "update letters set to_whom = 'buyer' where event = (select min(event) from letters where to_whom != 'buyer')", "update letters set to_whom = '1' where event = (select min(event) from letters)"},
		{"inventory.db", "update stock set chain = zeroblob(32) where code = '71053'", ""},
		{"points.db", "update accounts set chain = zeroblob(32) where customer = '17850'", ""},
	} {
		tamper(t, filepath.Join(dir, c.file), c.change)
		differs(c.change, dead)
		if c.undo == "" {
			return
		}
		tamper(t, filepath.Join(dir, c.file), c.undo)
		if text, err := compare(dead); err != nil {
			t.Fatalf("%s, and undone: %v\n%s", c.change, err, text)
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
	dir, data := t.TempDir(), slice(t, 800/few)
	ctx, cancel := context.WithCancel(t.Context())
	out := &output{on: func(line string) {
		if _, ok := letters(line); ok && !strings.Contains(line, " orders 0 of") {
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

// TestKill kills a process in the middle of its run, twice, and runs again. Letters are
// what comes to its end last, and when the first are sent the mail provider goes away:
// so there are handlers at work when the process dies.
func TestKill(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, data := t.TempDir(), slice(t, 800/few)
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
		killed, before := false, -1
		for in := bufio.NewScanner(stdout); in.Scan(); {
			letters, ok := letters(in.Text())
			if ok && before < 0 {
				before = letters
			}
			if ok && !killed && letters > before {
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

// letters reads a line of progress.
func letters(line string) (n int, ok bool) {
	_, text, ok := strings.Cut(strings.TrimSpace(line), "| letters ")
	n, err := strconv.Atoi(text)
	return n, ok && err == nil
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"no file":        {Config{Dir: t.TempDir(), Data: "no/such.csv"}, "no/such.csv"},
		"no such scheme": {Config{Dir: t.TempDir(), Data: slice(t, 2), URL: "carrierpigeon:"}, "carrierpigeon"},
		"not apart":      {Config{Dir: t.TempDir(), Data: slice(t, 2), Kill: []string{order.Group}}, "in a process of its own"},
		"no directory":   {Config{Dir: filepath.Join(part, "below"), Data: slice(t, 2)}, "the shop's directory"},
	} {
		c.cfg.Out, c.cfg.Log = io.Discard, quiet
		if err := Run(t.Context(), c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, c.want)
		}
	}
}
