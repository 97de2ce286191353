package order

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/posthorn/posthorn/examples/shop/contract"
)

// maxBody bounds what a client may send.
const maxBody = 1 << 20

// Handler returns the service's HTTP API:
//
//	POST /orders              takes an order: {"id", "customer", "country", "lines": [{"stock_code", "description", "quantity", "unit_price"}]}
//	POST /orders/{id}/cancel  cancels it
//	GET  /orders/{id}         says how far it has come
//
// An order that is taken answers 202 Accepted, and will be published even if the
// bus is away just now. Errors are {"error": "what is wrong"}: 400 for what is not
// valid, 404 for an order that is not there, 409 for one that is there already.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /orders", s.post)
	mux.HandleFunc("POST /orders/{id}/cancel", s.cancel)
	mux.HandleFunc("GET /orders/{id}", s.get)
	return http.NewCrossOriginProtection().Handler(mux)
}

func (s *Service) post(w http.ResponseWriter, r *http.Request) {
	o, err := readOrder(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	o.At = time.Now().UTC().Truncate(time.Millisecond)
	switch taken, err := s.Accept(r.Context(), FromHTTP, o); {
	case err != nil:
		s.fail(w, r, err)
	case taken == 0:
		s.fail(w, r, fmt.Errorf("%w: %q; see GET /orders/%s", ErrRepeated, o.ID, o.ID))
	default:
		s.accepted(w, r, o.ID)
	}
}

func (s *Service) cancel(w http.ResponseWriter, r *http.Request) {
	c, err := s.Cancel(r.Context(), r.PathValue("id"), FromHTTP, time.Now().UTC().Truncate(time.Millisecond))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.accepted(w, r, c.ID)
}

func (s *Service) get(w http.ResponseWriter, r *http.Request) {
	st, err := s.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	reply(w, http.StatusOK, st)
}

// accepted publishes the order and answers. The order is stored, so it stays
// taken if the client hangs up or the bus is away: resend comes to it.
func (s *Service) accepted(w http.ResponseWriter, r *http.Request, id string) {
	if err := s.Publish(context.WithoutCancel(r.Context())); err != nil {
		s.cfg.Log.Warn("an order is taken but not published yet", "order", id, "error", err)
	}
	st, err := s.Get(r.Context(), id)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Location", "/orders/"+id)
	reply(w, http.StatusAccepted, st)
}

func (s *Service) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, ErrInvalid):
		status = http.StatusBadRequest
	case errors.Is(err, ErrNotFound):
		status = http.StatusNotFound
	case errors.Is(err, ErrRepeated):
		status = http.StatusConflict
	default:
		s.cfg.Log.Error("a request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		err = errors.New("the order service has a problem; nothing is known to be wrong with the request")
	}
	reply(w, status, map[string]string{"error": err.Error()})
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone, if anything
}

// A request is what a client sends to place an order.
type request struct {
	ID       string         `json:"id"` // optional: sending it again places no second order
	Customer string         `json:"customer"`
	Country  string         `json:"country"`
	Lines    contract.Lines `json:"lines"`
}

// webID is the grammar of ids from outside. Those of the file's invoices, and of
// cancellations, are digits behind a letter or none.
var webID = regexp.MustCompile(`^W[A-Z0-9-]{1,40}$`)

func readOrder(body io.Reader) (o Order, err error) {
	var req request
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&req); err != nil {
		return o, fmt.Errorf("%w: its JSON cannot be read: %w", ErrInvalid, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return o, fmt.Errorf("%w: something follows its JSON", ErrInvalid)
	}
	if req.ID == "" {
		req.ID = "W" + rand.Text()
	}
	o = Order{ID: req.ID, Kind: Placed, Customer: req.Customer, Country: req.Country, Lines: req.Lines}
	if wrong := req.wrong(); len(wrong) > 0 {
		return o, fmt.Errorf("%w: %s", ErrInvalid, strings.Join(wrong, "; "))
	}
	return o, o.check()
}

// wrong lists all that a customer may not ask for, though an invoice of the file
// may show it.
func (r request) wrong() (wrong []string) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if !webID.MatchString(r.ID) {
		bad("id %q: W and up to 40 capital letters, digits and '-' are expected", r.ID)
	}
	if len(r.Lines) == 0 {
		bad("lines are missing")
	}
	for i, l := range r.Lines {
		if len(wrong) > 20 {
			bad("and maybe more")
			break
		}
		if l.StockCode == "" {
			bad("line %d: stock_code is missing", i+1)
		}
		if l.Quantity <= 0 {
			bad("line %d: quantity is %d; it must be above zero", i+1, l.Quantity)
		}
		if l.UnitPrice < 0 {
			bad("line %d: unit_price is %v; it cannot be below zero", i+1, l.UnitPrice)
		}
	}
	return wrong
}
