// Command shop runs the example shop: all of its services in one process, on one
// bus. It imports a file of orders, waits until every service has settled, and
// compares their books with the file. Its exit status is 1 when they differ.
//
//	go run ./shop/cmd/shop -data shop/data/online-retail-part.csv.gz
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/posthorn/posthorn/examples/shop/demo"
)

// interrupted is the exit status of a run that a signal ended.
const interrupted = 130

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, args []string) int {
	f, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	dir, temporary, err := f.directory()
	if err != nil {
		return fail(err)
	}
	level := slog.LevelWarn
	if f.verbose {
		level = slog.LevelInfo
	}
	cfg := demo.Config{URL: f.url, Dir: dir, Keep: !temporary, Data: f.data, Out: os.Stdout,
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))}
	if f.http != "" {
		cfg.Serve = func(ctx context.Context, shop *demo.Shop) error { return serve(ctx, f.http, shop) }
	}
	err = demo.Run(ctx, cfg)
	stopped := ctx.Err() != nil && errors.Is(err, context.Canceled)
	switch {
	case stopped && temporary:
		fmt.Println("\nInterrupted. What was begun is finished. A run with -dir keeps its state, to go on with.")
	case stopped:
		fmt.Printf("\nInterrupted. What was begun is finished and kept; to go on:\n  go run ./shop/cmd/shop -data %s -dir %s\n", f.data, dir)
	}
	if temporary {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	if stopped {
		return interrupted
	}
	if err != nil {
		return fail(err)
	}
	return 0
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, "shop:", err)
	return 1
}

type flags struct {
	data, dir, url, http string
	verbose              bool
}

func parse(args []string) (f flags, err error) {
	set := flag.NewFlagSet("shop", flag.ContinueOnError)
	set.StringVar(&f.data, "data", "shop/data/online-retail-part.csv.gz", "the `file` of orders, .csv or .csv.gz")
	set.StringVar(&f.dir, "dir", "", "the `directory` of the databases and of the embedded bus; a run goes on\nwhere an earlier one in it stopped (default: a new one, removed at the end)")
	set.StringVar(&f.url, "url", "", "the `URL` of the bus, such as memory: or embedded:./bus (default: embedded, in -dir)")
	set.StringVar(&f.http, "http", "", "after the table, serve the order API on this loopback `address`, such as\n127.0.0.1:8080, until Ctrl-C")
	set.BoolVar(&f.verbose, "v", false, "log more than warnings")
	set.Usage = func() {
		fmt.Fprintln(set.Output(), "The example shop: imports a file of orders and compares the books of its services with it.\n\nUsage: shop [flags]\n\nFlags:")
		set.PrintDefaults()
		fmt.Fprintln(set.Output(), "\nExit status: 0 all equal, 1 not equal or failed, 2 wrong flags, 130 interrupted.")
	}
	if err := set.Parse(args); err != nil {
		return f, err
	}
	if set.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", set.Arg(0))
	} else if f.http != "" {
		err = loopback(f.http)
	}
	if err == nil && f.dir != "" && strings.HasPrefix(f.url, "memory:") {
		err = errors.New("-url memory: forgets at the end what the databases in -dir keep; leave -dir out")
	}
	if err != nil {
		fmt.Fprintf(set.Output(), "shop: %v; see shop -help\n", err)
	}
	return f, err
}

// loopback refuses to serve anybody but this machine: the API asks nobody who
// they are.
func loopback(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("-http %s: %w", addr, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("-http %s: only loopback addresses are served, such as 127.0.0.1:8080", addr)
	}
	return nil
}

// directory makes a directory when none is named.
func (f flags) directory() (dir string, temporary bool, err error) {
	if f.dir != "" {
		return f.dir, false, nil
	}
	dir, err = os.MkdirTemp("", "shop-*")
	return dir, true, err
}

// serve serves the order API until ctx ends.
func serve(ctx context.Context, addr string, shop *demo.Shop) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Printf("\nThe order API is on http://%s; Ctrl-C ends it. For example:\n"+
		"  curl -d '{\"customer\": \"17850\", \"lines\": [{\"stock_code\": \"85123A\", \"quantity\": 2, \"unit_price\": \"2.55\"}]}' http://%s/orders\n", l.Addr(), l.Addr())
	srv := &http.Server{Handler: shop.Order.Handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return srv.Shutdown(finish)
}
