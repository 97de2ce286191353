package posthorn_test

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
)

// audited counts audits, and how many run at a time.
type audited struct {
	driver.Driver
	n, running, most atomic.Int64
}

func (a *audited) Audit(ctx context.Context) error {
	a.most.Store(max(a.most.Load(), a.running.Add(1)))
	defer a.running.Add(-1)
	if a.n.Add(1) == 3 {
		<-ctx.Done() // it takes longer than the time between two
		return ctx.Err()
	}
	return errors.New("not all could be looked at")
}

// The driver is asked to look from time to time, once at a time, after a failure too,
// and no longer than until the bus is closed.
func TestAuditFromTimeToTime(t *testing.T) {
	t.Parallel()
	open, _ := driver.Lookup("memory")
	discard := slog.New(slog.DiscardHandler)
	d, err := open(t.Context(), &url.URL{Scheme: "memory"}, driver.Env{Log: discard, Alarm: func(driver.Alarm) {}, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	a := &audited{Driver: d}
	bus, err := posthorn.OpenDriver(t.Context(), a, posthorn.Service("test"), posthorn.Logger(discard), posthorn.AuditEvery(time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	until(t, "three audits", func() bool { return a.n.Load() == 3 })
	if err := bus.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if a.n.Load() != 3 || a.most.Load() != 1 || a.running.Load() != 0 {
		t.Errorf("%d audits, %d at a time, %d still run", a.n.Load(), a.most.Load(), a.running.Load())
	}
}
