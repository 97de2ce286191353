package order

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/posthorn/posthorn/examples/shop/contract"
)

// A Retail is a file of the Online Retail data set, read as orders. The rules
// by which it is read stand in the shop's README.
type Retail struct {
	Orders []Order // in the order of their first lines
	Seen   Seen
	Hash   string // of the file's bytes
}

// Seen counts what a file holds, the dirt above all: nothing of it is dropped.
type Seen struct {
	Lines, Placed, Cancelled, Adjusted int

	InPieces      int   // invoices whose lines do not stand together
	TwoDates      int   // invoices whose lines have more than one date
	NoCustomer    int   // invoices without a customer
	WriteOffs     int   // lines of ordinary invoices with a quantity below zero
	WrittenOff    int64 // their units
	Free          int   // lines with a price of zero
	Credits       int   // lines with a price below zero
	NoDescription int   // lines without one
	Repeats       int   // lines that repeat another one of their invoice exactly
}

// header is the first line of a file.
var header = []string{"InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country"}

// OpenRetail reads a file, .csv or .csv.gz.
func OpenRetail(path string) (*Retail, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the orders: %w", err)
	}
	var text io.Reader = bytes.NewReader(raw)
	if strings.HasSuffix(path, ".gz") {
		if text, err = gzip.NewReader(text); err != nil {
			return nil, fmt.Errorf("read the orders: %s: %w", path, err)
		}
	}
	r, err := ReadRetail(text)
	if err != nil {
		return nil, fmt.Errorf("read the orders: %s: %w", path, err)
	}
	sum := sha256.Sum256(raw)
	r.Hash = hex.EncodeToString(sum[:])
	return r, nil
}

// ReadRetail reads CSV. It reads all of it before it returns: the lines of an
// invoice need not stand together.
func ReadRetail(text io.Reader) (*Retail, error) {
	in := csv.NewReader(bufio.NewReaderSize(text, 1<<20))
	in.FieldsPerRecord = -1 // for the header; below, as many as it has
	in.ReuseRecord = true
	switch first, err := in.Read(); {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("it is empty; the header %s is expected", strings.Join(header, ","))
	case err != nil:
		return nil, err
	case !slices.Equal(first, header):
		return nil, fmt.Errorf("its first line is %q; the header %s is expected", strings.Join(first, ","), strings.Join(header, ","))
	}
	in.FieldsPerRecord = len(header)
	g := grouper{retail: &Retail{}, invoices: map[string]int{}, texts: map[string]string{}}
	for {
		record, err := in.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := g.add(record); err != nil {
			line, _ := in.FieldPos(0)
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
	}
	return g.retail, g.finish()
}

// A grouper makes orders of lines.
type grouper struct {
	retail   *Retail
	invoices map[string]int // the place of an invoice in retail.Orders
	dates    [][]time.Time  // of the lines of each
	current  int            // the invoice that the last line belongs to
	pieces   map[int]bool
	texts    map[string]string
}

// keep returns a copy of s, the same one for each equal s.
func (g *grouper) keep(s string) string {
	t, ok := g.texts[s]
	if !ok {
		t = strings.Clone(s)
		g.texts[t] = t
	}
	return t
}

func (g *grouper) add(record []string) error {
	quantity, err := strconv.ParseInt(record[3], 10, 64)
	if err != nil {
		return fmt.Errorf("column Quantity: %q is no whole number", record[3])
	}
	at, err := time.ParseInLocation(time.DateTime, record[4], time.UTC)
	if err != nil {
		return fmt.Errorf("InvoiceDate %q: a date such as %q is expected", record[4], time.DateTime)
	}
	price, err := contract.ParseMoney(record[5])
	if err != nil {
		return fmt.Errorf("UnitPrice: %w", err)
	}
	i, seen := g.invoices[record[0]]
	switch {
	case !seen:
		o, err := g.invoice(record, at)
		if err != nil {
			return err
		}
		i = len(g.retail.Orders)
		g.invoices[o.ID] = i
		g.retail.Orders = append(g.retail.Orders, o)
		g.dates = append(g.dates, nil)
	case i != g.current:
		if g.pieces == nil {
			g.pieces = map[int]bool{}
		}
		g.pieces[i] = true
	}
	g.current = i
	o := &g.retail.Orders[i]
	if customer := customerOf(record); customer != o.Customer || record[7] != o.Country {
		return fmt.Errorf("invoice %s: it belongs to customer %q in %s and to %q in %s", o.ID, o.Customer, o.Country, customer, record[7])
	}
	if o.Kind == Cancelled {
		quantity = -quantity // the file counts what comes back below zero
	}
	o.Lines = append(o.Lines, contract.Line{StockCode: g.keep(record[1]), Description: g.keep(record[2]), Quantity: quantity, UnitPrice: price})
	g.dates[i] = append(g.dates[i], at)
	return nil
}

func (g *grouper) invoice(record []string, at time.Time) (Order, error) {
	o := Order{ID: strings.Clone(record[0]), Customer: g.keep(customerOf(record)), Country: g.keep(record[7]), At: at}
	switch {
	case o.ID == "":
		return o, errors.New("InvoiceNo is empty")
	case o.ID[0] == 'C':
		o.Kind = Cancelled
	case o.ID[0] == 'A':
		o.Kind = Adjusted
	case o.ID[0] >= '0' && o.ID[0] <= '9':
		o.Kind = Placed
	default:
		return o, fmt.Errorf("InvoiceNo %q: digits, or C or A and digits, are expected", o.ID)
	}
	return o, nil
}

// customerOf is the customer's number. The file writes it as a decimal, 17850.0.
func customerOf(record []string) string { return strings.TrimSuffix(record[6], ".0") }

// finish counts what the invoices hold.
func (g *grouper) finish() error {
	s := &g.retail.Seen
	s.InPieces = len(g.pieces)
	for i, o := range g.retail.Orders {
		if err := o.check(); err != nil {
			return err
		}
		s.count(o, g.dates[i])
	}
	return nil
}

func (s *Seen) count(o Order, dates []time.Time) {
	switch o.Kind {
	case Placed:
		s.Placed++
	case Cancelled:
		s.Cancelled++
	case Adjusted:
		s.Adjusted++
	}
	if o.Customer == "" {
		s.NoCustomer++
	}
	if slices.ContainsFunc(dates, func(t time.Time) bool { return !t.Equal(o.At) }) {
		s.TwoDates++
	}
	type line struct {
		contract.Line
		at time.Time
	}
	lines := make(map[line]bool, len(o.Lines))
	for i, l := range o.Lines {
		s.Lines++
		if lines[line{l, dates[i]}] {
			s.Repeats++
		}
		lines[line{l, dates[i]}] = true
		if o.Kind == Placed && l.Quantity < 0 {
			s.WriteOffs++
			s.WrittenOff -= l.Quantity
		}
		switch {
		case l.UnitPrice == 0:
			s.Free++
		case l.UnitPrice < 0:
			s.Credits++
		}
		if l.Description == "" {
			s.NoDescription++
		}
	}
}
