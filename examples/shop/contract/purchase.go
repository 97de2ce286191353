package contract

import (
	"time"

	"github.com/posthorn/posthorn"
)

// A Purchase is an order or a cancellation of a customer who is known, for those
// who go by customer.
type Purchase struct {
	Customer string    `json:"customer"`
	Country  string    `json:"country,omitempty"`
	OrderID  string    `json:"order_id"` // of the order, or of the cancellation
	Amount   Money     `json:"amount"`
	At       time.Time `json:"at"`
}

func purchaseKey(p Purchase) string { return p.Customer }

// The events of a purchase.
var (
	PurchaseMade     = posthorn.Define[Purchase]("purchase.made", topic("purchase"), posthorn.Key(purchaseKey))
	PurchaseReturned = posthorn.Define[Purchase]("purchase.returned", topic("purchase"), posthorn.Key(purchaseKey))
)
