// Package logistics is the service that sends parcels: when it knows an order, when
// the order is paid for and when its goods are set aside, in whatever order it
// learns the three. What is cancelled in time is not sent; what was sent before
// comes back.
package logistics

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

// A Service sends parcels.
type Service struct {
	service.Base
	bus   *posthorn.Bus
	store *store.Store
}

// Group is the name of the service's group on the bus.
const Group = "logistics"

// Open opens the service's database and declares its handlers.
func Open(ctx context.Context, bus *posthorn.Bus, cfg Config) (*Service, error) {
	st, err := store.Open(ctx, cfg.Database, schema)
	if err != nil {
		return nil, err
	}
	group := bus.Group(Group, posthorn.GroupConfig{Concurrency: 128, Middleware: cfg.Middleware})
	s := &Service{Base: service.New(group, st), bus: bus, store: st}
	contract.OrderPlaced.Handle(group, func(ctx context.Context, e *posthorn.Event[contract.Placed]) error {
		return s.learn(ctx, e.ID, e.Data.OrderID, func(p *parcel) {
			p.known, p.customer, p.country = true, e.Data.Customer, e.Data.Country
		})
	})
	contract.PaymentCaptured.Handle(group, func(ctx context.Context, e *posthorn.Event[contract.Payment]) error {
		return s.learn(ctx, e.ID, e.Data.OrderID, func(p *parcel) { p.paid = true })
	})
	contract.StockReserved.Handle(group, func(ctx context.Context, e *posthorn.Event[contract.Goods]) error {
		return s.learn(ctx, e.ID, e.Data.OrderID, func(p *parcel) { p.reserved, p.units = true, e.Data.Units })
	})
	contract.OrderCancelled.Handle(group, s.cancelled)
	return s, nil
}

// learn takes in what an event says about an order, and sends the parcel when that
// was the last that was missing. It may be cut short anywhere and is then run again:
// what came of the event is kept, and the bus gives what is published the same id.
func (s *Service) learn(ctx context.Context, event, order string, set func(*parcel)) error {
	return s.once(ctx, event, func(tx *store.Tx) (*outcome, error) {
		p, err := load(tx, order)
		if err != nil {
			return nil, err
		}
		set(&p)
		var out *outcome
		if p.ready() {
			p.sent = true
			out = &outcome{State: sent, Shipment: p.shipment(order)}
		}
		return out, p.save(tx, order)
	})
}

// cancelled stops the parcel of an order that is known, or waits for it to come
// back. Goods that come back without anybody knowing of which order just come back.
func (s *Service) cancelled(ctx context.Context, e *posthorn.Event[contract.Cancelled]) error {
	return s.once(ctx, e.ID, func(tx *store.Tx) (*outcome, error) {
		c := e.Data
		out := &outcome{State: returned, Shipment: contract.Shipment{OrderID: c.OrderID, Customer: c.Customer, Country: c.Country}}
		for _, l := range c.Lines {
			out.Shipment.Units += l.Quantity
		}
		if c.Cancels != "" {
			p, err := load(tx, c.Cancels)
			if err != nil {
				return nil, err
			}
			if p.cancelled = true; !p.sent {
				out.State = stopped
			}
			if err := p.save(tx, c.Cancels); err != nil {
				return nil, err
			}
		}
		return out, tx.Exec("insert into returns (order_id, stopped, units) values (?, ?, ?)", c.OrderID, out.State == stopped, out.Shipment.Units)
	})
}

// Count returns how many parcels were sent, and how many came back or were stopped,
// by the service's database.
func Count(ctx context.Context, db *sql.DB) (sent, back int64, err error) {
	err = db.QueryRowContext(ctx, "select coalesce(sum(sent), 0), (select count(*) from returns) from parcels").Scan(&sent, &back)
	return sent, back, err
}
