package contract

import "github.com/posthorn/posthorn"

// Letter was written to a customer about an order.
type Letter struct {
	OrderID string `json:"order_id"`
	To      string `json:"to"`
	Subject string `json:"subject"`
}

// LetterSent is said of each letter about an order.
var LetterSent = posthorn.Define[Letter]("letter.sent", topic("letter"),
	posthorn.Key(func(l Letter) string { return l.OrderID }))
