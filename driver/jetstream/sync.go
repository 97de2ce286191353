package jetstream

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/posthorn/posthorn/driver"
)

// A syncLoop covers with one sync all that was acknowledged while the one before
// was running. After an error of the disk it is dead: nothing is confirmed any
// more. A sync that nobody answered is unknown to those who waited, and no more.
type syncLoop struct {
	syncer Syncer
	onFail func(error)
	wake   chan struct{}
	cancel context.CancelFunc
	ended  chan struct{}

	mu      sync.Mutex
	waiting []func(error)
	dead    error
	cut     context.CancelFunc // ends the sync that is under way
	cuts    int                // counts interrupts
}

func newSyncLoop(s Syncer, onFail func(error)) *syncLoop {
	ctx, cancel := context.WithCancel(context.Background())
	l := &syncLoop{
		syncer: s, onFail: onFail, cancel: cancel,
		wake: make(chan struct{}, 1), ended: make(chan struct{}), cut: func() {},
	}
	if s == nil {
		close(l.ended)
	} else {
		go l.run(ctx)
	}
	return l
}

// after calls f when what had been acknowledged before is durable, or with the
// reason why it will not be known to be. f must not block.
func (l *syncLoop) after(f func(error)) {
	l.mu.Lock()
	if l.dead != nil || l.syncer == nil {
		err := l.dead
		l.mu.Unlock()
		f(err)
		return
	}
	l.waiting = append(l.waiting, f)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// wait is after for one who can wait.
func (l *syncLoop) wait(ctx context.Context) error {
	done := make(chan error, 1)
	l.after(func(err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("jetstream: waiting for the sync to disk: %w: %w", driver.ErrUnavailable, ctx.Err())
	}
}

func (l *syncLoop) failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

func (l *syncLoop) run(ctx context.Context) {
	defer close(l.ended)
	for {
		select {
		case <-l.wake:
			l.once(ctx)
		case <-ctx.Done():
			l.end(fmt.Errorf("jetstream: %w", driver.ErrClosed))
			return
		}
	}
}

// once syncs for all who wait now.
func (l *syncLoop) once(ctx context.Context) {
	ctx, cut := context.WithCancel(ctx)
	defer cut()
	l.mu.Lock()
	waiting := l.waiting
	l.waiting = nil
	dead, cuts := l.dead, l.cuts
	l.cut = cut
	l.mu.Unlock()
	if len(waiting) == 0 {
		return
	}
	if dead == nil {
		dead = l.sync(ctx, cuts)
	}
	for _, f := range waiting {
		f(dead)
	}
}

// sync returns what to tell those who wait.
func (l *syncLoop) sync(ctx context.Context, cuts int) error {
	err := l.syncer.Sync(ctx)
	l.mu.Lock()
	cut := l.cuts != cuts
	l.mu.Unlock()
	switch {
	case err == nil && !cut:
		return nil
	case err == nil:
		return fmt.Errorf("jetstream: the connection was lost meanwhile: %w", errUnanswered)
	case errors.Is(err, errUnanswered):
		return fmt.Errorf("jetstream: %w", err)
	}
	return l.fail(err)
}

// fail is the end of confirming, after an error of the disk. It returns what to tell
// those who wait.
func (l *syncLoop) fail(err error) error {
	if dead := l.failed(); dead != nil {
		return dead
	}
	err = fmt.Errorf("jetstream: a sync to disk failed, nothing is confirmed any more: find out what ails the disk, "+
		"then restart: %w: %w", driver.ErrUnavailable, err)
	l.end(err)
	l.onFail(err)
	return err
}

// interrupt tells those who wait now that it is not known: the connection over
// which they were acknowledged is lost, and whoever answers next may be a server
// that was started anew.
func (l *syncLoop) interrupt() {
	l.mu.Lock()
	waiting := l.waiting
	l.waiting = nil
	l.cuts++
	cut := l.cut
	l.mu.Unlock()
	cut()
	for _, f := range waiting {
		f(fmt.Errorf("jetstream: the connection was lost: %w", errUnanswered))
	}
}

// revive begins again, with a server that was started anew.
func (l *syncLoop) revive() (was error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if was = l.dead; errors.Is(was, driver.ErrClosed) {
		return nil
	}
	l.dead = nil
	return was
}

// end makes the loop answer everyone with an error.
func (l *syncLoop) end(err error) {
	l.mu.Lock()
	if l.dead == nil || errors.Is(err, driver.ErrClosed) {
		l.dead = err
	}
	waiting := l.waiting
	l.waiting = nil
	l.mu.Unlock()
	for _, f := range waiting {
		f(err)
	}
}

func (l *syncLoop) close() {
	l.cancel()
	<-l.ended
}
