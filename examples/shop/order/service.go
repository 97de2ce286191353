package order

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/internal/store"
)

// A Config configures the service. A zero field means the default.
type Config struct {
	// Database is the path of the service's SQLite file.
	Database string
	// Resend is how often orders that could not be published are tried again.
	// Default 1 s.
	Resend time.Duration
	// Middleware wraps the service's handlers.
	Middleware []posthorn.Middleware
	// Log is where the service logs. Default: slog.Default().
	Log *slog.Logger
}

// A Service takes orders. Its methods are safe for concurrent use.
type Service struct {
	cfg   Config
	bus   *posthorn.Bus
	store *store.Store
	group *posthorn.Group

	publishing sync.Mutex
	stop       context.CancelFunc // ends resend
	resending  sync.WaitGroup
}

// Group is the name of the service's group on the bus.
const Group = "order"

// Open opens the service's database and declares its handlers. The caller closes
// the bus, after the service.
func Open(ctx context.Context, bus *posthorn.Bus, cfg Config) (*Service, error) {
	if cfg.Resend == 0 {
		cfg.Resend = time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	st, err := store.Open(ctx, cfg.Database, schema)
	if err != nil {
		return nil, err
	}
	s := &Service{cfg: cfg, bus: bus, store: st, stop: func() {}}
	s.group = bus.Group(Group, posthorn.GroupConfig{Concurrency: 128, Middleware: cfg.Middleware})
	contract.PaymentCaptured.Handle(s.group, s.paid)
	contract.PaymentRefunded.Handle(s.group, s.paid)
	contract.PaymentAdjusted.Handle(s.group, s.paid)
	contract.StockReserved.Handle(s.group, s.goods("reserved"))
	contract.StockRestocked.Handle(s.group, s.goods("restocked"))
	return s, nil
}

// Start begins to handle events and to publish what is left from an earlier run.
func (s *Service) Start(ctx context.Context) error {
	if err := s.group.Start(ctx); err != nil {
		return err
	}
	resend, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	s.resending.Go(func() { s.resend(resend) })
	return nil
}

// Stop lets handlers that run finish and handles no more events.
func (s *Service) Stop(ctx context.Context) error {
	s.stop()
	s.resending.Wait()
	return s.group.Stop(ctx)
}

// Close closes the database.
func (s *Service) Close() error { return s.store.Close() }

// Accept takes orders in, all or, with an error, none of them, and returns how
// many were new; the others, whose ids are there already, are left as they are.
// [Service.Publish] is to follow.
func (s *Service) Accept(ctx context.Context, from Source, orders ...Order) (taken int, err error) {
	err = s.store.Do(ctx, func(tx *store.Tx) error {
		taken = 0
		for _, o := range orders {
			ok, err := insert(tx, o, from)
			if err != nil {
				return err
			}
			if ok {
				taken++
			}
		}
		return nil
	})
	return taken, err
}

// Cancel takes in the cancellation of an order that was placed, as a whole and
// once.
func (s *Service) Cancel(ctx context.Context, id string, from Source, at time.Time) (c Order, err error) {
	o, err := s.Get(ctx, id)
	if err != nil {
		return c, err
	}
	if o.Kind != Placed {
		return c, fmt.Errorf("%w: %q is %s; only what was placed can be cancelled", ErrInvalid, id, o.Kind)
	}
	c = Order{ID: "C" + id, Kind: Cancelled, Cancels: id, Customer: o.Customer, Country: o.Country, At: at, Lines: o.Lines}
	err = s.store.Do(ctx, func(tx *store.Tx) error {
		var other string
		switch err := tx.Get("select id from orders where cancels = ?", []any{id}, &other); {
		case err == nil:
			return fmt.Errorf("%w: %q is cancelled by %q", ErrRepeated, id, other)
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
		switch taken, err := insert(tx, c, from); {
		case err != nil:
			return err
		case !taken:
			return fmt.Errorf("%w: %q", ErrRepeated, c.ID)
		}
		return nil
	})
	return c, err
}

// Both handlers set what the event says, so that an event which comes twice
// changes nothing the second time, and no ids of events are kept.

func (s *Service) paid(ctx context.Context, e *posthorn.Event[contract.Payment]) error {
	return s.update(ctx, "update orders set paid = ? where id = ? returning id", int64(e.Data.Amount), e.Data.OrderID)
}

func (s *Service) goods(state string) func(context.Context, *posthorn.Event[contract.Goods]) error {
	return func(ctx context.Context, e *posthorn.Event[contract.Goods]) error {
		return s.update(ctx, "update orders set goods = ? where id = ? returning id", state, e.Data.OrderID)
	}
}

func (s *Service) update(ctx context.Context, query string, value any, id string) error {
	err := s.store.Do(ctx, func(tx *store.Tx) error {
		var updated string
		return tx.Get(query, []any{value, id}, &updated)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return posthorn.Permanent(fmt.Errorf("%w: %q", ErrNotFound, id))
	}
	return err
}
