package payment

import (
	"context"
	"errors"
	"sync"

	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/internal/chance"
)

// A Gateway moves money outside of the shop. Calls with one key move it once.
type Gateway interface {
	Capture(ctx context.Context, key string, amount contract.Money) error
	Refund(ctx context.Context, key string, amount contract.Money) error
}

// ErrBusy is a gateway's word for "not now".
var ErrBusy = errors.New("the payment gateway is busy")

// A Sandbox is a gateway that moves nothing. For one key in Busy it is busy when
// it is first asked, and not the second time: which keys these are depends on the
// keys alone. The zero Sandbox is never busy.
type Sandbox struct {
	Busy uint32

	asked sync.Map // the keys it was busy for
}

var _ Gateway = (*Sandbox)(nil)

// Capture takes money from a customer.
func (s *Sandbox) Capture(_ context.Context, key string, _ contract.Money) error {
	return s.answer(key)
}

// Refund gives money back.
func (s *Sandbox) Refund(_ context.Context, key string, _ contract.Money) error { return s.answer(key) }

func (s *Sandbox) answer(key string) error {
	if !chance.OneIn(s.Busy, key) {
		return nil
	}
	if _, asked := s.asked.LoadOrStore(key, true); !asked {
		return ErrBusy
	}
	return nil
}
