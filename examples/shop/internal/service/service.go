// Package service is what the shop's services have in common, and that is little:
// each has a group on the bus and a file of its own, and is started, stopped and
// closed in the same way.
package service

import (
	"context"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/internal/store"
)

// A Base is embedded by a service.
type Base struct {
	group *posthorn.Group
	store *store.Store
}

// New makes the base of a service.
func New(group *posthorn.Group, st *store.Store) Base { return Base{group, st} }

// Start begins to handle events.
func (b *Base) Start(ctx context.Context) error { return b.group.Start(ctx) }

// Stop lets handlers that run finish and handles no more events.
func (b *Base) Stop(ctx context.Context) error { return b.group.Stop(ctx) }

// Close closes the database. The service is to be stopped before, and the bus is
// closed by whoever has opened it.
func (b *Base) Close() error { return b.store.Close() }
