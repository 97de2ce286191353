package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
)

const (
	// DefaultLease is how long a member of a group may be silent before others take
	// its partitions, where neither the URL (lease=) nor the served store says it.
	DefaultLease = 10 * time.Second
	// MinLease is the shortest lease that is accepted.
	MinLease = 500 * time.Millisecond
)

// beatsPerLease is how often a member gives a sign of life while its lease lasts.
const beatsPerLease = 5

// ClearMembers deletes the records of all members, so that what they hold is
// free. It is for who knows that none of them is alive.
func ClearMembers(ctx context.Context, nc *nats.Conn, instance string) error {
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	n := newNames(instance)
	req, err := json.Marshal(purgeRequest{Filter: n.allMembers()})
	if err != nil {
		return err
	}
	m, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.PURGE."+n.state(), req)
	if err != nil {
		return fmt.Errorf("jetstream: clearing the records of members: %w: %w", driver.ErrUnavailable, err)
	}
	ack, err := parseAck(m)
	if err == nil && ack.Error != nil && ack.Error.ErrCode != codeStreamNotFound {
		err = ack.Error
	}
	return err
}

// A roster is what stands in the records of a group and its members.
type roster struct {
	rev     uint64 // of the group's record, 0: there is none
	group   groupRecord
	members map[string]listed // by id
}

type listed struct {
	rev  uint64
	beat time.Time // by the broker's clock
	r    memberRecord
}

// roster reads it in one request.
func (d *jsDriver) roster(ctx context.Context, group string, least uint64) (roster, error) {
	all := roster{members: map[string]listed{}}
	ask := []string{d.names.group(group), d.names.members(group)}
	_, err := d.getLast(ctx, d.names.state(), ask, least, func(m *nats.Msg) error {
		subject := first(m.Header["Nats-Subject"])
		if subject == ask[0] {
			all.rev = sequence(m)
			return decodeRecord(subject, m.Data, &all.group)
		}
		id, ok := d.names.parseMember(group, subject)
		if !ok {
			return nil
		}
		l := listed{rev: sequence(m)}
		l.beat, _ = time.Parse(time.RFC3339Nano, first(m.Header["Nats-Time-Stamp"]))
		if err := decodeRecord(subject, m.Data, &l.r); err != nil {
			return err
		}
		all.members[id] = l
		return nil
	})
	return all, err
}

// key is the same as long as nothing has changed but signs of life.
func (a roster) key() string {
	ids := make([]string, 0, len(a.members))
	for id := range a.members {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	var b strings.Builder
	fmt.Fprint(&b, a.rev)
	for _, id := range ids {
		r := a.members[id].r
		fmt.Fprintf(&b, " %q %d %q", id, r.Moves, r.Topics)
	}
	return b.String()
}

// Members reads what the members tell of themselves.
func (d *jsDriver) Members(ctx context.Context, group string) ([]driver.MemberInfo, error) {
	info, err := d.streamInfo(ctx, d.names.state()) // its leader knows how far a replica has to be to tell the truth
	if err != nil {
		return nil, err
	}
	all, err := d.roster(ctx, group, info.State.Last)
	if err != nil {
		return nil, err
	}
	if all.rev == 0 {
		return nil, noGroup(group)
	}
	infos := make([]driver.MemberInfo, 0, len(all.members))
	for id, l := range all.members {
		infos = append(infos, driver.MemberInfo{
			Name: id, Service: l.r.Service, Topics: l.r.Topics, Lease: l.r.Lease,
			Started: l.r.Started, Beat: l.beat, Status: l.r.Status,
		})
	}
	slices.SortFunc(infos, func(a, b driver.MemberInfo) int { return strings.Compare(a.Name, b.Name) })
	return infos, nil
}

var errNoGroup = fmt.Errorf("no such group: %w", driver.ErrNotFound)

func noGroup(name string) error {
	return fmt.Errorf("jetstream: group %q is not registered: %w", name, errNoGroup)
}

// errEvicted: the member's record is not its own any more. Others have judged it
// dead, or the group has been removed.
var errEvicted = errors.New("the member was silent for its lease and has been judged dead")

// beat writes the member's record. Nobody else does, but for deleting it: another
// revision than the expected one is a beat of its own that was not answered.
func (m *membership) beat(ctx context.Context) error {
	m.beats++
	r := memberRecord{
		format: format{stateFormat}, Service: m.d.env.Service, Topics: m.topics, Lease: m.lease,
		Started: m.started, Nonce: m.nonce, Beats: m.beats, Moves: m.moves, Knows: m.spec.Version, Status: m.member.Status(),
	}
	subject := m.d.names.member(m.group, m.id)
	sent := time.Now() // monotonic
	rev, err := m.d.putRecord(ctx, subject, m.rev, r)
	if errors.Is(err, driver.ErrConflict) {
		var stands memberRecord
		if m.rev, err = m.d.getRecordNow(ctx, subject, &stands); err != nil {
			return err
		}
		if m.rev == 0 || stands.Nonce != m.nonce {
			return errEvicted
		}
		rev, err = m.d.putRecord(ctx, subject, m.rev, r)
	}
	if err != nil {
		return err
	}
	m.rev = rev
	by := sent.Add(m.lease * 2 / 3)
	m.startBy.Store(&by)
	return nil
}

// A sight is since when a member's record has been seen unchanged.
type sight struct {
	rev   uint64
	since time.Time
}

// judge returns those whose lease has run out: the same revision of the record has
// been seen over rounds that follow closely on one another. sent is before the
// round's request, heard after its answer.
func (m *membership) judge(sent, heard time.Time, all roster) (dead []string) {
	if sent.Sub(m.lastRound) > m.lease/2 {
		clear(m.sights) // we have slept, or the broker was away: nobody is to pay for it
	}
	m.lastRound = sent
	for id := range m.sights {
		if _, ok := all.members[id]; !ok {
			delete(m.sights, id)
		}
	}
	for id, l := range all.members {
		s, ok := m.sights[id]
		switch {
		case id == m.id:
		case !ok || s.rev != l.rev:
			m.sights[id] = sight{l.rev, heard}
		case sent.Sub(s.since) >= max(m.lease, l.r.Lease):
			dead = append(dead, id)
		}
	}
	return dead
}

// bury deletes the record of a member that was judged dead, unless it has just
// given a sign of life.
func (m *membership) bury(ctx context.Context, id string, l listed) error {
	ok, err := m.d.deleteRecord(ctx, m.d.names.member(m.group, id), l.rev)
	if ok {
		m.d.env.Log.Warn("jetstream: a member has been silent for its lease; what it holds is taken over",
			"group", m.group, "member", id, "lease", l.r.Lease, "last", l.beat)
		delete(m.sights, id)
		m.look, m.tell = true, true
	}
	return err
}
