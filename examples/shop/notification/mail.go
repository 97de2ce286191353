package notification

import (
	"context"
	"errors"
	"sync"

	"github.com/posthorn/posthorn/examples/shop/internal/chance"
)

// Mail is the provider that sends the letters.
type Mail interface {
	// Send sends one. The key is the same whenever the same letter is sent. The
	// error is ErrAway when no letter can be sent, and another one when this letter
	// cannot.
	Send(ctx context.Context, key, to, subject string) error
}

// ErrAway: the provider takes no letters at all. The service waits for it.
var ErrAway = errors.New("the mail provider is away")

// ErrLater is a mail server's word to those whom it has not seen before.
var ErrLater = errors.New("greylisted, try again later")

// Greylist is a mail server that sends nothing. One key in Every it turns away,
// as often as Times says, before it takes its letter: which keys these are
// depends on the keys alone. The zero Greylist takes every letter at once.
type Greylist struct {
	Every uint32
	Times int

	mu   sync.Mutex
	seen map[string]int
}

var _ Mail = (*Greylist)(nil)

// Send takes a letter or turns it away.
func (g *Greylist) Send(_ context.Context, key, _, _ string) error {
	if !chance.OneIn(g.Every, key) {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.seen == nil {
		g.seen = map[string]int{}
	}
	g.seen[key]++
	if g.seen[key] <= g.Times {
		return ErrLater
	}
	return nil
}
