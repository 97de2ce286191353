package notification

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/internal/bed"
)

// A postman takes letters while he is there.
type postman struct {
	mu    sync.Mutex
	away  bool
	asked chan struct{} // has one when he was asked while away
	sent  map[string]string
}

func newPostman(away bool) *postman {
	return &postman{away: away, asked: make(chan struct{}, 1), sent: map[string]string{}}
}

func (p *postman) Send(_ context.Context, key, to, subject string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away {
		select {
		case p.asked <- struct{}{}:
		default:
		}
		return ErrAway
	}
	p.sent[key] = to + ": " + subject
	return nil
}

func (p *postman) back() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away = false
}

func (p *postman) letters() (all []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.sent {
		all = append(all, l)
	}
	slices.Sort(all)
	return all
}

func lines(price contract.Money) contract.Lines {
	return contract.Lines{{StockCode: "X", Quantity: 1, UnitPrice: price}}
}

func TestLetters(t *testing.T) {
	t.Parallel()
	b, mail := bed.New(t), newPostman(false)
	s, err := Open(t.Context(), b.Bus, Config{Database: b.Database, Mail: mail})
	told := bed.Listen(b, contract.LetterSent)
	b.Run(s, err)
	b.Publish(
		contract.OrderPlaced.New(contract.Placed{OrderID: "W1", Customer: "1", Lines: lines(5)}),
		contract.OrderPlaced.New(contract.Placed{OrderID: "W2", Lines: lines(5)}), // of nobody
		contract.OrderCancelled.New(contract.Cancelled{OrderID: "C-W1", Cancels: "W1", Customer: "1", Lines: lines(2550)}),
		contract.OrderAdjusted.New(contract.Adjusted{OrderID: "A1", Customer: "1", Lines: lines(70)}),
		contract.OrderAdjusted.New(contract.Adjusted{OrderID: "A2", Customer: "1", Lines: lines(-70)}), // asks for nothing
		contract.OrderAdjusted.New(contract.Adjusted{OrderID: "A3", Lines: lines(70)}),                 // of nobody
		contract.ShipmentSent.New(contract.Shipment{OrderID: "W1", Customer: "1", Units: 1}),
		contract.CouponIssued.New(contract.Coupon{Code: "HELLO", Customer: "1", OrderID: "W1"}),
		contract.StockShort.New(contract.Short{StockCode: "X", OrderID: "W1", Missing: 3}),
		contract.RecommendationMade.New(contract.Together{A: "X", B: "Y", Orders: 5}),
	)
	b.Settle(Group)
	want := []string{"1: Thank you for your order W1", "1: Welcome! Your coupon is HELLO", "1: You get back 2.550", "1: You owe us 0.070",
		"1: Your order W1 is on its way", "buyer: We are short of 3 of X", "buyer: Who buys X buys Y too"}
	if got := mail.letters(); !slices.Equal(got, want) {
		t.Errorf("sent\n%q, want\n%q", got, want)
	}
	if n, err := Count(t.Context(), s.store.DB()); n != 7 || err != nil {
		t.Errorf("%d letters, %v", n, err)
	}
	if n := len(told.Data()); n != 5 { // those to customers
		t.Errorf("told of %d letters: %+v", n, told.Data())
	}
	if n := b.Bus.Stats(); n.Skipped != 2 || n.Dead != 1 {
		t.Errorf("%d skipped, %d dead letters; want 2, and 1 that somebody has to look into", n.Skipped, n.Dead)
	}
}

// TestTwice sends a letter again that may have been sent before, under its old key,
// and writes it down once.
func TestTwice(t *testing.T) {
	t.Parallel()
	b, mail := bed.New(t), newPostman(false)
	s, err := Open(t.Context(), b.Bus, Config{Database: b.Database, Mail: mail})
	b.Run(s, err)
	e := &posthorn.Event[contract.Placed]{Meta: posthorn.Meta{ID: "event"}, Data: contract.Placed{OrderID: "W1", Customer: "1", Lines: lines(1)}}
	for range 2 {
		if err := handler(s, thanks)(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := Count(t.Context(), s.store.DB()); n != 1 || err != nil || len(mail.letters()) != 1 {
		t.Errorf("%d letters, %v; sent %q", n, err, mail.letters())
	}
}

// TestAway has the provider away for as long as it takes the test: all handlers come
// to wait, another group goes on to its end, nothing fails, and when the provider is
// back all letters are written.
func TestAway(t *testing.T) {
	t.Parallel()
	b, mail := bed.New(t), newPostman(true)
	s, err := Open(t.Context(), b.Bus, Config{Database: b.Database, Mail: mail, Again: time.Millisecond})
	others := bed.Listen(b, contract.OrderPlaced)
	b.Run(s, err)
	const orders = 500
	for i := range orders {
		b.Publish(contract.OrderPlaced.New(contract.Placed{OrderID: fmt.Sprint("W", i), Customer: "1", Lines: lines(1)}))
	}
	bed.Settle(t, b.Bus, "hears-order.placed")
	if n := len(others.Data()); n != orders {
		t.Errorf("another group has handled %d events of %d while the provider was away", n, orders)
	}
	for range 200 { // each handler asks more than once
		<-mail.asked
	}
	if st := b.Bus.Stats(); st.Retried != 0 || st.Late != 0 || st.Dead != 0 || len(mail.letters()) != 0 {
		t.Errorf("while the provider was away: %+v, letters %q", st, mail.letters())
	}
	mail.back()
	b.Settle(Group)
	if n := len(mail.letters()); n != orders {
		t.Errorf("%d letters were sent, want %d", n, orders)
	}
}

// TestStopAway stops the service while it waits for the provider. The letters are
// written by the next one.
func TestStopAway(t *testing.T) {
	t.Parallel()
	b, mail := bed.New(t), newPostman(true)
	s, err := Open(t.Context(), b.Bus, Config{Database: b.Database, Mail: mail, Again: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan error)
	go func() { sent <- s.deliver(t.Context(), "key", letter{to: "1"}) }()
	<-mail.asked
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-sent; !errors.Is(err, ErrAway) {
		t.Errorf("the letter ends with %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.deliver(ended, "key", letter{to: "1"}); !errors.Is(err, ErrAway) {
		t.Errorf("a handler whose time is up ends with %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestGreylist(t *testing.T) {
	t.Parallel()
	g := &Greylist{Every: 1, Times: 2}
	for i, want := range []error{ErrLater, ErrLater, nil, nil} {
		if err := g.Send(t.Context(), "key", "", ""); !errors.Is(err, want) {
			t.Errorf("time %d: %v, want %v", i, err, want)
		}
	}
	if err := new(Greylist).Send(t.Context(), "key", "", ""); err != nil {
		t.Error(err)
	}
}
