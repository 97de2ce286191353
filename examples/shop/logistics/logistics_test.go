package logistics

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/internal/bed"
)

var lines = contract.Lines{{StockCode: "X", Quantity: 3}}

func placed(order string) *posthorn.Outgoing {
	return contract.OrderPlaced.New(contract.Placed{OrderID: order, Customer: "17850", Country: "France", Lines: lines})
}

func paid(order string) *posthorn.Outgoing {
	return contract.PaymentCaptured.New(contract.Payment{OrderID: order, Amount: 1})
}

func reserved(order string, units int64) *posthorn.Outgoing {
	return contract.StockReserved.New(contract.Goods{OrderID: order, Lines: 1, Units: units})
}

func cancelled(order, cancels string) *posthorn.Outgoing {
	return contract.OrderCancelled.New(contract.Cancelled{OrderID: order, Cancels: cancels, Customer: "17850", Country: "France", Lines: lines})
}

// TestAnyOrder tells of an order in each order of the three events, of which the last
// sends the parcel.
func TestAnyOrder(t *testing.T) {
	t.Parallel()
	b := bed.New(t)
	s, err := Open(t.Context(), b.Bus, Config{Database: b.Database})
	sent := bed.Listen(b, contract.ShipmentSent)
	b.Run(s, err)
	orders := [][3]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}
	want := map[contract.Shipment]int{}
	for step := range 3 {
		if got := sent.Data(); len(got) > 0 {
			t.Fatalf("after %d of 3 events %v is sent", step, got)
		}
		for i, places := range orders {
			id := fmt.Sprint("W", i)
			b.Publish([]*posthorn.Outgoing{placed(id), paid(id), reserved(id, 3)}[places[step]])
			want[contract.Shipment{OrderID: id, Customer: "17850", Country: "France", Units: 3}] = 1
		}
		b.Settle(Group)
	}
	got := map[contract.Shipment]int{}
	for _, s := range sent.Data() {
		got[s]++
	}
	if !maps.Equal(got, want) {
		t.Errorf("sent %v, want %v", got, want)
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	b := bed.New(t)
	s, err := Open(t.Context(), b.Bus, Config{Database: b.Database})
	sent, stopped, returned := bed.Listen(b, contract.ShipmentSent), bed.Listen(b, contract.ShipmentStopped), bed.Listen(b, contract.ShipmentReturned)
	b.Run(s, err)
	b.Publish(
		placed("in-time"), paid("in-time"),
		placed("late"), paid("late"), reserved("late", 3),
		placed("lost"), paid("lost"), reserved("lost", 0), // all of it was written off
		cancelled("C1", ""),           // of nobody knows what
		cancelled("C-early", "early"), // overtakes its order, which is tried again late
	)
	b.Settle(Group)
	b.Publish(cancelled("C-in-time", "in-time"), cancelled("C-late", "late"), placed("early"), paid("early"), reserved("early", 3))
	b.Settle(Group)
	b.Publish(reserved("in-time", 3)) // but it was cancelled before
	b.Settle(Group)
	for what, c := range map[string]struct {
		heard *bed.Heard[contract.Shipment]
		want  []string
	}{
		"sent": {sent, []string{"late"}}, "stopped": {stopped, []string{"C-early", "C-in-time"}}, "returned": {returned, []string{"C-late", "C1"}},
	} {
		var ids []string
		for _, s := range c.heard.Data() {
			ids = append(ids, s.OrderID)
		}
		slices.Sort(ids)
		if !slices.Equal(ids, c.want) {
			t.Errorf("%s: %q, want %q", what, ids, c.want)
		}
	}
	if sent, back, err := Count(t.Context(), s.store.DB()); sent != 1 || back != 4 || err != nil {
		t.Errorf("%d sent, %d back, %v", sent, back, err)
	}
}

// TestTwice handles each event twice: one parcel is sent, and told of again.
func TestTwice(t *testing.T) {
	t.Parallel()
	b := bed.New(t)
	s, err := Open(t.Context(), b.Bus, Config{Database: b.Database})
	sent, returned := bed.Listen(b, contract.ShipmentSent), bed.Listen(b, contract.ShipmentReturned)
	b.Run(s, err)
	for range 2 {
		if err := s.learn(t.Context(), "event", "W1", func(p *parcel) { *p = parcel{known: true, paid: true, reserved: true, units: p.units + 3} }); err != nil {
			t.Fatal(err)
		}
		e := &posthorn.Event[contract.Cancelled]{Meta: posthorn.Meta{ID: "cancel"}, Data: contract.Cancelled{OrderID: "C-W1", Cancels: "W1", Lines: lines}}
		if err := s.cancelled(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	b.Settle(Group)
	if got := fmt.Sprint(sent.Data(), returned.Data()); got != "[{W1   3} {W1   3}] [{C-W1   3} {C-W1   3}]" {
		t.Errorf("published %s", got)
	}
	if sent, back, err := Count(t.Context(), s.store.DB()); sent != 1 || back != 1 || err != nil {
		t.Errorf("%d sent, %d back, %v", sent, back, err)
	}
}
