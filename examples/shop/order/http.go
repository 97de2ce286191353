package order

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"time"

	"github.com/posthorn/posthorn/examples/shop/contract"
)

// maxBody bounds what a client may send.
const maxBody = 1 << 20

// Handler returns the service's HTTP API:
//
//	POST /orders              places an order: {"id", "customer", "country", "lines": [{"stock_code", "description", "quantity", "unit_price"}]}
//	POST /orders/{id}/cancel  cancels it
//	GET  /orders/{id}         shows it, with its path through the services
//
// An order that is taken answers 202 Accepted, and the other services are told of it
// even if the bus is away just now. What is refused, or fails, answers a problem: see
// [Problem].
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /orders", s.answer(s.post))
	mux.HandleFunc("POST /orders/{id}/cancel", s.answer(s.cancel))
	mux.HandleFunc("GET /orders/{id}", s.answer(s.get))
	// What is left has no such method, or no such path.
	mux.HandleFunc("/orders", s.answer(only("POST")))
	mux.HandleFunc("/orders/{id}", s.answer(only("GET")))
	mux.HandleFunc("/orders/{id}/cancel", s.answer(only("POST")))
	mux.HandleFunc("/", s.answer(func(_ http.ResponseWriter, r *http.Request) error {
		return &Problem{Status: http.StatusNotFound, Code: "no_such_path", Detail: "there is nothing at " + r.URL.Path}
	}))
	guard := http.NewCrossOriginProtection()
	guard.SetDenyHandler(s.answer(func(_ http.ResponseWriter, r *http.Request) error {
		return &Problem{Status: http.StatusForbidden, Code: "cross_origin", Detail: "a page of another site may not do this"}
	}))
	return guard.Handler(mux)
}

// answer makes a handler of a function that may fail.
func (s *Service) answer(fn func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := fn(w, r)
		if err == nil {
			return
		}
		p := problem(err)
		if p.Status == http.StatusInternalServerError {
			s.cfg.Log.Error("a request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		}
		p.write(w)
	}
}

func only(method string) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Allow", method)
		return &Problem{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed", Detail: r.URL.Path + " takes " + method}
	}
}

func (s *Service) post(w http.ResponseWriter, r *http.Request) error {
	o, err := readOrder(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return err
	}
	o.At = now()
	placed, err := s.Place(r.Context(), FromHTTP, o)
	if err := s.unlessUntold(o.ID, err); err != nil {
		return err
	}
	if placed == 0 {
		return refuse(Exists, "there is an order %q already; see GET /orders/%s", o.ID, o.ID)
	}
	return s.accepted(w, r, o.ID)
}

func (s *Service) cancel(w http.ResponseWriter, r *http.Request) error {
	c, err := s.Cancel(r.Context(), r.PathValue("id"), FromHTTP, now())
	if err := s.unlessUntold(c.ID, err); err != nil {
		return err
	}
	return s.accepted(w, r, c.ID)
}

func (s *Service) get(w http.ResponseWriter, r *http.Request) error {
	st, err := s.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, "application/json", st)
	return nil
}

// unlessUntold lets an order pass that is taken and not published: it is stored, and
// resend comes to it.
func (s *Service) unlessUntold(id string, err error) error {
	if errors.Is(err, ErrUntold) {
		s.cfg.Log.Warn("an order is taken but not published yet", "order", id, "error", err)
		return nil
	}
	return err
}

func (s *Service) accepted(w http.ResponseWriter, r *http.Request, id string) error {
	st, err := s.Get(r.Context(), id)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/orders/"+id)
	reply(w, http.StatusAccepted, "application/json", st)
	return nil
}

func reply(w http.ResponseWriter, status int, mediaType string, body any) {
	w.Header().Set("Content-Type", mediaType)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone, if anything
}

// now is as exact as the events tell it.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

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
		return o, unreadable(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return o, unreadable(errors.New("something follows it"))
	}
	if req.ID == "" {
		req.ID = "W" + rand.Text()
	}
	if faults := req.faults(); len(faults) > 0 {
		return o, &Refusal{Code: Invalid, Detail: "the order cannot be taken as it is; see errors", Faults: faults}
	}
	return Order{ID: req.ID, Kind: Placed, Customer: req.Customer, Country: req.Country, Lines: req.Lines}, nil
}

// faults lists all that a customer may not ask for, though an invoice of the file
// may show it.
func (r request) faults() (faults []Fault) {
	bad := func(field, format string, args ...any) {
		faults = append(faults, Fault{field, fmt.Sprintf(format, args...)})
	}
	if !webID.MatchString(r.ID) {
		bad("id", "it is %q; W and up to 40 capital letters, digits and '-' are expected", r.ID)
	}
	if len(r.Lines) == 0 {
		bad("lines", "they are missing")
	}
	for i, l := range r.Lines {
		if len(faults) > 20 {
			bad("lines", "and maybe more")
			break
		}
		field := func(name string) string { return fmt.Sprintf("lines[%d].%s", i, name) }
		if l.StockCode == "" {
			bad(field("stock_code"), "it is missing")
		}
		if l.Quantity <= 0 {
			bad(field("quantity"), "it is %d; it must be above zero", l.Quantity)
		}
		if l.UnitPrice < 0 {
			bad(field("unit_price"), "it is %v; it cannot be below zero", l.UnitPrice)
		}
	}
	return faults
}
