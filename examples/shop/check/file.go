// Package check tells whether the shop's books agree with the file that it
// imported. It reads the file and the databases by itself and shares no code with
// the shop, so that a mistake in the shop is not made here once more. The rules it
// goes by are those in the shop's README.
package check

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// An invoice holds the lines that the file has of it, in their order, wherever
// they stand.
type invoice struct {
	number, customer, country string
	lines                     []line
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
	b.close()
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
			of = &invoice{number: fields[0], customer: strings.TrimSuffix(fields[6], ".0"), country: fields[7]}
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
