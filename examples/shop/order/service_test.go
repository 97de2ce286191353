package order

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
	_ "github.com/posthorn/posthorn/driver/memory"
	"github.com/posthorn/posthorn/examples/shop/contract"
	"github.com/posthorn/posthorn/examples/shop/internal/bed"
)

// quiet keeps what services log out of the tests' output.
var quiet = slog.New(slog.DiscardHandler)

// newService opens a service on a bus of its own, which is not started.
func newService(t *testing.T) (*Service, *posthorn.Bus) {
	t.Helper()
	bus, err := posthorn.Open(t.Context(), "memory:", posthorn.Service("order"), posthorn.Logger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), bus, Config{Database: filepath.Join(t.TempDir(), "order.db"), Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		if err := s.Stop(ctx); err != nil {
			t.Error(err)
		}
		if err := bus.Close(ctx); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, bus
}

// call makes a request and returns the answer's status and body.
func call(t *testing.T, h http.Handler, method, path, body string) (int, map[string]any) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body)))
	var answer map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatalf("%s %s answers %d %q: %v", method, path, w.Code, w.Body, err)
	}
	want := "application/json"
	if w.Code >= 400 {
		want = "application/problem+json"
		if answer["title"] != http.StatusText(w.Code) || answer["status"] != float64(w.Code) || answer["detail"] == "" {
			t.Errorf("%s %s: %d %v is no whole problem", method, path, w.Code, answer)
		}
	}
	if got := w.Header().Get("Content-Type"); got != want {
		t.Errorf("%s %s answers %d as %s, want %s", method, path, w.Code, got, want)
	}
	return w.Code, answer
}

// refused fails unless a request is answered with a problem of this code.
func refused(t *testing.T, h http.Handler, method, path, body string, status int, code, detail string) {
	t.Helper()
	got, answer := call(t, h, method, path, body)
	text := fmt.Sprint(answer["detail"], answer["errors"])
	if got != status || answer["code"] != code || !strings.Contains(text, detail) {
		t.Errorf("%s %s: %d %v, want %d %s with %q", method, path, got, answer, status, code, detail)
	}
}

const good = `{"id": "W1", "customer": "17850", "lines": [{"stock_code": "85123A", "quantity": 2, "unit_price": "2.55"}]}`

func TestHTTP(t *testing.T) {
	t.Parallel()
	s, bus := newService(t)
	h := s.Handler()

	// Another service, to see what is published.
	seen := make(chan any, 10)
	others := bus.Group("others", posthorn.GroupConfig{})
	contract.OrderPlaced.Handle(others, func(_ context.Context, e *posthorn.Event[contract.Placed]) error { seen <- e.Data; return nil })
	contract.OrderCancelled.Handle(others, func(_ context.Context, e *posthorn.Event[contract.Cancelled]) error {
		if e.Key != "W1" {
			t.Errorf("the cancellation has the key %q, and not that of the order", e.Key)
		}
		seen <- e.Data
		return nil
	})
	if err := others.Start(t.Context()); err != nil {
		t.Fatal(err)
	}

	status, o := call(t, h, "POST", "/orders", good)
	if status != http.StatusAccepted || o["id"] != "W1" || o["total"] != "5.100" || o["published"] != true {
		t.Fatalf("POST: %d %v", status, o)
	}
	if p, ok := (<-seen).(contract.Placed); !ok || p.OrderID != "W1" || p.Lines.Total() != 5100 {
		t.Errorf("published: %+v", p)
	}
	refused(t, h, "POST", "/orders", good, 409, "order_exists", `"W1"`)
	if status, o = call(t, h, "GET", "/orders/W1", ""); status != http.StatusOK || o["kind"] != "placed" {
		t.Errorf("GET: %d %v", status, o)
	}
	refused(t, h, "GET", "/orders/W2", "", 404, "order_not_found", `"W2"`)
	refused(t, h, "POST", "/orders/W2/cancel", "", 404, "order_not_found", `"W2"`)
	if status, o = call(t, h, "POST", "/orders/W1/cancel", ""); status != http.StatusAccepted || o["id"] != "C-W1" || o["cancels"] != "W1" {
		t.Errorf("cancel: %d %v", status, o)
	}
	if c, ok := (<-seen).(contract.Cancelled); !ok || c.Cancels != "W1" || c.Lines.Total() != 5100 {
		t.Errorf("published: %+v", c)
	}
	refused(t, h, "POST", "/orders/W1/cancel", "", 409, "order_cancelled", `"C-W1"`)
	refused(t, h, "POST", "/orders/C-W1/cancel", "", 409, "not_cancellable", "only what was placed")
	if status, o = call(t, h, "POST", "/orders", strings.Replace(good, `"id": "W1", `, "", 1)); status != http.StatusAccepted || len(o["id"].(string)) < 20 {
		t.Errorf("POST without an id: %d %v", status, o)
	}
	refused(t, h, "DELETE", "/orders/W1", "", 405, "method_not_allowed", "takes GET")
	refused(t, h, "GET", "/orders", "", 405, "method_not_allowed", "takes POST")
	refused(t, h, "GET", "/basket", "", 404, "no_such_path", "/basket")
}

// TestPath lets the others tell of an order, some of it twice, and wants to see it.
func TestPath(t *testing.T) {
	t.Parallel()
	s, bus := newService(t)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	h := s.Handler()
	call(t, h, "POST", "/orders", good)
	call(t, h, "POST", "/orders/W1/cancel", "")
	call(t, h, "POST", "/orders", strings.Replace(good, "W1", "W2", 1))

	payment := contract.PaymentCaptured.New(contract.Payment{OrderID: "W1", Amount: 5100})
	for range 2 {
		if err := bus.PublishAll(t.Context(), payment); err != nil {
			t.Fatal(err)
		}
	}
	err := bus.PublishAll(t.Context(),
		contract.PaymentCaptured.New(contract.Payment{OrderID: "W2", Amount: 5100}),
		contract.StockReserved.New(contract.Goods{OrderID: "W1", Units: 2}),
		contract.ShipmentStopped.New(contract.Shipment{OrderID: "C-W1", Units: 2}),
		contract.PointsGiven.New(contract.Points{Customer: "17850", OrderID: "W1", Points: 5}),
		contract.CustomerRegistered.New(contract.Registered{Customer: "17850", OrderID: "W1"}),
		contract.CouponIssued.New(contract.Coupon{Customer: "17850", OrderID: "W1", Code: "WELCOME-X"}),
		contract.LetterSent.New(contract.Letter{OrderID: "W1", To: "17850", Subject: "Thank you"}),
		contract.PaymentCaptured.New(contract.Payment{OrderID: "W9", Amount: 1}), // of nobody's order
	)
	if err != nil {
		t.Fatal(err)
	}
	bed.Settle(t, bus, Group)

	st, err := s.Get(t.Context(), "W1")
	if err != nil || st.CancelledBy != "C-W1" {
		t.Fatalf("%+v, %v", st, err)
	}
	var got []string
	for _, step := range st.Path {
		if step.At.IsZero() || step.Service != "order" { // all is on one bus here
			t.Errorf("%+v", step)
		}
		got = append(got, strings.TrimSpace(step.Order+" "+step.Event+" "+step.Detail))
	}
	slices.Sort(got)
	want := []string{"C-W1 order.cancelled", "C-W1 shipment.stopped 2 units", "coupon.issued WELCOME-X", "customer.registered 17850", "letter.sent Thank you",
		"order.placed", "payment.captured 5.100", "points.given 5 points", "stock.reserved 2 units"}
	if !slices.Equal(got, want) {
		t.Errorf("path\n%q, want\n%q", got, want)
	}
	for d, err := range bus.DeadLetters(t.Context(), Group) {
		if err != nil || d.Key != "W9" || d.Reason != posthorn.CodePermanent {
			t.Errorf("dead letter %+v, %v", d, err)
		}
	}
	if n := bus.Stats().Dead; n != 1 {
		t.Errorf("%d dead letters, want that of the order that is not there", n)
	}
}

// TestCancelOnce cancels an order from many sides.
func TestCancelOnce(t *testing.T) {
	t.Parallel()
	s, _ := newService(t)
	h := s.Handler()
	call(t, h, "POST", "/orders", good)
	var accepted atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if status, _ := call(t, h, "POST", "/orders/W1/cancel", ""); status == http.StatusAccepted {
				accepted.Add(1)
			}
		})
	}
	wg.Wait()
	if n := accepted.Load(); n != 1 {
		t.Errorf("cancelled %d times", n)
	}
}

// TestCancelWhatIsLost cancels orders of the file, whose goods were written off.
func TestCancelWhatIsLost(t *testing.T) {
	t.Parallel()
	s, _ := newService(t)
	line := func(n int64) contract.Line { return contract.Line{StockCode: "X", Quantity: n} }
	if _, err := s.Place(t.Context(), FromFile,
		Order{ID: "1", Kind: Placed, Lines: contract.Lines{line(3), line(-2)}},
		Order{ID: "2", Kind: Placed, Lines: contract.Lines{line(-2)}}); err != nil {
		t.Fatal(err)
	}
	if c, err := s.Cancel(t.Context(), "1", FromHTTP, now()); err != nil || len(c.Lines) != 1 || c.Lines[0].Quantity != 3 {
		t.Errorf("%+v, %v", c, err)
	}
	refused(t, s.Handler(), "POST", "/orders/2/cancel", "", 409, "not_cancellable", "no goods")
}

func TestHTTPRefuses(t *testing.T) {
	t.Parallel()
	s, _ := newService(t)
	for name, c := range map[string]struct {
		body   string
		status int
		code   string
		want   string
	}{
		"no JSON":         {"hello", 400, "unreadable", "JSON cannot be read"},
		"an unknown":      {`{"colour": "red"}`, 400, "unreadable", "colour"},
		"more":            {good + good, 400, "unreadable", "something follows"},
		"a price":         {strings.Replace(good, "2.55", "two", 1), 400, "unreadable", `"two" is no amount`},
		"too large":       {`{"customer": "` + strings.Repeat("x", maxBody) + `"}`, 413, "too_large", "too large"},
		"no lines":        {`{"lines": []}`, 422, "invalid_order", "field:lines"},
		"an invoice's id": {strings.Replace(good, "W1", "536365", 1), 422, "invalid_order", `"536365"`},
		"no stock code":   {strings.Replace(good, "85123A", "", 1), 422, "invalid_order", "field:lines[0].stock_code"},
		"no quantity":     {strings.Replace(good, ": 2,", ": 0,", 1), 422, "invalid_order", "it is 0"},
		"a write-off":     {strings.Replace(good, ": 2,", ": -2,", 1), 422, "invalid_order", "it is -2"},
		"a credit":        {strings.Replace(good, "2.55", "-2.55", 1), 422, "invalid_order", "it is -2.550"},
		"too much":        {strings.Replace(good, ": 2,", ": 1000001,", 1), 422, "invalid_order", "quantity is 1000001"},
		"all at once":     {`{"id": "x", "lines": [{"quantity": -1}]}`, 422, "invalid_order", "field:lines[0].stock_code] map[detail:it is -1"},
	} {
		t.Run(name, func(t *testing.T) { refused(t, s.Handler(), "POST", "/orders", c.body, c.status, c.code, c.want) })
	}
	r := httptest.NewRequestWithContext(t.Context(), "POST", "http://shop/orders", strings.NewReader(good))
	r.Header.Set("Origin", "http://elsewhere")
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	if w.Code != 403 || !strings.Contains(w.Body.String(), `"cross_origin"`) {
		t.Errorf("from a page of another site: %d %s", w.Code, w.Body)
	}
}

// TestHTTPFails hides from the client what is the service's own trouble.
func TestHTTPFails(t *testing.T) {
	t.Parallel()
	s, _ := newService(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	refused(t, s.Handler(), "POST", "/orders", good, 500, "internal", "nothing is known to be wrong with the request")
}

// TestBusAway takes an order while the bus is closed, and publishes it after the
// service is opened again on another one.
func TestBusAway(t *testing.T) {
	t.Parallel()
	database := filepath.Join(t.TempDir(), "order.db")
	open := func() (*Service, *posthorn.Bus) {
		bus, err := posthorn.Open(t.Context(), "memory:", posthorn.Service("order"), posthorn.Logger(quiet))
		if err != nil {
			t.Fatal(err)
		}
		s, err := Open(t.Context(), bus, Config{Database: database, Log: quiet, Resend: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		return s, bus
	}
	s, bus := open()
	if err := bus.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, o := call(t, s.Handler(), "POST", "/orders", good); status != http.StatusAccepted || o["published"] != false {
		t.Errorf("POST while the bus is away: %d %v", status, o)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s, bus = open()
	seen := make(chan string, 1)
	others := bus.Group("others", posthorn.GroupConfig{})
	contract.OrderPlaced.Handle(others, func(_ context.Context, e *posthorn.Event[contract.Placed]) error { seen <- e.Data.OrderID; return nil })
	if err := others.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if id := <-seen; id != "W1" {
		t.Errorf("published %s", id)
	}
	for _, end := range []func(context.Context) error{s.Stop, bus.Close} {
		if err := end(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestImport(t *testing.T) {
	t.Parallel()
	s, bus := newService(t)
	file, err := ReadRetail(strings.NewReader(dirty))
	if err != nil {
		t.Fatal(err)
	}
	file.Hash = "one"
	for range 2 {
		if err := s.Import(t.Context(), file); err != nil {
			t.Fatal(err)
		}
	}
	if n := bus.Stats().Published; n != 4+5+2 {
		t.Errorf("%d events are published, want one for each order, line and purchase of somebody known, and not one for the adjustment's line", n)
	}
	c, err := Count(t.Context(), s.store.DB())
	if want := (Counts{Taken: 4, Published: 4}); err != nil || c != want {
		t.Errorf("counts %+v, %v; want %+v", c, err, want)
	}
	other := &Retail{Orders: file.Orders, Hash: "two"}
	if err := s.Import(t.Context(), other); err == nil || !strings.Contains(err.Error(), "orders of another file") {
		t.Errorf("another file: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Import(ended, file); err == nil {
		t.Error("an import whose context has ended goes on")
	}
}
