package demo

import (
	"fmt"
	"strings"
	"time"

	"github.com/posthorn/posthorn/examples/shop/coupon"
	"github.com/posthorn/posthorn/examples/shop/customer"
	"github.com/posthorn/posthorn/examples/shop/inventory"
	"github.com/posthorn/posthorn/examples/shop/logistics"
	"github.com/posthorn/posthorn/examples/shop/notification"
	"github.com/posthorn/posthorn/examples/shop/order"
	"github.com/posthorn/posthorn/examples/shop/payment"
	"github.com/posthorn/posthorn/examples/shop/points"
	"github.com/posthorn/posthorn/examples/shop/recommendation"
)

// Progress is how far each service has come, by its own database.
type Progress struct {
	Orders      order.Counts
	Payments    int64
	Items       int64
	Sent, Back  int64 // parcels
	Customers   int64
	Points      int64 // bookings
	Coupons     int64
	Baskets     int64 // that pairs were counted in
	Recommended int64 // pairs
	Letters     int64
}

// A tally is what one service has done.
type tally struct {
	service string
	n       int64
	what    string
}

// tallies are those of all services, always in the same order.
func (p Progress) tallies() []tally {
	return []tally{
		{order.Group, p.Orders.Published, "orders"},
		{order.Group, p.Orders.Steps, "steps"},
		{payment.Group, p.Payments, "payments"},
		{inventory.Group, p.Items, "items"},
		{logistics.Group, p.Sent, "parcels"},
		{customer.Group, p.Customers, "customers"},
		{points.Group, p.Points, "bookings"},
		{coupon.Group, p.Coupons, "coupons"},
		{recommendation.Group, p.Baskets, "baskets"},
		{notification.Group, p.Letters, "letters"},
	}
}

// line says how far the shop has come, and how fast since it was before.
func (p Progress) line(orders int, elapsed time.Duration, before Progress, since time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%5.1fs ", elapsed.Seconds())
	for i, done := range p.tallies() {
		if i > 0 {
			b.WriteString(" |")
		}
		fmt.Fprintf(&b, " %s %d", done.what, done.n)
		switch done.what {
		case "orders":
			fmt.Fprintf(&b, " of %d", orders)
		case "items":
			fmt.Fprintf(&b, " (%.0f/s)", float64(p.Items-before.Items)/max(since.Seconds(), 1e-3))
		}
	}
	return b.String()
}
