package inventory

import (
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/internal/bed"
	"github.com/posthorn/posthorn/examples/shop/internal/chain"
)

func item(code, order string, line, lines int, n int64) contract.Item {
	return contract.Item{StockCode: code, OrderID: order, Line: line, Lines: lines, Quantity: n}
}

// TestGoods books an order of two codes, one that is written off, and a cancellation.
func TestGoods(t *testing.T) {
	t.Parallel()
	b := bed.New(t)
	s, err := Open(t.Context(), b.Bus, Config{Database: b.Database, Opening: 10})
	reserved, restocked, short := bed.Listen(b, contract.StockReserved), bed.Listen(b, contract.StockRestocked), bed.Listen(b, contract.StockShort)
	b.Run(s, err)
	b.Publish(
		contract.ItemOrdered.New(item("A", "W1", 1, 3, 4)),
		contract.ItemOrdered.New(item("B", "W1", 2, 3, 10)),
		contract.ItemWrittenOff.New(item("A", "W1", 3, 3, 8)), // two more than there are
		contract.ItemOrdered.New(item("A", "W2", 1, 2, 1)),    // W2 has another line, of which nothing is known yet
		contract.ItemReturned.New(item("A", "C-W1", 1, 2, 4)),
		contract.ItemReturned.New(item("B", "C-W1", 2, 2, 10)),
	)
	b.Settle(Group)
	if got := fmt.Sprint(reserved.Data(), restocked.Data(), short.Data()); got != "[{W1 3 14 8}] [{C-W1 2 14 0}] [{A W1 2}]" {
		t.Errorf("published %s", got)
	}
	var got []string
	rows, err := s.store.DB().QueryContext(t.Context(), "select code, ordered, written_off, returned, events, hex(chain) from stock order by code")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var code, link string
		var out, lost, back, n int64
		if err := rows.Scan(&code, &out, &lost, &back, &n, &link); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(code, out, lost, back, n, link))
	}
	var a, c []byte
	for _, line := range []string{"ordered W1 1 4", "written-off W1 3 8", "ordered W2 1 1", "returned C-W1 1 4"} {
		a = chain.Next(a, "%s", line)
	}
	for _, line := range []string{"ordered W1 2 10", "returned C-W1 2 10"} {
		c = chain.Next(c, "%s", line)
	}
	want := fmt.Sprintf("[A5 8 4 4%X B10 0 10 2%X]", a, c)
	if fmt.Sprint(got) != want {
		t.Errorf("stock\n%v, want\n%v", got, want)
	}
	if n, err := Count(t.Context(), s.store.DB()); n != 6 || err != nil {
		t.Errorf("%d items, %v", n, err)
	}
}

// TestTwice handles an event twice: it is booked once, and what it led to is told
// again.
func TestTwice(t *testing.T) {
	t.Parallel()
	b := bed.New(t)
	s, err := Open(t.Context(), b.Bus, Config{Database: b.Database, Opening: 1})
	reserved, short := bed.Listen(b, contract.StockReserved), bed.Listen(b, contract.StockShort)
	b.Run(s, err)
	for range 2 {
		e := &posthorn.Event[contract.Item]{Meta: posthorn.Meta{ID: "event"}, Data: item("A", "W1", 1, 1, 4)}
		if err := s.handle(ordered)(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	b.Settle(Group)
	if got := fmt.Sprint(reserved.Data(), short.Data()); got != "[{W1 1 4 0} {W1 1 4 0}] [{A W1 3} {A W1 3}]" {
		t.Errorf("published %s", got)
	}
	var ordered int64
	var link []byte
	if err := s.store.DB().QueryRow("select ordered, chain from stock").Scan(&ordered, &link); err != nil {
		t.Fatal(err)
	}
	if want := chain.Next(nil, "ordered W1 1 4"); ordered != 4 || hex.EncodeToString(link) != hex.EncodeToString(want) {
		t.Errorf("%d ordered, chain %x, want 4 and %x", ordered, link, want)
	}
}
