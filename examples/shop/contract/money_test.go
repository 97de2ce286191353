package contract

import (
	"encoding/json"
	"math"
	"math/big"
	"strings"
	"testing"
)

func TestParseMoney(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]Money{
		"0": 0, "2.55": 2550, "0.001": 1, "-11062.06": -11062060, "38970.0": 38970000, "007": 7000, "-0.5": -500,
		"9223372036854775.807": math.MaxInt64,
	} {
		if got, err := ParseMoney(in); err != nil || got != want {
			t.Errorf("ParseMoney(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "-", ".", "1.", ".5", "1.2345", "1e3", "+1", "1,5", "--1", " 1", "1 ", "£1", "9223372036854775.808", strings.Repeat("9", 40)} {
		if got, err := ParseMoney(in); err == nil {
			t.Errorf("ParseMoney(%q) = %d, want an error", in, got)
		}
	}
}

func TestMoneyString(t *testing.T) {
	t.Parallel()
	for in, want := range map[Money]string{0: "0.000", 2550: "2.550", -1: "-0.001", -11062060: "-11062.060", math.MinInt64: "-9223372036854775.808"} {
		if got := in.String(); got != want {
			t.Errorf("Money(%d) prints %s, want %s", int64(in), got, want)
		}
	}
}

func TestTimes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		price Money
		n     int64
		want  Money
	}{{2550, 6, 15300}, {-11062060, 1, -11062060}, {2550, -6, -15300}, {-2550, -6, 15300}, {1, 0, 0}, {38970000, 80995, 3156375150000}} {
		if got := c.price.Times(c.n); got != c.want {
			t.Errorf("%v times %d = %v, want %v", c.price, c.n, got, c.want)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("a product that does not fit is returned")
		}
	}()
	Money(math.MaxInt64).Times(2)
}

func TestMoneyInJSON(t *testing.T) {
	t.Parallel()
	text, err := json.Marshal(Line{StockCode: "85123A", Quantity: 6, UnitPrice: 2550})
	if err != nil || string(text) != `{"stock_code":"85123A","quantity":6,"unit_price":"2.550"}` {
		t.Fatalf("Marshal = %s, %v", text, err)
	}
	var l Line
	if err := json.Unmarshal(text, &l); err != nil || l.UnitPrice != 2550 {
		t.Errorf("Unmarshal = %+v, %v", l, err)
	}
	if err := json.Unmarshal([]byte(`{"unit_price": "2.5555"}`), &l); err == nil {
		t.Error("a price with four decimals is read")
	}
}

// FuzzParseMoney holds what is parsed against exact fractions.
func FuzzParseMoney(f *testing.F) {
	for _, s := range []string{"2.55", "-11062.06", "0.001", "1.2345", "-", "9223372036854775.807"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMoney(s)
		if err != nil {
			return
		}
		want, ok := new(big.Rat).SetString(s)
		if !ok || want.Cmp(big.NewRat(int64(m), 1000)) != 0 {
			t.Errorf("ParseMoney(%q) = %v", s, m)
		}
		if again, err := ParseMoney(m.String()); err != nil || again != m {
			t.Errorf("ParseMoney(%v) = %v, %v", m, again, err)
		}
	})
}
