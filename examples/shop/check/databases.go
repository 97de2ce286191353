package check

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// FromDatabases reads the books that the services have kept: order.db, payment.db
// and inventory.db in a directory. The services may be running.
func FromDatabases(ctx context.Context, dir string) (*Books, error) {
	b := newBooks()
	for file, read := range map[string]func(context.Context, *sql.DB) error{
		"order.db": b.readOrders, "payment.db": b.readPayments, "inventory.db": b.readStock,
	} {
		if err := readDatabase(ctx, filepath.Join(dir, file), read); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func readDatabase(ctx context.Context, path string, read func(context.Context, *sql.DB) error) (err error) {
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	u := url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(abs), RawQuery: "mode=ro&_pragma=busy_timeout(10000)"}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return fmt.Errorf("check %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := read(ctx, db); err != nil {
		return fmt.Errorf("check %s: %w", path, err)
	}
	return nil
}

func (b *Books) readOrders(ctx context.Context, db *sql.DB) error {
	return db.QueryRowContext(ctx, `select
		count(*) filter (where kind = 'placed'), count(*) filter (where kind = 'cancelled'), count(*) filter (where kind = 'adjusted'),
		count(*) filter (where paid = total),
		count(*) filter (where kind = 'placed' and goods = 'reserved' or kind = 'cancelled' and goods = 'restocked') from orders`).
		Scan(&b.Orders, &b.Cancellations, &b.Adjustments, &b.Settled, &b.Moved)
}

func (b *Books) readPayments(ctx context.Context, db *sql.DB) error {
	for kind, sum := range map[string]*big.Rat{"captured": b.Captured, "refunded": b.Refunded, "adjusted": b.Adjusted} {
		var thousandths int64
		if err := db.QueryRowContext(ctx, "select coalesce(sum(amount), 0) from payments where kind = ?", kind).Scan(&thousandths); err != nil {
			return err
		}
		sum.SetFrac64(thousandths, 1000)
	}
	return nil
}

func (b *Books) readStock(ctx context.Context, db *sql.DB) error {
	if err := db.QueryRowContext(ctx, "select count(*) from shortages").Scan(&b.Shortages); err != nil {
		return err
	}
	rows, err := db.QueryContext(ctx, "select code, ordered, written_off, returned, chain from stock")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var code string
		var s Stock
		var chain []byte
		if err := rows.Scan(&code, &s.Out, &s.WrittenOff, &s.Back, &chain); err != nil {
			return err
		}
		s.Chain = hex.EncodeToString(chain)
		b.Stock[code] = s
	}
	return rows.Err()
}
