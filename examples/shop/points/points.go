// Package points is the service that keeps an account of points for each customer:
// one for each whole pound of an order, taken back when the order is cancelled.
package points

import (
	"context"
	"database/sql"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/internal/service"
	"github.com/posthorn/posthorn/examples/shop/internal/store"
)

// A Config configures the service.
type Config struct {
	// Database is the path of the service's SQLite file.
	Database string
	// Middleware wraps the service's handlers.
	Middleware []posthorn.Middleware
}

// A Service keeps accounts of points.
type Service struct {
	service.Base
	bus   *posthorn.Bus
	store *store.Store
}

// Group is the name of the service's group on the bus.
const Group = "points"

// Open opens the service's database and declares its handlers.
func Open(ctx context.Context, bus *posthorn.Bus, cfg Config) (*Service, error) {
	st, err := store.Open(ctx, cfg.Database, schema)
	if err != nil {
		return nil, err
	}
	group := bus.Group(Group, posthorn.GroupConfig{
		// A statement of account is in the order of the purchases. A late retry would
		// come behind later ones: so try long, in place, first.
		Retry:      posthorn.Retry{Attempts: 10},
		Middleware: cfg.Middleware,
	})
	s := &Service{Base: service.New(group, st), bus: bus, store: st}
	contract.PurchaseMade.Handle(group, s.handle(given))
	contract.PurchaseReturned.Handle(group, s.handle(taken))
	return s, nil
}

// handle books points and tells the others. It may be cut short anywhere and is then
// run again: the booking is made once and its outcome is kept, and the bus gives what
// is published the same id again.
func (s *Service) handle(m movement) func(context.Context, *posthorn.Event[contract.Purchase]) error {
	return func(ctx context.Context, e *posthorn.Event[contract.Purchase]) error {
		p := contract.Points{Customer: e.Data.Customer, OrderID: e.Data.OrderID, Points: e.Data.Amount.Pounds()}
		var err error
		p.Balance, err = s.book(ctx, e.ID, m, p)
		if err != nil {
			return err
		}
		return m.event.Publish(ctx, s.bus, p)
	}
}

// Count returns how often points were given or taken, by the service's database.
func Count(ctx context.Context, db *sql.DB) (n int64, err error) {
	err = db.QueryRowContext(ctx, "select coalesce(sum(events), 0) from accounts").Scan(&n)
	return n, err
}
