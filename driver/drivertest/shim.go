package drivertest

import (
	"context"
	"sync"

	"github.com/posthorn/posthorn/driver"
)

// A shim is a driver around another one. Its functions, as far as they are set,
// wrap what the inner driver hands out.
type shim struct {
	driver.Driver
	wrapTenure func(driver.Tenure) driver.Tenure
	wrapLane   func(driver.Lane, driver.Partition) driver.Lane
	wrapMember func(driver.Member) driver.Member
}

var _ driver.Driver = (*shim)(nil)

func (s *shim) Lane(group string, p driver.Partition) driver.Lane {
	l := s.Driver.Lane(group, p)
	if s.wrapLane != nil {
		l = s.wrapLane(l, p)
	}
	return l
}

func (s *shim) Join(ctx context.Context, group string, m driver.Member) error {
	if s.wrapMember != nil {
		m = s.wrapMember(m)
	}
	return s.Driver.Join(ctx, group, &shimMember{Member: m, s: s, outer: map[driver.Tenure]driver.Tenure{}})
}

// Kill makes the inner driver end as if its process had been killed, if it knows
// how to.
func (s *shim) Kill() { kill(s.Driver) }

func kill(d driver.Driver) {
	if k, ok := d.(interface{ Kill() }); ok {
		k.Kill()
	}
}

type shimMember struct {
	driver.Member
	s     *shim
	mu    sync.Mutex
	outer map[driver.Tenure]driver.Tenure
}

func (m *shimMember) Assigned(t driver.Tenure) {
	var w driver.Tenure = &shimTenure{Tenure: t, s: m.s}
	if m.s.wrapTenure != nil {
		w = m.s.wrapTenure(w)
	}
	m.mu.Lock()
	m.outer[t] = w
	m.mu.Unlock()
	m.Member.Assigned(w)
}

// Revoke may be followed by Lost, if it ends without a release.
func (m *shimMember) Revoke(ctx context.Context, t driver.Tenure) {
	m.mu.Lock()
	w := m.outer[t]
	m.mu.Unlock()
	if w != nil {
		m.Member.Revoke(ctx, w)
	}
}

func (m *shimMember) Lost(t driver.Tenure, err error) {
	m.mu.Lock()
	w := m.outer[t]
	delete(m.outer, t)
	m.mu.Unlock()
	if w != nil {
		m.Member.Lost(w, err)
	}
}

type shimTenure struct {
	driver.Tenure
	s    *shim
	once sync.Once
	lane driver.Lane
}

// Lane returns one and the same lane each time, so that a wrapper can keep state.
func (t *shimTenure) Lane() driver.Lane {
	t.once.Do(func() {
		t.lane = t.Tenure.Lane()
		if t.s.wrapLane != nil {
			t.lane = t.s.wrapLane(t.lane, t.Partition())
		}
	})
	return t.lane
}
