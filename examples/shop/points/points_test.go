package points

import (
	"fmt"
	"testing"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/internal/bed"
	"github.com/posthorn/posthorn/examples/shop/internal/chain"
)

func purchase(customer, order string, amount contract.Money) contract.Purchase {
	return contract.Purchase{Customer: customer, OrderID: order, Amount: amount}
}

func (s *Service) account(t *testing.T, customer string) string {
	t.Helper()
	var given, taken, events int64
	var link []byte
	if err := s.store.DB().QueryRow("select given, taken, events, chain from accounts where customer = ?", customer).Scan(&given, &taken, &events, &link); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %d %d %x", given, taken, events, link)
}

// TestAccount gives and takes, and keeps a pound's parts out of it.
func TestAccount(t *testing.T) {
	t.Parallel()
	b := bed.New(t)
	s, err := Open(t.Context(), b.Bus, Config{Database: b.Database})
	given, taken := bed.Listen(b, contract.PointsGiven), bed.Listen(b, contract.PointsTaken)
	b.Run(s, err)
	b.Publish(
		contract.PurchaseMade.New(purchase("1", "W1", 12_999)),
		contract.PurchaseReturned.New(purchase("1", "C-W1", 12_999)),
		contract.PurchaseMade.New(purchase("1", "W2", 999)), // no points, but in the account
		contract.PurchaseReturned.New(purchase("2", "C7", 3_000)),
	)
	b.Settle(Group)
	if got := fmt.Sprint(given.Data()); got != "[{1 W1 12 12} {1 W2 0 0}]" {
		t.Errorf("given %s", got)
	}
	for _, p := range taken.Data() {
		if got := fmt.Sprint(p); got != "{1 C-W1 12 0}" && got != "{2 C7 3 -3}" {
			t.Errorf("taken %s", got)
		}
	}
	var link []byte
	for _, line := range []string{"given W1 12", "taken C-W1 12", "given W2 0"} {
		link = chain.Next(link, "%s", line)
	}
	if got, want := s.account(t, "1"), fmt.Sprintf("12 12 3 %x", link); got != want {
		t.Errorf("account %s, want %s", got, want)
	}
	if n, err := Count(t.Context(), s.store.DB()); n != 4 || err != nil {
		t.Errorf("%d bookings, %v", n, err)
	}
}

// TestTwice handles an event again after another one: it is booked once, and told
// with the balance of its time.
func TestTwice(t *testing.T) {
	t.Parallel()
	b := bed.New(t)
	s, err := Open(t.Context(), b.Bus, Config{Database: b.Database})
	told := bed.Listen(b, contract.PointsGiven)
	b.Run(s, err)
	for _, id := range []string{"W1", "W2", "W1"} {
		e := &posthorn.Event[contract.Purchase]{Meta: posthorn.Meta{ID: id}, Data: purchase("1", id, 5_000)}
		if err := s.handle(given)(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	b.Settle(Group)
	if got := fmt.Sprint(told.Data()); got != "[{1 W1 5 5} {1 W2 5 10} {1 W1 5 5}]" {
		t.Errorf("given %s", got)
	}
	if got, want := s.account(t, "1"), fmt.Sprintf("10 0 2 %x", chain.Next(chain.Next(nil, "given W1 5"), "given W2 5")); got != want {
		t.Errorf("account %s, want %s", got, want)
	}
}
