package order

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/contract"
)

// batch is about how many events are published with one call.
const batch = 4000

// tell tells the other services of the orders that they have not been told of, in the
// order they were taken in, and returns when all of these are stored on the bus. It
// is safe for concurrent use: one call publishes, the others find it done.
//
// An order is stored here first and published then. When the process dies between
// the two, or does not learn the outcome, the order is published again: with the
// same ids, and before any later one, so that what the others see first of each
// event is in order. (The outbox will do this for us.)
func (s *Service) tell(ctx context.Context) error {
	s.publishing.Lock()
	defer s.publishing.Unlock()
	for {
		orders, err := s.unpublished(ctx, batch)
		if err != nil || len(orders) == 0 {
			return err
		}
		var out []*posthorn.Outgoing
		for _, o := range orders {
			out = append(out, events(o.Order)...)
		}
		if err := s.bus.PublishAll(ctx, out...); err != nil {
			return err
		}
		if err := s.markPublished(ctx, orders[0].seq, orders[len(orders)-1].seq); err != nil {
			return err
		}
	}
}

// events are what the others are told of an order: each line that moves goods, by its
// stock code; the purchase, by its customer; and the whole of it.
func events(o Order) []*posthorn.Outgoing {
	id := posthorn.WithID(eventID(o, "whole"))
	switch o.Kind {
	case Adjusted:
		return []*posthorn.Outgoing{contract.OrderAdjusted.New(contract.Adjusted{
			OrderID: o.ID, Customer: o.Customer, Country: o.Country, At: o.At, Lines: o.Lines}, id)}
	case Cancelled:
		out := append(items(o), purchase(o, contract.PurchaseReturned)...)
		return append(out, contract.OrderCancelled.New(contract.Cancelled{
			OrderID: o.ID, Cancels: o.Cancels, Customer: o.Customer, Country: o.Country, At: o.At, Lines: o.Lines}, id))
	default:
		out := append(items(o), purchase(o, contract.PurchaseMade)...)
		return append(out, contract.OrderPlaced.New(contract.Placed{
			OrderID: o.ID, Customer: o.Customer, Country: o.Country, At: o.At, Lines: o.Lines}, id))
	}
}

// purchase is none where the customer is not known: there is no account to keep.
func purchase(o Order, typ *posthorn.EventType[contract.Purchase]) []*posthorn.Outgoing {
	if o.Customer == "" {
		return nil
	}
	return []*posthorn.Outgoing{typ.New(contract.Purchase{
		Customer: o.Customer, Country: o.Country, OrderID: o.ID, Amount: o.Lines.Total(), At: o.At,
	}, posthorn.WithID(eventID(o, "purchase")))}
}

func items(o Order) []*posthorn.Outgoing {
	out := make([]*posthorn.Outgoing, 0, len(o.Lines)+2)
	for i, l := range o.Lines {
		typ, quantity := contract.ItemOrdered, l.Quantity
		switch {
		case o.Kind == Cancelled:
			typ = contract.ItemReturned
		case l.Quantity < 0:
			typ, quantity = contract.ItemWrittenOff, -l.Quantity
		}
		out = append(out, typ.New(contract.Item{
			StockCode: l.StockCode, OrderID: o.ID, Line: i + 1, Lines: len(o.Lines), Quantity: quantity,
		}, posthorn.WithID(eventID(o, strconv.Itoa(i+1)))))
	}
	return out
}

// eventID is the id of an event of an order, by what of the order it tells, and the
// same each time it is asked for. It is a UUIDv7 with the order's time and with
// bits of a hash in place of random ones: the others store these ids, and what
// comes in together had better stand together in their indexes.
func eventID(o Order, of string) string {
	u := sha256.Sum256([]byte(o.ID + "/" + of))
	ms := uint64(max(o.At.UnixMilli(), 0))
	binary.BigEndian.PutUint32(u[0:4], uint32(ms>>16))
	binary.BigEndian.PutUint16(u[4:6], uint16(ms))
	u[6] = u[6]&0x0f | 0x70
	u[8] = u[8]&0x3f | 0x80
	h := hex.EncodeToString(u[:16])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// resend publishes again, from time to time, what could not be published.
func (s *Service) resend(ctx context.Context) {
	tick := time.NewTicker(s.cfg.Resend)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := s.tell(ctx); err != nil && ctx.Err() == nil {
				s.cfg.Log.Warn("orders are taken but not published; trying again", "in", s.cfg.Resend, "error", err)
			}
		}
	}
}
