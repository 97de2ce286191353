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

// FromDatabases reads the books that the services have kept: a file for each service
// in a directory. The services may be running.
func FromDatabases(ctx context.Context, dir string) (*Books, error) {
	b := newBooks()
	for service, read := range map[string]func(context.Context, *sql.DB) error{
		"order": b.readOrders, "payment": b.readPayments, "inventory": b.readStock, "logistics": b.readParcels,
		"customer": b.readCustomers, "coupon": b.readCoupons, "points": b.readPoints,
		"recommendation": b.readPairs, "notification": b.readLetters,
	} {
		if err := readDatabase(ctx, filepath.Join(dir, service+".db"), read); err != nil {
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

// each calls read with each row's Scan.
func each(ctx context.Context, db *sql.DB, query string, read func(scan func(...any) error) error) error {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := read(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (b *Books) readOrders(ctx context.Context, db *sql.DB) error {
	err := db.QueryRowContext(ctx, `select
		count(*) filter (where kind = 'placed'), count(*) filter (where kind = 'cancelled'), count(*) filter (where kind = 'adjusted'),
		(select count(*) from steps),
		(select count(*) from steps s join orders o on o.id = s.order_id where o.kind = 'placed' and s.type = 'stock.reserved' or o.kind = 'cancelled' and s.type = 'stock.restocked')
		from orders`).
		Scan(&b.Orders, &b.Cancellations, &b.Adjustments, &b.Heard, &b.Moved)
	if err != nil {
		return err
	}
	// A payment counts where it is of the order's sum.
	return each(ctx, db, "select o.total, s.detail from orders o join steps s on s.order_id = o.id where s.type like 'payment.%'", func(scan func(...any) error) error {
		var total int64
		var paid string
		if err := scan(&total, &paid); err != nil {
			return err
		}
		if sum, ok := new(big.Rat).SetString(paid); ok && sum.Cmp(big.NewRat(total, 1000)) == 0 {
			b.Settled++
		}
		return nil
	})
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
	return each(ctx, db, "select code, ordered, written_off, returned, chain from stock", readHistory(b.Stock))
}

func readHistory(into map[string]History) func(func(...any) error) error {
	return func(scan func(...any) error) error {
		var of string
		var h History
		var chain []byte
		if err := scan(&of, &h.Out, &h.Lost, &h.Back, &chain); err != nil {
			return err
		}
		h.Chain = hex.EncodeToString(chain)
		into[of] = h
		return nil
	}
}

func (b *Books) readParcels(ctx context.Context, db *sql.DB) error {
	err := db.QueryRowContext(ctx, "select count(*) filter (where not stopped), count(*) filter (where stopped) from returns").Scan(&b.Returns, &b.Stopped)
	if err != nil {
		return err
	}
	return each(ctx, db, "select country, count(*), sum(units) from parcels where sent group by country", func(scan func(...any) error) error {
		var country string
		var n, units int64
		if err := scan(&country, &n, &units); err != nil {
			return err
		}
		b.Parcels[country] = n
		b.Units += units
		return nil
	})
}

func (b *Books) readCustomers(ctx context.Context, db *sql.DB) error {
	return each(ctx, db, "select id, country from customers", func(scan func(...any) error) error {
		var id, country string
		err := scan(&id, &country)
		b.Customers[id] = country
		return err
	})
}

func (b *Books) readCoupons(ctx context.Context, db *sql.DB) error {
	return each(ctx, db, "select distinct customer from coupons group by code having count(*) = 1", func(scan func(...any) error) error {
		var customer string
		err := scan(&customer)
		b.Coupons[customer] = true
		return err
	})
}

func (b *Books) readPoints(ctx context.Context, db *sql.DB) error {
	return each(ctx, db, "select customer, given, 0, taken, chain from accounts", readHistory(b.Points))
}

func (b *Books) readPairs(ctx context.Context, db *sql.DB) error {
	if err := db.QueryRowContext(ctx, "select count(*) from orders").Scan(&b.Baskets); err != nil {
		return err
	}
	return each(ctx, db, "select a, b, orders from pairs", func(scan func(...any) error) error {
		var pair [2]string
		var n int64
		err := scan(&pair[0], &pair[1], &n)
		b.Pairs[pair] = n
		return err
	})
}

func (b *Books) readLetters(ctx context.Context, db *sql.DB) error {
	return db.QueryRowContext(ctx, "select count(*) filter (where to_whom != 'buyer'), count(*) filter (where to_whom = 'buyer') from letters").Scan(&b.Letters, &b.Notes)
}
