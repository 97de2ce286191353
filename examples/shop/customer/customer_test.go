package customer

import (
	"slices"
	"testing"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/internal/bed"
)

func TestFirstSeen(t *testing.T) {
	t.Parallel()
	b := bed.New(t)
	s, err := Open(t.Context(), b.Bus, Config{Database: b.Database})
	registered := bed.Listen(b, contract.CustomerRegistered)
	b.Run(s, err)
	buy := func(customer, order string) contract.Purchase {
		return contract.Purchase{Customer: customer, Country: "France", OrderID: order}
	}
	b.Publish(
		contract.PurchaseMade.New(buy("1", "W1")),
		contract.PurchaseReturned.New(buy("2", "C1")), // we only know what came back
		contract.PurchaseMade.New(buy("1", "W2")),
		contract.PurchaseMade.New(buy("2", "W3")),
	)
	b.Settle(Group)
	var got []string
	for _, r := range registered.Data() {
		got = append(got, r.Customer+" "+r.Country+" "+r.OrderID)
	}
	slices.Sort(got)
	if want := []string{"1 France W1", "2 France C1"}; !slices.Equal(got, want) {
		t.Errorf("registered %q, want %q", got, want)
	}
	if n, err := Count(t.Context(), s.store.DB()); n != 2 || err != nil {
		t.Errorf("%d customers, %v", n, err)
	}
}

// TestTwice tells of a newcomer again when the event that it came with comes again,
// and not for a later one.
func TestTwice(t *testing.T) {
	t.Parallel()
	b := bed.New(t)
	s, err := Open(t.Context(), b.Bus, Config{Database: b.Database})
	registered := bed.Listen(b, contract.CustomerRegistered)
	b.Run(s, err)
	for _, id := range []string{"first", "second", "first", "second"} {
		e := &posthorn.Event[contract.Purchase]{Meta: posthorn.Meta{ID: id}, Data: contract.Purchase{Customer: "1", OrderID: id}}
		if err := s.see(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	b.Settle(Group)
	if all := registered.Data(); len(all) != 2 || all[0] != all[1] || all[0].OrderID != "first" {
		t.Errorf("registered %+v", all)
	}
}
