package logistics

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/internal/store"
)

const schema = `
create table if not exists parcels (
	order_id  text primary key,
	known     integer not null,  -- order.placed was seen
	customer  text not null,
	country   text not null,
	paid      integer not null,  -- payment.captured was seen
	reserved  integer not null,  -- stock.reserved was seen
	units     integer not null,
	cancelled integer not null,
	sent      integer not null
) without rowid;
create table if not exists returns (
	order_id text primary key,   -- of the cancellation
	stopped  integer not null,   -- nothing was sent, nothing comes back
	units    integer not null
) without rowid;`

// A parcel is what is known of an order's. Nothing is known at first.
type parcel struct {
	known             bool
	customer, country string
	paid              bool
	reserved          bool
	units             int64
	cancelled, sent   bool
}

// ready tells whether it is to be sent now. An order may have no units to send:
// its goods were written off.
func (p *parcel) ready() bool {
	return p.known && p.paid && p.reserved && p.units > 0 && !p.cancelled && !p.sent
}

func (p *parcel) shipment(order string) contract.Shipment {
	return contract.Shipment{OrderID: order, Customer: p.customer, Country: p.country, Units: p.units}
}

func load(tx *store.Tx, order string) (p parcel, err error) {
	err = tx.Get("select known, customer, country, paid, reserved, units, cancelled, sent from parcels where order_id = ?", []any{order},
		&p.known, &p.customer, &p.country, &p.paid, &p.reserved, &p.units, &p.cancelled, &p.sent)
	if errors.Is(err, sql.ErrNoRows) {
		return parcel{}, nil
	}
	return p, err
}

func (p *parcel) save(tx *store.Tx, order string) error {
	return tx.Exec(`insert or replace into parcels (order_id, known, customer, country, paid, reserved, units, cancelled, sent)
		values (?, ?, ?, ?, ?, ?, ?, ?, ?)`, order, p.known, p.customer, p.country, p.paid, p.reserved, p.units, p.cancelled, p.sent)
}

// A state is what has become of a parcel.
type state string

const (
	sent     state = "sent"
	stopped  state = "stopped"
	returned state = "returned"
)

var events = map[state]*posthorn.EventType[contract.Shipment]{
	sent: contract.ShipmentSent, stopped: contract.ShipmentStopped, returned: contract.ShipmentReturned,
}

// An outcome is what the others are told of an event that was handled.
type outcome struct {
	State    state             `json:"state"`
	Shipment contract.Shipment `json:"shipment"`
}

// once runs fn once for an event and tells the others what came of it, nil for
// nothing, as often as the event comes.
func (s *Service) once(ctx context.Context, event string, fn func(*store.Tx) (*outcome, error)) error {
	note, err := s.store.Once(ctx, event, func(tx *store.Tx) (string, error) {
		out, err := fn(tx)
		if err != nil || out == nil {
			return "", err
		}
		text, err := json.Marshal(out)
		return string(text), err
	})
	if err != nil || note == "" {
		return err
	}
	var out outcome
	if err := json.Unmarshal([]byte(note), &out); err != nil {
		return err
	}
	return events[out.State].Publish(ctx, s.bus, out.Shipment)
}
