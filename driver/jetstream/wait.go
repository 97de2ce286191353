package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/posthorn/posthorn/driver"
)

// waits are the waits for answers of the server that are under way. All of them
// end when the server has lost what was under way, and those that have asked on a
// subject when the server says that this is not allowed, which it says of the
// connection and not as an answer.
type waits struct {
	mu sync.Mutex
	m  map[*wait]struct{}
}

type wait struct {
	subjects []string // asked on; one that ends with a dot stands for all below it
	end      context.CancelCauseFunc
}

// waiting bounds a wait for the server's answers to what was asked on the
// subjects. [context.Cause] tells why it ended early.
func (d *jsDriver) waiting(ctx context.Context, subjects ...string) (context.Context, func()) {
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	ctx, end := context.WithCancelCause(ctx)
	w := &wait{subjects, end}
	d.waits.mu.Lock()
	d.waits.m[w] = struct{}{}
	d.waits.mu.Unlock()
	return ctx, func() {
		d.waits.mu.Lock()
		delete(d.waits.m, w)
		d.waits.mu.Unlock()
		end(nil)
		cancel()
	}
}

// endAll ends all waits, or those that ask on a subject.
func (ws *waits) endAll(cause error, subject string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for w := range ws.m {
		if subject == "" || w.asks(subject) {
			w.end(cause)
		}
	}
}

func (w *wait) asks(subject string) bool {
	for _, s := range w.subjects {
		if s == subject || strings.HasSuffix(s, ".") && strings.HasPrefix(subject, s) {
			return true
		}
	}
	return false
}

// why is the reason for which a wait ended, if there is a better one than err.
func why(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, errRestarted) || errors.Is(cause, driver.ErrDenied) {
		return cause
	}
	return err
}

// denied is called when the server has refused to let us publish or subscribe.
// Whoever has asked on the subject fails.
func (d *jsDriver) denied(subscription bool, subject string) {
	err := deniedError(subscription, subject)
	d.env.Log.Warn("jetstream: a right is missing", "server", d.opts.Store, "err", err)
	if subscription {
		d.waits.endAll(err, "") // no answer can come
		return
	}
	d.waits.endAll(err, subject)
	d.mu.Lock()
	var writers []*writer
	for _, w := range d.writers {
		if w.subject == subject {
			writers = append(writers, w)
		}
	}
	var feeds []*feed
	for f := range d.feeds {
		if f.nextSubject() == subject {
			feeds = append(feeds, f)
		}
	}
	d.mu.Unlock()
	for _, w := range writers {
		w.deny(err)
	}
	for _, f := range feeds {
		f.deny(err)
	}
}

// deniedError names what is not allowed and what to allow.
func deniedError(subscription bool, subject string) error {
	if subscription {
		allow := subject
		if strings.HasPrefix(subject, "_INBOX.") {
			allow = "_INBOX.>"
		}
		return fmt.Errorf("the server does not let this user subscribe to %s: allow subscribing to %s: %w", subject, allow, driver.ErrDenied)
	}
	return fmt.Errorf("the server does not let this user publish to %s: allow it (docs/nats.md lists all that is needed): %w", subject, driver.ErrDenied)
}
