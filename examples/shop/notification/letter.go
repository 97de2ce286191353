package notification

import (
	"errors"
	"fmt"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/contract"
)

// A letter is what is written to somebody.
type letter struct {
	order   string // that it is about; "" for none
	to      string
	subject string
}

// buyer is who buys goods for the shop.
const buyer = "buyer"

// errNobody: a letter that has to be written, and nobody to write to. That will
// not change by trying again: somebody has to look into it.
var errNobody = errors.New("money is asked for, and the customer is not known")

// about is a letter to a customer about an order. Nobody is written to who is not
// known.
func about(order, customer, format string, args ...any) (letter, error) {
	if customer == "" {
		return letter{}, posthorn.Skip("the customer is not known")
	}
	return letter{order, customer, fmt.Sprintf(format, args...)}, nil
}

func thanks(o contract.Placed) (letter, error) {
	return about(o.OrderID, o.Customer, "Thank you for your order %s", o.OrderID)
}

func refund(o contract.Cancelled) (letter, error) {
	return about(o.OrderID, o.Customer, "You get back %v", o.Lines.Total())
}

// demand is written for an adjustment that asks for money, and for no other.
func demand(o contract.Adjusted) (letter, error) {
	total := o.Lines.Total()
	switch {
	case total <= 0:
		return letter{}, posthorn.Skip("the adjustment asks for no money")
	case o.Customer == "":
		return letter{}, posthorn.Permanent(fmt.Errorf("adjustment %s of %v: %w", o.OrderID, total, errNobody))
	}
	return about(o.OrderID, o.Customer, "You owe us %v", total)
}

func onItsWay(s contract.Shipment) (letter, error) {
	return about(s.OrderID, s.Customer, "Your order %s is on its way", s.OrderID)
}

func welcome(c contract.Coupon) (letter, error) {
	return about(c.OrderID, c.Customer, "Welcome! Your coupon is %s", c.Code)
}

func short(s contract.Short) (letter, error) {
	return letter{"", buyer, fmt.Sprintf("We are short of %d of %s", s.Missing, s.StockCode)}, nil
}

func together(t contract.Together) (letter, error) {
	return letter{"", buyer, fmt.Sprintf("Who buys %s buys %s too", t.A, t.B)}, nil
}
