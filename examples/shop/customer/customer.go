// Package customer is the service that knows who the customers are: it registers
// each when it is first seen.
package customer

import (
	"context"
	"database/sql"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/internal/service"
	"github.com/posthorn/posthorn/examples/shop/internal/store"
)

// A customer is remembered with the event that it was first seen in. So nothing
// else has to be kept of the events that were handled.
const schema = `
create table if not exists customers (
	id          text primary key,
	country     text not null,
	first_order text not null,
	first_event text not null,
	since       text not null
) without rowid;`

// A Config configures the service.
type Config struct {
	// Database is the path of the service's SQLite file.
	Database string
	// Middleware wraps the service's handlers.
	Middleware []posthorn.Middleware
}

// A Service registers customers.
type Service struct {
	service.Base
	bus   *posthorn.Bus
	store *store.Store
}

// Group is the name of the service's group on the bus.
const Group = "customer"

// Open opens the service's database and declares its handlers.
func Open(ctx context.Context, bus *posthorn.Bus, cfg Config) (*Service, error) {
	st, err := store.Open(ctx, cfg.Database, schema)
	if err != nil {
		return nil, err
	}
	group := bus.Group(Group, posthorn.GroupConfig{Middleware: cfg.Middleware})
	s := &Service{Base: service.New(group, st), bus: bus, store: st}
	contract.PurchaseMade.Handle(group, s.see)
	contract.PurchaseReturned.Handle(group, s.see)
	return s, nil
}

// see registers a customer whom nobody has seen before. Purchases have their
// customer as key, so that no other purchase of this one is being handled
// meanwhile. When the event comes again it is still the one in which the customer
// was first seen, and what is published then has the same id again.
func (s *Service) see(ctx context.Context, e *posthorn.Event[contract.Purchase]) error {
	p := e.Data
	var first string
	err := s.store.Do(ctx, func(tx *store.Tx) error {
		err := tx.Exec(`insert into customers (id, country, first_order, first_event, since) values (?, ?, ?, ?, ?) on conflict do nothing`,
			p.Customer, p.Country, p.OrderID, e.ID, p.At.UTC().Format(time.RFC3339))
		if err != nil {
			return err
		}
		return tx.Get("select first_event from customers where id = ?", []any{p.Customer}, &first)
	})
	if err != nil || first != e.ID {
		return err
	}
	return contract.CustomerRegistered.Publish(ctx, s.bus, contract.Registered{Customer: p.Customer, Country: p.Country, OrderID: p.OrderID, At: p.At})
}

// Count returns how many customers there are in the service's database.
func Count(ctx context.Context, db *sql.DB) (n int64, err error) {
	err = db.QueryRowContext(ctx, "select count(*) from customers").Scan(&n)
	return n, err
}
