package order

import (
	"errors"
	"fmt"
)

// A Code says why an order was refused. Clients may rely on it.
type Code string

// The codes of refusals.
const (
	Invalid        Code = "invalid_order"   // it cannot be taken as it is
	NotFound       Code = "order_not_found" // there is none of this id
	Exists         Code = "order_exists"    // there is one of this id already
	IsCancelled    Code = "order_cancelled" // it was cancelled before
	NotCancellable Code = "not_cancellable" // it is nothing that could be cancelled
)

// A Refusal is the error of an order that was refused.
type Refusal struct {
	Code   Code
	Detail string  // about this one
	Faults []Fault // of an order that is Invalid, as far as they have a place in it
}

// A Fault is what is wrong with a part of an order.
type Fault struct {
	Field  string `json:"field"` // such as lines[0].quantity
	Detail string `json:"detail"`
}

func (r *Refusal) Error() string {
	text := string(r.Code) + ": " + r.Detail
	for _, f := range r.Faults {
		text += "; " + f.Field + ": " + f.Detail
	}
	return text
}

func refuse(code Code, format string, args ...any) error {
	return &Refusal{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// ErrUntold: orders are taken, and the other services could not be told of them yet.
// They will be.
var ErrUntold = errors.New("taken, but the other services are not told yet")
