package order

import (
	"context"
	"fmt"

	"github.com/posthorn/posthorn/examples/shop/internal/store"
)

// importBatch is how many orders are placed at a time.
const importBatch = 200

// Import places the orders of a file, in the file's order.
// What an earlier run has done is not done again. When ctx ends, it finishes the
// orders that it has begun with and returns the context's error.
//
// A service holds the orders of one file: another one is refused.
func (s *Service) Import(ctx context.Context, file *Retail) error {
	if err := s.claim(ctx, file.Hash); err != nil {
		return err
	}
	finish := context.WithoutCancel(ctx)
	for rest := file.Orders; len(rest) > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(importBatch, len(rest))
		if _, err := s.Place(finish, FromFile, rest[:n]...); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

func (s *Service) claim(ctx context.Context, hash string) error {
	return s.store.Do(ctx, func(tx *store.Tx) error {
		if err := tx.Exec("insert into origin (one, file) values (1, ?) on conflict do nothing", hash); err != nil {
			return err
		}
		var of string
		if err := tx.Get("select file from origin", nil, &of); err != nil {
			return err
		}
		if of != hash {
			return fmt.Errorf("the database %s holds orders of another file; import that one, or begin with a new database", s.cfg.Database)
		}
		return nil
	})
}
