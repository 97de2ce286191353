package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/posthorn/posthorn"
	_ "github.com/posthorn/posthorn/driver/embedded"  // embedded:
	_ "github.com/posthorn/posthorn/driver/jetstream" // nats:
	_ "github.com/posthorn/posthorn/driver/memory"    // memory:
	"github.com/posthorn/posthorn/examples/shop/coupon"
	"github.com/posthorn/posthorn/examples/shop/customer"
	"github.com/posthorn/posthorn/examples/shop/inventory"
	"github.com/posthorn/posthorn/examples/shop/logistics"
	"github.com/posthorn/posthorn/examples/shop/notification"
	"github.com/posthorn/posthorn/examples/shop/order"
	"github.com/posthorn/posthorn/examples/shop/payment"
	"github.com/posthorn/posthorn/examples/shop/points"
	"github.com/posthorn/posthorn/examples/shop/recommendation"
)

const nServices = 9

// Names are the names of the services, in the order in which they are started.
// Each is the name of the service's group too.
var Names = [nServices]string{
	order.Group, payment.Group, inventory.Group, logistics.Group, customer.Group,
	points.Group, coupon.Group, recommendation.Group, notification.Group,
}

// A hosted service has a bus and a database of its own, whether it has a process
// of its own or not.
type hosted struct {
	name    string
	bus     *posthorn.Bus
	service service // nil until it is open
}

type service interface {
	Start(context.Context) error
	Stop(context.Context) error
	Close() error
}

// openService opens a service on the bus of a configuration, with its database in
// its directory. What fails on purpose is switched on: see faults.go.
func openService(ctx context.Context, name string, cfg Config) (*hosted, error) {
	bus, err := cfg.open(ctx, name)
	if err != nil {
		return nil, err
	}
	s := &hosted{name: name, bus: bus}
	open, err := openOn(ctx, bus, name, cfg)
	if err != nil {
		return nil, errors.Join(err, s.close(context.WithoutCancel(ctx)))
	}
	s.service = open
	return s, nil
}

func openOn(ctx context.Context, bus *posthorn.Bus, name string, cfg Config) (service, error) {
	file, inOrder := database(cfg.Dir, name), inOrderFaults(cfg)
	switch name {
	case order.Group:
		return order.Open(ctx, bus, order.Config{
			Database: file, Log: cfg.Log.With("service", name), Middleware: []posthorn.Middleware{failFirst(500)}})
	case payment.Group:
		return payment.Open(ctx, bus, payment.Config{Database: file, Gateway: &payment.Sandbox{Busy: 50}})
	case inventory.Group:
		return inventory.Open(ctx, bus, inventory.Config{Database: file, Middleware: inOrder})
	case logistics.Group:
		return logistics.Open(ctx, bus, logistics.Config{Database: file, Middleware: []posthorn.Middleware{failFirst(500)}})
	case customer.Group:
		return customer.Open(ctx, bus, customer.Config{Database: file, Middleware: []posthorn.Middleware{failFirst(200)}})
	case points.Group:
		return points.Open(ctx, bus, points.Config{Database: file, Middleware: inOrder})
	case coupon.Group:
		return coupon.Open(ctx, bus, coupon.Config{Database: file, Middleware: []posthorn.Middleware{failFirst(200)}})
	case recommendation.Group:
		return recommendation.Open(ctx, bus, recommendation.Config{Database: file, Middleware: []posthorn.Middleware{failFirst(500)}})
	case notification.Group:
		return notification.Open(ctx, bus, notification.Config{Database: file, Retry: lettersRetry, Again: 100 * time.Millisecond,
			Mail: &provider{Mail: &notification.Greylist{Every: 200, Times: lettersRetry.Attempts + 1}, outage: outageIn(cfg.Dir)}})
	}
	return nil, fmt.Errorf("there is no service %q; there are %s", name, strings.Join(Names[:], ", "))
}

func database(dir, name string) string { return filepath.Join(dir, name+".db") }

// open opens a bus for a service.
func (cfg Config) open(ctx context.Context, name string) (*posthorn.Bus, error) {
	return posthorn.Open(ctx, shared(cfg.URL), posthorn.Service(name),
		posthorn.Logger(cfg.Log.With("service", name)), posthorn.PublishTimeout(time.Minute))
}

// shared gives a bus in memory a name: without one, each service would be on a
// bus of its own, where nobody else is.
func shared(url string) string {
	rest, ok := strings.CutPrefix(url, "memory:")
	if ok && (rest == "" || rest[0] == '?') {
		return "memory:shop" + rest
	}
	return url
}

func (s *hosted) start(ctx context.Context) error {
	if err := s.service.Start(ctx); err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	return nil
}

// stop lets handlers that run finish; they can publish as long as they do.
func (s *hosted) stop(ctx context.Context) error {
	if s.service == nil {
		return nil
	}
	return s.service.Stop(ctx)
}

// close stops the service and closes what it has open.
func (s *hosted) close(ctx context.Context) error {
	errs := []error{s.stop(ctx), s.bus.Close(ctx)}
	if s.service != nil {
		errs = append(errs, s.service.Close())
	}
	return errors.Join(errs...)
}

// A word is what a service in a process of its own says on its standard output,
// one line of JSON each: that it handles events, and that it has stopped cleanly.
type word struct {
	Service string          `json:"service"`
	State   string          `json:"state"`
	Stats   *posthorn.Stats `json:"stats,omitempty"`
}

const (
	started = "started"
	stopped = "stopped"
)

// RunService runs one service until ctx ends; then it drains and returns nil. The
// order service imports the file of orders, where one is named, and goes on after
// that.
func RunService(ctx context.Context, name string, cfg Config) (err error) {
	cfg = cfg.defaults()
	if !slices.Contains(Names[:], name) || name != order.Group && (cfg.Data != "" || cfg.Serve != nil) {
		return fmt.Errorf("service %q: there are %s, and the first one imports files and serves the order API", name, strings.Join(Names[:], ", "))
	}
	var file *order.Retail
	if cfg.Data != "" {
		if file, err = order.OpenRetail(cfg.Data); err != nil {
			return err
		}
	}
	s, err := openService(ctx, name, cfg)
	if err != nil {
		return unlessEnded(ctx, err)
	}
	out := json.NewEncoder(cfg.Out)
	defer func() {
		err = errors.Join(err, s.close(context.WithoutCancel(ctx)))
		if n := s.bus.Stats(); err == nil {
			err = out.Encode(word{name, stopped, &n})
		}
	}()
	if err := s.start(ctx); err != nil {
		return unlessEnded(ctx, err)
	}
	if err := out.Encode(word{name, started, nil}); err != nil {
		return err
	}
	var jobs []func(context.Context) error
	if file != nil {
		jobs = append(jobs, func(ctx context.Context) error { return s.service.(*order.Service).Import(ctx, file) })
	}
	if cfg.Serve != nil {
		jobs = append(jobs, func(ctx context.Context) error { return cfg.Serve(ctx, s.service.(*order.Service)) })
	}
	return until(ctx, jobs...)
}

// unlessEnded is for the errors of what ctx cuts short.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// until runs jobs beside each other and returns nil when ctx has ended, or the
// error of the job that failed first.
func until(ctx context.Context, jobs ...func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, job := range jobs {
		wg.Go(func() {
			if err := job(ctx); err != nil {
				cancel(err)
			}
		})
	}
	<-ctx.Done()
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
