package delay

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// A shift is one tenure of the lane: for its time this process publishes what is
// due. Its mutex guards all of it and is held for short work only.
//
// One goroutine listens to what is put into the lane, one plans, and up to
// maxMoving move a batch each, never two for one partition: so a partition that
// refuses what is published holds no other one back.
type shift struct {
	m      *Mover
	cfg    *Config
	t      driver.Tenure
	lane   driver.Lane // fenced
	claims driver.Lane // the same from outside, where revisions are compared
	ctx    context.Context
	cancel context.CancelFunc
	wake   chan struct{}
	work   sync.WaitGroup

	once sync.Once // of release
	err  error

	mu      sync.Mutex
	items   map[string]*item
	busy    map[string]*item // being moved; with what was put under the name meanwhile, if anything
	refused map[string]int64 // by the broker, for what they are: not before this time
	shelves []*shelf
	loaded  bool // the index is complete
	stale   []driver.LaneOp
	closing bool // no batch begins any more
	moving  int
	idle    chan struct{} // closed when closing and nothing is being moved
}

func newShift(m *Mover, t driver.Tenure) *shift {
	s := &shift{
		m:    m,
		cfg:  &m.cfg,
		t:    t,
		lane: t.Lane(), claims: m.cfg.Driver.Lane(m.group, Partition(m.cfg.Topic.Name)),
		wake:  make(chan struct{}, 1),
		items: map[string]*item{},
		busy:  map[string]*item{}, refused: map[string]int64{},
		idle: make(chan struct{}),
	}
	for n := range m.cfg.Topic.Partitions {
		s.shelves = append(s.shelves, &shelf{n: n})
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

func (s *shift) start() {
	s.work.Add(2)
	go s.watch()
	go s.plan()
}

// release finishes what is being published and gives the tenure back.
func (s *shift) release(ctx context.Context) error {
	s.once.Do(func() {
		s.close()
		select {
		case <-s.idle:
		case <-ctx.Done():
		}
		s.end()
		s.err = release(ctx, s.t)
	})
	return s.err
}

// close lets no batch begin any more.
func (s *shift) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closing {
		s.closing = true
		if s.moving == 0 {
			close(s.idle)
		}
	}
}

// abandon ends the shift's work without waiting for it.
func (s *shift) abandon() {
	s.close()
	s.cancel()
}

// end is abandon, and waits.
func (s *shift) end() {
	s.abandon()
	s.work.Wait()
	s.m.calmAll(func(about string) bool { return about != aboutJoin })
}

func (s *shift) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// watch keeps the index.
func (s *shift) watch() {
	defer s.work.Done()
	for failed := 1; ; failed++ {
		err := s.lane.Watch(s.ctx, func(e driver.Entry) {
			s.told(&e)
			if e.Name == "" {
				failed = 1
				s.m.calm(aboutWatch)
			}
		})
		if s.ctx.Err() != nil || errors.Is(err, driver.ErrLost) {
			return // the driver tells that, too
		}
		if err == nil {
			err = errors.New("the driver has stopped telling what is put")
		}
		s.m.trouble(aboutWatch, failed, err, "what is delayed in topic %s cannot be read", s.cfg.Topic.Name)
		if !sleep(s.ctx, backoff(failed)) {
			return
		}
	}
}

// told takes in an entry as it stands.
func (s *shift) told(e *driver.Entry) {
	if e.Name == "" {
		s.mu.Lock()
		s.loaded = true
		stale := s.stale
		s.stale = nil
		s.mu.Unlock()
		s.poke()
		if len(stale) > 0 {
			if err := s.compare(stale); err != nil {
				s.cfg.Log.Debug("delayed events: cancelled ones were not cleared away", "topic", s.cfg.Topic.Name, "error", err)
			}
		}
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.State != driver.Due {
		s.remove(e.Name)
		if !s.loaded { // whoever has cancelled it has not come to delete it
			s.stale = append(s.stale, driver.LaneOp{Entry: &driver.Entry{Name: strings.Clone(e.Name), Rev: e.Rev}, Delete: true})
		}
		return
	}
	it := s.itemOf(e)
	if old, ok := s.busy[it.name]; ok {
		if old == nil || old.rev < it.rev {
			s.busy[it.name] = it
		}
		return
	}
	s.put(it)
	if sh := s.shelves[it.part]; s.loaded && sh.heap[0] == it {
		s.poke()
	}
}

func (s *shift) itemOf(e *driver.Entry) *item {
	key := e.Key
	if key == "" {
		key = e.Msg.ID
	}
	return &item{
		name:  strings.Clone(e.Name), // it may be part of something larger
		due:   e.Due.UnixNano(),
		order: orderOf(e),
		rev:   e.Rev,
		size:  int32(min(decodeHead(e.Head).Size, 1<<30)),
		part:  int16(driver.PartitionOf(key, len(s.shelves))),
	}
}

// plan begins batches when they are due.
func (s *shift) plan() {
	defer s.work.Done()
	timer := time.NewTimer(recheck)
	timer.Stop()
	for {
		if next, some := s.begin(); some {
			timer.Reset(next)
		} else {
			timer.Stop()
		}
		select {
		case <-s.wake:
		case <-timer.C:
		case <-s.ctx.Done():
			return
		}
	}
}

// begin begins the batches that are due, and returns when to look again; false
// when nothing waits for a time.
func (s *shift) begin() (next time.Duration, some bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.loaded || s.closing {
		return 0, false
	}
	now, mono := s.cfg.Now(), time.Now() // monotonic
	next = recheck
	for _, sh := range s.shelves {
		if sh.moving || len(sh.heap) == 0 && len(sh.undeleted) == 0 {
			continue
		}
		wait := sh.notBefore.Sub(mono)
		if wait <= 0 && len(sh.undeleted) == 0 {
			wait = time.Duration(sh.heap[0].due - now.UnixNano())
		}
		switch {
		case wait > 0:
			next, some = min(next, max(wait, time.Millisecond)), true
		case s.moving < maxMoving: // otherwise the end of a batch wakes us
			sh.moving = true
			s.moving++
			s.work.Add(1)
			go s.move(sh, s.take(sh, now.UnixNano()))
		}
	}
	return next, some
}

// move moves a batch, and notes how it went.
func (s *shift) move(sh *shelf, batch []*item) {
	defer s.work.Done()
	err := s.publish(sh, batch)
	if s.ctx.Err() == nil && !errors.Is(err, driver.ErrLost) {
		if err != nil {
			s.m.trouble(aboutShelf(sh), sh.failed+1, err, "delayed events of topic %s, partition %d, cannot be published", s.cfg.Topic.Name, sh.n)
		} else if sh.failed > 0 {
			s.m.calm(aboutShelf(sh))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sh.moving = false
	if err != nil {
		sh.failed++
		sh.notBefore = time.Now().Add(backoff(sh.failed)) // monotonic
	} else {
		sh.failed = 0
	}
	if s.moving--; s.moving == 0 && s.closing {
		close(s.idle)
	}
	s.poke()
}
