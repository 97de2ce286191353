package memory_test

import (
	"context"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/drivertest"
	_ "github.com/posthorn/posthorn/driver/memory"
)

// harness opens a shared store of the test's own. The suite keeps its first driver
// open, so that the store outlives the others.
func harness(t *testing.T, shape string) drivertest.Harness {
	open, ok := driver.Lookup("memory")
	if !ok {
		t.Fatal("the memory driver has not registered its scheme")
	}
	u := &url.URL{Scheme: "memory", Opaque: strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")), RawQuery: "shape=" + shape}
	return drivertest.Harness{Open: func(ctx context.Context, env driver.Env) (driver.Driver, error) { return open(ctx, u, env) }}
}

func TestConformance(t *testing.T) {
	for _, shape := range []string{"log", "queue"} {
		t.Run(shape, func(t *testing.T) { drivertest.Run(t, harness(t, shape)) })
	}
}

// TestBrokenDrivers runs each broken driver against its own case, and with
// POSTHORN_MATRIX=run, as make test has it, on a log against all others too: some
// minutes.
func TestBrokenDrivers(t *testing.T) {
	for _, shape := range []string{"log", "queue"} {
		t.Run(shape, func(t *testing.T) {
			h := harness(t, shape)
			h.BrokenOwn = shape == "queue" || os.Getenv("POSTHORN_MATRIX") != "run"
			drivertest.RunBroken(t, h)
		})
	}
}
