package payment

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/internal/bed"
)

// A till is a gateway that keeps account.
type till struct {
	Sandbox
	mu    sync.Mutex
	moved map[string]contract.Money // by key
}

func (g *till) Capture(ctx context.Context, key string, amount contract.Money) error {
	return g.move(g.Sandbox.Capture(ctx, key, amount), key, amount)
}

func (g *till) Refund(ctx context.Context, key string, amount contract.Money) error {
	return g.move(g.Sandbox.Refund(ctx, key, amount), key, -amount)
}

func (g *till) move(err error, key string, amount contract.Money) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err == nil {
		g.moved[key] = amount
	}
	return err
}

func (g *till) total() (sum contract.Money) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range g.moved {
		sum += m
	}
	return sum
}

func lines(price contract.Money) contract.Lines {
	return contract.Lines{{StockCode: "X", Quantity: 1, UnitPrice: price}}
}

// TestMoney captures, refunds and books, with a gateway that is busy each first time.
func TestMoney(t *testing.T) {
	t.Parallel()
	b, gateway := bed.New(t), &till{Sandbox: Sandbox{Busy: 1}, moved: map[string]contract.Money{}}
	s, err := Open(t.Context(), b.Bus, Config{Database: b.Database, Gateway: gateway})
	captured, refunded, adjusted := bed.Listen(b, contract.PaymentCaptured), bed.Listen(b, contract.PaymentRefunded), bed.Listen(b, contract.PaymentAdjusted)
	b.Run(s, err)
	b.Publish(
		contract.OrderPlaced.New(contract.Placed{OrderID: "W1", Lines: lines(5000)}),
		contract.OrderCancelled.New(contract.Cancelled{OrderID: "C-W1", Cancels: "W1", Lines: lines(5000)}),
		contract.OrderPlaced.New(contract.Placed{OrderID: "W2", Lines: lines(700)}),
		contract.OrderPlaced.New(contract.Placed{OrderID: "W3", Lines: lines(0)}),
		contract.OrderCancelled.New(contract.Cancelled{OrderID: "C7", Lines: lines(200)}), // of a file: of nobody knows what
		contract.OrderAdjusted.New(contract.Adjusted{OrderID: "A1", Lines: lines(-9)}),
	)
	b.Settle(Group)
	back := refunded.Data()
	slices.SortFunc(back, func(a, b contract.Payment) int { return strings.Compare(a.OrderID, b.OrderID) })
	if got := fmt.Sprint(len(captured.Data()), back, adjusted.Data()); got != "3 [{C-W1 5.000} {C7 0.200}] [{A1 -0.009}]" {
		t.Errorf("published %s", got)
	}
	if sum := gateway.total(); sum != 700-200 || len(gateway.moved) != 4 {
		t.Errorf("moved %v in %v: nothing for what is free or only in the books", sum, gateway.moved)
	}
	if n, err := Count(t.Context(), s.store.DB()); n != 6 || err != nil {
		t.Errorf("%d payments, %v", n, err)
	}
}

// TestTwice handles one event twice, as after a kill between effect and settling.
func TestTwice(t *testing.T) {
	t.Parallel()
	b := bed.New(t)
	s, err := Open(t.Context(), b.Bus, Config{Database: b.Database})
	captured := bed.Listen(b, contract.PaymentCaptured)
	b.Run(s, err)
	e := &posthorn.Event[contract.Placed]{Meta: posthorn.Meta{ID: "event"}, Data: contract.Placed{OrderID: "W1", Lines: lines(5000)}}
	for range 2 {
		if err := s.placed(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	b.Settle(Group)
	if n, err := Count(t.Context(), s.store.DB()); n != 1 || err != nil {
		t.Errorf("%d payments, %v", n, err)
	}
	if n := len(captured.Data()); n != 2 { // the bus tells them apart by their ids, which come from the handled event
		t.Errorf("told %d times", n)
	}
}

// TestCancelledBeforePaid refunds nothing that was not captured, and waits for it.
func TestCancelledBeforePaid(t *testing.T) {
	t.Parallel()
	b, gateway := bed.New(t), &till{moved: map[string]contract.Money{}}
	s, err := Open(t.Context(), b.Bus, Config{Database: b.Database, Gateway: gateway})
	b.Run(s, err)
	cancel := &posthorn.Event[contract.Cancelled]{Meta: posthorn.Meta{ID: "cancel"}, Data: contract.Cancelled{OrderID: "C-W1", Cancels: "W1", Lines: lines(5000)}}
	if err := s.cancelled(t.Context(), cancel); err == nil || len(gateway.moved) != 0 {
		t.Fatalf("%v, moved %v", err, gateway.moved)
	}
	place := &posthorn.Event[contract.Placed]{Meta: posthorn.Meta{ID: "place"}, Data: contract.Placed{OrderID: "W1", Lines: lines(5000)}}
	if err := s.placed(t.Context(), place); err != nil {
		t.Fatal(err)
	}
	if err := s.cancelled(t.Context(), cancel); err != nil || gateway.total() != 0 || len(gateway.moved) != 2 {
		t.Errorf("%v, moved %v", err, gateway.moved)
	}
}

func TestSandbox(t *testing.T) {
	t.Parallel()
	var got []error
	s := &Sandbox{Busy: 1}
	for range 2 {
		got = append(got, s.Capture(t.Context(), "a", 1), s.Refund(t.Context(), "b", 1))
	}
	if want := []error{ErrBusy, ErrBusy, nil, nil}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if err := new(Sandbox).Capture(t.Context(), "a", 1); err != nil {
		t.Error(err)
	}
}
