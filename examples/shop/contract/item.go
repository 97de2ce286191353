package contract

import "github.com/posthorn/posthorn"

// An Item is one line of an order or a cancellation, for those who count goods.
type Item struct {
	StockCode string `json:"stock_code"`
	OrderID   string `json:"order_id"`
	Line      int    `json:"line"`     // its place in the order, from 1
	Lines     int    `json:"lines"`    // how many the order has
	Quantity  int64  `json:"quantity"` // above zero
}

func itemKey(i Item) string { return i.StockCode }

// The events of an item.
var (
	ItemOrdered    = posthorn.Define[Item]("item.ordered", topic("item"), posthorn.Key(itemKey))
	ItemWrittenOff = posthorn.Define[Item]("item.written-off", topic("item"), posthorn.Key(itemKey))
	ItemReturned   = posthorn.Define[Item]("item.returned", topic("item"), posthorn.Key(itemKey))
)
