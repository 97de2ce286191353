package order

import (
	"strings"
	"testing"
	"time"

	"github.com/posthorn/posthorn/examples/shop/contract"
)

const head = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"

// dirty holds one of each kind of dirt.
const dirty = head +
	"536365,85123A,\"HOLDER, WHITE\",6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom\n" +
	"C536366,85123A,HOLDER,-2,2010-12-01 08:27:00,2.55,17850.0,United Kingdom\n" + // stands in the invoice before it
	"536365,71053,,8,2010-12-01 08:27:00,3.395,17850.0,United Kingdom\n" + // with another date, no description
	"536365,71053,,8,2010-12-01 08:27:00,3.395,17850.0,United Kingdom\n" + // exactly as the one before
	"536367,22139,damages,-5,2010-12-01 08:30:00,0.0,,United Kingdom\n" + // written off, no customer
	"A563185,B,Adjust bad debt,1,2011-08-12 14:50:00,-11062.06,,United Kingdom\n"

func TestReadRetail(t *testing.T) {
	t.Parallel()
	r, err := ReadRetail(strings.NewReader(dirty))
	if err != nil {
		t.Fatal(err)
	}
	want := Seen{Lines: 6, Placed: 2, Cancelled: 1, Adjusted: 1, InPieces: 1, TwoDates: 1, NoCustomer: 2,
		WriteOffs: 1, WrittenOff: 5, Free: 1, Credits: 1, NoDescription: 2, Repeats: 1}
	if r.Seen != want {
		t.Errorf("seen:\n%+v, want\n%+v", r.Seen, want)
	}
	for i, want := range []struct {
		id, customer string
		kind         Kind
		lines        int
		quantity     int64
		total        contract.Money
		at           string
	}{
		{"536365", "17850", Placed, 3, 6, 15300 + 2*27160, "2010-12-01T08:26:00Z"},
		{"C536366", "17850", Cancelled, 1, 2, 5100, "2010-12-01T08:27:00Z"},
		{"536367", "", Placed, 1, -5, 0, "2010-12-01T08:30:00Z"},
		{"A563185", "", Adjusted, 1, 1, -11062060, "2011-08-12T14:50:00Z"},
	} {
		o := r.Orders[i]
		if o.ID != want.id || o.Customer != want.customer || o.Kind != want.kind || len(o.Lines) != want.lines ||
			o.Lines[0].Quantity != want.quantity || o.Lines.Total() != want.total || o.At.Format(time.RFC3339) != want.at {
			t.Errorf("order %d: %+v, want %+v", i, o, want)
		}
	}
	if d := r.Orders[0].Lines[0].Description; d != "HOLDER, WHITE" {
		t.Errorf("description %q", d)
	}
}

func TestReadRetailRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, want string }{
		"nothing":           {"", "it is empty"},
		"another file":      {"a,b,c,d,e,f,g,h\n", "the header InvoiceNo"},
		"a field too few":   {head + "1,X,d,1,2010-12-01 08:26:00,1,17850.0\n", "line 2"},
		"a quantity":        {head + "1,X,d,1.5,2010-12-01 08:26:00,1,,UK\n", `line 2: column Quantity: "1.5"`},
		"a quantity of 0":   {head + "1,X,d,0,2010-12-01 08:26:00,1,,UK\n", "line 1: its quantity is 0"},
		"a date":            {head + "1,X,d,1,yesterday,1,,UK\n", `line 2: InvoiceDate "yesterday"`},
		"a price":           {head + "1,X,d,1,2010-12-01 08:26:00,1.2345,,UK\n", `line 2: UnitPrice: "1.2345"`},
		"a number":          {head + "X1,X,d,1,2010-12-01 08:26:00,1,,UK\n", `InvoiceNo "X1"`},
		"no number":         {head + ",X,d,1,2010-12-01 08:26:00,1,,UK\n", "InvoiceNo is empty"},
		"no stock code":     {head + "1,,d,1,2010-12-01 08:26:00,1,,UK\n", "stock code is 0 bytes"},
		"two customers":     {head + "1,X,d,1,2010-12-01 08:26:00,1,,UK\n1,X,d,1,2010-12-01 08:26:00,1,9.0,UK\n", `line 3: invoice 1`},
		"a C that takes":    {head + "C1,X,d,1,2010-12-01 08:26:00,1,,UK\n", "gives back -1 units"},
		"an absurd amount":  {head + "1,X,d,1,2010-12-01 08:26:00,99999999,,UK\n", "unit price is 99999999.000"},
		"an absurd invoice": {head + strings.Repeat("1,X,d,1,2010-12-01 08:26:00,1,,UK\n", maxLines+1), "5001 lines"},
	} {
		_, err := ReadRetail(strings.NewReader(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, c.want)
		}
	}
	if _, err := OpenRetail("no/such/file.csv"); err == nil || !strings.Contains(err.Error(), "no/such/file.csv") {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestEventID(t *testing.T) {
	t.Parallel()
	o := Order{ID: "536365", At: time.Date(2010, 12, 1, 8, 26, 0, 0, time.UTC)}
	later := Order{ID: "536365", At: o.At.Add(time.Minute)}
	if a, b := eventID(o, "1"), eventID(o, "1"); a != b {
		t.Errorf("the same line has ids %s and %s", a, b)
	}
	if eventID(o, "1") == eventID(o, "2") || eventID(o, "1") == eventID(Order{ID: "536366", At: o.At}, "1") {
		t.Error("different lines have the same id")
	}
	if a, b := eventID(o, "9"), eventID(later, "1"); len(a) != 36 || a[14] != '7' || a >= b {
		t.Errorf("%s and %s: UUIDv7 in the order of time are expected", a, b)
	}
}
