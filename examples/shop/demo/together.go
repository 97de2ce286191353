package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/order"
)

// together are all services in this process.
type together struct {
	services  []*hosted
	stop      context.CancelFunc // ends the import
	importing sync.WaitGroup
	importErr chan error
}

var _ services = (*together)(nil)

// openTogether opens all services.
func openTogether(ctx context.Context, cfg Config) (*together, error) {
	t := &together{stop: func() {}, importErr: make(chan error, 1)}
	for _, name := range Names {
		s, err := openService(ctx, name, cfg)
		if err != nil {
			return nil, errors.Join(err, t.close(context.WithoutCancel(ctx)))
		}
		t.services = append(t.services, s)
	}
	return t, nil
}

// order is the order service, the first of Names.
func (t *together) order() *order.Service { return t.services[0].service.(*order.Service) }

func (t *together) start(ctx context.Context, file *order.Retail) error {
	for _, s := range t.services {
		if err := s.start(ctx); err != nil {
			return err
		}
	}
	ctx, t.stop = context.WithCancel(ctx)
	t.importing.Go(func() {
		if err := t.order().Import(ctx, file); err != nil {
			t.importErr <- err
		}
	})
	return nil
}

func (t *together) failed() <-chan error { return t.importErr }

// disturb does nothing: who kills one service in this process kills all.
func (t *together) disturb(float64) error { return nil }

func (t *together) health(ctx context.Context) (reasons []string) {
	for _, s := range t.services {
		for _, r := range s.bus.Health(ctx).Reasons {
			reasons = append(reasons, fmt.Sprintf("%s is not healthy: %s: %s", s.name, r.Code, r.Text))
		}
	}
	return reasons
}

func (t *together) finish(context.Context) (sum posthorn.Stats, err error) {
	for _, s := range t.services {
		add(&sum, s.bus.Stats())
	}
	return sum, nil
}

// close stops all services before it closes the first, since they live on each
// other's events.
func (t *together) close(ctx context.Context) error {
	t.stop()
	t.importing.Wait() // it finishes the orders that it is at
	var errs []error
	for _, s := range slices.Backward(t.services) {
		errs = append(errs, s.stop(ctx))
	}
	for _, s := range slices.Backward(t.services) {
		errs = append(errs, s.close(ctx))
	}
	return errors.Join(errs...)
}
