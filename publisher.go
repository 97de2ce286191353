package posthorn

import (
	"context"
	"slices"
	"strings"
)

// A Publisher takes an event that is being published. Its error refuses the event,
// which is then not stored; nil says that it is on its way.
type Publisher func(ctx context.Context, o *Outgoing) error

// A PublishMiddleware wraps a publisher. It is called once for each event of each
// Publish, PublishAll and PublishAsync, from handlers too, in the order of the call,
// on the goroutine of the caller, before the event is sent; for a delayed event when it
// is published, not again when it is due. The event has its id by then.
//
// It may set headers, hand another context to next (whose span and correlation id
// the event then carries), or refuse the event by returning an error in place of
// calling next, or after it. What becomes of an event that went on is told to
// [Outgoing.OnResult]. Calls of several goroutines run beside each other.
type PublishMiddleware func(next Publisher) Publisher

// A step is an event on its way through the middleware.
type step struct {
	e      *pendingEvent
	topic  *openTopic
	cause  *scope // of the event that it follows from
	body   []byte
	passed bool
}

// chain makes one publisher of the middleware, or nil of none.
func (b *Bus) chain(m []PublishMiddleware) Publisher {
	if len(m) == 0 {
		return nil
	}
	next := Publisher(func(ctx context.Context, o *Outgoing) error {
		st := o.step
		switch {
		case st == nil:
			return errorf(CodeInvalid, "publishing middleware called next with an event that is not on its way through it, or after it had returned; pass on the event it was given, once")
		case st.passed:
			return errorf(CodeInvalid, "event type %q: publishing middleware called next twice; to publish an event again, publish it", o.def.name)
		}
		if err := st.e.p.pass(ctx, st, o); err != nil {
			return err
		}
		st.passed = true
		return nil
	})
	for _, mw := range slices.Backward(m) {
		next = mw(next)
	}
	return next
}

// through takes an event through the middleware.
func (b *Bus) through(ctx context.Context, st step, o *Outgoing) error {
	o.step = &st
	defer func() {
		if o.onResult != nil {
			st.e.more().onResult = o.onResult
		}
		o.step, o.onResult = nil, nil
	}()
	err := b.publisher(ctx, o)
	switch {
	case err != nil:
		return refusal(o, err)
	case !st.passed:
		return errorf(CodeInvalid, "event type %q: publishing middleware neither passed the event on nor returned an error; it must call next, or say why not", o.def.name)
	}
	return nil
}

// refusal gives an error of the middleware's own a code and says whose it is.
func refusal(o *Outgoing, err error) error {
	if c := CodeOf(err); c != CodeHandler {
		return err
	}
	return &Error{Code: CodeRefused, Text: "event type \"" + o.def.name + "\": refused by publishing middleware", Err: err}
}

// SetHeader adds a header, or replaces the one of the name, as [WithHeader] does. A
// header that is not valid refuses the event. It is for publishing middleware.
func (o *Outgoing) SetHeader(name, value string) { WithHeader(name, value).applyPublish(o) }

// Header returns the value of a header, or "". Names are compared without regard to
// case.
func (o *Outgoing) Header(name string) string {
	for _, h := range o.headers {
		if strings.EqualFold(h.Name, name) {
			return h.Value
		}
	}
	return ""
}

// OnResult has f called with what became of the event: once, before the call that
// publishes it returns, or its [Pending] is done. What was given later is called
// earlier, as with defer. f must not block. It is for publishing middleware, and
// holds for the call that is under way.
func (o *Outgoing) OnResult(f func(Result)) { o.onResult = append(o.onResult, f) }
