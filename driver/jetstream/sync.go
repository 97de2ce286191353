package jetstream

import (
	"context"
	"fmt"
	"sync"

	"github.com/posthorn/posthorn/driver"
)

// A syncLoop covers with one sync all that was acknowledged while the one before
// was running. After an error it is dead: nothing is confirmed any more.
type syncLoop struct {
	syncer Syncer
	onFail func(error)
	wake   chan struct{}
	cancel context.CancelFunc
	ended  chan struct{}

	mu      sync.Mutex
	waiting []func(error)
	dead    error
}

func newSyncLoop(s Syncer, onFail func(error)) *syncLoop {
	ctx, cancel := context.WithCancel(context.Background())
	l := &syncLoop{
		syncer: s, onFail: onFail, cancel: cancel,
		wake: make(chan struct{}, 1), ended: make(chan struct{}),
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
	l.mu.Lock()
	waiting := l.waiting
	l.waiting = nil
	dead := l.dead
	l.mu.Unlock()
	if len(waiting) == 0 {
		return
	}
	if dead == nil {
		if err := l.syncer.Sync(ctx); err != nil {
			dead = fmt.Errorf("jetstream: a sync to disk failed, nothing is confirmed any more: find out what ails the disk, "+
				"then restart: %w: %w", driver.ErrUnavailable, err)
			l.end(dead)
			l.onFail(dead)
		}
	}
	for _, f := range waiting {
		f(dead)
	}
}

// end makes the loop answer everyone with an error.
func (l *syncLoop) end(err error) {
	l.mu.Lock()
	if l.dead == nil {
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
