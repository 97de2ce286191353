package inventory

import (
	"database/sql"
	"encoding/json"
	"errors"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/internal/chain"
	"github.com/posthorn/posthorn/examples/shop/internal/store"
)

// What is on hand of a stock code is opening - ordered - written_off + returned,
// below zero when goods are owed. The chain is a hash over all movements so far,
// in the order they were booked in: two histories of a stock code are the same
// when their last links are.
const schema = `
create table if not exists stock (
	code        text primary key,
	ordered     integer not null,
	written_off integer not null,
	returned    integer not null,
	events      integer not null,
	chain       blob not null
) without rowid;
create table if not exists orders (
	id          text primary key,
	lines       integer not null,  -- how many it has
	booked      integer not null,  -- how many of them are booked
	units       integer not null,  -- ordered or returned
	written_off integer not null
) without rowid;
create table if not exists shortages (
	code     text not null,
	order_id text not null,
	missing  integer not null
);`

// A level is the row of a stock code.
type level struct {
	ordered, writtenOff, returned int64
	chain                         []byte
}

func (l level) onHand(opening int64) int64 { return opening - l.ordered - l.writtenOff + l.returned }

// move books the item on the level.
func (l *level) move(m movement, i contract.Item) {
	switch m {
	case ordered:
		l.ordered += i.Quantity
	case writtenOff:
		l.writtenOff += i.Quantity
	case returned:
		l.returned += i.Quantity
	}
	l.chain = chain.Next(l.chain, "%s %s %d %d", m, i.OrderID, i.Line, i.Quantity)
}

// An outcome is what the others are told of a booking; mostly nothing.
type outcome struct {
	Goods *contract.Goods `json:"goods,omitempty"`
	Short *contract.Short `json:"short,omitempty"`
}

// book books one item. It is called once for each.
func (s *Service) book(tx *store.Tx, m movement, i contract.Item) (out outcome, err error) {
	if out.Short, err = s.bookStock(tx, m, i); err != nil {
		return out, err
	}
	out.Goods, err = bookOrder(tx, m, i)
	return out, err
}

func (s *Service) bookStock(tx *store.Tx, m movement, i contract.Item) (*contract.Short, error) {
	var l level
	err := tx.Get("select ordered, written_off, returned, chain from stock where code = ?", []any{i.StockCode},
		&l.ordered, &l.writtenOff, &l.returned, &l.chain)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, err
	}
	before := l.onHand(s.cfg.Opening)
	l.move(m, i)
	after := l.onHand(s.cfg.Opening)
	err = tx.Exec(`insert into stock (code, ordered, written_off, returned, events, chain) values (?, ?, ?, ?, 1, ?)
		on conflict (code) do update set ordered = excluded.ordered, written_off = excluded.written_off,
			returned = excluded.returned, events = events + 1, chain = excluded.chain`,
		i.StockCode, l.ordered, l.writtenOff, l.returned, l.chain)
	if err != nil || before < 0 || after >= 0 {
		return nil, err
	}
	short := &contract.Short{StockCode: i.StockCode, OrderID: i.OrderID, Missing: -after}
	return short, tx.Exec("insert into shortages (code, order_id, missing) values (?, ?, ?)", short.StockCode, short.OrderID, short.Missing)
}

// bookOrder counts the order's lines, which come in no certain order, since each
// goes by its own stock code. It returns what to tell when this was the last.
func bookOrder(tx *store.Tx, m movement, i contract.Item) (*contract.Goods, error) {
	var units, lost int64
	if m == writtenOff {
		lost = i.Quantity
	} else {
		units = i.Quantity
	}
	g := &contract.Goods{OrderID: i.OrderID, Lines: i.Lines}
	var booked int
	err := tx.Get(`insert into orders (id, lines, booked, units, written_off) values (?, ?, 1, ?, ?)
		on conflict (id) do update set booked = booked + 1, units = units + excluded.units, written_off = written_off + excluded.written_off
		returning booked, units, written_off`, []any{i.OrderID, i.Lines, units, lost}, &booked, &g.Units, &g.WrittenOff)
	if err != nil || booked != i.Lines {
		return nil, err
	}
	return g, nil
}

// note is the outcome as it is stored: "" for nothing.
func (o outcome) note() (string, error) {
	if o == (outcome{}) {
		return "", nil
	}
	text, err := json.Marshal(o)
	return string(text), err
}

func readOutcome(note string) (o outcome, err error) {
	if note != "" {
		err = json.Unmarshal([]byte(note), &o)
	}
	return o, err
}

func (o outcome) events(m movement) (events []*posthorn.Outgoing) {
	if o.Goods != nil {
		typ := contract.StockReserved
		if m == returned {
			typ = contract.StockRestocked
		}
		events = append(events, typ.New(*o.Goods))
	}
	if o.Short != nil {
		events = append(events, contract.StockShort.New(*o.Short))
	}
	return events
}
