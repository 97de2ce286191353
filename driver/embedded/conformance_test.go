package embedded_test

import (
	"context"
	"net/url"
	"testing"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/drivertest"
	_ "github.com/posthorn/posthorn/driver/embedded"
)

// harness opens the embedded driver on one directory. The first driver that the
// suite opens keeps the server running between kills.
func harness(t *testing.T) drivertest.Harness {
	dir := t.TempDir()
	open, ok := driver.Lookup("embedded")
	if !ok {
		t.Fatal("the embedded driver has not registered its scheme")
	}
	return drivertest.Harness{
		Open: func(ctx context.Context, env driver.Env) (driver.Driver, error) {
			return open(ctx, &url.URL{Scheme: "embedded", Opaque: dir}, env)
		},
	}
}

func TestConformance(t *testing.T) { drivertest.Run(t, harness(t)) }

func TestBrokenDrivers(t *testing.T) {
	h := harness(t)
	h.BrokenOwn = true // the whole matrix is run on memory
	drivertest.RunBroken(t, h)
}
