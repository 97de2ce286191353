// Package coupon is the service that makes presents: each newcomer gets a coupon.
package coupon

import (
	"context"
	"crypto/rand"
	"database/sql"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/internal/service"
	"github.com/posthorn/posthorn/examples/shop/internal/store"
)

const schema = `
create table if not exists coupons (
	customer text primary key, -- one for each
	code     text not null unique,
	order_id text not null
) without rowid;`

// A Config configures the service.
type Config struct {
	// Database is the path of the service's SQLite file.
	Database string
	// Middleware wraps the service's handlers.
	Middleware []posthorn.Middleware
}

// A Service issues coupons.
type Service struct {
	service.Base
	bus   *posthorn.Bus
	store *store.Store
}

// Group is the name of the service's group on the bus.
const Group = "coupon"

// Open opens the service's database and declares its handlers.
func Open(ctx context.Context, bus *posthorn.Bus, cfg Config) (*Service, error) {
	st, err := store.Open(ctx, cfg.Database, schema)
	if err != nil {
		return nil, err
	}
	group := bus.Group(Group, posthorn.GroupConfig{Middleware: cfg.Middleware})
	s := &Service{Base: service.New(group, st), bus: bus, store: st}
	contract.CustomerRegistered.Handle(group, s.welcome)
	return s, nil
}

// welcome gives a newcomer a coupon. Nobody can guess its code, and a handler that
// runs again would draw another one: so the first is kept, and told again.
func (s *Service) welcome(ctx context.Context, e *posthorn.Event[contract.Registered]) error {
	c := contract.Coupon{Code: "WELCOME-" + rand.Text()[:12], Customer: e.Data.Customer, OrderID: e.Data.OrderID}
	err := s.store.Do(ctx, func(tx *store.Tx) error {
		if err := tx.Exec("insert into coupons (customer, code, order_id) values (?, ?, ?) on conflict (customer) do nothing", c.Customer, c.Code, c.OrderID); err != nil {
			return err
		}
		return tx.Get("select code from coupons where customer = ?", []any{c.Customer}, &c.Code)
	})
	if err != nil {
		return err
	}
	return contract.CouponIssued.Publish(ctx, s.bus, c)
}

// Count returns how many coupons there are in the service's database.
func Count(ctx context.Context, db *sql.DB) (n int64, err error) {
	err = db.QueryRowContext(ctx, "select count(*) from coupons").Scan(&n)
	return n, err
}
