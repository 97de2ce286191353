package order

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/internal/store"
)

// A Step is what a service has told of an order.
type Step struct {
	At      time.Time `json:"at"`
	Service string    `json:"service"`
	Event   string    `json:"event"`
	Order   string    `json:"order,omitempty"`  // the cancellation's id, where it is about that
	Detail  string    `json:"detail,omitempty"` // an amount, a number, a code
}

// listen declares what the service learns from the others.
func (s *Service) listen(group *posthorn.Group) {
	payment := func(p contract.Payment) note { return note{p.OrderID, p.Amount.String()} }
	follow(s, group, contract.PaymentCaptured, payment)
	follow(s, group, contract.PaymentRefunded, payment)
	follow(s, group, contract.PaymentAdjusted, payment)
	goods := func(g contract.Goods) note { return note{g.OrderID, count(g.Units+g.WrittenOff, "units")} }
	follow(s, group, contract.StockReserved, goods)
	follow(s, group, contract.StockRestocked, goods)
	parcel := func(p contract.Shipment) note { return note{p.OrderID, count(p.Units, "units")} }
	follow(s, group, contract.ShipmentSent, parcel)
	follow(s, group, contract.ShipmentStopped, parcel)
	follow(s, group, contract.ShipmentReturned, parcel)
	points := func(p contract.Points) note { return note{p.OrderID, count(p.Points, "points")} }
	follow(s, group, contract.PointsGiven, points)
	follow(s, group, contract.PointsTaken, points)
	follow(s, group, contract.CustomerRegistered, func(r contract.Registered) note { return note{r.OrderID, r.Customer} })
	follow(s, group, contract.CouponIssued, func(c contract.Coupon) note { return note{c.OrderID, c.Code} })
	follow(s, group, contract.LetterSent, func(l contract.Letter) note { return note{l.OrderID, l.Subject} })
}

// A note is what of an event is worth remembering.
type note struct{ order, detail string }

// follow adds a step to the path of an order for each event of a type. An event that
// comes twice finds its step there.
func follow[T any](s *Service, group *posthorn.Group, typ *posthorn.EventType[T], read func(T) note) {
	typ.Handle(group, func(ctx context.Context, e *posthorn.Event[T]) error {
		n := read(e.Data)
		err := s.store.Do(ctx, func(tx *store.Tx) error {
			var known bool
			if err := tx.Get("select 1 from orders where id = ?", []any{n.order}, &known); err != nil {
				return err
			}
			return tx.Exec("insert into steps (order_id, event, type, service, at, detail) values (?, ?, ?, ?, ?, ?) on conflict do nothing",
				n.order, e.ID, e.Type, e.Source, e.Time.UTC().Format(stamp), n.detail)
		})
		if errors.Is(err, sql.ErrNoRows) {
			// We store an order before we tell anybody of it: this one is not ours.
			return posthorn.Permanent(refuse(NotFound, "there is no order %q", n.order))
		}
		return err
	})
}

// A Status is how far an order has come.
type Status struct {
	Order
	Total       contract.Money `json:"total"`
	Published   bool           `json:"published"`              // the other services have been told; or else they will be
	CancelledBy string         `json:"cancelled_by,omitempty"` // a cancellation's id
	Path        []Step         `json:"path"`                   // through the services, its cancellation's too
}

// Get returns an order with its path; the error is a [*Refusal] with NotFound when
// there is none of this id.
func (s *Service) Get(ctx context.Context, id string) (Status, error) {
	r, err := scan(s.store.DB().QueryRowContext(ctx, selectOrder+"where o.id = ?", id).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return Status{}, refuse(NotFound, "there is no order %q", id)
	}
	if err != nil {
		return Status{}, err
	}
	st := Status{Order: r.Order, Total: r.Lines.Total(), Published: r.published}
	err = s.store.DB().QueryRowContext(ctx, "select id from orders where cancels = ?", id).Scan(&st.CancelledBy)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return st, err
	}
	st.Path, err = s.path(ctx, id, st.CancelledBy)
	return st, err
}

func (s *Service) path(ctx context.Context, id, cancellation string) ([]Step, error) {
	rows, err := s.store.DB().QueryContext(ctx, `select order_id, type, service, at, detail from steps where order_id in (?, ?)
		union all select id, 'order.' || kind, 'order', at, '' from orders where id in (?, ?) and published
		order by 4`, id, cancellation, id, cancellation)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	path := []Step{} // and not null in JSON
	for rows.Next() {
		var st Step
		var at string
		if err := rows.Scan(&st.Order, &st.Event, &st.Service, &at, &st.Detail); err != nil {
			return nil, err
		}
		if st.Order == id {
			st.Order = ""
		}
		if st.At, err = time.Parse(stamp, at); err != nil {
			return nil, err
		}
		path = append(path, st)
	}
	return path, rows.Err()
}
