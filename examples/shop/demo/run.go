package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/posthorn/posthorn/examples/shop/order"
)

// A Config configures a run. A zero field means the default, where one is named.
type Config struct {
	// URL is the bus. Default: embedded:, in Dir.
	URL string
	// Dir holds the databases.
	Dir string
	// Keep says that later runs may go on in Dir. Less fails on purpose then.
	Keep bool
	// Data is the file of orders, .csv or .csv.gz.
	Data string
	// Out gets the progress and the table.
	Out io.Writer
	// Every is how often progress is printed. Default 1 s.
	Every time.Duration
	// Patience is for how long nothing may move before the run is given up.
	// Default 1 min.
	Patience time.Duration
	// Log gets what the buses log.
	Log *slog.Logger
	// Serve, when set, is called with the running shop after the table is
	// printed, and ends the run when it returns.
	Serve func(context.Context, *Shop) error
}

// ErrDiffers: the books of the services are not those of the file.
var ErrDiffers = errors.New("the books differ from the file")

// Run imports the file, waits until all services have settled, and compares their
// books with the file. The error is ErrDiffers when they differ, and the context's
// when ctx ended before; then a second run with the same Dir, and Keep, goes on.
func Run(ctx context.Context, cfg Config) (err error) {
	if cfg.URL == "" {
		cfg.URL = "embedded:" + cfg.Dir + "/bus"
	}
	if cfg.Every == 0 {
		cfg.Every = time.Second
	}
	if cfg.Patience == 0 {
		cfg.Patience = time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return fmt.Errorf("make the shop's directory: %w", err)
	}
	file, err := order.OpenRetail(cfg.Data)
	if err != nil {
		return err
	}
	fmt.Fprintf(cfg.Out, "file %s\n", cfg.Data)
	writeSeen(cfg.Out, file.Seen)
	fmt.Fprintf(cfg.Out, "bus %s, databases in %s\n\n", cfg.URL, cfg.Dir)

	shop, err := Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shop.Close(context.WithoutCancel(ctx))) }()
	r := run{Config: cfg, shop: shop, file: file}
	if err := r.refuse(ctx); err != nil {
		return err
	}
	if err := shop.Start(ctx); err != nil {
		return err
	}
	if err := r.work(ctx); err != nil {
		return err
	}
	differs := r.report(ctx)
	if cfg.Serve != nil && (differs == nil || errors.Is(differs, ErrDiffers)) {
		return errors.Join(differs, cfg.Serve(ctx, shop))
	}
	return differs
}

// A run is what Run works on.
type run struct {
	Config
	shop  *Shop
	file  *order.Retail
	begun time.Time
	took  time.Duration
}

// refuse refuses a directory whose books hold more than the file.
func (r *run) refuse(ctx context.Context) error {
	p, err := r.shop.Progress(ctx)
	if err != nil {
		return err
	}
	switch {
	case p.Orders.FromHTTP > 0:
		return fmt.Errorf("the books in %s hold %d orders that came over HTTP, so they cannot be those of the file; use another directory", r.Dir, p.Orders.FromHTTP)
	case p.Orders.Taken > 0:
		fmt.Fprintf(r.Out, "going on where an earlier run stopped: %d orders taken, %d published\n", p.Orders.Taken, p.Orders.Published)
	}
	return nil
}

// work imports the file, and returns when all that follows from it is settled.
func (r *run) work(ctx context.Context) (err error) {
	r.begun = time.Now()
	importing, stop := context.WithCancel(ctx)
	imported := make(chan error, 1)
	go func() { imported <- r.shop.Order.Import(importing, r.file) }()
	defer func() {
		stop()
		if imported != nil {
			<-imported // it ends after the orders that it is at
		}
	}()
	watch := r.watch()
	tick := time.NewTicker(min(r.Every, 250*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-imported:
			if imported = nil; err != nil {
				return err
			}
		case <-tick.C:
			p, err := r.shop.Progress(ctx)
			if err != nil {
				return err
			}
			if err := watch(ctx, p); err != nil {
				return err
			}
			if imported != nil || p.waiting() != "" {
				continue
			}
			lag, err := r.shop.lag(ctx)
			if err != nil || lag == 0 {
				r.took = time.Since(r.begun)
				fmt.Fprintln(r.Out, p.line(len(r.file.Orders), r.took, Progress{}, r.took))
				return err
			}
		}
	}
}

// watch returns a function that prints progress from time to time, and whose
// error says that nothing moves any more.
func (r *run) watch() func(context.Context, Progress) error {
	var printed, last Progress
	at, moved := r.begun, r.begun
	return func(ctx context.Context, p Progress) error {
		now := time.Now()
		if now.Sub(at) >= r.Every {
			fmt.Fprintln(r.Out, p.line(len(r.file.Orders), now.Sub(r.begun), printed, now.Sub(at)))
			printed, at = p, now
		}
		if p != last {
			last, moved = p, now
		}
		if now.Sub(moved) > r.Patience {
			return r.stuck(ctx, p)
		}
		return nil
	}
}

// stuck says what is known of a run that does not come to its end.
func (r *run) stuck(ctx context.Context, p Progress) error {
	lag, err := r.shop.lag(ctx)
	text := fmt.Sprintf("nothing has moved for %v; waiting for: %s; not settled by the groups: %d events", r.Patience, p.waiting(), lag)
	for _, m := range r.shop.members {
		for _, reason := range m.bus.Health(ctx).Reasons {
			text += fmt.Sprintf("; %s is not healthy: %s: %s", m.name, reason.Code, reason.Text)
		}
	}
	dead, deadErr := r.shop.DeadLetters(ctx)
	for _, d := range dead[:min(len(dead), 5)] {
		text += "; dead letter: " + describe(d)
	}
	return errors.Join(errors.New(text), err, deadErr)
}
