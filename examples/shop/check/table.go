package check

import (
	"fmt"
	"io"
	"maps"
	"math/big"
	"slices"
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
	count("steps through the services", "order", file.Heard, kept.Heard)

	money("money captured", file.Captured, kept.Captured)
	money("money refunded", file.Refunded, kept.Refunded)
	money("money adjusted", file.Adjusted, kept.Adjusted)

	a, b := sum(file.Stock), sum(kept.Stock)
	count("units ordered", "inventory", a.Out, b.Out)
	count("units written off", "inventory", a.Lost, b.Lost)
	count("units back", "inventory", a.Back, b.Back)
	count("times short of an item", "inventory", file.Shortages, kept.Shortages)
	count("stock codes", "inventory", size(file.Stock), size(kept.Stock))
	count("... whose units agree", "inventory", size(file.Stock), agree(file.Stock, kept.Stock, sameUnits))
	count("... whose order of events agrees", "inventory", size(file.Stock), agree(file.Stock, kept.Stock, sameChain))

	count("parcels sent", "logistics", total(file.Parcels), total(kept.Parcels))
	count("units in them", "logistics", file.Units, kept.Units)
	count("countries whose parcels agree", "logistics", size(file.Parcels), agree(file.Parcels, kept.Parcels, same))
	count("parcels back", "logistics", file.Returns, kept.Returns)
	count("parcels stopped", "logistics", file.Stopped, kept.Stopped)

	count("customers", "customer", size(file.Customers), size(kept.Customers))
	count("... whose country agrees", "customer", size(file.Customers), agree(file.Customers, kept.Customers, same))
	count("customers with a coupon", "coupon", size(file.Coupons), size(kept.Coupons))
	count("... who are those of the file", "coupon", size(file.Coupons), agree(file.Coupons, kept.Coupons, same))

	a, b = sum(file.Points), sum(kept.Points)
	count("points given", "points", a.Out, b.Out)
	count("points taken back", "points", a.Back, b.Back)
	count("accounts", "points", size(file.Points), size(kept.Points))
	count("... whose points agree", "points", size(file.Points), agree(file.Points, kept.Points, sameUnits))
	count("... whose order of events agrees", "points", size(file.Points), agree(file.Points, kept.Points, sameChain))

	count("baskets", "recommendation", file.Baskets, kept.Baskets)
	count("pairs of goods", "recommendation", size(file.Pairs), size(kept.Pairs))
	count("... that were bought together as often", "recommendation", size(file.Pairs), agree(file.Pairs, kept.Pairs, same))

	count("letters to customers", "notification", file.Letters, kept.Letters)
	count("notes to the buyer", "notification", file.Notes, kept.Notes)

	groups := slices.Collect(maps.Keys(file.DeadLetters))
	for group := range kept.DeadLetters {
		if _, ok := file.DeadLetters[group]; !ok {
			groups = append(groups, group)
		}
	}
	slices.Sort(groups)
	for _, group := range groups {
		count("dead letters", group, file.DeadLetters[group], kept.DeadLetters[group])
	}
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

func sum(all map[string]History) (s History) {
	for _, h := range all {
		s.Out += h.Out
		s.Lost += h.Lost
		s.Back += h.Back
	}
	return s
}

func total(counts map[string]int64) (n int64) {
	for _, c := range counts {
		n += c
	}
	return n
}

func size[K comparable, V any](m map[K]V) int64 { return int64(len(m)) }

// agree counts the keys of file that kept has as well, with the same value.
func agree[K comparable, V any](file, kept map[K]V, same func(a, b V) bool) (n int64) {
	for k, a := range file {
		if b, ok := kept[k]; ok && same(a, b) {
			n++
		}
	}
	return n
}

func same[V comparable](a, b V) bool { return a == b }
func sameUnits(a, b History) bool    { return a.Out == b.Out && a.Lost == b.Lost && a.Back == b.Back }
func sameChain(a, b History) bool    { return a.Chain == b.Chain }

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
