package order

import (
	"errors"
	"net/http"
)

// A Problem is the answer to a request that is refused or has failed: problem details
// by RFC 9457, with a code for programs and a detail for people.
type Problem struct {
	Title  string  `json:"title"` // of the status
	Status int     `json:"status"`
	Code   string  `json:"code"`
	Detail string  `json:"detail"`
	Errors []Fault `json:"errors,omitempty"`
}

func (p *Problem) Error() string { return p.Code + ": " + p.Detail }

// statuses are those of refusals.
var statuses = map[Code]int{
	Invalid:        http.StatusUnprocessableEntity,
	NotFound:       http.StatusNotFound,
	Exists:         http.StatusConflict,
	IsCancelled:    http.StatusConflict,
	NotCancellable: http.StatusConflict,
}

// problem tells of an error what a client may know.
func problem(err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	if r, ok := errors.AsType[*Refusal](err); ok {
		return &Problem{Status: statuses[r.Code], Code: string(r.Code), Detail: r.Detail, Errors: r.Faults}
	}
	return &Problem{Status: http.StatusInternalServerError, Code: "internal",
		Detail: "the order service has a problem; nothing is known to be wrong with the request"}
}

// unreadable is a request whose body is not what was expected.
func unreadable(err error) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &Problem{Status: http.StatusRequestEntityTooLarge, Code: "too_large", Detail: err.Error()}
	}
	return &Problem{Status: http.StatusBadRequest, Code: "unreadable", Detail: "the order's JSON cannot be read: " + err.Error()}
}

func (p *Problem) write(w http.ResponseWriter) {
	p.Title = http.StatusText(p.Status)
	reply(w, p.Status, "application/problem+json", p)
}
