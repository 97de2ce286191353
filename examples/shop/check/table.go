package check

import (
	"fmt"
	"io"
	"math/big"
	"strconv"
	"text/tabwriter"
)

// A Row is one line of the comparison.
type Row struct {
	What, File, Service, Books string
	Equal                      bool
}

// A Table compares the books with the file.
type Table []Row

// Compare holds the books that the services kept against those of the file.
func Compare(file, kept *Books) Table {
	var t Table
	count := func(what, service string, a, b int64) {
		t = append(t, Row{what, thousands(a), service, thousands(b), a == b})
	}
	money := func(what string, a, b *big.Rat) {
		t = append(t, Row{what, exact(a), "payment", exact(b), a.Cmp(b) == 0})
	}
	count("orders", "order", file.Orders, kept.Orders)
	count("cancellations", "order", file.Cancellations, kept.Cancellations)
	count("adjustments", "order", file.Adjustments, kept.Adjustments)
	count("... paid, refunded or booked", "order", file.Settled, kept.Settled)
	count("... whose goods have moved", "order", file.Moved, kept.Moved)
	money("money captured", file.Captured, kept.Captured)
	money("money refunded", file.Refunded, kept.Refunded)
	money("money adjusted", file.Adjusted, kept.Adjusted)

	a, b := file.sum(), kept.sum()
	count("units ordered", "inventory", a.Out, b.Out)
	count("units written off", "inventory", a.WrittenOff, b.WrittenOff)
	count("units back", "inventory", a.Back, b.Back)
	count("times short of an item", "inventory", file.Shortages, kept.Shortages)
	codes, units, chains := file.agree(kept)
	count("stock codes", "inventory", int64(len(file.Stock)), int64(len(kept.Stock)))
	count("... whose units agree", "inventory", codes, units)
	count("... whose order of events agrees", "inventory", codes, chains)
	return t
}

// Equal tells whether every row is.
func (t Table) Equal() bool {
	for _, r := range t {
		if !r.Equal {
			return false
		}
	}
	return true
}

// Write prints the table.
func (t Table) Write(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "what\tthe file says\tservice\tits database says\t\t")
	fmt.Fprintln(w, "----\t-------------\t-------\t-----------------\t\t")
	for _, r := range t {
		verdict := "equal"
		if !r.Equal {
			verdict = "NOT EQUAL"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t\n", r.What, r.File, r.Service, r.Books, verdict)
	}
	return w.Flush()
}

func (b *Books) sum() (s Stock) {
	for _, c := range b.Stock {
		s.Out += c.Out
		s.WrittenOff += c.WrittenOff
		s.Back += c.Back
	}
	return s
}

// agree counts the stock codes of either, those with the same units in both, and
// those with the same chain in both.
func (b *Books) agree(o *Books) (codes, units, chains int64) {
	codes = int64(len(b.Stock))
	for code := range o.Stock {
		if _, ok := b.Stock[code]; !ok {
			codes++
		}
	}
	for code, s := range b.Stock {
		other, ok := o.Stock[code]
		if !ok {
			continue
		}
		if s.Out == other.Out && s.WrittenOff == other.WrittenOff && s.Back == other.Back {
			units++
		}
		if s.Chain == other.Chain {
			chains++
		}
	}
	return codes, units, chains
}

// exact writes an amount with three decimals, or as a fraction when these do not
// hold it.
func exact(r *big.Rat) string {
	if thousandths := new(big.Rat).Mul(r, big.NewRat(1000, 1)); !thousandths.IsInt() {
		return r.RatString()
	}
	s := r.FloatString(3)
	whole, fraction := s[:len(s)-4], s[len(s)-4:]
	return group(whole) + fraction
}

func thousands(n int64) string { return group(strconv.FormatInt(n, 10)) }

// group puts a comma before each three digits.
func group(s string) string {
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}
