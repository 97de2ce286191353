package contract

import "github.com/posthorn/posthorn"

// Goods says that inventory has done with the last line of an order.
type Goods struct {
	OrderID    string `json:"order_id"`
	Lines      int    `json:"lines"`
	Units      int64  `json:"units"`
	WrittenOff int64  `json:"written_off,omitempty"`
}

// Short says that an order has brought the stock of an item below nothing.
// It is said once, until there is stock again.
type Short struct {
	StockCode string `json:"stock_code"`
	OrderID   string `json:"order_id"` // the order that did it
	Missing   int64  `json:"missing"`
}

func goodsKey(g Goods) string { return g.OrderID }

// The events of the stock.
var (
	StockReserved  = posthorn.Define[Goods]("stock.reserved", topic("stock"), posthorn.Key(goodsKey))
	StockRestocked = posthorn.Define[Goods]("stock.restocked", topic("stock"), posthorn.Key(goodsKey))
	StockShort     = posthorn.Define[Short]("stock.short", topic("stock"),
		posthorn.Key(func(s Short) string { return s.StockCode }))
)
