//go:build unix

package embedded_test

import (
	"context"
	"testing"
	"time"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/drivertest"
	"github.com/posthorn/posthorn/driver/embedded/natstest"
)

// natsHarness opens a nats: URL with a short lease: the suite's kills leave
// members behind that must be judged dead.
func natsHarness(t *testing.T, rawURL string) drivertest.Harness {
	t.Helper()
	u := parseNATS(rawURL)
	q := u.Query()
	q.Set("lease", "1s")
	u.RawQuery = q.Encode()
	open, ok := driver.Lookup(u.Scheme)
	if !ok {
		t.Fatal("the driver has not registered its scheme")
	}
	return drivertest.Harness{
		Patience: 3 * time.Minute, // each kill waits for a lease, and the machine may be busy
		Open: func(ctx context.Context, env driver.Env) (driver.Driver, error) {
			return open(ctx, u, env)
		},
	}
}

func TestConformanceServe(t *testing.T) {
	drivertest.Run(t, natsHarness(t, serveChild(t, t.TempDir()).url()))
}

func TestConformanceServer(t *testing.T) {
	drivertest.Run(t, natsHarness(t, natstest.Start(t, natstest.Options{}).URL()+"?durability=server"))
}

func TestConformanceCluster(t *testing.T) {
	drivertest.Run(t, natsHarness(t, natstest.StartCluster(t, 3, natstest.Options{}).URL()))
}
