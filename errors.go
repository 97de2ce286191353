package posthorn

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// An Error is an error of this package. Its text names the thing it is about
// and, where there is one, the remedy.
type Error struct {
	Code Code
	Text string
	Err  error // the cause, or nil
}

func (e *Error) Error() string {
	if e.Err == nil {
		return "posthorn: " + e.Text
	}
	return "posthorn: " + e.Text + ": " + strings.TrimPrefix(e.Err.Error(), "posthorn: ")
}

func (e *Error) Unwrap() error { return e.Err }

func errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

// wrapf keeps the code of the cause.
func wrapf(err error, format string, args ...any) *Error {
	return &Error{Code: codeOfCause(err), Text: fmt.Sprintf(format, args...), Err: err}
}

func codeOfCause(err error) Code {
	if c := CodeOf(err); c != CodeHandler {
		return c
	}
	return CodeUnavailable
}

// Permanent tells the group, as a handler's result, that err will not go away by
// trying again: the event becomes a dead letter now. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// RetryAfter tells the group, as a handler's result, to try again no sooner than
// after d. The attempt counts. A d of a second or more goes through the broker and
// survives a restart. RetryAfter(nil, d) is nil.
func RetryAfter(err error, d time.Duration) error {
	if err == nil {
		return nil
	}
	return &retryAfterError{err, d}
}

type retryAfterError struct {
	err error
	d   time.Duration
}

func (e *retryAfterError) Error() string { return e.err.Error() }
func (e *retryAfterError) Unwrap() error { return e.err }

// Skip ends an event, as a handler's result, by the handler's own word: it is
// not handled, not tried again and no dead letter, but counted, with the reason
// in the log at level debug.
func Skip(reason string) error { return &skipError{reason} }

type skipError struct{ reason string }

func (e *skipError) Error() string { return "skipped: " + e.reason }

// A State says what became of a published event.
type State string

const (
	// Stored as durably as the broker can be told to.
	Stored State = "stored"
	// NotStored, and never will be by this call.
	NotStored State = "not stored"
	// Unknown: it may be stored. Publishing the same [Outgoing] again, or the
	// same id, is safe: the broker stores it once within its de-duplication window.
	Unknown State = "unknown"
)

// A Result is what became of one published event.
type Result struct {
	ID        string
	Type      string
	Topic     string
	Partition int
	Position  uint64 // 0 when it is not known
	Duplicate bool   // an earlier publish of this id had stored it
	State     State
	Err       error // nil only when stored
}

// A PublishError is returned when not all events of a call are stored. It
// says of each what became of it.
type PublishError struct {
	Results []Result // one for each event, in the order of the call
}

// Count returns how many of the events are in a state.
func (e *PublishError) Count(s State) int {
	n := 0
	for _, r := range e.Results {
		if r.State == s {
			n++
		}
	}
	return n
}

// Code is that of the first event that failed; CodeUnknown when the outcome of
// any is unknown.
func (e *PublishError) Code() Code {
	code := CodeInternal
	for _, r := range slices.Backward(e.Results) {
		if r.State == Unknown {
			return CodeUnknown
		}
		if r.Err != nil {
			code = CodeOf(r.Err)
		}
	}
	return code
}

func (e *PublishError) Error() string {
	first := e.first()
	if len(e.Results) == 1 {
		return fmt.Sprintf("posthorn: publish %s (id %s): %s: %s", first.Type, first.ID, first.State, trimPrefix(first.Err))
	}
	return fmt.Sprintf("posthorn: publish %d events: %d stored, %d not stored, %d unknown; the first: %s (id %s): %s",
		len(e.Results), e.Count(Stored), e.Count(NotStored), e.Count(Unknown), first.Type, first.ID, trimPrefix(first.Err))
}

func (e *PublishError) first() Result {
	for _, r := range e.Results {
		if r.State != Stored {
			return r
		}
	}
	return Result{Err: errors.New("all stored")}
}

// Unwrap returns the errors of the events that are not stored.
func (e *PublishError) Unwrap() []error {
	var errs []error
	for _, r := range e.Results {
		if r.Err != nil {
			errs = append(errs, r.Err)
		}
	}
	return errs
}

func trimPrefix(err error) string {
	if err == nil {
		return "no error"
	}
	return strings.TrimPrefix(err.Error(), "posthorn: ")
}
