// Package order is the service that takes orders, over HTTP and from a file of
// invoices, and tells the others of them. It learns from their events how far
// an order has come.
package order

import (
	"time"

	"github.com/posthorn/posthorn/examples/shop/contract"
)

// A Kind says what an order is.
type Kind string

// The kinds of orders.
const (
	Placed    Kind = "placed"    // goods go out, money comes in
	Cancelled Kind = "cancelled" // goods come back, money goes back
	Adjusted  Kind = "adjusted"  // the books are put right
)

// An Order is what a customer, or an invoice of the file, asks for.
type Order struct {
	ID       string         `json:"id"`
	Kind     Kind           `json:"kind"`
	Cancels  string         `json:"cancels,omitempty"` // of a cancellation: the order, where it is known
	Customer string         `json:"customer,omitempty"`
	Country  string         `json:"country,omitempty"`
	At       time.Time      `json:"at"`
	Lines    contract.Lines `json:"lines"`
}

// A Source says where orders come from.
type Source string

// The sources of orders.
const (
	FromFile Source = "file"
	FromHTTP Source = "http"
)

// Limits that keep an order's event far below a bus's 1 MiB and its sums inside
// of Money.
const (
	maxLines       = 5000
	maxText        = 64
	maxDescription = 200
	maxQuantity    = 1_000_000
	maxPrice       = contract.Money(1_000_000_000) // a million pounds
	maxDocument    = 900 << 10
)

// check holds an order to what the other services can take, wherever it comes from.
// The dirt that the file is known for passes; see the shop's README.
func (o Order) check() error {
	bad := func(format string, args ...any) error {
		return refuse(Invalid, "order %q: "+format, append([]any{o.ID}, args...)...)
	}
	switch {
	case o.ID == "" || len(o.ID) > maxText:
		return bad("its id is %d bytes long; 1 to %d are allowed", len(o.ID), maxText)
	case len(o.Lines) == 0:
		return bad("it has no lines")
	case len(o.Lines) > maxLines:
		return bad("it has %d lines; %d are allowed", len(o.Lines), maxLines)
	case len(o.Customer) > maxText || len(o.Country) > maxText:
		return bad("customer or country is longer than %d bytes", maxText)
	}
	for i, l := range o.Lines {
		switch {
		case l.StockCode == "" || len(l.StockCode) > maxText:
			return bad("line %d: its stock code is %d bytes long; 1 to %d are allowed", i+1, len(l.StockCode), maxText)
		case len(l.Description) > maxDescription:
			return bad("line %d: its description is %d bytes long; %d are allowed", i+1, len(l.Description), maxDescription)
		case l.Quantity == 0 || l.Quantity > maxQuantity || l.Quantity < -maxQuantity:
			return bad("line %d: its quantity is %d; up to %d, and not none, are allowed", i+1, l.Quantity, maxQuantity)
		case o.Kind == Cancelled && l.Quantity < 0:
			return bad("line %d: a cancellation gives back %d units; it must be above zero", i+1, l.Quantity)
		case l.UnitPrice > maxPrice || l.UnitPrice < -maxPrice:
			return bad("line %d: its unit price is %v; up to %v is allowed", i+1, l.UnitPrice, maxPrice)
		}
	}
	return nil
}
