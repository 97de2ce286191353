package demo

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/coupon"
	"github.com/posthorn/posthorn/examples/shop/customer"
	"github.com/posthorn/posthorn/examples/shop/internal/store"
	"github.com/posthorn/posthorn/examples/shop/inventory"
	"github.com/posthorn/posthorn/examples/shop/logistics"
	"github.com/posthorn/posthorn/examples/shop/notification"
	"github.com/posthorn/posthorn/examples/shop/order"
	"github.com/posthorn/posthorn/examples/shop/payment"
	"github.com/posthorn/posthorn/examples/shop/points"
	"github.com/posthorn/posthorn/examples/shop/recommendation"
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
		inventory.Group: func(db *sql.DB) (err error) { p.Items, err = inventory.Count(ctx, db); return err },
		logistics.Group: func(db *sql.DB) (err error) { p.Sent, p.Back, err = logistics.Count(ctx, db); return err },
		customer.Group:  func(db *sql.DB) (err error) { p.Customers, err = customer.Count(ctx, db); return err },
		points.Group:    func(db *sql.DB) (err error) { p.Points, err = points.Count(ctx, db); return err },
		coupon.Group:    func(db *sql.DB) (err error) { p.Coupons, err = coupon.Count(ctx, db); return err },
		recommendation.Group: func(db *sql.DB) (err error) {
			p.Baskets, p.Recommended, err = recommendation.Count(ctx, db)
			return err
		},
		notification.Group: func(db *sql.DB) (err error) { p.Letters, err = notification.Count(ctx, db); return err },
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

// A standing is what the groups have left to do.
type standing struct {
	open   [nServices]int64  // events that each has not settled, those that are tried again late too
	stored [nServices]uint64 // events that were ever stored for each
}

// standing asks the broker.
func (o *observer) standing(ctx context.Context) (s standing, err error) {
	for i, name := range Names {
		g, err := o.bus.GroupStatus(ctx, name)
		if err != nil {
			return s, err
		}
		s.open[i] = g.Lag + g.Lanes.Due + g.Lanes.Parked
		for _, p := range g.Partitions {
			s.stored[i] += p.Last
		}
	}
	return s, nil
}

// done tells whether the groups, or all but one, have nothing left to do, given how
// they stood before. Once is not enough: the groups are asked one after the other, and
// while the last is asked the first may be at work again for what the last has just
// published. But an event is settled only after all that its handler publishes is
// stored. So when nothing was open at one time, and nothing is at a later one, and
// nothing was stored between, then nobody had anything in hand.
func (s standing) done(before standing, but string) bool {
	for i, name := range Names {
		if name != but && (s.open[i] != 0 || before.open[i] != 0 || s.stored[i] != before.stored[i]) {
			return false
		}
	}
	return true
}

// String lists what is open.
func (s standing) String() string {
	var open []string
	for i, name := range Names {
		if s.open[i] != 0 {
			open = append(open, fmt.Sprintf("%s (%d)", name, s.open[i]))
		}
	}
	if open == nil {
		return "nothing"
	}
	return strings.Join(open, ", ")
}

// deadLetters returns those of all groups. An event that was published twice is one:
// a run that goes on publishes the poison again.
func (o *observer) deadLetters(ctx context.Context) (dead []posthorn.DeadLetter, err error) {
	for _, name := range Names {
		seen := map[string]bool{}
		for d, err := range o.bus.DeadLetters(ctx, name) {
			if err != nil {
				return nil, fmt.Errorf("dead letters of %s: %w", name, err)
			}
			if !seen[d.ID] {
				seen[d.ID] = true
				dead = append(dead, d)
			}
		}
	}
	return dead, nil
}
