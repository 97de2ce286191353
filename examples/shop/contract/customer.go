package contract

import (
	"time"

	"github.com/posthorn/posthorn"
)

// Registered says that a customer is seen for the first time.
type Registered struct {
	Customer string    `json:"customer"`
	Country  string    `json:"country,omitempty"`
	OrderID  string    `json:"order_id"` // that the customer came with
	At       time.Time `json:"at"`
}

// CustomerRegistered is said once of each customer.
var CustomerRegistered = posthorn.Define[Registered]("customer.registered", topic("customer"),
	posthorn.Key(func(r Registered) string { return r.Customer }))
