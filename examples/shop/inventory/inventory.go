// Package inventory is the service that counts the goods. It handles each line of
// an order by its stock code, in the order the lines were published in, and tells
// the others when an order is complete and when stock runs out.
package inventory

import (
	"context"
	"database/sql"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/contract"
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
	cfg   Config
	bus   *posthorn.Bus
	store *store.Store
	group *posthorn.Group
}

// Group is the name of the service's group on the bus.
const Group = "inventory"

// Open opens the service's database and declares its handlers. The caller closes
// the bus, after the service.
func Open(ctx context.Context, bus *posthorn.Bus, cfg Config) (*Service, error) {
	if cfg.Opening == 0 {
		cfg.Opening = 1000
	}
	st, err := store.Open(ctx, cfg.Database, schema)
	if err != nil {
		return nil, err
	}
	s := &Service{cfg: cfg, bus: bus, store: st}
	s.group = bus.Group(Group, posthorn.GroupConfig{
		Concurrency: 256, // the more handlers wait for a commit, the more share it
		// A late retry would come behind later lines of its stock code, and the
		// order of these is part of what we keep: so try long, in place, first.
		Retry:      posthorn.Retry{Attempts: 10},
		Middleware: cfg.Middleware,
	})
	contract.ItemOrdered.Handle(s.group, s.handle(ordered))
	contract.ItemWrittenOff.Handle(s.group, s.handle(writtenOff))
	contract.ItemReturned.Handle(s.group, s.handle(returned))
	return s, nil
}

// Start begins to handle events.
func (s *Service) Start(ctx context.Context) error { return s.group.Start(ctx) }

// Stop lets handlers that run finish and handles no more events.
func (s *Service) Stop(ctx context.Context) error { return s.group.Stop(ctx) }

// Close closes the database.
func (s *Service) Close() error { return s.store.Close() }

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

// Count returns how many items are booked in the service's database, and how often
// it ran short of one.
func Count(ctx context.Context, db *sql.DB) (items, shortages int64, err error) {
	err = db.QueryRowContext(ctx, "select coalesce(sum(events), 0), (select count(*) from shortages) from stock").Scan(&items, &shortages)
	return items, shortages, err
}
