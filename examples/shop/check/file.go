// Package check tells whether the shop's books agree with the file that it
// imported. It reads the file and the databases by itself and shares no code with
// the shop, so that a mistake in the shop is not made here once more. The rules it
// goes by are those in the shop's README.
package check

import (
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"strconv"
	"strings"
)

// Opening is how many units of each stock code the shop has at first.
const Opening = 1000

// Books are the totals of a shop.
type Books struct {
	Orders, Cancellations, Adjustments int64

	// Settled counts the orders of any kind whose payment is known to the order
	// service, Moved those whose goods are.
	Settled, Moved int64

	Captured, Refunded, Adjusted *big.Rat

	// Shortages counts how often the stock of a code went below nothing.
	Shortages int64
	// Stock is the history of each stock code.
	Stock map[string]Stock
}

// Stock is the history of a stock code.
type Stock struct {
	Out, WrittenOff, Back int64
	// Chain is the last link of a chain of hashes over all movements, in order:
	// SHA-256 of the link before and of "KIND INVOICE LINE UNITS\n".
	Chain string
}

func newBooks() *Books {
	return &Books{Captured: new(big.Rat), Refunded: new(big.Rat), Adjusted: new(big.Rat), Stock: map[string]Stock{}}
}

// An invoice holds the lines that the file has of it, in their order, wherever
// they stand.
type invoice struct {
	number string
	lines  []line
}

type line struct {
	code  string
	units int64
	price string
}

// FromFile computes what the books should be.
func FromFile(path string) (*Books, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var text io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if text, err = gzip.NewReader(f); err != nil {
			return nil, fmt.Errorf("check %s: %w", path, err)
		}
	}
	invoices, err := readInvoices(text)
	if err != nil {
		return nil, fmt.Errorf("check %s: %w", path, err)
	}
	b := newBooks()
	for _, in := range invoices {
		if err := b.enter(in); err != nil {
			return nil, fmt.Errorf("check %s: invoice %s: %w", path, in.number, err)
		}
	}
	return b, nil
}

func readInvoices(text io.Reader) (invoices []*invoice, err error) {
	byNumber := map[string]*invoice{}
	in := bufio.NewScanner(text)
	in.Buffer(nil, 1<<20)
	for n := 1; in.Scan(); n++ {
		if n == 1 {
			continue // the header
		}
		fields, err := split(in.Text())
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		units, err := strconv.ParseInt(fields[3], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		of := byNumber[fields[0]]
		if of == nil {
			of = &invoice{number: fields[0]}
			byNumber[fields[0]] = of
			invoices = append(invoices, of)
		}
		of.lines = append(of.lines, line{fields[1], units, fields[5]})
	}
	return invoices, in.Err()
}

// split takes a line of CSV apart. The file has no line breaks within fields.
func split(s string) (fields []string, err error) {
	var field strings.Builder
	quoted := false
	s = strings.TrimSuffix(s, "\r")
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' && quoted && i+1 < len(s) && s[i+1] == '"':
			field.WriteByte('"')
			i++
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			fields = append(fields, field.String())
			field.Reset()
		default:
			field.WriteByte(c)
		}
	}
	fields = append(fields, field.String())
	if quoted || len(fields) != 8 {
		return nil, errors.New("eight fields are expected")
	}
	return fields, nil
}

func (b *Books) enter(in *invoice) error {
	sum := new(big.Rat)
	for _, l := range in.lines {
		price, ok := new(big.Rat).SetString(l.price)
		if !ok {
			return fmt.Errorf("the price %q is no number", l.price)
		}
		sum.Add(sum, price.Mul(price, new(big.Rat).SetInt64(l.units)))
	}
	b.Settled++
	switch in.number[0] {
	case 'A':
		b.Adjustments++
		b.Adjusted.Add(b.Adjusted, sum)
		return nil // no goods move
	case 'C':
		b.Cancellations++
		b.Refunded.Sub(b.Refunded, sum)
	default:
		b.Orders++
		b.Captured.Add(b.Captured, sum)
	}
	b.Moved++
	for i, l := range in.lines {
		b.move(in.number, i+1, l)
	}
	return nil
}

func (b *Books) move(number string, nth int, l line) {
	s := b.Stock[l.code]
	before := s.hand()
	kind, units := "ordered", l.units
	switch {
	case number[0] == 'C':
		kind, units = "returned", -units
		s.Back += units
	case units < 0:
		kind, units = "written-off", -units
		s.WrittenOff += units
	default:
		s.Out += units
	}
	if before >= 0 && s.hand() < 0 {
		b.Shortages++
	}
	last, err := hex.DecodeString(s.Chain)
	if err != nil {
		panic(err) // it comes from below
	}
	h := sha256.New()
	h.Write(last)
	io.WriteString(h, kind+" "+number+" "+strconv.Itoa(nth)+" "+strconv.FormatInt(units, 10)+"\n")
	s.Chain = hex.EncodeToString(h.Sum(nil))
	b.Stock[l.code] = s
}

func (s Stock) hand() int64 { return Opening - s.Out - s.WrittenOff + s.Back }
