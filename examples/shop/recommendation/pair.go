package recommendation

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/internal/store"
)

// A pair is remembered with the order at which it was found to be worth a
// recommendation, so that the same is found when that order comes again.
const schema = `
create table if not exists orders (
	id text primary key
) without rowid;
create table if not exists pairs (
	a        text not null,
	b        text not null,
	orders   integer not null, -- that hold both
	found_in text,
	primary key (a, b)
) without rowid;
create index if not exists pairs_found on pairs (found_in) where found_in is not null;`

const (
	// most is how many different goods an order may have to tell what goes with
	// what. Who buys more than these fills a shop of his own.
	most = 10
	// enough is in how many orders two goods are before one is recommended to those
	// who buy the other.
	enough = 5
)

// A basket holds the different goods of an order, sorted.
type basket struct {
	order string
	codes []string
}

func newBasket(o contract.Placed) basket {
	b := basket{order: o.OrderID}
	for _, l := range o.Lines {
		if l.Quantity > 0 { // and not written off
			b.codes = append(b.codes, l.StockCode)
		}
	}
	slices.Sort(b.codes)
	b.codes = slices.Compact(b.codes)
	return b
}

// tells says whether the order tells what goes with what.
func (b basket) tells() bool { return len(b.codes) >= 2 && len(b.codes) <= most }

type pair struct{ a, b string }

// A finding is a pair that is to be recommended.
type finding struct {
	order    string // at which it was found
	together contract.Together
}

// book counts the pairs of the baskets that were not counted before, and returns the
// findings at all of them.
func (s *Service) book(ctx context.Context, baskets []basket) (found []finding, err error) {
	if len(baskets) == 0 {
		return nil, nil
	}
	err = s.store.Do(ctx, func(tx *store.Tx) error {
		found = nil
		counts := map[pair]int64{}
		last := map[pair]string{} // the last order of the batch that holds it
		for _, b := range baskets {
			fresh, err := enter(tx, b.order)
			if err != nil {
				return err
			}
			if !fresh {
				old, err := foundIn(tx, b.order)
				if err != nil {
					return err
				}
				found = append(found, old...)
				continue
			}
			for i, a := range b.codes {
				for _, c := range b.codes[i+1:] {
					counts[pair{a, c}]++
					last[pair{a, c}] = b.order
				}
			}
		}
		for _, p := range slices.SortedFunc(maps.Keys(counts), pair.compare) { // neighbours stand on one page
			is, err := add(tx, p, counts[p], last[p])
			if err != nil {
				return err
			}
			if is {
				found = append(found, finding{last[p], contract.Together{A: p.a, B: p.b, Orders: enough}})
			}
		}
		return nil
	})
	return found, err
}

func (p pair) compare(o pair) int {
	if c := strings.Compare(p.a, o.a); c != 0 {
		return c
	}
	return strings.Compare(p.b, o.b)
}

// enter notes an order; fresh is false when it is there already.
func enter(tx *store.Tx, order string) (fresh bool, err error) {
	err = tx.Get("insert into orders (id) values (?) on conflict do nothing returning 1", []any{order}, &fresh)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return fresh, err
}

// add adds to a pair's count, and tells whether that has made it worth a
// recommendation.
func add(tx *store.Tx, p pair, n int64, order string) (found bool, err error) {
	var orders int64
	err = tx.Get("insert into pairs (a, b, orders) values (?, ?, ?) on conflict do update set orders = orders + excluded.orders returning orders",
		[]any{p.a, p.b, n}, &orders)
	if err != nil || orders < enough || orders-n >= enough {
		return false, err
	}
	return true, tx.Exec("update pairs set found_in = ? where a = ? and b = ?", order, p.a, p.b)
}

// foundIn returns what was found at an order before.
func foundIn(tx *store.Tx, order string) (found []finding, err error) {
	err = tx.Each("select a, b from pairs where found_in = ? order by a, b", []any{order}, func(scan func(...any) error) error {
		f := finding{order: order, together: contract.Together{Orders: enough}}
		if err := scan(&f.together.A, &f.together.B); err != nil {
			return err
		}
		found = append(found, f)
		return nil
	})
	return found, err
}
