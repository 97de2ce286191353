package contract

import "github.com/posthorn/posthorn"

// A Payment is money that has moved. The event's name says which way.
type Payment struct {
	OrderID string `json:"order_id"`
	Amount  Money  `json:"amount"`
}

func paymentKey(p Payment) string { return p.OrderID }

// The events of a payment.
var (
	PaymentCaptured = posthorn.Define[Payment]("payment.captured", topic("payment"), posthorn.Key(paymentKey))
	PaymentRefunded = posthorn.Define[Payment]("payment.refunded", topic("payment"), posthorn.Key(paymentKey))
	PaymentAdjusted = posthorn.Define[Payment]("payment.adjusted", topic("payment"), posthorn.Key(paymentKey))
)
