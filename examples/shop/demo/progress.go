package demo

import (
	"fmt"
	"strings"
	"time"

	"github.com/posthorn/posthorn/examples/shop/order"
)

// Progress is how far each service has come, by its own database.
type Progress struct {
	Orders    order.Counts
	Payments  int64
	Items     int64
	Shortages int64
	Letters   int64
}

// waiting says who has not come to the end of what was taken; "" when all have.
func (p Progress) waiting() string {
	var w []string
	wait := func(what string, done, of int64) {
		if done != of {
			w = append(w, fmt.Sprintf("%s (%d of %d)", what, done, of))
		}
	}
	o := p.Orders
	wait("orders to be published", o.Published, o.Taken)
	wait("payments", p.Payments, o.Taken)
	wait("items", p.Items, o.Items)
	wait("orders to hear of their payment", o.Payments, o.Taken)
	wait("orders to hear of their goods", o.Goods, o.WithGoods)
	wait("letters", p.Letters, o.Known+p.Shortages)
	return strings.Join(w, ", ")
}

// line says how far the shop has come, and how fast since it was before.
func (p Progress) line(orders int, elapsed time.Duration, before Progress, since time.Duration) string {
	rate := float64(p.Items-before.Items) / max(since.Seconds(), 1e-3)
	return fmt.Sprintf("%5.1fs  orders published %d of %d, paid %d, with their goods %d | payments %d | items %d (%.0f/s) | letters %d",
		elapsed.Seconds(), p.Orders.Published, orders, p.Orders.Payments, p.Orders.Goods, p.Payments, p.Items, rate, p.Letters)
}
