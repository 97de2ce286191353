package embedded

import (
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/posthorn/posthorn/driver"
)

// How often the disk is looked at.
const (
	lookEvery     = time.Second
	lookEveryFull = 50 * time.Millisecond
)

// A space watches the room on the disk. When little is left, no events are taken
// any more, so that groups can still write down what they have done. When a write
// has failed nonetheless, JetStream takes nothing for that stream until it is
// started anew: that is done as soon as there is room.
type space struct {
	h     *host
	kick  chan struct{}
	quit  chan struct{}
	ended chan struct{}

	mu     sync.Mutex
	err    error // while there is no room
	told   bool  // the alarm of it is raised
	failed bool  // a write has failed
	runs   bool
}

func newSpace(h *host) *space {
	return &space{h: h, kick: make(chan struct{}, 1), quit: make(chan struct{}), ended: make(chan struct{})}
}

// full returns an error while no events must be stored.
func (s *space) full() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// writeFailed is called by the server, on any of its goroutines, with its locks
// held.
func (s *space) writeFailed() {
	s.mu.Lock()
	s.failed = true
	if s.err == nil {
		s.err = s.fullError()
	}
	s.mu.Unlock()
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (s *space) fullError() error {
	return fmt.Errorf("embedded: the disk of %s is full: make room; publishing goes on by itself then: %w", s.h.dir, driver.ErrNoSpace)
}

// atOpen refuses a disk on which nothing can be written.
func (s *space) atOpen() error {
	free, _, ok := diskSpace(s.h.store)
	if ok && free < 64<<10 {
		return s.fullError()
	}
	return nil
}

// reserve is how much is kept free of events.
func reserve(total uint64) uint64 { return min(max(total/50, 256<<10), 64<<20) }

// enough tells whether there is room for events. To begin again takes more than
// to go on.
func (s *space) enough(full bool) bool {
	free, total, ok := diskSpace(s.h.store)
	if !ok {
		return true
	}
	need := reserve(total)
	if full {
		need += need / 2
	}
	return free >= need
}

func (s *space) run() {
	s.runs = true
	s.look()
	go func() {
		defer close(s.ended)
		t := time.NewTimer(lookEvery)
		defer t.Stop()
		for {
			select {
			case <-s.quit:
				return
			case <-s.kick:
			case <-t.C:
			}
			if s.look() != nil {
				t.Reset(lookEveryFull)
			} else {
				t.Reset(lookEvery)
			}
		}
	}()
}

func (s *space) stop() {
	select {
	case <-s.quit:
		return
	default:
		close(s.quit)
	}
	if s.runs {
		<-s.ended
	}
}

// look compares the disk with what we believe, raises and clears the alarm, and
// mends the server.
func (s *space) look() error {
	s.mu.Lock()
	was, failed := s.err, s.failed
	s.mu.Unlock()
	enough := s.enough(was != nil)
	switch {
	case !enough || failed && !s.mend():
		return s.setFull()
	case was != nil:
		s.clear()
	}
	return nil
}

func (s *space) setFull() error {
	s.mu.Lock()
	if s.err == nil {
		s.err = s.fullError()
	}
	err, told := s.err, s.told
	s.told = true
	s.mu.Unlock()
	if !told {
		s.h.alarm(driver.Alarm{Code: "disk_full", Thing: s.h.dir, Text: err.Error()})
	}
	return err
}

func (s *space) clear() {
	s.mu.Lock()
	told := s.told
	s.err, s.told = nil, false
	s.mu.Unlock()
	if !told {
		return
	}
	s.h.alarm(driver.Alarm{Code: "disk_full", Thing: s.h.dir, Text: "there is room again", Cleared: true})
}

// mend starts JetStream anew inside the running server.
func (s *space) mend() bool {
	s.mu.Lock()
	s.failed = false
	s.mu.Unlock()
	srv := s.h.srv
	if err := srv.ShutdownJetStream(); err != nil {
		s.h.warn("JetStream did not stop after the disk was full", err)
	}
	err := srv.EnableJetStream(&server.JetStreamConfig{StoreDir: s.h.dir, MaxStore: 1 << 50, MaxMemory: 1 << 40, SyncAlways: syncAlways})
	if err != nil {
		s.h.warn("JetStream did not start after the disk was full", err)
		s.mu.Lock()
		s.failed = true
		s.mu.Unlock()
		return false
	}
	s.h.restarted()
	return true
}

func (h *host) warn(what string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, env := range h.watchers {
		env.Log.Warn("embedded: "+what, "dir", h.dir, "err", err)
	}
}
