package posthorn

import (
	"context"
	"errors"

	"github.com/posthorn/posthorn/driver"
)

// A Code says what kind of error an error is. The set is closed: programs may
// switch on it.
type Code string

// The codes. docs/errors.md is made from these comments: each says what happened
// and, as far as it can be said in general, the remedy.
const (
	// CodeInvalid: a name, URL, option or argument is not acceptable. Remedy: mend the
	// call; the text says what is allowed.
	CodeInvalid Code = "invalid"
	// CodeConflict: it is at odds with what stands: on this bus, on the broker, or in
	// time. Remedy: the text names both sides; let the one that is wrong give way, or
	// use another name.
	CodeConflict Code = "conflict"
	// CodeNotFound: a topic, group, event or entry does not exist. Remedy: see to the
	// name; what is to exist is made by its first use, or by Provision.
	CodeNotFound Code = "not_found"
	// CodeUnsupported: the broker cannot do it. Remedy: do without, or use a broker
	// that can; Describe says what this one lacks.
	CodeUnsupported Code = "unsupported"
	// CodeUnavailable: the broker cannot be reached or does not answer. Remedy: try
	// again later, and see to the broker.
	CodeUnavailable Code = "unavailable"
	// CodeNoSpace: the broker's disk is full. Remedy: make room there.
	CodeNoSpace Code = "no_space"
	// CodeTopicFull: the topic has reached the size declared for it, and what it holds
	// is not settled by all groups. Remedy: start or mend the group that the text
	// names, or raise MaxBytes.
	CodeTopicFull Code = "topic_full"
	// CodeTooLarge: the event is larger than the limit. Remedy: store the data
	// elsewhere and publish where, or raise the limit that the text names.
	CodeTooLarge Code = "too_large"
	// CodeDenied: the right to do it is missing. Remedy: give this program the right
	// that the text names, or other credentials.
	CodeDenied Code = "denied"
	// CodeLocked: another process holds what only one may hold. Remedy: end that
	// process, or use another directory.
	CodeLocked Code = "locked"
	// CodeTimeout: a deadline passed. Remedy: allow more time, or find out what takes
	// so long.
	CodeTimeout Code = "timeout"
	// CodeCanceled: the context was cancelled. Remedy: none, if it was meant.
	CodeCanceled Code = "canceled"
	// CodeClosed: the bus, group or handler that it needs has ended. Remedy: publish
	// before it ends, and with a context that outlives the call.
	CodeClosed Code = "closed"
	// CodeRefused: publishing middleware of this program refused the event. Remedy: what
	// its error says.
	CodeRefused Code = "refused"
	// CodeUnknown: it may or may not have happened. Remedy: do it again: publishing
	// again with the same id is safe within the de-duplication window.
	CodeUnknown Code = "outcome_unknown"
	// CodeUndecodable: the data or an attribute cannot be read as its type says.
	// Remedy: find out who publishes it, or update this program if it is older than
	// the event.
	CodeUndecodable Code = "undecodable"
	// CodeForeign: the message is no event: it has no CloudEvents attributes. Remedy:
	// handle it with a raw handler, or find out who publishes it.
	CodeForeign Code = "foreign"
	// CodePanic: a handler panicked or ended its goroutine. Remedy: mend the handler;
	// the stack is in the text.
	CodePanic Code = "panic"
	// CodeHandler: a handler returned an error. Remedy: what the error says; it is
	// tried again within the retry budget.
	CodeHandler Code = "handler_failed"
	// CodePermanent: a handler said that trying again is of no use. Remedy: mend the
	// event or the handler.
	CodePermanent Code = "permanent"
	// CodeQuarantined: the message was being handled each time its process died.
	// Remedy: find out why it kills, in the last words of the process that the dead
	// letter names.
	CodeQuarantined Code = "quarantined"
	// CodeInternal: a defect in Posthorn. Remedy: please report it, with the text.
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
