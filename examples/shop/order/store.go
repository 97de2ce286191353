package order

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/posthorn/posthorn/examples/shop/internal/store"
)

// Lines stand beside their order, since an order's row is rewritten when it is
// published and its lines never are.
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
	total     integer not null,     -- in thousandths of a pound
	published integer not null default 0
);
create index if not exists orders_to_publish on orders (seq) where not published;
create unique index if not exists orders_cancels on orders (cancels) where cancels != '';
create table if not exists lines (
	seq  integer primary key,
	json text not null
);
create table if not exists steps (
	order_id text not null,
	event    text not null,         -- the event's id: it is taken down once
	type     text not null,         -- the event's type
	service  text not null,         -- that has published it
	at       text not null,
	detail   text not null,
	primary key (order_id, event)
) without rowid;
create table if not exists origin (
	one  integer primary key check (one = 1),
	file text not null              -- the hash of the file that is imported
);`

// stamp is a time in a table: in the order of the times, also as text.
const stamp = "2006-01-02T15:04:05.000000Z"

// insert takes an order in; fresh is false when its id is there already.
func insert(tx *store.Tx, o Order, from Source) (fresh bool, err error) {
	if err := o.check(); err != nil {
		return false, err
	}
	lines, err := json.Marshal(o.Lines)
	if err != nil {
		return false, err
	}
	if len(lines) > maxDocument {
		return false, refuse(Invalid, "order %q: its lines are %d bytes; %d are allowed", o.ID, len(lines), maxDocument)
	}
	var seq int64
	err = tx.Get(`insert into orders (id, kind, cancels, customer, country, at, source, total)
		values (?, ?, ?, ?, ?, ?, ?, ?)
		on conflict (id) do nothing returning seq`,
		[]any{o.ID, string(o.Kind), o.Cancels, o.Customer, o.Country, o.At.UTC().Format(stamp), string(from), int64(o.Lines.Total())}, &seq)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return false, nil
	case err != nil:
		return false, err
	}
	return true, tx.Exec("insert into lines (seq, json) values (?, ?)", seq, string(lines))
}

const selectOrder = `select o.seq, o.id, o.kind, o.cancels, o.customer, o.country, o.at, o.published, l.json
	from orders o join lines l on l.seq = o.seq `

type row struct {
	seq       int64
	published bool
	Order
}

func scan(scan func(...any) error) (r row, err error) {
	var at, lines string
	if err := scan(&r.seq, &r.ID, &r.Kind, &r.Cancels, &r.Customer, &r.Country, &at, &r.published, &lines); err != nil {
		return r, err
	}
	if r.At, err = time.Parse(stamp, at); err != nil {
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

// Counts is how many orders there are.
type Counts struct {
	Taken     int64 // all
	FromHTTP  int64 // of these, over HTTP
	Published int64 // that the others have been told of
	Steps     int64 // that the others have told of
}

// Count counts the orders in the service's database.
func Count(ctx context.Context, db *sql.DB) (c Counts, err error) {
	err = db.QueryRowContext(ctx, `select count(*), coalesce(sum(source = 'http'), 0), coalesce(sum(published), 0), (select count(*) from steps) from orders`).
		Scan(&c.Taken, &c.FromHTTP, &c.Published, &c.Steps)
	return c, err
}

// count writes a number of things.
func count(n int64, things string) string { return strconv.FormatInt(n, 10) + " " + things }
