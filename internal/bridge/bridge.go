// Package bridge lets the rooms beside package posthorn, deadletter above all, reach
// what a Bus is made of, which its users do not see.
package bridge

import (
	"context"
	"log/slog"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// A Bus is what a *posthorn.Bus is made of.
type Bus struct {
	Driver     driver.Driver
	Member     string           // names this opening of the bus
	Now        func() time.Time // the time of day
	Log        *slog.Logger
	MaxPayload int // of an event's data, in bytes
	// Groups returns the users' groups, by name.
	Groups func(ctx context.Context) ([]driver.GroupSpec, error)
	// Group returns one, or an error that says which ones there are.
	Group func(ctx context.Context, name string) (driver.GroupSpec, error)
	// Letter reads an entry as a dead letter: a posthorn.DeadLetter. An error comes
	// with as much as could be read.
	Letter func(group string, p driver.Partition, e *driver.Entry) (letter any, err error)
	// Headers refuses headers that an event may not have.
	Headers func(headers []driver.Attr) error
	// Wrap makes an error of the package of what a driver returned.
	Wrap func(err error, text string) error
}

// Of is set by package posthorn. bus is a *posthorn.Bus.
var Of func(bus any) Bus
