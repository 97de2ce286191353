package check

import (
	"fmt"
	"go/parser"
	"go/token"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestSharesNothing keeps the shop's code out of its own check.
func TestSharesNothing(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			if path := strings.Trim(i.Path.Value, `"`); strings.Contains(path, ".") && path != "modernc.org/sqlite" {
				t.Errorf("%s imports %s; the check is to be independent of the shop, and needs the standard library and a database driver only", file, path)
			}
		}
	}
}

func TestSplit(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]string{
		`1,2,3,4,5,6,7,8`:                  {"1", "2", "3", "4", "5", "6", "7", "8"},
		`1,2,"a, ""b"" c",4,5,6,,8` + "\r": {"1", "2", `a, "b" c`, "4", "5", "6", "", "8"},
	} {
		if got, err := split(in); err != nil || !slices.Equal(got, want) {
			t.Errorf("split(%q) = %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "1,2,3", `1,2,"3,4,5,6,7,8`, "1,2,3,4,5,6,7,8,9"} {
		if got, err := split(in); err == nil {
			t.Errorf("split(%q) = %q, want an error", in, got)
		}
	}
}

// fromText reads books from lines of CSV.
func fromText(t *testing.T, lines string) *Books {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.csv")
	text := "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n" + lines
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	b, err := FromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	first  = "1,X,,999,2010-12-01 08:26:00,0.001,,UK\n"
	second = "2,X,,2,2010-12-01 08:26:00,0.1,,UK\n"
	back   = "C3,X,,-2,2010-12-01 08:26:00,0.1,,UK\n"
	lost   = "4,X,,-3,2010-12-01 08:26:00,0,,UK\n"
	adjust = "A5,B,,1,2010-12-01 08:26:00,-11062.06,,UK\n"
)

func TestFromFile(t *testing.T) {
	t.Parallel()
	b := fromText(t, first+second+back+lost+adjust)
	if b.Orders != 3 || b.Cancellations != 1 || b.Adjustments != 1 || b.Settled != 5 || b.Moved != 4 || b.Shortages != 2 {
		t.Errorf("counts: %+v", b)
	}
	for what, pair := range map[string][2]*big.Rat{
		"captured": {b.Captured, big.NewRat(1199, 1000)}, "refunded": {b.Refunded, big.NewRat(1, 5)}, "adjusted": {b.Adjusted, big.NewRat(-1106206, 100)},
	} {
		if pair[0].Cmp(pair[1]) != 0 {
			t.Errorf("%s = %s, want %s", what, exact(pair[0]), exact(pair[1]))
		}
	}
	if b.Parcels["UK"] != 2 || b.Units != 1001 || b.Returns != 1 || len(b.Customers)+len(b.Points)+len(b.Pairs) != 0 {
		t.Errorf("parcels and customers: %+v", b)
	}
	if s := b.Stock["X"]; len(b.Stock) != 1 || s.Out != 1001 || s.Back != 2 || s.Lost != 3 || len(s.Chain) != 64 {
		t.Errorf("stock: %+v", b.Stock)
	}
}

const (
	known  = "6,X,,2,2010-12-01 08:26:00,1.5,17850.0,France\n6,Y,,1,2010-12-01 08:26:00,1.1,17850.0,France\n6,X,,1,2010-12-01 08:26:00,0,17850.0,France\n"
	again  = "C7,X,,-2,2010-12-01 08:26:00,1.5,17850.0,France\n"
	seller = "C8,Z,,-1,2010-12-01 08:26:00,0.9,2.0,Spain\n" // has sent something back, and that is all
	asked  = "A9,B,,1,2010-12-01 08:26:00,5,17850.0,France\nA10,B,,1,2010-12-01 08:26:00,5,,UK\n"
)

// TestCustomers reads what customers who are known do.
func TestCustomers(t *testing.T) {
	t.Parallel()
	b := fromText(t, known+again+seller+asked)
	if len(b.Customers) != 2 || b.Customers["17850"] != "France" || b.Customers["2"] != "Spain" || !b.Coupons["2"] {
		t.Errorf("customers %v, coupons %v", b.Customers, b.Coupons)
	}
	if p := b.Points["17850"]; p.Out != 4 || p.Back != 3 || p.links != 2 || b.Points["2"].Back != 0 || b.Points["2"].links != 1 {
		t.Errorf("points %+v", b.Points)
	}
	if b.Baskets != 1 || len(b.Pairs) != 1 || b.Pairs[[2]string{"X", "Y"}] != 1 {
		t.Errorf("pairs %v in %d baskets", b.Pairs, b.Baskets)
	}
	// Three purchases, a parcel, two coupons, and an adjustment that asks for money; another one asks nobody.
	if b.Letters != 7 || b.Notes != 0 || b.DeadLetters["notification"] != 1 {
		t.Errorf("%d letters, %d notes, dead letters %v", b.Letters, b.Notes, b.DeadLetters)
	}
	// Five payments, three times goods, a parcel, two parcels back, three bookings, two customers with a coupon each, the letters.
	if want := int64(5 + 3 + 1 + 2 + 3 + 4 + 7); b.Heard != want {
		t.Errorf("%d steps, want %d", b.Heard, want)
	}
}

func TestPairs(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	for n := range 5 {
		for _, code := range []string{"X", "Y", "Z"}[:2+n%2] { // Z is there twice only
			fmt.Fprintf(&text, "%d,%s,,1,2010-12-01 08:26:00,1,,UK\n", n, code)
		}
	}
	for i := range 11 { // too many goods to tell anything
		fmt.Fprintf(&text, "9,%c,,1,2010-12-01 08:26:00,1,,UK\n", 'A'+i)
	}
	b := fromText(t, text.String())
	if b.Baskets != 5 || len(b.Pairs) != 3 || b.Pairs[[2]string{"X", "Y"}] != 5 || b.Pairs[[2]string{"Y", "Z"}] != 2 || b.Notes != 1 {
		t.Errorf("%d baskets, pairs %v, %d notes", b.Baskets, b.Pairs, b.Notes)
	}
}

// TestCompareSaysNo changes one thing after the other.
func TestCompareSaysNo(t *testing.T) {
	t.Parallel()
	people := known + again + seller
	all := first + second + back + lost + adjust + people
	if table := Compare(fromText(t, all), fromText(t, all)); !table.Equal() {
		t.Fatalf("equal books differ: %+v", table)
	}
	for name, lines := range map[string]string{
		"an order is missing":         second + back + lost + adjust,
		"a cancellation is missing":   first + second + lost + adjust,
		"an adjustment is missing":    first + second + back + lost,
		"two orders are exchanged":    second + first + back + lost + adjust,
		"a thousandth is missing":     strings.Replace(first, "0.001", "0.002", 1) + second + back + lost + adjust,
		"a unit is of another code":   first + strings.Replace(second, "X", "Y", 1) + back + lost + adjust,
		"an order is there twice":     first + first + second + back + lost + adjust,
		"an order has another number": strings.Replace(first, "1,", "9,", 1) + second + back + lost + adjust,
	} {
		if table := Compare(fromText(t, all), fromText(t, lines+people)); table.Equal() {
			t.Errorf("%s, and all is said to be equal", name)
		}
	}
}

// TestCompareSaysNoOfPeople changes one thing about the customers after the other.
func TestCompareSaysNoOfPeople(t *testing.T) {
	t.Parallel()
	for name, lines := range map[string]string{
		"a customer is missing":               known + again,
		"a customer is another one":           strings.ReplaceAll(known+again, "17850", "17851") + seller,
		"a customer is from elsewhere":        known + again + strings.Replace(seller, "Spain", "Italy", 1),
		"a cancellation comes before":         again + known + seller,
		"a pound is missing":                  strings.Replace(known, "1.5,", "1.0,", 1) + again + seller,
		"a parcel goes elsewhere":             strings.ReplaceAll(known, "France", "Italy") + strings.Replace(again, "France", "Italy", 1) + seller,
		"goods were bought with other goods":  strings.Replace(known, "Y", "Z", 1) + again + seller,
		"an order of nobody is somebody's":    strings.ReplaceAll(known, "17850.0", "") + again + seller,
		"a dead letter is there and not here": known + again + seller + asked,
	} {
		if table := Compare(fromText(t, known+again+seller), fromText(t, lines)); table.Equal() {
			t.Errorf("%s, and all is said to be equal", name)
		}
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	a, b := fromText(t, first+second), fromText(t, first)
	if err := Compare(a, b).Write(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"NOT EQUAL", "equal", "1,001", "1.199", "0.999"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
	if got := exact(big.NewRat(1, 3)); got != "1/3" {
		t.Errorf("a third prints as %s", got)
	}
}
