// Package demo runs the whole shop, in one process or in one for each service,
// imports a file of orders, and compares what the services have kept with what the
// file says.
package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/notification"
	"github.com/posthorn/posthorn/examples/shop/order"
)

// ErrDiffers: the books of the services are not those of the file.
var ErrDiffers = errors.New("the books differ from the file")

// Interrupted tells whether an error of Run says nothing but that its context
// ended.
func Interrupted(err error) bool {
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		return !slices.ContainsFunc(all.Unwrap(), func(err error) bool { return !Interrupted(err) })
	}
	return errors.Is(err, context.Canceled)
}

// services are all services, wherever they run.
type services interface {
	// start returns when all of them handle events and the import of the file has
	// begun.
	start(ctx context.Context, file *order.Retail) error
	// failed gets an error that ends the run.
	failed() <-chan error
	// disturb does to them what is to happen when a share of the orders is published.
	disturb(share float64) error
	// health says what they are not healthy for.
	health(ctx context.Context) []string
	// finish is called when everything is settled, and returns what they have
	// counted. Services in processes of their own have stopped by then.
	finish(ctx context.Context) (posthorn.Stats, error)
	// close stops and closes those that still run.
	close(ctx context.Context) error
}

// Run imports the file, waits until all services have settled, and compares their
// books with the file. The error is ErrDiffers when they differ, and the context's
// when ctx ended before; then a second run with the same Dir, and Keep, goes on.
// What it has started has ended when it returns.
func Run(ctx context.Context, cfg Config) (err error) {
	for _, name := range cfg.Kill {
		if cfg.Apart == nil || !slices.Contains(Names[:], name) {
			return fmt.Errorf("service %q is to be killed: it has to be one of %s, in a process of its own", name, strings.Join(Names[:], ", "))
		}
	}
	r := run{Config: cfg.defaults(), badDay: badDay{outage: outageIn(cfg.Dir)}}
	if err := os.MkdirAll(r.Dir, 0o755); err != nil {
		return fmt.Errorf("make the shop's directory: %w", err)
	}
	if r.file, err = order.OpenRetail(r.Data); err != nil {
		return err
	}
	fmt.Fprintf(r.Out, "file %s\n", r.Data)
	writeSeen(r.Out, r.file.Seen)
	defer func() { err = errors.Join(err, r.close(context.WithoutCancel(ctx))) }()
	if err := r.open(ctx); err != nil {
		return err
	}
	if err := r.refuse(ctx); err != nil {
		return err
	}
	if err := r.badDay.outage.plan(); err != nil {
		return err
	}
	if err := r.services.start(ctx, r.file); err != nil {
		return err
	}
	if err := publishPoison(ctx, r.observer.bus); err != nil {
		return err
	}
	if err := r.work(ctx); err != nil {
		return err
	}
	differs := r.report(ctx)
	if r.Serve != nil && (differs == nil || errors.Is(differs, ErrDiffers)) {
		return errors.Join(differs, r.Serve(ctx, r.services.(*together).order()))
	}
	return differs
}

// A run is what Run works on.
type run struct {
	Config
	file     *order.Retail
	served   *Served // nil: it is not ours to end
	services services
	observer *observer
	badDay   badDay
	begun    time.Time
	took     time.Duration
}

// open starts the broker, where one is to be started, and opens what stands on it.
func (r *run) open(ctx context.Context) (err error) {
	if r.Broker != nil {
		if r.served, err = r.Broker(ctx, r.Dir, r.Err); err != nil {
			return err
		}
		r.URL = r.served.URL
	}
	fmt.Fprintf(r.Out, "bus %s, databases in %s\n", r.URL, r.Dir)
	if r.served != nil {
		if r.served.Note != "" {
			fmt.Fprintf(r.Out, "  (%s)\n", r.served.Note)
		}
		fmt.Fprintf(r.Out, "\n%-14s  process %d (%s)\n", "bus", r.served.Process.ID(), r.served.Name)
	} else {
		fmt.Fprintln(r.Out)
	}
	if r.observer, err = openObserver(ctx, r.Config); err != nil {
		return err
	}
	if r.Apart != nil {
		r.services = newApart(r.Config)
		return nil
	}
	t, err := openTogether(ctx, r.Config)
	if err == nil {
		r.services = t
	}
	return err
}

// close ends the broker last.
func (r *run) close(ctx context.Context) error {
	var errs []error
	if r.services != nil {
		draining, cancel := context.WithCancel(ctx)
		defer cancel()
		if r.served != nil && closed(r.served.Process.Ended()) {
			cancel() // there is nothing left to drain on
		}
		errs = append(errs, r.services.close(draining))
	}
	if r.observer != nil {
		errs = append(errs, r.observer.close(ctx))
	}
	if r.served != nil && !closed(r.served.Process.Ended()) {
		ctx, cancel := r.stopping(ctx)
		defer cancel()
		errs = append(errs, r.served.Process.Stop(ctx))
	}
	return errors.Join(errs...)
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// brokerEnded is closed when a broker of ours has ended.
func (r *run) brokerEnded() <-chan struct{} {
	if r.served == nil {
		return nil
	}
	return r.served.Process.Ended()
}

// refuse refuses a directory whose books hold more than the file.
func (r *run) refuse(ctx context.Context) error {
	p, err := r.observer.progress(ctx)
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

// work returns when the file is imported and all that follows from it is settled.
func (r *run) work(ctx context.Context) error {
	r.begun = time.Now()
	watch := r.watch()
	next := time.NewTimer(0)
	defer next.Stop()
	var last Progress
	var before standing
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-r.services.failed():
			return err
		case <-r.brokerEnded():
			return r.served.Process.Why()
		case <-next.C:
		}
		asked := time.Now()
		p, err := r.observer.progress(ctx)
		took := time.Since(asked) // the longer the more there is to count: it is not to be in the way
		if err != nil {
			return err
		}
		if err := watch(ctx, p); err != nil {
			return err
		}
		r.badDay.look(p)
		if err := r.services.disturb(float64(p.Orders.Published) / float64(len(r.file.Orders))); err != nil {
			return err
		}
		// Asking the groups costs the broker something: so not before all is still.
		if p.Orders.Published == int64(len(r.file.Orders)) && p == last {
			now, err := r.observer.standing(ctx)
			if err != nil {
				return err
			}
			if now.done(before, notification.Group) {
				if err := r.badDay.over(p); err != nil {
					return err
				}
			}
			if now.done(before, "") {
				r.took = time.Since(r.begun)
				fmt.Fprintln(r.Out, p.line(len(r.file.Orders), r.took, Progress{}, r.took))
				return nil
			}
			before = now
		}
		last = p
		next.Reset(max(min(r.Every, 250*time.Millisecond), 5*took))
	}
}

// watch returns a function that prints progress from time to time, and whose
// error says that nothing moves any more.
func (r *run) watch() func(context.Context, Progress) error {
	var printed, last Progress
	at, moved := r.begun, r.begun
	return func(ctx context.Context, p Progress) error {
		if r.seen != nil {
			r.seen(p, r.services)
		}
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
	open, err := r.observer.standing(ctx)
	text := fmt.Sprintf("nothing has moved for %v; %d of %d orders are published; not settled by the groups: %v", r.Patience, p.Orders.Published, len(r.file.Orders), open)
	for _, reason := range r.services.health(ctx) {
		text += "; " + reason
	}
	dead, deadErr := r.observer.deadLetters(ctx)
	for _, d := range dead[:min(len(dead), 5)] {
		text += "; dead letter: " + describe(d)
	}
	return errors.Join(errors.New(text), err, deadErr)
}
