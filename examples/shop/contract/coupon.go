package contract

import "github.com/posthorn/posthorn"

// Coupon is a present for a customer.
type Coupon struct {
	Code     string `json:"code"`
	Customer string `json:"customer"`
	OrderID  string `json:"order_id"` // what it is given for
}

// CouponIssued is said once of each coupon.
var CouponIssued = posthorn.Define[Coupon]("coupon.issued", topic("coupon"),
	posthorn.Key(func(c Coupon) string { return c.Customer }))
