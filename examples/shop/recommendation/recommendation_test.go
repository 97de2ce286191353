package recommendation

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/internal/bed"
)

func placed(order string, codes ...string) contract.Placed {
	o := contract.Placed{OrderID: order}
	for _, c := range codes {
		o.Lines = append(o.Lines, contract.Line{StockCode: c, Quantity: 1})
	}
	return o
}

func (s *Service) pairs(t *testing.T) (pairs []string) {
	t.Helper()
	rows, err := s.store.DB().QueryContext(t.Context(), "select a, b, orders from pairs order by a, b")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var a, b string
		var n int
		if err := rows.Scan(&a, &b, &n); err != nil {
			t.Fatal(err)
		}
		pairs = append(pairs, fmt.Sprint(a, b, n))
	}
	return pairs
}

// TestPairs counts pairs across batches, and recommends one of them.
func TestPairs(t *testing.T) {
	t.Parallel()
	b := bed.New(t)
	s, err := Open(t.Context(), b.Bus, Config{Database: b.Database})
	made := bed.Listen(b, contract.RecommendationMade)
	b.Run(s, err)
	many := []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"}
	lost := placed("lost", "X", "Y")
	lost.Lines[1].Quantity = -1
	out := []*posthorn.Outgoing{
		contract.OrderPlaced.New(placed("alone", "X", "X")), contract.OrderPlaced.New(placed("many", many...)), contract.OrderPlaced.New(lost)}
	for i := range 2 * batch {
		codes := []string{"Z", "X", "X"} // a good counts once in an order
		if i < enough-1 {
			codes = append(codes, "Y")
		}
		out = append(out, contract.OrderPlaced.New(placed(fmt.Sprint("W", i), codes...)))
	}
	b.Publish(out...)
	b.Settle(Group)
	if got, want := s.pairs(t), []string{"XY4", fmt.Sprint("XZ", 2*batch), "YZ4"}; !slices.Equal(got, want) {
		t.Errorf("pairs %q, want %q", got, want)
	}
	if all := made.Events(); len(all) != 1 || all[0].Data != (contract.Together{A: "X", B: "Z", Orders: enough}) || all[0].CausationID == "" {
		t.Errorf("recommended %+v", all)
	}
	if orders, found, err := Count(t.Context(), s.store.DB()); orders != 2*batch || found != 1 || err != nil {
		t.Errorf("%d orders, %d recommended, %v", orders, found, err)
	}
	if n := b.Bus.Stats().Skipped; n != 3 {
		t.Errorf("%d orders are passed over, want those of one good, of many and of one that is left", n)
	}
}

// TestAgain counts orders that come again in other company: none of them counts twice,
// and what was found at one is found again.
func TestAgain(t *testing.T) {
	t.Parallel()
	b := bed.New(t)
	s, err := Open(t.Context(), b.Bus, Config{Database: b.Database})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var baskets []basket
	for i := range enough + 1 {
		baskets = append(baskets, newBasket(placed(fmt.Sprint("W", i), "X", "Y")))
	}
	book := func(orders ...basket) []finding {
		found, err := s.book(t.Context(), orders)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if found := book(baskets[:enough-1]...); found != nil {
		t.Errorf("found %+v too early", found)
	}
	first := book(baskets[enough-1])
	if len(first) != 1 || first[0].order != baskets[enough-1].order {
		t.Fatalf("found %+v", first)
	}
	if again := book(baskets...); !slices.Equal(again, first) {
		t.Errorf("found %+v again, and %+v before", again, first)
	}
	if got := s.pairs(t); !slices.Equal(got, []string{"XY6"}) {
		t.Errorf("pairs %q", got)
	}
}

// TestVerdicts says of each order of a batch by itself whether it tells anything.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	b := bed.New(t)
	s, err := Open(t.Context(), b.Bus, Config{Database: b.Database})
	if err != nil {
		t.Fatal(err)
	}
	event := func(id string, codes ...string) *posthorn.Event[contract.Placed] {
		return &posthorn.Event[contract.Placed]{Meta: posthorn.Meta{ID: id}, Data: placed(id, codes...)}
	}
	batch := []*posthorn.Event[contract.Placed]{event("1", "X"), event("2", "X", "Y"), event("3")}
	var verdicts posthorn.Verdicts
	if err := s.count(t.Context(), batch); !errors.As(err, &verdicts) || len(verdicts) != 3 || verdicts[0] == nil || verdicts[1] != nil || verdicts[2] == nil {
		t.Errorf("verdicts %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.count(t.Context(), batch); err == nil || errors.As(err, &verdicts) {
		t.Errorf("with its database away, the batch ends with %v; an error of all is expected", err)
	}
}
