// Package notifier is the service that writes to people: to customers about their
// orders, to the buyer about goods that run out. The mail it depends on is the
// least dependable part of the shop, so here is where retries come late and where
// a letter that cannot be written ends as a dead letter.
package notifier

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/internal/store"
)

const schema = `
create table if not exists letters (
	event   text primary key,
	to_whom text not null,
	subject text not null
) without rowid;`

// A Config configures the service. A zero field means the default.
type Config struct {
	// Database is the path of the service's SQLite file.
	Database string
	// Mail sends the letters. Default: a new Greylist that takes all of them.
	Mail Mail
	// Retry is the retry budget of each letter. Default: the library's, whose
	// late retries go on for hours.
	Retry posthorn.Retry
}

// A Service writes to people.
type Service struct {
	store *store.Store
	mail  Mail
	group *posthorn.Group
}

// Group is the name of the service's group on the bus.
const Group = "notifier"

// buyer is who buys goods for the shop.
const buyer = "buyer"

// errNobody: a letter that has to be written, and nobody to write to. That will
// not change by trying again: somebody has to look into it.
var errNobody = errors.New("money is asked for, and the customer is not known")

// Open opens the service's database and declares its handlers. The caller closes
// the bus, after the service.
func Open(ctx context.Context, bus *posthorn.Bus, cfg Config) (*Service, error) {
	st, err := store.Open(ctx, cfg.Database, schema)
	if err != nil {
		return nil, err
	}
	if cfg.Mail == nil {
		cfg.Mail = &Greylist{}
	}
	s := &Service{store: st, mail: cfg.Mail}
	s.group = bus.Group(Group, posthorn.GroupConfig{Concurrency: 64, Retry: cfg.Retry})
	contract.OrderPlaced.Handle(s.group, func(ctx context.Context, e *posthorn.Event[contract.Placed]) error {
		return s.write(ctx, &e.Meta, e.Data.Customer, "Thank you for your order "+e.Data.OrderID)
	})
	contract.OrderCancelled.Handle(s.group, func(ctx context.Context, e *posthorn.Event[contract.Cancelled]) error {
		return s.write(ctx, &e.Meta, e.Data.Customer, fmt.Sprintf("You get back %v", e.Data.Lines.Total()))
	})
	contract.OrderAdjusted.Handle(s.group, s.adjusted)
	contract.StockShort.Handle(s.group, func(ctx context.Context, e *posthorn.Event[contract.Short]) error {
		return s.write(ctx, &e.Meta, buyer, fmt.Sprintf("We are short of %d of %s", e.Data.Missing, e.Data.StockCode))
	})
	return s, nil
}

// Start begins to handle events.
func (s *Service) Start(ctx context.Context) error { return s.group.Start(ctx) }

// Stop lets handlers that run finish and handles no more events.
func (s *Service) Stop(ctx context.Context) error { return s.group.Stop(ctx) }

// Close closes the database.
func (s *Service) Close() error { return s.store.Close() }

// adjusted writes about an adjustment that asks for money, and of no other.
func (s *Service) adjusted(ctx context.Context, e *posthorn.Event[contract.Adjusted]) error {
	total := e.Data.Lines.Total()
	switch {
	case total <= 0:
		return posthorn.Skip("the adjustment asks for no money")
	case e.Data.Customer == "":
		return posthorn.Permanent(fmt.Errorf("adjustment %s of %v: %w", e.Data.OrderID, total, errNobody))
	}
	return s.write(ctx, &e.Meta, e.Data.Customer, fmt.Sprintf("You owe us %v", total))
}

// write sends a letter and writes that down. A letter may be sent twice, when the
// process ends between the two.
func (s *Service) write(ctx context.Context, e *posthorn.Meta, to, subject string) error {
	if to == "" {
		return posthorn.Skip("the customer is not known")
	}
	if err := s.mail.Send(ctx, e.IdempotencyKey(), to, subject); err != nil {
		return err
	}
	return s.store.Do(ctx, func(tx *store.Tx) error {
		return tx.Exec("insert into letters (event, to_whom, subject) values (?, ?, ?) on conflict do nothing", e.ID, to, subject)
	})
}

// Count returns how many letters were sent, by the service's database.
func Count(ctx context.Context, db *sql.DB) (n int64, err error) {
	err = db.QueryRowContext(ctx, "select count(*) from letters").Scan(&n)
	return n, err
}
