package demo

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/posthorn/posthorn/examples/shop/internal/store"
	"github.com/posthorn/posthorn/examples/shop/inventory"
	"github.com/posthorn/posthorn/examples/shop/order"
	"github.com/posthorn/posthorn/examples/shop/payment"
	"github.com/posthorn/posthorn/examples/shop/points"
)

// TestHTTP places an order and cancels it, in the whole shop, and wants to see each on
// its path through all services, and the books as if nothing had happened.
func TestHTTP(t *testing.T) {
	t.Parallel()
	cfg := Config{URL: "memory:shop-http", Dir: t.TempDir(), Log: quiet}.defaults()
	shop, err := openTogether(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := shop.close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	for _, s := range shop.services {
		if err := s.start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	h := shop.order().Handler()

	see(t, h, "POST", "/orders", `{"id": "W1", "customer": "17850", "lines": [{"stock_code": "A", "quantity": 2, "unit_price": "2.50"}, {"stock_code": "B", "quantity": 1, "unit_price": "7"}]}`)
	wait(t, h, "order: order.placed", "payment: payment.captured 12.000", "inventory: stock.reserved 3 units", "logistics: shipment.sent 3 units",
		"customer: customer.registered 17850", "points: points.given 12 points", "coupon: coupon.issued", "notification: letter.sent Thank you",
		"notification: letter.sent Your order W1 is on its way", "notification: letter.sent Welcome!")
	see(t, h, "POST", "/orders/W1/cancel", "")
	st := wait(t, h, "order: order.cancelled", "payment: payment.refunded 12.000", "inventory: stock.restocked 3 units", "logistics: shipment.returned 3 units",
		"points: points.taken 12 points", "notification: letter.sent You get back 12.000")
	if st.CancelledBy != "C-W1" {
		t.Errorf("%+v", st)
	}
	for service, c := range map[string]struct{ query, want string }{
		payment.Group:   {"select group_concat(kind || ' ' || amount, ', ') from (select * from payments order by kind)", "captured 12000, refunded 12000"},
		inventory.Group: {"select group_concat(code || ' ' || (returned - ordered), ', ') from (select * from stock order by code)", "A 0, B 0"},
		points.Group:    {"select group_concat(customer || ' ' || (given - taken)) from accounts", "17850 0"},
	} {
		db, err := store.Read(t.Context(), database(cfg.Dir, service))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		var got string
		if err := db.QueryRowContext(t.Context(), c.query).Scan(&got); err != nil || got != c.want {
			t.Errorf("%s has %q, %v; want %q", service, got, err, c.want)
		}
	}
}

// see makes a request that is to be answered.
func see(t *testing.T, h http.Handler, method, path, body string) (st order.Status) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body)))
	if err := json.Unmarshal(w.Body.Bytes(), &st); err != nil || w.Code >= 300 {
		t.Fatalf("%s %s answers %d %s: %v", method, path, w.Code, w.Body, err)
	}
	return st
}

// wait looks at the order until its path has each of the steps.
func wait(t *testing.T, h http.Handler, steps ...string) order.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		st := see(t, h, "GET", "/orders/W1", "")
		missing := slices.DeleteFunc(slices.Clone(steps), func(step string) bool {
			return slices.ContainsFunc(st.Path, func(s order.Step) bool {
				return strings.HasPrefix(s.Service+": "+s.Event+" "+s.Detail, step)
			})
		})
		if len(missing) == 0 {
			return st
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the path lacks %q; it is %+v", missing, st.Path)
		}
	}
}
