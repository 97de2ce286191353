// Package notification is the service that writes to people: to customers about
// their orders and coupons, to the buyer about goods. The mail provider that it
// depends on is the least dependable part of the shop, so here is where retries come
// late, where a letter that cannot be written ends as a dead letter, and where all
// handlers wait when the provider is away. None of it is felt by another service.
package notification

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/internal/service"
	"github.com/posthorn/posthorn/examples/shop/internal/store"
)

const schema = `
create table if not exists letters (
	event   text primary key, -- that it was written for
	type    text not null,    -- of the event
	to_whom text not null,
	subject text not null
) without rowid;`

// A Config configures the service. A zero field means the default.
type Config struct {
	// Database is the path of the service's SQLite file.
	Database string
	// Mail sends the letters. Default: a new Greylist that takes all of them.
	Mail Mail
	// Again is how often the provider is asked again when it is away. Default 1 s.
	Again time.Duration
	// Retry is the retry budget of each letter. Default: the library's, whose
	// late retries go on for hours.
	Retry posthorn.Retry
	// Middleware wraps the service's handlers.
	Middleware []posthorn.Middleware
}

// A Service writes to people.
type Service struct {
	service.Base
	cfg      Config
	bus      *posthorn.Bus
	store    *store.Store
	stopping chan struct{} // closed when nobody is to wait for the provider any more
	stop     func()
}

// Group is the name of the service's group on the bus.
const Group = "notification"

// Open opens the service's database and declares its handlers.
func Open(ctx context.Context, bus *posthorn.Bus, cfg Config) (*Service, error) {
	st, err := store.Open(ctx, cfg.Database, schema)
	if err != nil {
		return nil, err
	}
	if cfg.Mail == nil {
		cfg.Mail = &Greylist{}
	}
	if cfg.Again == 0 {
		cfg.Again = time.Second
	}
	group := bus.Group(Group, posthorn.GroupConfig{Concurrency: 64, Retry: cfg.Retry, Middleware: cfg.Middleware})
	s := &Service{Base: service.New(group, st), cfg: cfg, bus: bus, store: st, stopping: make(chan struct{})}
	s.stop = sync.OnceFunc(func() { close(s.stopping) })
	contract.OrderPlaced.Handle(group, handler(s, thanks))
	contract.OrderCancelled.Handle(group, handler(s, refund))
	contract.OrderAdjusted.Handle(group, handler(s, demand))
	contract.ShipmentSent.Handle(group, handler(s, onItsWay))
	contract.CouponIssued.Handle(group, handler(s, welcome))
	contract.StockShort.Handle(group, handler(s, short))
	contract.RecommendationMade.Handle(group, handler(s, together))
	return s, nil
}

// Stop lets handlers that run finish and handles no more events. Handlers that wait
// for the provider give up: their letters are written after the next start.
func (s *Service) Stop(ctx context.Context) error {
	s.stop()
	return s.Base.Stop(ctx)
}

// handler writes the letter that an event asks for.
func handler[T any](s *Service, write func(T) (letter, error)) func(context.Context, *posthorn.Event[T]) error {
	return func(ctx context.Context, e *posthorn.Event[T]) error {
		l, err := write(e.Data)
		if err != nil {
			return err
		}
		return s.send(ctx, &e.Meta, l)
	}
}

// send sends a letter, writes that down, and tells the others if it is about an
// order. A letter may be sent twice, when the process ends between the first two,
// and the provider does not know the key.
func (s *Service) send(ctx context.Context, e *posthorn.Meta, l letter) error {
	if err := s.deliver(ctx, e.IdempotencyKey(), l); err != nil {
		return err
	}
	err := s.store.Do(ctx, func(tx *store.Tx) error {
		return tx.Exec("insert into letters (event, type, to_whom, subject) values (?, ?, ?, ?) on conflict do nothing", e.ID, e.Type, l.to, l.subject)
	})
	if err != nil || l.order == "" {
		return err
	}
	return contract.LetterSent.Publish(ctx, s.bus, contract.Letter{OrderID: l.order, To: l.to, Subject: l.subject})
}

// deliver waits for the provider while it is away. It would be no use to let go of
// this letter and to try another one: that would only move letters about. So all
// handlers come to wait here, no more letters are fetched, and they stay where they
// are kept best, on the bus. A handler whose time is up fails, as one that waits for
// anything else.
func (s *Service) deliver(ctx context.Context, key string, l letter) error {
	for {
		err := s.cfg.Mail.Send(ctx, key, l.to, l.subject)
		if !errors.Is(err, ErrAway) {
			return err
		}
		again := time.NewTimer(s.cfg.Again)
		select {
		case <-again.C:
			continue
		case <-ctx.Done():
		case <-s.stopping:
		}
		again.Stop()
		return err
	}
}

// Count returns how many letters were sent, by the service's database.
func Count(ctx context.Context, db *sql.DB) (n int64, err error) {
	err = db.QueryRowContext(ctx, "select count(*) from letters").Scan(&n)
	return n, err
}
