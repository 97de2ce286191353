package order

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
	_ "github.com/posthorn/posthorn/driver/memory"
	"github.com/posthorn/posthorn/examples/shop/contract"
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
	return w.Code, answer
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
	contract.OrderCancelled.Handle(others, func(_ context.Context, e *posthorn.Event[contract.Cancelled]) error { seen <- e.Data; return nil })
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
	if status, o = call(t, h, "POST", "/orders", good); status != http.StatusConflict || !strings.Contains(o["error"].(string), "there already") {
		t.Errorf("POST again: %d %v", status, o)
	}
	if status, o = call(t, h, "GET", "/orders/W1", ""); status != http.StatusOK || o["kind"] != "placed" {
		t.Errorf("GET: %d %v", status, o)
	}
	if status, o = call(t, h, "GET", "/orders/W2", ""); status != http.StatusNotFound || !strings.Contains(o["error"].(string), "W2") {
		t.Errorf("GET of none: %d %v", status, o)
	}
	if status, o = call(t, h, "POST", "/orders/W2/cancel", ""); status != http.StatusNotFound {
		t.Errorf("cancel none: %d %v", status, o)
	}
	if status, o = call(t, h, "POST", "/orders/W1/cancel", ""); status != http.StatusAccepted || o["id"] != "CW1" || o["cancels"] != "W1" {
		t.Errorf("cancel: %d %v", status, o)
	}
	if c, ok := (<-seen).(contract.Cancelled); !ok || c.Cancels != "W1" || c.Lines.Total() != 5100 {
		t.Errorf("published: %+v", c)
	}
	if status, o = call(t, h, "POST", "/orders/W1/cancel", ""); status != http.StatusConflict {
		t.Errorf("cancel again: %d %v", status, o)
	}
	if status, o = call(t, h, "POST", "/orders/CW1/cancel", ""); status != http.StatusBadRequest {
		t.Errorf("cancel a cancellation: %d %v", status, o)
	}
	if status, o = call(t, h, "POST", "/orders", strings.Replace(good, `"id": "W1", `, "", 1)); status != http.StatusAccepted || len(o["id"].(string)) < 20 {
		t.Errorf("POST without an id: %d %v", status, o)
	}
}

func TestHTTPRefuses(t *testing.T) {
	t.Parallel()
	s, _ := newService(t)
	for name, c := range map[string]struct{ body, want string }{
		"no JSON":         {"hello", "JSON cannot be read"},
		"an unknown":      {`{"colour": "red"}`, "colour"},
		"more":            {good + good, "something follows"},
		"no lines":        {`{"lines": []}`, "lines are missing"},
		"an invoice's id": {strings.Replace(good, "W1", "536365", 1), `id "536365"`},
		"no stock code":   {strings.Replace(good, "85123A", "", 1), "line 1: stock_code is missing"},
		"no quantity":     {strings.Replace(good, ": 2,", ": 0,", 1), "line 1: quantity is 0"},
		"a write-off":     {strings.Replace(good, ": 2,", ": -2,", 1), "line 1: quantity is -2"},
		"a credit":        {strings.Replace(good, "2.55", "-2.55", 1), "line 1: unit_price is -2.550"},
		"a price":         {strings.Replace(good, "2.55", "two", 1), `"two" is no amount`},
		"too much":        {strings.Replace(good, ": 2,", ": 1000001,", 1), "quantity is 1000001"},
		"too large":       {`{"customer": "` + strings.Repeat("x", maxBody) + `"}`, "too large"},
		"all at once":     {`{"id": "x", "lines": [{"quantity": -1}]}`, "stock_code is missing; line 1: quantity is -1"},
	} {
		status, answer := call(t, s.Handler(), "POST", "/orders", c.body)
		if text, _ := answer["error"].(string); status != http.StatusBadRequest || !strings.Contains(text, c.want) {
			t.Errorf("%s: %d %v, want 400 with %q", name, status, answer, c.want)
		}
	}
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
	if n := bus.Stats().Published; n != 4+5 {
		t.Errorf("%d events are published, want one for each order and line, and not one for the adjustment's", n)
	}
	c, err := Count(t.Context(), s.store.DB())
	if want := (Counts{Taken: 4, Published: 4, WithGoods: 3, Items: 5, Known: 2}); err != nil || c != want {
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
