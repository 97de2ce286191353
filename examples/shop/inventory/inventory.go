// Package inventory is the service that counts the goods. It handles each line of
// an order by its stock code, in the order the lines were published in, and tells
// the others when an order is complete and when stock runs out.
package inventory

import (
	"context"
	"database/sql"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/internal/service"
	"github.com/posthorn/posthorn/examples/shop/internal/store"
)

// A Config configures the service. A zero field means the default.
type Config struct {
	// Database is the path of the service's SQLite file.
	Database string
	// Opening is how many units of each stock code the shop has at first.
	// Default 1,000.
	Opening int64
	// Middleware wraps the service's handlers.
	Middleware []posthorn.Middleware
}

// A Service counts goods.
type Service struct {
	service.Base
	cfg   Config
	bus   *posthorn.Bus
	store *store.Store
}

// Group is the name of the service's group on the bus.
const Group = "inventory"

// Open opens the service's database and declares its handlers.
func Open(ctx context.Context, bus *posthorn.Bus, cfg Config) (*Service, error) {
	if cfg.Opening == 0 {
		cfg.Opening = 1000
	}
	st, err := store.Open(ctx, cfg.Database, schema)
	if err != nil {
		return nil, err
	}
	group := bus.Group(Group, posthorn.GroupConfig{
		Concurrency: 256, // the more handlers wait for a commit, the more share it
		// A late retry would come behind later lines of its stock code, and the
		// order of these is part of what we keep: so try long, in place, first.
		Retry:      posthorn.Retry{Attempts: 10},
		Middleware: cfg.Middleware,
	})
	s := &Service{Base: service.New(group, st), cfg: cfg, bus: bus, store: st}
	contract.ItemOrdered.Handle(group, s.handle(ordered))
	contract.ItemWrittenOff.Handle(group, s.handle(writtenOff))
	contract.ItemReturned.Handle(group, s.handle(returned))
	return s, nil
}

// A movement is a way for goods to go.
type movement string

const (
	ordered    movement = "ordered"
	writtenOff movement = "written-off"
	returned   movement = "returned"
)

// handle books an item and tells the others what came of it. It may be cut short
// anywhere and is then run again: the booking is made once and its outcome is
// kept, and the bus gives what is published the same id again.
func (s *Service) handle(m movement) func(context.Context, *posthorn.Event[contract.Item]) error {
	return func(ctx context.Context, e *posthorn.Event[contract.Item]) error {
		note, err := s.store.Once(ctx, e.ID, func(tx *store.Tx) (string, error) {
			out, err := s.book(tx, m, e.Data)
			if err != nil {
				return "", err
			}
			return out.note()
		})
		if err != nil {
			return err
		}
		out, err := readOutcome(note)
		if err != nil {
			return err
		}
		if events := out.events(m); len(events) > 0 {
			return s.bus.PublishAll(ctx, events...)
		}
		return nil
	}
}

// Count returns how many items are booked in the service's database.
func Count(ctx context.Context, db *sql.DB) (n int64, err error) {
	err = db.QueryRowContext(ctx, "select coalesce(sum(events), 0) from stock").Scan(&n)
	return n, err
}
