package coupon

import (
	"strings"
	"testing"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/internal/bed"
)

func TestWelcome(t *testing.T) {
	t.Parallel()
	b := bed.New(t)
	s, err := Open(t.Context(), b.Bus, Config{Database: b.Database})
	issued := bed.Listen(b, contract.CouponIssued)
	b.Run(s, err)
	b.Publish(contract.CustomerRegistered.New(contract.Registered{Customer: "1", OrderID: "W1"}))
	b.Settle(Group)
	b.Publish(contract.CustomerRegistered.New(contract.Registered{Customer: "2", OrderID: "W2"}))
	b.Settle(Group)
	all := issued.Data()
	if len(all) != 2 || all[0].Code == all[1].Code || all[0].Customer != "1" || all[1].OrderID != "W2" || !strings.HasPrefix(all[0].Code, "WELCOME-") {
		t.Errorf("issued %+v", all)
	}
	if n, err := Count(t.Context(), s.store.DB()); n != 2 || err != nil {
		t.Errorf("%d coupons, %v", n, err)
	}
}

// TestTwice gives the same coupon when the event comes again.
func TestTwice(t *testing.T) {
	t.Parallel()
	b := bed.New(t)
	s, err := Open(t.Context(), b.Bus, Config{Database: b.Database})
	issued := bed.Listen(b, contract.CouponIssued)
	b.Run(s, err)
	for range 2 {
		e := &posthorn.Event[contract.Registered]{Meta: posthorn.Meta{ID: "event"}, Data: contract.Registered{Customer: "1", OrderID: "W1"}}
		if err := s.welcome(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	b.Settle(Group)
	if all := issued.Data(); len(all) != 2 || all[0] != all[1] {
		t.Errorf("issued %+v", all)
	}
	if n, err := Count(t.Context(), s.store.DB()); n != 1 || err != nil {
		t.Errorf("%d coupons, %v", n, err)
	}
}
