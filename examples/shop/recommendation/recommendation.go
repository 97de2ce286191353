// Package recommendation is the service that learns which goods are bought together.
// It counts pairs, of which an order has many: so it takes orders in batches, and
// writes a pair down once for all orders of a batch.
package recommendation

import (
	"context"
	"database/sql"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/internal/service"
	"github.com/posthorn/posthorn/examples/shop/internal/store"
)

// A Config configures the service.
type Config struct {
	// Database is the path of the service's SQLite file.
	Database string
	// Middleware wraps the service's handlers, around each event by itself.
	Middleware []posthorn.Middleware
}

// A Service counts pairs of goods.
type Service struct {
	service.Base
	bus   *posthorn.Bus
	store *store.Store
}

// Group is the name of the service's group on the bus.
const Group = "recommendation"

// Open opens the service's database and declares its handlers.
func Open(ctx context.Context, bus *posthorn.Bus, cfg Config) (*Service, error) {
	st, err := store.Open(ctx, cfg.Database, schema)
	if err != nil {
		return nil, err
	}
	// Twice as many slots as a batch has: while one is counted, the next one gathers.
	group := bus.Group(Group, posthorn.GroupConfig{Concurrency: 2 * batch, Middleware: cfg.Middleware})
	s := &Service{Base: service.New(group, st), bus: bus, store: st}
	contract.OrderPlaced.HandleBatch(group, s.count, posthorn.BatchSize(batch), posthorn.BatchWait(200*time.Millisecond))
	return s, nil
}

// batch is how many orders are counted together at most.
const batch = 100

// count counts the pairs of a batch of orders. An order that says nothing is passed
// over by a verdict of its own; the others share a transaction and with it their fate.
// It may be cut short anywhere and is then run again, for the same orders in the same
// company or in another: each is counted once, and what was found at it is found
// again, and told as what follows from it, under the same name.
func (s *Service) count(ctx context.Context, events []*posthorn.Event[contract.Placed]) error {
	verdicts := make(posthorn.Verdicts, len(events))
	orders := map[string]*posthorn.Event[contract.Placed]{}
	var baskets []basket
	for i, e := range events {
		b := newBasket(e.Data)
		if !b.tells() {
			verdicts[i] = posthorn.Skip("it does not tell what goes with what")
			continue
		}
		baskets = append(baskets, b)
		orders[b.order] = e
	}
	found, err := s.book(ctx, baskets)
	if err != nil {
		return err
	}
	var out []*posthorn.Outgoing
	for _, f := range found {
		out = append(out, contract.RecommendationMade.New(f.together,
			posthorn.CausedBy(orders[f.order]), posthorn.Named(f.together.A+"/"+f.together.B)))
	}
	if err := s.bus.PublishAll(ctx, out...); err != nil {
		return err
	}
	return verdicts
}

// Count returns how many orders were counted, and how many pairs are recommended, by
// the service's database.
func Count(ctx context.Context, db *sql.DB) (orders, recommended int64, err error) {
	err = db.QueryRowContext(ctx, "select count(*), (select count(*) from pairs where found_in is not null) from orders").Scan(&orders, &recommended)
	return orders, recommended, err
}
