package demo

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/internal/store"
	"github.com/posthorn/posthorn/examples/shop/inventory"
	"github.com/posthorn/posthorn/examples/shop/notifier"
	"github.com/posthorn/posthorn/examples/shop/order"
	"github.com/posthorn/posthorn/examples/shop/payment"
)

// An observer sees from outside how far the services have come, wherever they
// run: it reads their databases, and the groups' positions on a bus of its own.
type observer struct {
	dir       string
	bus       *posthorn.Bus
	databases map[string]*sql.DB // of the services that have made theirs
}

func openObserver(ctx context.Context, cfg Config) (*observer, error) {
	bus, err := cfg.open(ctx, "demo")
	if err != nil {
		return nil, err
	}
	return &observer{dir: cfg.Dir, bus: bus, databases: map[string]*sql.DB{}}, nil
}

func (o *observer) close(ctx context.Context) error {
	errs := []error{o.bus.Close(ctx)}
	for _, db := range o.databases {
		errs = append(errs, db.Close())
	}
	return errors.Join(errs...)
}

// progress asks the databases. It has one caller at a time.
func (o *observer) progress(ctx context.Context) (p Progress, err error) {
	for name, count := range map[string]func(*sql.DB) error{
		order.Group:     func(db *sql.DB) (err error) { p.Orders, err = order.Count(ctx, db); return err },
		payment.Group:   func(db *sql.DB) (err error) { p.Payments, err = payment.Count(ctx, db); return err },
		inventory.Group: func(db *sql.DB) (err error) { p.Items, p.Shortages, err = inventory.Count(ctx, db); return err },
		notifier.Group:  func(db *sql.DB) (err error) { p.Letters, err = notifier.Count(ctx, db); return err },
	} {
		db := o.databases[name]
		if db == nil {
			if db, err = store.Read(ctx, database(o.dir, name)); err != nil {
				return p, err
			}
			if db == nil {
				continue
			}
			o.databases[name] = db
		}
		if err := count(db); err != nil {
			return p, fmt.Errorf("progress of %s: %w", name, err)
		}
	}
	return p, nil
}

// lag adds up what the groups have not settled.
func (o *observer) lag(ctx context.Context) (sum int64, err error) {
	for _, name := range Names {
		n, err := o.bus.Lag(ctx, name)
		if err != nil {
			return 0, fmt.Errorf("lag of %s: %w", name, err)
		}
		sum += n
	}
	return sum, nil
}

// deadLetters returns those of all groups.
func (o *observer) deadLetters(ctx context.Context) (dead []posthorn.DeadLetter, err error) {
	for _, name := range Names {
		for d, err := range o.bus.DeadLetters(ctx, name) {
			if err != nil {
				return nil, fmt.Errorf("dead letters of %s: %w", name, err)
			}
			dead = append(dead, d)
		}
	}
	return dead, nil
}
