package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/posthorn/posthorn/driver"
)

type syncFunc func(context.Context) error

func (f syncFunc) Sync(ctx context.Context) error { return f(ctx) }

func TestSyncUnansweredIsNotTheEnd(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	l := newSyncLoop(syncFunc(func(context.Context) error {
		if calls.Add(1) == 1 {
			return fmt.Errorf("away: %w", errUnanswered)
		}
		return nil
	}), func(err error) { t.Error(err) })
	defer l.close()
	if err := l.wait(t.Context()); !errors.Is(err, driver.ErrUnavailable) {
		t.Errorf("unanswered: %v", err)
	}
	if err := l.wait(t.Context()); err != nil || l.failed() != nil {
		t.Errorf("the next: %v, %v", err, l.failed())
	}
}

func TestSyncFailedIsTheEndUntilRevived(t *testing.T) {
	t.Parallel()
	bad := errors.New("the disk is on fire")
	var calls atomic.Int32
	failed := make(chan error, 10)
	l := newSyncLoop(syncFunc(func(context.Context) error {
		if calls.Add(1) == 1 {
			return bad
		}
		return nil
	}), func(err error) { failed <- err })
	defer l.close()
	for range 3 {
		if err := l.wait(t.Context()); !errors.Is(err, bad) {
			t.Errorf("after the failure: %v", err)
		}
	}
	if len(failed) != 1 || calls.Load() != 1 {
		t.Errorf("told %d times, synced %d times", len(failed), calls.Load())
	}
	if was := l.revive(); !errors.Is(was, bad) {
		t.Errorf("revived from %v", was)
	}
	if err := l.wait(t.Context()); err != nil {
		t.Errorf("revived: %v", err)
	}
}

// A sync that ends well after the connection was lost says nothing about what was
// acknowledged before: another server may have answered.
func TestSyncInterrupted(t *testing.T) {
	t.Parallel()
	begun, goOn := make(chan struct{}), make(chan struct{})
	l := newSyncLoop(syncFunc(func(ctx context.Context) error {
		begun <- struct{}{}
		<-goOn
		return nil
	}), func(err error) { t.Error(err) })
	defer l.close()
	first, second := make(chan error, 1), make(chan error, 1)
	l.after(func(err error) { first <- err })
	<-begun
	l.after(func(err error) { second <- err })
	l.interrupt()
	if err := <-second; !errors.Is(err, errUnanswered) {
		t.Errorf("who waited for the next sync: %v", err)
	}
	close(goOn)
	if err := <-first; !errors.Is(err, errUnanswered) || !strings.Contains(err.Error(), "lost") {
		t.Errorf("who waited for the sync that ran: %v", err)
	}
	go func() { <-begun }()
	if err := l.wait(t.Context()); err != nil {
		t.Errorf("the next: %v", err)
	}
}
