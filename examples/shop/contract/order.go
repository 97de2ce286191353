package contract

import (
	"time"

	"github.com/posthorn/posthorn"
)

// A Line is one position of an order. A quantity below zero, in an order, are
// goods that are written off.
type Line struct {
	StockCode   string `json:"stock_code"`
	Description string `json:"description,omitempty"`
	Quantity    int64  `json:"quantity"`
	UnitPrice   Money  `json:"unit_price"`
}

// Total is the price of the line.
func (l Line) Total() Money { return l.UnitPrice.Times(l.Quantity) }

// Lines are the positions of an order. The same line may stand twice and then
// counts twice.
type Lines []Line

// Total is the price of all lines.
func (ls Lines) Total() Money {
	var sum Money
	for _, l := range ls {
		sum += l.Total()
	}
	return sum
}

// Placed says that somebody has ordered something.
type Placed struct {
	OrderID  string    `json:"order_id"`
	Customer string    `json:"customer,omitempty"` // empty: not known
	Country  string    `json:"country,omitempty"`
	At       time.Time `json:"at"`
	Lines    Lines     `json:"lines"`
}

// Cancelled says that the goods in its lines, whose quantities are above zero,
// come back and are to be refunded. It has an id of its own.
type Cancelled struct {
	OrderID  string    `json:"order_id"`
	Cancels  string    `json:"cancels,omitempty"` // the order; empty: not known
	Customer string    `json:"customer,omitempty"`
	Country  string    `json:"country,omitempty"`
	At       time.Time `json:"at"`
	Lines    Lines     `json:"lines"`
}

// Adjusted says that the books are put right by the sum of its lines, which may
// be below zero. No goods move.
type Adjusted struct {
	OrderID  string    `json:"order_id"`
	Customer string    `json:"customer,omitempty"`
	Country  string    `json:"country,omitempty"`
	At       time.Time `json:"at"`
	Lines    Lines     `json:"lines"`
}

// The events of an order. They are in the topic order, as their names say.
var (
	OrderPlaced = posthorn.Define[Placed]("order.placed", topic("order"),
		posthorn.Key(func(o Placed) string { return o.OrderID }))
	OrderCancelled = posthorn.Define[Cancelled]("order.cancelled", topic("order"),
		posthorn.Key(cancelledKey))
	OrderAdjusted = posthorn.Define[Adjusted]("order.adjusted", topic("order"),
		posthorn.Key(func(o Adjusted) string { return o.OrderID }))
)

// cancelledKey is the order's id where it is known, so that nobody handles a
// cancellation before the order, or beside it.
func cancelledKey(o Cancelled) string {
	if o.Cancels != "" {
		return o.Cancels
	}
	return o.OrderID
}
