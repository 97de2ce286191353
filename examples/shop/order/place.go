package order

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/posthorn/posthorn/examples/shop/internal/store"
)

// Place takes orders in, whoever they come from, and tells the other services. It is
// the only way into the books: the HTTP API and the importer come by here.
//
// The orders are stored all together, or, with a [*Refusal] or another error, none
// of them. Those whose ids are there already are left as they are; placed is how many
// are new. With ErrUntold the orders are stored, and the others will be told later.
func (s *Service) Place(ctx context.Context, from Source, orders ...Order) (placed int, err error) {
	err = s.store.Do(ctx, func(tx *store.Tx) error {
		placed = 0
		for _, o := range orders {
			fresh, err := insert(tx, o, from)
			if err != nil {
				return err
			}
			if fresh {
				placed++
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	// What is stored is stored: the client who hangs up here has ordered all the same.
	if err := s.tell(context.WithoutCancel(ctx)); err != nil {
		return placed, fmt.Errorf("%w: %w", ErrUntold, err)
	}
	return placed, nil
}

// Cancel places the cancellation of an order, as a whole and once, and returns it.
// The error is a [*Refusal] when there is nothing to cancel.
func (s *Service) Cancel(ctx context.Context, id string, from Source, at time.Time) (Order, error) {
	o, err := s.Get(ctx, id)
	if err != nil {
		return Order{}, err
	}
	c := Order{ID: "C-" + id, Kind: Cancelled, Cancels: id, Customer: o.Customer, Country: o.Country, At: at}
	for _, l := range o.Lines {
		if l.Quantity > 0 { // what was written off does not come back
			c.Lines = append(c.Lines, l)
		}
	}
	switch {
	case o.Kind != Placed:
		return c, refuse(NotCancellable, "%q is %s; only what was placed can be cancelled", id, o.Kind)
	case len(c.Lines) == 0:
		return c, refuse(NotCancellable, "%q has no goods that could come back", id)
	}
	placed, err := s.Place(ctx, from, c)
	if placed == 0 && (err == nil || errors.Is(err, ErrUntold)) {
		return c, refuse(IsCancelled, "%q was cancelled before, by %q", id, c.ID)
	}
	return c, err
}
