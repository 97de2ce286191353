package posthorn

import (
	"context"
	"errors"

	"github.com/posthorn/posthorn/driver"
)

// A Code says what kind of error an error is. The set is closed: programs may
// switch on it.
type Code string

// The codes. Each comment says what happened and, as far as it can be said in
// general, what to do.
const (
	// CodeInvalid: a name, URL, option or argument is not acceptable. Mend the call.
	CodeInvalid Code = "invalid"
	// CodeConflict: it is at odds with what stands: on this bus, on the broker, or in time.
	CodeConflict Code = "conflict"
	// CodeNotFound: a topic, group or entry does not exist.
	CodeNotFound Code = "not_found"
	// CodeUnsupported: the broker cannot do it.
	CodeUnsupported Code = "unsupported"
	// CodeUnavailable: the broker cannot be reached or does not answer. Try again later.
	CodeUnavailable Code = "unavailable"
	// CodeNoSpace: the broker's disk is full. Make room.
	CodeNoSpace Code = "no_space"
	// CodeTopicFull: the topic has reached the size declared for it, and what it
	// holds is not settled by all groups.
	CodeTopicFull Code = "topic_full"
	// CodeTooLarge: the event is larger than the limit.
	CodeTooLarge Code = "too_large"
	// CodeDenied: the right to do it is missing.
	CodeDenied Code = "denied"
	// CodeLocked: another process holds what only one may hold.
	CodeLocked Code = "locked"
	// CodeTimeout: a deadline passed.
	CodeTimeout Code = "timeout"
	// CodeCanceled: the context was cancelled.
	CodeCanceled Code = "canceled"
	// CodeClosed: the bus, group or handler that it needs has ended.
	CodeClosed Code = "closed"
	// CodeUnknown: it may or may not have happened. Publishing again with the
	// same id is safe.
	CodeUnknown Code = "outcome_unknown"
	// CodeUndecodable: the data or an attribute cannot be read as its type says.
	CodeUndecodable Code = "undecodable"
	// CodeForeign: the message is no event: it has no CloudEvents attributes.
	CodeForeign Code = "foreign"
	// CodePanic: a handler panicked or ended its goroutine.
	CodePanic Code = "panic"
	// CodeHandler: a handler returned an error.
	CodeHandler Code = "handler_failed"
	// CodePermanent: a handler said that trying again is of no use.
	CodePermanent Code = "permanent"
	// CodeQuarantined: the message was being handled each time its process died.
	CodeQuarantined Code = "quarantined"
	// CodeInternal: a defect in Posthorn. Please report it.
	CodeInternal Code = "internal"
)

var driverCodes = []struct {
	err  error
	code Code
}{
	{driver.ErrUnavailable, CodeUnavailable},
	{driver.ErrNotFound, CodeNotFound},
	{driver.ErrConflict, CodeConflict},
	{driver.ErrMismatch, CodeConflict},
	{driver.ErrLost, CodeUnavailable},
	{driver.ErrTooLarge, CodeTooLarge},
	{driver.ErrNoSpace, CodeNoSpace},
	{driver.ErrTopicFull, CodeTopicFull},
	{driver.ErrDenied, CodeDenied},
	{driver.ErrLocked, CodeLocked},
	{driver.ErrInvalid, CodeInvalid},
	{driver.ErrClosed, CodeClosed},
	{context.DeadlineExceeded, CodeTimeout},
	{context.Canceled, CodeCanceled},
}

// CodeOf returns the code of an error: that of the first [*Error] or
// [*PublishError] in its chain, else the one that fits a context's error, else
// CodeHandler, which is what an error of the user's own is. It returns "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var pe *PublishError
	if errors.As(err, &pe) {
		return pe.Code()
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	for _, c := range driverCodes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return CodeHandler
}
