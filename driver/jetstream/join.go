package jetstream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
)

const (
	// maxTaking is how many partitions a member takes over at a time.
	maxTaking = 16
	// lookGap is between two looks at what others have changed.
	lookGap = 10 * time.Millisecond
	// leaveWait bounds what a member does after its time.
	leaveWait = 2 * time.Second
	// lookEvery is after how many beats a member looks in any case: what others
	// have changed from outside is told once, and that may have been lost.
	lookEvery = 30
	// Waits before another attempt at a partition.
	firstRetry = 50 * time.Millisecond
	lastRetry  = 5 * time.Second
	// atChunk is how many positions are read at a time; the server sends up to
	// 1,024 records.
	atChunk = 1000
)

// Join begins a membership, and another one when others had reason to believe
// that it was dead.
func (d *jsDriver) Join(ctx context.Context, group string, member driver.Member) error {
	if err := d.usable(); err != nil {
		return err
	}
	waived := map[driver.Partition]bool{}
	for again := false; ; again = true {
		m, err := d.newMembership(ctx, group, member, waived)
		if err == nil {
			err = m.run(ctx)
		} else if again && !final(err) {
			select {
			case <-time.After(d.opts.Lease / beatsPerLease):
				continue
			case <-ctx.Done():
			}
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case !errors.Is(err, errEvicted):
			return err
		}
		d.env.Log.Warn("jetstream: joining anew", "group", group, "member", m.id, "err", err)
	}
}

// final tells whether an error ends a membership.
func final(err error) bool {
	return errors.Is(err, errEvicted) || errors.Is(err, errNoGroup) || errors.Is(err, driver.ErrClosed) ||
		errors.Is(err, driver.ErrMismatch) || errors.Is(err, driver.ErrDenied)
}

// A membership is a member of one group, from its first sign of life to its last.
// One goroutine, Join's, owns it.
type membership struct {
	d       *jsDriver
	group   string
	member  driver.Member
	id      string
	nonce   string
	started time.Time
	lease   time.Duration
	startBy atomic.Pointer[time.Time]

	// What other goroutines have to say.
	mu     sync.Mutex
	events []func()
	wake   chan struct{} // holds one after an event

	rev    uint64 // of its record
	beats  uint64
	moves  uint64
	spec   driver.GroupSpec // as the member was told
	told   uint64           // its revision
	topics []string         // that the member can take
	sizes  map[string]int   // partitions of topics

	held   map[driver.Partition]*seat
	taking map[driver.Partition]bool
	retry  map[driver.Partition]retry
	waived map[driver.Partition]bool // released without being asked: the member is about to leave

	sights    map[string]sight
	lastRound time.Time
	known     string // key of the last roster
	look      bool   // something has changed
	looked    time.Time
	due       time.Time   // of the next look, zero for none
	soon      *time.Timer // for it
	tell      bool        // others should know
	tellTaken bool        // but not before all is taken
	fatal     error
	over      bool

	turns  chan struct{}
	work   sync.WaitGroup
	joined context.Context // ends with the membership
	unjoin context.CancelFunc
	works  context.Context // of takeovers: they are not cut off half done
	halt   context.CancelFunc
}

// A seat is a partition that is held.
type seat struct {
	t       *tenure
	asked   bool // to give it back
	shed    bool // is doing so
	notSoon time.Time
}

type retry struct {
	at   time.Time
	wait time.Duration
}

// newMembership tells the member of the group and makes its record.
func (d *jsDriver) newMembership(ctx context.Context, group string, member driver.Member, waived map[driver.Partition]bool) (*membership, error) {
	m := &membership{
		d: d, group: group, member: member, nonce: rand.Text(), started: d.env.Now(), lease: d.opts.Lease,
		wake: make(chan struct{}, 1), sizes: map[string]int{},
		held: map[driver.Partition]*seat{}, taking: map[driver.Partition]bool{},
		retry: map[driver.Partition]retry{}, waived: waived, sights: map[string]sight{},
		turns: make(chan struct{}, maxTaking),
	}
	var r groupRecord
	rev, err := d.getRecordNow(ctx, d.names.group(group), &r)
	if err == nil && rev == 0 {
		err = noGroup(group)
	}
	if err != nil {
		return m, err
	}
	if err := m.subscribe(ctx, rev, r); err != nil {
		return m, err
	}
	for {
		m.id, m.rev = d.memberID(group), 0
		// One that exists may be that of another with the same name.
		if err := m.beat(ctx); err == nil || !errors.Is(err, errEvicted) {
			return m, err
		}
	}
}

// memberID returns a name for a membership that this driver has not used before.
func (d *jsDriver) memberID(group string) string {
	name := d.env.Member
	d.mu.Lock()
	defer d.mu.Unlock()
	if name == "" {
		if d.madeUp == "" {
			d.madeUp = d.env.Service + "-" + rand.Text()[:8]
		}
		name = d.madeUp
	}
	d.joins[group]++
	if n := d.joins[group]; n > 1 {
		name = fmt.Sprintf("%s#%d", name, n)
	}
	return name
}

// subscribe tells the member of the group's record. It reads how many partitions
// the topics have, and opens those that the member can take.
func (m *membership) subscribe(ctx context.Context, rev uint64, r groupRecord) error {
	topics := slices.DeleteFunc(slices.Clone(m.member.Subscribed(r.Spec)), func(topic string) bool {
		_, ok := r.Spec.Types[topic]
		return !ok
	})
	slices.Sort(topics)
	topics = slices.Compact(topics)
	sizes := map[string]int{}
	for topic := range r.Spec.Types {
		get := m.d.topicRecord
		if slices.Contains(topics, topic) {
			get = m.d.topic
		}
		spec, err := get(ctx, topic)
		if err != nil {
			return fmt.Errorf("jetstream: group %q: %w", m.group, err)
		}
		sizes[topic] = spec.Partitions
	}
	m.spec, m.told, m.sizes, m.topics = r.Spec, rev, sizes, topics
	return nil
}

// run gives signs of life, and holds what is the member's, until ctx ends.
func (m *membership) run(ctx context.Context) (err error) {
	m.joined, m.unjoin = context.WithCancel(ctx)
	m.works, m.halt = context.WithCancel(context.WithoutCancel(ctx))
	m.soon = time.NewTimer(0)
	m.look, m.tell, m.due = true, true, time.Now() // monotonic
	defer func() { m.leave(err) }()
	sub, err := m.d.nc.Subscribe(m.d.names.news(m.group), func(msg *nats.Msg) {
		if string(msg.Data) != m.id {
			m.post(func() { m.look = true })
		}
	})
	if err != nil {
		return m.d.unavailable("subscribe", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	round := time.NewTicker(m.lease / beatsPerLease)
	defer round.Stop()
	for {
		if err := m.step(ctx, round.C); ctx.Err() != nil {
			return nil
		} else if err != nil && final(err) {
			return err
		} else if err != nil {
			m.d.env.Log.Debug("jetstream: a member's round failed", "group", m.group, "member", m.id, "err", err)
		}
		m.announce()
	}
}

// step does the next thing.
func (m *membership) step(ctx context.Context, round <-chan time.Time) error {
	select {
	case <-ctx.Done():
		return nil
	case <-round:
		return m.round(ctx)
	case <-m.soon.C:
		return m.lookAround(ctx)
	case <-m.wake:
		m.handle()
		if m.look {
			m.lookAt(time.Now()) // monotonic
		}
		return m.fatal
	}
}

// post hands the loop something to do.
func (m *membership) post(f func()) {
	m.mu.Lock()
	m.events = append(m.events, f)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *membership) handle() {
	m.mu.Lock()
	events := m.events
	m.events = nil
	m.mu.Unlock()
	for _, f := range events {
		f()
	}
}

// announce tells others that something has changed. What one takes is of interest
// to nobody in a hurry.
func (m *membership) announce() {
	if m.tell || m.tellTaken && len(m.taking) == 0 {
		m.tell, m.tellTaken = false, false
		m.d.announce(m.group, m.id)
	}
}

// lookAt has a look taken, but not in too quick succession.
func (m *membership) lookAt(t time.Time) {
	if next := m.looked.Add(lookGap); t.Before(next) {
		t = next
	}
	if m.due.IsZero() || t.Before(m.due) {
		m.due = t
		m.soon.Reset(time.Until(t)) // monotonic
	}
}

// round is a sign of life and a glance at the others.
func (m *membership) round(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, m.lease/3)
	defer cancel()
	sent := time.Now() // monotonic
	if err := m.beat(ctx); err != nil {
		clear(m.sights)
		return err
	}
	all, err := m.d.roster(ctx, m.group, m.rev)
	if err != nil {
		clear(m.sights)
		return err
	}
	for _, id := range m.judge(sent, time.Now(), all) { // monotonic
		if err := m.bury(ctx, id, all.members[id]); err != nil {
			return err
		}
	}
	if m.look || all.key() != m.known || m.beats%lookEvery == 0 {
		m.lookAt(time.Now()) // monotonic
	}
	return nil
}

// lookAround reads who is there and who holds what, and does what follows.
func (m *membership) lookAround(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, m.lease/3) // signs of life have to wait for it
	defer cancel()
	m.look, m.looked, m.due = false, time.Now(), time.Time{} // monotonic
	err := m.settle(ctx)
	if err != nil {
		m.look = true // with the next round
	}
	return err
}

func (m *membership) settle(ctx context.Context) error {
	// Positions first: who is in one of them was there before, so that it is
	// missing from what is read after it only when it has gone.
	ats, upTo, err := m.positions(ctx)
	if err != nil {
		return err
	}
	all, err := m.d.roster(ctx, m.group, max(m.rev, upTo))
	if err != nil {
		return err
	}
	if all.rev != m.told {
		if err := m.retell(ctx); err != nil {
			return err
		}
		m.look = true        // with the positions of what is new
		m.lookAt(time.Now()) // monotonic
		return nil
	}
	if _, ok := all.members[m.id]; !ok {
		return nil // the next beat will tell
	}
	m.known = all.key()
	m.divide(all, ats)
	return nil
}

// retell reads the group's record and tells the member of it.
func (m *membership) retell(ctx context.Context) error {
	var r groupRecord
	rev, err := m.d.getRecordNow(ctx, m.d.names.group(m.group), &r)
	if err != nil {
		return err
	}
	if rev == 0 {
		return noGroup(m.group)
	}
	before, knew := m.topics, m.spec.Version
	if err := m.subscribe(ctx, rev, r); err != nil {
		if errors.Is(err, driver.ErrNotFound) {
			err = fmt.Errorf("%w: %s", driver.ErrUnavailable, err) // it is the topic that is not found
		}
		return err
	}
	if knew != m.spec.Version {
		m.tell = m.tell || !slices.Equal(before, m.topics)
		return m.beat(ctx) // who has added types waits for it
	}
	return nil
}

// positions reads the records of all partitions that the member can take.
func (m *membership) positions(ctx context.Context) (map[driver.Partition]standing, uint64, error) {
	ats := map[driver.Partition]standing{}
	var upTo uint64
	read := func(subjects []string) error {
		if len(subjects) == 0 {
			return nil
		}
		n, err := m.d.getLast(ctx, m.d.names.state(), subjects, m.rev, func(msg *nats.Msg) error {
			at := standing{rev: sequence(msg)}
			subject := first(msg.Header["Nats-Subject"])
			if err := decodeRecord(subject, msg.Data, &at.r); err != nil {
				return err
			}
			if p, ok := m.d.names.parseAt(subject); ok {
				ats[p] = at
			}
			return nil
		})
		upTo = max(upTo, n)
		return err
	}
	var ask []string
	n := 0
	for _, topic := range m.topics {
		if n += m.sizes[topic]; n > atChunk {
			if err := read(ask); err != nil {
				return nil, 0, err
			}
			ask, n = nil, m.sizes[topic]
		}
		ask = append(ask, m.d.names.ats(m.group, topic))
	}
	return ats, upTo, read(ask)
}

// divide sheds what is another's and takes what is the member's and free.
func (m *membership) divide(all roster, ats map[driver.Partition]standing) {
	var members []candidate
	for id, l := range all.members {
		members = append(members, candidate{id, l.r.Topics})
	}
	owner := divide(m.sizes, members)
	now := time.Now() // monotonic
	for p, s := range m.held {
		if at := ats[p]; at.r.Fence > s.t.fence {
			s.t.end(fmt.Errorf("jetstream: partition %d of topic %q of group %q: tenure %d has been ended: %w",
				p.N, p.Topic, m.group, s.t.fence, driver.ErrLost))
		} else if owner[p] != m.id || !slices.Contains(m.topics, p.Topic) {
			m.shed(s, now)
		}
	}
	for _, topic := range m.topics {
		for n := range m.sizes[topic] {
			p := driver.Partition{Topic: topic, N: n}
			at := ats[p]
			_, alive := all.members[at.r.Member]
			mine := owner[p] == m.id && !m.waived[p]
			switch {
			case m.held[p] != nil || m.taking[p]:
			case mine && (!alive || at.r.Member == m.id):
				m.take(p, at, now)
			case at.r.Member == m.id:
				m.free(p, at)
			}
		}
	}
}

// shed asks the member for a partition back. Its work goes on as long as it takes.
func (m *membership) shed(s *seat, now time.Time) {
	if s.shed || now.Before(s.notSoon) {
		return
	}
	s.asked, s.shed = true, true
	m.work.Go(func() {
		m.member.Revoke(m.joined, s.t)
		m.post(func() {
			s.shed = false
			if m.held[s.t.p] == s { // it has not done so
				s.notSoon = time.Now().Add(m.lease / beatsPerLease) // monotonic
				m.look = true
			}
		})
	})
}

// take takes a partition over.
func (m *membership) take(p driver.Partition, at standing, now time.Time) {
	if r := m.retry[p]; now.Before(r.at) {
		m.lookAt(r.at)
		return
	}
	m.taking[p] = true
	m.work.Go(func() {
		t, err := m.inTurn(func() (*tenure, error) { return m.takeOver(m.works, p, at) })
		m.post(func() { m.taken(p, t, err) })
	})
}

func (m *membership) inTurn(f func() (*tenure, error)) (*tenure, error) {
	select {
	case m.turns <- struct{}{}:
		defer func() { <-m.turns }()
		return f()
	case <-m.joined.Done():
		return nil, m.joined.Err()
	}
}

// taken assigns what was taken over.
func (m *membership) taken(p driver.Partition, t *tenure, err error) {
	delete(m.taking, p)
	if err != nil {
		m.notTaken(p, err)
		return
	}
	delete(m.retry, p)
	m.tellTaken = true
	if t.version > m.spec.Version && !m.over {
		ctx, cancel := context.WithTimeout(m.joined, m.lease/3)
		defer cancel()
		if err = m.retell(ctx); final(err) {
			m.fatal = err
		}
	}
	if m.over || err != nil || !slices.Contains(m.topics, p.Topic) {
		m.giveBack(t)
		m.look = true
		return
	}
	m.held[p] = &seat{t: t}
	m.member.Assigned(t)
	if len(m.taking) == 0 {
		m.look = true // it may have become another's meanwhile
	}
}

func (m *membership) notTaken(p driver.Partition, err error) {
	if m.over {
		return
	}
	if errors.Is(err, driver.ErrClosed) || errors.Is(err, driver.ErrMismatch) {
		m.fatal = err
		return
	}
	level := slog.LevelWarn
	if errors.Is(err, driver.ErrConflict) {
		level = slog.LevelDebug // somebody was quicker
	}
	m.d.env.Log.Log(context.Background(), level, "jetstream: a partition could not be taken over, trying again",
		"group", m.group, "topic", p.Topic, "partition", p.N, "err", err)
	wait := min(max(2*m.retry[p].wait, firstRetry), lastRetry)
	m.retry[p] = retry{time.Now().Add(wait), wait} // monotonic
	m.lookAt(m.retry[p].at)
}

// giveBack releases what was never assigned, as it was.
func (m *membership) giveBack(t *tenure) {
	ctx, cancel := context.WithTimeout(context.Background(), leaveWait)
	defer cancel()
	if err := t.Release(ctx, t.start); err != nil {
		m.d.env.Log.Debug("jetstream: giving a partition back", "group", m.group, "topic", t.p.Topic, "partition", t.p.N, "err", err)
	}
	t.feed.close()
}

// free takes the member's name out of the record of a partition that it does not
// hold: a release that was not answered.
func (m *membership) free(p driver.Partition, at standing) {
	m.taking[p] = true
	at.r.Member = ""
	m.work.Go(func() {
		_, err := m.d.putRecord(m.works, m.d.names.at(m.group, p), at.rev, at.r)
		m.post(func() {
			delete(m.taking, p)
			if err == nil {
				m.tell = true
			} else {
				m.notTaken(p, err)
			}
		})
	})
}

// tenureEnded is called by the tenure, on any goroutine.
func (m *membership) tenureEnded(t *tenure) { m.post(func() { m.ended(t) }) }

func (m *membership) ended(t *tenure) {
	s := m.held[t.p]
	if s == nil || s.t != t {
		return
	}
	delete(m.held, t.p)
	t.feed.close()
	m.look = true
	if t.lost != nil {
		m.retry[t.p] = retry{at: time.Now().Add(firstRetry)} // monotonic
		m.member.Lost(t, t.lost)
		return
	}
	m.moves++
	m.tell = true
	if !s.asked {
		m.waived[t.p] = true
	}
}

// leave ends the membership: with nil as it was asked to, otherwise because it is
// over for others.
func (m *membership) leave(why error) {
	m.over = true
	m.unjoin()
	m.soon.Stop()
	if why != nil {
		m.halt()
		for _, s := range m.held {
			s.t.end(fmt.Errorf("jetstream: partition %d of topic %q of group %q: %w: %w", s.t.p.N, s.t.p.Topic, m.group, driver.ErrLost, why))
		}
		m.handle()
	}
	late := time.AfterFunc(leaveWait, m.halt)
	m.work.Wait()
	m.handle()
	late.Stop()
	m.halt()
	for _, s := range m.held {
		s.t.close()
	}
	if errors.Is(why, errEvicted) || errors.Is(why, driver.ErrClosed) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveWait)
	defer cancel()
	// Whatever revision it has: a last beat may have been cut off, and is refused if
	// it comes after this.
	if _, err := m.d.purge(ctx, m.d.names.state(), purgeRequest{Filter: m.d.names.member(m.group, m.id)}); err != nil {
		m.d.env.Log.Warn("jetstream: a member leaves without saying so; what it has not released is free after its lease",
			"group", m.group, "member", m.id, "err", err)
	}
	m.d.announce(m.group, m.id)
}
