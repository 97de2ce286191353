// Package payment is the service that moves the money: it captures what orders
// cost, refunds cancellations and books adjustments, and tells the others.
package payment

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/internal/service"
	"github.com/posthorn/posthorn/examples/shop/internal/store"
)

const schema = `
create table if not exists payments (
	order_id text primary key,
	kind     text not null,    -- captured, refunded or adjusted
	amount   integer not null  -- in thousandths of a pound
) without rowid;`

// A Config configures the service.
type Config struct {
	// Database is the path of the service's SQLite file.
	Database string
	// Gateway moves the money. Default: a new Sandbox.
	Gateway Gateway
	// Middleware wraps the service's handlers.
	Middleware []posthorn.Middleware
}

// A Service moves money.
type Service struct {
	service.Base
	bus     *posthorn.Bus
	store   *store.Store
	gateway Gateway
}

// Group is the name of the service's group on the bus.
const Group = "payment"

// Open opens the service's database and declares its handlers.
func Open(ctx context.Context, bus *posthorn.Bus, cfg Config) (*Service, error) {
	st, err := store.Open(ctx, cfg.Database, schema)
	if err != nil {
		return nil, err
	}
	if cfg.Gateway == nil {
		cfg.Gateway = &Sandbox{}
	}
	group := bus.Group(Group, posthorn.GroupConfig{Concurrency: 128, Middleware: cfg.Middleware})
	s := &Service{Base: service.New(group, st), bus: bus, store: st, gateway: cfg.Gateway}
	contract.OrderPlaced.Handle(group, s.placed)
	contract.OrderCancelled.Handle(group, s.cancelled)
	contract.OrderAdjusted.Handle(group, s.adjusted)
	return s, nil
}

func (s *Service) placed(ctx context.Context, e *posthorn.Event[contract.Placed]) error {
	return s.settle(ctx, &e.Meta, captured, contract.Payment{OrderID: e.Data.OrderID, Amount: e.Data.Lines.Total()})
}

// errNotCaptured: the order comes before its cancellation, since both have one
// key, but not if its capture has failed so often that it is tried again late.
var errNotCaptured = errors.New("it is cancelled and not paid for yet")

func (s *Service) cancelled(ctx context.Context, e *posthorn.Event[contract.Cancelled]) error {
	if e.Data.Cancels != "" {
		switch ok, err := s.captured(ctx, e.Data.Cancels); {
		case err != nil:
			return err
		case !ok:
			return posthorn.RetryAfter(fmt.Errorf("order %s: %w", e.Data.Cancels, errNotCaptured), 5*time.Second)
		}
	}
	return s.settle(ctx, &e.Meta, refunded, contract.Payment{OrderID: e.Data.OrderID, Amount: e.Data.Lines.Total()})
}

func (s *Service) adjusted(ctx context.Context, e *posthorn.Event[contract.Adjusted]) error {
	return s.settle(ctx, &e.Meta, booked, contract.Payment{OrderID: e.Data.OrderID, Amount: e.Data.Lines.Total()})
}

// captured tells whether an order is paid for.
func (s *Service) captured(ctx context.Context, order string) (ok bool, err error) {
	err = s.store.DB().QueryRowContext(ctx, "select count(*) from payments where order_id = ? and kind = 'captured'", order).Scan(&ok)
	return ok, err
}

// A movement is a way for money to go.
type movement struct {
	kind  string
	event *posthorn.EventType[contract.Payment]
	move  func(Gateway, context.Context, string, contract.Money) error
}

var (
	captured = movement{"captured", contract.PaymentCaptured, Gateway.Capture}
	refunded = movement{"refunded", contract.PaymentRefunded, Gateway.Refund}
	// An adjustment is in the books only: the gateway has nothing to do with it.
	booked = movement{"adjusted", contract.PaymentAdjusted, nil}
)

// settle moves the money, writes it down and tells the others, in this order. It
// may be cut short anywhere and is then run again: the gateway knows the key, the
// store the event, and the bus gives what is published the same id again.
func (s *Service) settle(ctx context.Context, e *posthorn.Meta, m movement, p contract.Payment) error {
	if m.move != nil && p.Amount != 0 { // what is free needs no gateway
		if err := m.move(s.gateway, ctx, e.IdempotencyKey(), p.Amount); err != nil {
			return fmt.Errorf("order %s: %w", p.OrderID, err)
		}
	}
	_, err := s.store.Once(ctx, e.ID, func(tx *store.Tx) (string, error) {
		return "", tx.Exec("insert into payments (order_id, kind, amount) values (?, ?, ?)", p.OrderID, m.kind, int64(p.Amount))
	})
	if err != nil {
		return err
	}
	return m.event.Publish(ctx, s.bus, p)
}

// Count returns how many payments there are in the service's database.
func Count(ctx context.Context, db *sql.DB) (n int64, err error) {
	err = db.QueryRowContext(ctx, "select count(*) from payments").Scan(&n)
	return n, err
}
