// Command shop runs the example shop: it imports a file of orders, waits until
// every service has settled, and compares their books with the file. Its exit
// status is 1 when they differ.
//
//	go run ./shop/cmd/shop -data shop/data/online-retail-part.csv.gz
//
// All services run in this process, on one bus, unless -processes gives each a
// process of its own: the same program with -service.
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
	"syscall"
	"time"

	"github.com/posthorn/posthorn/examples/shop/demo"
	"github.com/posthorn/posthorn/examples/shop/order"
)

// interrupted is the exit status of a run that a signal ended.
const interrupted = 130

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	os.Exit(run(signals, os.Args[1:]))
}

// run ends what it does after the first signal, and at once after the second.
func run(signals <-chan os.Signal, args []string) int {
	f, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	ctx, stop := context.WithCancel(context.Background())
	hurry := make(chan struct{})
	go func() {
		<-signals
		stop()
		<-signals
		if !f.processes {
			os.Exit(interrupted)
		}
		close(hurry) // this process has others to end
	}()
	level := slog.LevelWarn
	if f.verbose {
		level = slog.LevelInfo
	}
	cfg := demo.Config{URL: f.url, Dir: f.dir, Data: f.data, Out: os.Stdout, Hurry: hurry,
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))}
	if f.http != "" {
		cfg.Serve = func(ctx context.Context, o *order.Service) error { return serve(ctx, f.http, o) }
	}
	if f.service != "" {
		cfg.Keep = f.keep
		return exit(demo.RunService(ctx, f.service, cfg))
	}
	if f.processes {
		if err := f.apart(&cfg); err != nil {
			return exit(err)
		}
	}
	return all(ctx, cfg, f)
}

// all runs all services, and removes what is not to be kept.
func all(ctx context.Context, cfg demo.Config, f flags) int {
	cfg.Keep = f.dir != ""
	if !cfg.Keep {
		dir, err := os.MkdirTemp("", "shop-*")
		if err != nil {
			return exit(err)
		}
		cfg.Dir = dir
	}
	err := demo.Run(ctx, cfg)
	stopped := ctx.Err() != nil && demo.Interrupted(err)
	switch {
	case stopped && !cfg.Keep:
		fmt.Println("\nInterrupted. What was begun is finished. A run with -dir keeps its state, to go on with.")
	case stopped:
		fmt.Printf("\nInterrupted. What was begun is finished and kept; to go on:\n  %s\n", f.again())
	}
	if !cfg.Keep {
		err = errors.Join(err, os.RemoveAll(cfg.Dir))
	}
	if stopped && demo.Interrupted(err) {
		return interrupted
	}
	return exit(err)
}

func exit(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "shop:", err)
	return 1
}

// serve serves the order API until ctx ends.
func serve(ctx context.Context, addr string, orders *order.Service) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, `
The order API is on http://%[1]s; Ctrl-C ends it. For example:
  curl -d '{"id": "W1", "customer": "20001", "lines": [{"stock_code": "85123A", "quantity": 2, "unit_price": "2.55"}]}' http://%[1]s/orders
  curl http://%[1]s/orders/W1
  curl -X POST http://%[1]s/orders/W1/cancel
`, l.Addr())
	srv := &http.Server{Handler: orders.Handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second}
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
