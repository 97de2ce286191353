// Package demo runs the whole shop in one process, imports a file of orders, and
// compares what the services have kept with what the file says.
package demo

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/posthorn/posthorn"
	_ "github.com/posthorn/posthorn/driver/embedded" // embedded:
	_ "github.com/posthorn/posthorn/driver/memory"   // memory:
	"github.com/posthorn/posthorn/examples/shop/inventory"
	"github.com/posthorn/posthorn/examples/shop/notifier"
	"github.com/posthorn/posthorn/examples/shop/order"
	"github.com/posthorn/posthorn/examples/shop/payment"
)

// A Shop is all services, each with a bus and a database of its own, as they
// would be in processes of their own.
type Shop struct {
	Order     *order.Service
	Payment   *payment.Service
	Inventory *inventory.Service
	Notifier  *notifier.Service

	members []*member
}

// A member is a service and the bus it is on.
type member struct {
	name    string
	bus     *posthorn.Bus
	service service // nil until it is open
}

type service interface {
	Start(context.Context) error
	Stop(context.Context) error
	Close() error
}

// Open opens the services on the bus of a configuration, with their databases in
// its directory. What fails on purpose is switched on: see faults.go.
func Open(ctx context.Context, cfg Config) (*Shop, error) {
	s := &Shop{}
	if err := s.open(ctx, cfg); err != nil {
		return nil, errors.Join(err, s.Close(context.WithoutCancel(ctx)))
	}
	return s, nil
}

func (s *Shop) open(ctx context.Context, cfg Config) (err error) {
	database := func(name string) string { return filepath.Join(cfg.Dir, name+".db") }
	join := func(name string) (*member, error) {
		bus, err := posthorn.Open(ctx, shared(cfg.URL), posthorn.Service(name),
			posthorn.Logger(cfg.Log.With("service", name)), posthorn.PublishTimeout(time.Minute))
		if err != nil {
			return nil, err
		}
		m := &member{name: name, bus: bus}
		s.members = append(s.members, m)
		return m, nil
	}

	m, err := join(order.Group)
	if err != nil {
		return err
	}
	s.Order, err = order.Open(ctx, m.bus, order.Config{
		Database: database(m.name), Log: cfg.Log.With("service", m.name),
		Middleware: []posthorn.Middleware{failFirst(500)}})
	if err != nil {
		return err
	}
	m.service = s.Order

	if m, err = join(payment.Group); err != nil {
		return err
	}
	s.Payment, err = payment.Open(ctx, m.bus, payment.Config{Database: database(m.name), Gateway: &payment.Sandbox{Busy: 50}})
	if err != nil {
		return err
	}
	m.service = s.Payment

	if m, err = join(inventory.Group); err != nil {
		return err
	}
	s.Inventory, err = inventory.Open(ctx, m.bus, inventory.Config{
		Database: database(m.name), Middleware: inventoryFaults(cfg)})
	if err != nil {
		return err
	}
	m.service = s.Inventory

	if m, err = join(notifier.Group); err != nil {
		return err
	}
	s.Notifier, err = notifier.Open(ctx, m.bus, notifier.Config{
		Database: database(m.name), Mail: &notifier.Greylist{Every: 200, Times: lettersRetry.Attempts + 1}, Retry: lettersRetry})
	if err != nil {
		return err
	}
	m.service = s.Notifier
	return nil
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

// Start starts all services.
func (s *Shop) Start(ctx context.Context) error {
	for _, m := range s.members {
		if err := m.service.Start(ctx); err != nil {
			return fmt.Errorf("start %s: %w", m.name, err)
		}
	}
	return nil
}

// Close stops all services and closes what they have open. Handlers that run
// finish first, and can publish as long as they do.
func (s *Shop) Close(ctx context.Context) error {
	var errs []error
	for _, m := range slices.Backward(s.members) {
		if m.service != nil {
			errs = append(errs, m.service.Stop(ctx))
		}
	}
	for _, m := range slices.Backward(s.members) {
		errs = append(errs, m.bus.Close(ctx))
		if m.service != nil {
			errs = append(errs, m.service.Close())
		}
	}
	s.members = nil
	return errors.Join(errs...)
}

// Stats adds up what the services' buses have counted.
func (s *Shop) Stats() (sum posthorn.Stats) {
	for _, m := range s.members {
		n := m.bus.Stats()
		sum.Published += n.Published
		sum.Handled += n.Handled
		sum.Retried += n.Retried
		sum.Late += n.Late
		sum.Dead += n.Dead
		sum.Skipped += n.Skipped
		sum.Alarms += n.Alarms
	}
	return sum
}

// DeadLetters returns the dead letters of all services.
func (s *Shop) DeadLetters(ctx context.Context) (dead []posthorn.DeadLetter, err error) {
	for _, m := range s.members {
		for d, err := range m.bus.DeadLetters(ctx, m.name) {
			if err != nil {
				return nil, fmt.Errorf("dead letters of %s: %w", m.name, err)
			}
			dead = append(dead, d)
		}
	}
	return dead, nil
}
