package points

import (
	"context"
	"database/sql"
	"errors"
	"strconv"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/internal/chain"
	"github.com/posthorn/posthorn/examples/shop/internal/store"
)

// The balance of an account is given - taken. The chain is a hash over all that was
// booked, in order: see internal/chain.
const schema = `
create table if not exists accounts (
	customer text primary key,
	given    integer not null,
	taken    integer not null,
	events   integer not null,
	chain    blob not null
) without rowid;`

// A movement is a way for points to go.
type movement struct {
	kind  string
	event *posthorn.EventType[contract.Points]
}

var (
	given = movement{"given", contract.PointsGiven}
	taken = movement{"taken", contract.PointsTaken}
)

// book books points, once for each event, and returns the balance after it, however
// often the event comes.
func (s *Service) book(ctx context.Context, event string, m movement, p contract.Points) (balance int64, err error) {
	note, err := s.store.Once(ctx, event, func(tx *store.Tx) (string, error) {
		var plus, minus int64
		var last []byte
		err := tx.Get("select given, taken, chain from accounts where customer = ?", []any{p.Customer}, &plus, &minus, &last)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return "", err
		}
		if m == given {
			plus += p.Points
		} else {
			minus += p.Points
		}
		return strconv.FormatInt(plus-minus, 10), tx.Exec(`insert into accounts (customer, given, taken, events, chain) values (?, ?, ?, 1, ?)
			on conflict (customer) do update set given = excluded.given, taken = excluded.taken, events = events + 1, chain = excluded.chain`,
			p.Customer, plus, minus, chain.Next(last, "%s %s %d", m.kind, p.OrderID, p.Points))
	})
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(note, 10, 64)
}
