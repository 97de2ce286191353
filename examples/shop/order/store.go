package order

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/internal/store"
)

// Lines stand beside their order, since an order's row is rewritten as it comes
// along and its lines never are.
const schema = `
create table if not exists orders (
	seq       integer primary key,  -- in the order they were taken in
	id        text not null unique,
	kind      text not null,
	cancels   text not null,
	customer  text not null,
	country   text not null,
	at        text not null,
	source    text not null,        -- file or http
	items     integer not null,     -- how many lines
	total     integer not null,     -- in thousandths of a pound
	published integer not null default 0,
	paid      integer,              -- in thousandths, once payment has said so
	goods     text not null default ''
);
create index if not exists orders_to_publish on orders (seq) where not published;
create index if not exists orders_cancels on orders (cancels) where cancels != '';
create table if not exists lines (
	seq  integer primary key,
	json text not null
);
create table if not exists origin (
	one  integer primary key check (one = 1),
	file text not null              -- the hash of the file that is imported
);`

// insert takes an order in; taken is false when its id is there already.
func insert(tx *store.Tx, o Order, from Source) (taken bool, err error) {
	if err := o.check(); err != nil {
		return false, err
	}
	lines, err := json.Marshal(o.Lines)
	if err != nil {
		return false, err
	}
	if len(lines) > maxDocument {
		return false, fmt.Errorf("%w: order %q: its lines are %d bytes; %d are allowed", ErrInvalid, o.ID, len(lines), maxDocument)
	}
	var seq int64
	err = tx.Get(`insert into orders (id, kind, cancels, customer, country, at, source, items, total)
		values (?, ?, ?, ?, ?, ?, ?, ?, ?)
		on conflict (id) do nothing returning seq`,
		[]any{o.ID, string(o.Kind), o.Cancels, o.Customer, o.Country, o.At.UTC().Format(time.RFC3339Nano), string(from), len(o.Lines), int64(o.Lines.Total())}, &seq)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return false, nil
	case err != nil:
		return false, err
	}
	return true, tx.Exec("insert into lines (seq, json) values (?, ?)", seq, string(lines))
}

const selectOrder = `select o.seq, o.id, o.kind, o.cancels, o.customer, o.country, o.at, o.total, o.published, o.paid, o.goods, l.json
	from orders o join lines l on l.seq = o.seq `

type row struct {
	seq int64
	Status
}

func scan(scan func(...any) error) (r row, err error) {
	var at, lines string
	var paid sql.Null[contract.Money]
	if err := scan(&r.seq, &r.ID, &r.Kind, &r.Cancels, &r.Customer, &r.Country, &at, &r.Total, &r.Published, &paid, &r.Goods, &lines); err != nil {
		return r, err
	}
	if paid.Valid {
		r.Paid = &paid.V
	}
	if r.At, err = time.Parse(time.RFC3339Nano, at); err != nil {
		return r, err
	}
	return r, json.Unmarshal([]byte(lines), &r.Lines)
}

// unpublished returns the first orders that the others have not been told of, up
// to about most lines of them.
func (s *Service) unpublished(ctx context.Context, most int) (found []row, err error) {
	rows, err := s.store.DB().QueryContext(ctx, selectOrder+"where not o.published order by o.seq limit 1000")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for n := 0; n < most && rows.Next(); {
		r, err := scan(rows.Scan)
		if err != nil {
			return nil, err
		}
		found = append(found, r)
		n += len(r.Lines)
	}
	return found, rows.Err()
}

func (s *Service) markPublished(ctx context.Context, first, last int64) error {
	return s.store.Do(ctx, func(tx *store.Tx) error {
		return tx.Exec("update orders set published = 1 where seq between ? and ? and not published", first, last)
	})
}

// Get returns an order; ErrNotFound when there is none of this id.
func (s *Service) Get(ctx context.Context, id string) (Status, error) {
	r, err := scan(s.store.DB().QueryRowContext(ctx, selectOrder+"where o.id = ?", id).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return Status{}, fmt.Errorf("%w: %q", ErrNotFound, id)
	}
	return r.Status, err
}

// Counts is how many orders there are.
type Counts struct {
	Taken     int64 // all
	FromHTTP  int64 // of these, over HTTP
	Published int64 // that the others have been told of
	Payments  int64 // that payment has settled
	Goods     int64 // whose goods inventory has moved
	WithGoods int64 // that have goods to move: all but adjustments
	Items     int64 // lines of these
	Known     int64 // orders and cancellations of customers who are known
}

// Count counts the orders in the service's database.
func Count(ctx context.Context, db *sql.DB) (c Counts, err error) {
	err = db.QueryRowContext(ctx, `select count(*), coalesce(sum(source = 'http'), 0), coalesce(sum(published), 0), count(paid),
		coalesce(sum(goods != ''), 0), coalesce(sum(kind != 'adjusted'), 0), coalesce(sum(items) filter (where kind != 'adjusted'), 0),
		coalesce(sum(kind != 'adjusted' and customer != ''), 0) from orders`).
		Scan(&c.Taken, &c.FromHTTP, &c.Published, &c.Payments, &c.Goods, &c.WithGoods, &c.Items, &c.Known)
	return c, err
}
