package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/posthorn/posthorn/examples/shop/notification"
)

// The mail provider has a bad day: it goes away after a few letters, and comes back
// when all other services have nothing left to do. If any of them waited for it, or
// for the service that does, the demo would never come to its end.

// firstLetters are how many letters the provider takes before it goes away.
const firstLetters = 50

// An outage is a file in a directory that all processes know, since the provider is
// somewhere else, and so may be the process that asks it. It has one name as long as
// the outage is to come, and another one as long as it lasts.
type outage struct{ toCome, lasts string }

func outageIn(dir string) outage {
	return outage{filepath.Join(dir, "mail-provider-has-a-bad-day"), filepath.Join(dir, "mail-provider-is-away")}
}

// plan lets the outage come.
func (o outage) plan() error {
	if err := o.end(); err != nil {
		return err
	}
	if err := os.WriteFile(o.toCome, nil, 0o600); err != nil {
		return fmt.Errorf("plan the outage of the mail provider: %w", err)
	}
	return nil
}

// begin does nothing when no outage is to come.
func (o outage) begin() error {
	if err := os.Rename(o.toCome, o.lasts); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("begin the outage of the mail provider: %w", err)
	}
	return nil
}

// is tells whether it lasts.
func (o outage) is() bool {
	_, err := os.Stat(o.lasts)
	return err == nil
}

// end ends it, and one that is to come.
func (o outage) end() error {
	for _, file := range []string{o.toCome, o.lasts} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("end the outage of the mail provider: %w", err)
		}
	}
	return nil
}

// A provider takes letters for a mail server, except during an outage.
type provider struct {
	notification.Mail
	outage outage
	taken  atomic.Int64
}

// Send takes a letter.
func (p *provider) Send(ctx context.Context, key, to, subject string) error {
	if p.taken.Load() == firstLetters && p.taken.CompareAndSwap(firstLetters, firstLetters+1) {
		if err := p.outage.begin(); err != nil {
			return err
		}
	}
	if p.outage.is() {
		return notification.ErrAway
	}
	if err := p.Mail.Send(ctx, key, to, subject); err != nil {
		return err
	}
	p.taken.Add(1)
	return nil
}

// A badDay is what was seen of the outage.
type badDay struct {
	outage        outage
	began         time.Time
	took          time.Duration
	before, after Progress
}

// look takes down how far all were when the outage is first seen.
func (b *badDay) look(p Progress) {
	if b.began.IsZero() && b.outage.is() {
		b.began, b.before = time.Now(), p
	}
}

// over ends the outage: all services but notification have nothing left to do.
func (b *badDay) over(p Progress) error {
	if !b.began.IsZero() && b.took == 0 {
		b.took, b.after = time.Since(b.began), p
	}
	return b.outage.end()
}

func (b *badDay) write(out io.Writer) {
	if b.took == 0 {
		return // there were too few letters for it
	}
	fmt.Fprintf(out, "\nthe mail provider was away for %v, until the others had nothing left to do; meanwhile\n", b.took.Round(10*time.Millisecond))
	after := b.after.tallies()
	for i, done := range b.before.tallies() {
		fmt.Fprintf(out, "  %-14s  %7d -> %7d %s\n", done.service, done.n, after[i].n, done.what)
	}
}
