package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
)

// What `posthorn serve` answers over plain NATS, beside the JetStream that it is.
const (
	// ServeSubject is asked what the server is; it answers with a [ServeStatus].
	ServeSubject = "ph.x.serve"
	// SyncSubject is the barrier: a [SyncRequest], answered by a [SyncReply] when
	// all that the server had acknowledged before the request is durable.
	SyncSubject = "ph.x.sync"
	// NewsSubject is where a [ServeStatus] is published whenever it has changed.
	NewsSubject = "ph.x.news"
)

// ServeFormat is the version of what is said on these subjects.
const ServeFormat = 1

// A ServeStatus is what a `posthorn serve` tells of itself.
type ServeStatus struct {
	Format  int    `json:"format"`
	Version string `json:"version"` // of Posthorn
	Run     string `json:"run"`     // another one at each start of the server
	Serial  uint64 `json:"serial"`  // counts changes of this status in a run
	// Restarts counts how often the store was opened anew within the run: what
	// was under way then is lost.
	Restarts int `json:"restarts,omitempty"`
	// Barrier says that an acknowledgement is durable only after the barrier.
	Barrier bool `json:"barrier"`
	// Acks says that acknowledgements which go to AckSubject are passed on when
	// they are durable. A server of an older version does not say so.
	Acks bool `json:"acks,omitempty"`
	// Lease is the default of those who do not choose one.
	Lease time.Duration `json:"lease,omitempty"`
	// Full says why no events are taken now.
	Full string `json:"full,omitempty"`
	// Failed says why nothing is confirmed any more.
	Failed string `json:"failed,omitempty"`
}

// A SyncRequest asks for the barrier in one run of the server. In another one it is
// not known what became of the acknowledgements that the asker has.
type SyncRequest struct {
	Run string `json:"run"`
}

// A SyncReply is what came of it.
type SyncReply struct {
	Synced bool        `json:"synced"`
	Status ServeStatus `json:"status"`
}

// errUnanswered: the barrier was not answered. What waited for it is unknown; the
// next sync may well succeed.
var errUnanswered = fmt.Errorf("the server did not answer whether it is on its disk: %w", driver.ErrUnavailable)

const (
	barrierWait  = 30 * time.Second
	askWait      = 5 * time.Second
	fullAskEvery = 500 * time.Millisecond
)

// A served is a `posthorn serve` seen from a client.
type served struct {
	nc    *nats.Conn
	store string
	news  *nats.Subscription

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	status   ServeStatus
	polling  bool   // asks again and again while the server is full
	onAnew   func() // the store was opened anew, in the same run
	onNewRun func() // the server is another process
}

// findServed asks who answers. Nil: a server of another kind.
func (l *link) findServed(ctx context.Context) (*served, error) {
	s := &served{nc: l.nc, store: l.t.store(), onAnew: func() {}, onNewRun: func() {}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	ctx, refused := context.WithCancelCause(ctx)
	defer refused(nil)
	l.onEarlyViolation(func(subscription bool, subject string) {
		switch {
		case subscription:
			refused(deniedError(true, subject))
		case subject == ServeSubject:
			refused(errNotServed)
		}
	})
	defer l.onEarlyViolation(nil)
	err := s.ask(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	switch {
	case errors.Is(err, nats.ErrNoResponders) || errors.Is(err, errNotServed):
		s.cancel()
		return nil, nil
	case err != nil:
		s.cancel()
		return nil, err
	}
	if s.news, err = l.nc.Subscribe(NewsSubject, func(m *nats.Msg) {
		var st ServeStatus
		if json.Unmarshal(m.Data, &st) == nil && st.Format == ServeFormat {
			s.note(st)
		}
	}); err != nil {
		s.cancel()
		return nil, err
	}
	l.mu.Lock()
	l.served = s
	l.mu.Unlock()
	return s, nil
}

// options are those of a driver over it.
func (s *served) options(o Options) Options {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.Lease == 0 {
		o.Lease = s.status.Lease
	}
	if s.status.Barrier {
		o.Sync, o.acks = s, s.ackSubject
	}
	o.Replicas, o.Room, o.OnRestart = 1, s.room, s.onRestart
	return o
}

// errNotServed: the right to ask is missing, which a client of serve has.
var errNotServed = errors.New("not a posthorn serve")

// ask brings the status up to date.
func (s *served) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	m, err := s.nc.RequestWithContext(ctx, ServeSubject, nil)
	if err != nil {
		return err
	}
	var st ServeStatus
	if err := json.Unmarshal(m.Data, &st); err != nil {
		return fmt.Errorf("the answer of %s: %w", ServeSubject, err)
	}
	if st.Format != ServeFormat {
		return fmt.Errorf("%s speaks format %d of %s, this version knows %d: use versions that fit together: %w",
			s.store, st.Format, ServeSubject, ServeFormat, driver.ErrMismatch)
	}
	s.note(st)
	return nil
}

// note takes in what the server says of itself.
func (s *served) note(st ServeStatus) {
	s.mu.Lock()
	old := s.status
	if st.Run == old.Run && st.Serial <= old.Serial && old.Serial > 0 {
		s.mu.Unlock()
		return // older news
	}
	s.status = st
	poll := st.Full != "" && !s.polling && s.ctx.Err() == nil
	if poll {
		s.polling = true
		s.wg.Go(s.pollFull)
	}
	onAnew, onNewRun := s.onAnew, s.onNewRun
	s.mu.Unlock()
	switch {
	case old.Run == "":
	case st.Run != old.Run:
		onNewRun()
	case st.Restarts != old.Restarts:
		onAnew()
	}
}

// pollFull asks until there is room again: news may be lost.
func (s *served) pollFull() {
	t := time.NewTicker(fullAskEvery)
	defer t.Stop()
	for {
		s.mu.Lock()
		if s.status.Full == "" || s.ctx.Err() != nil {
			s.polling = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		select {
		case <-t.C:
			_ = s.ask(s.ctx)
		case <-s.ctx.Done():
		}
	}
}

func (s *served) whenNewRun(f func()) {
	s.mu.Lock()
	s.onNewRun = f
	s.mu.Unlock()
}

func (s *served) onRestart(f func()) (stop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onAnew = f
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.onAnew = func() {}
	}
}

func (s *served) room() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.Full == "" {
		return nil
	}
	return fmt.Errorf("jetstream: %s: %s: %w", s.store, s.status.Full, driver.ErrNoSpace)
}

// ackSubject is what the subjects begin with that publishes are acknowledged at, or
// empty when the server passes nothing on.
func (s *served) ackSubject() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.status.Acks {
		return ""
	}
	return s.status.AckSubject()
}

// Sync asks for the barrier, in the run that the last acknowledgements are from.
func (s *served) Sync(ctx context.Context) error {
	s.mu.Lock()
	run := s.status.Run
	s.mu.Unlock()
	req, err := json.Marshal(SyncRequest{run})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, barrierWait)
	defer cancel()
	m, err := s.nc.RequestWithContext(ctx, SyncSubject, req)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", s.store, errUnanswered, err)
	}
	var r SyncReply
	if err := json.Unmarshal(m.Data, &r); err != nil {
		return fmt.Errorf("%s: %w: %w", s.store, errUnanswered, err)
	}
	switch {
	case r.Status.Run != run:
		return fmt.Errorf("%s was started anew: %w", s.store, errUnanswered)
	case r.Synced:
		s.note(r.Status)
		return nil
	case r.Status.Failed != "":
		return fmt.Errorf("%s: %s", s.store, r.Status.Failed)
	}
	return fmt.Errorf("%s: %w", s.store, errUnanswered)
}

func (s *served) close() {
	s.cancel()
	if s.news != nil {
		_ = s.news.Unsubscribe()
	}
	s.wg.Wait()
}
