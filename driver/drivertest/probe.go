package drivertest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// A probe stands between a bus and its driver. It counts, injects faults and can
// kill: after Cut every call fails and nothing reaches the store any more, as
// after a kill of the process that holds the bus.
type probe struct {
	shim
	ctx context.Context // ends at the kill
	end context.CancelFunc

	// gate is held for reading by every call that is on its way to the store, and
	// for writing by Cut: so no call that began before the kill arrives after it.
	gate sync.RWMutex
	dead bool

	appends  atomic.Int64 // calls of Append
	appended atomic.Int64 // messages in them
	fetches  atomic.Int64 // calls of Fetch
	fetched  atomic.Int64 // deliveries handed out
	applies  atomic.Int64 // calls of Lane.Apply
	gone     atomic.Bool  // the kill is over: nothing reaches the store any more

	onAppend atomic.Pointer[func(driver.Partition, []driver.Message) appendFault]
	onFetch  atomic.Pointer[func() error]
	onApply  atomic.Pointer[func([]driver.LaneOp) error]

	mu      sync.Mutex
	tenures map[driver.Partition]int
	trims   []trimCall
	held    []func()
}

type trimCall struct {
	p     driver.Partition
	below uint64
	n     int64
	floor map[string]uint64 // of each group on the topic, when it was called
}

// An appendFault says what becomes of an Append.
type appendFault struct {
	hold   bool  // store it, and say so only when letGo is called
	refuse error // do not store it, say NotStored
}

func newProbe(d driver.Driver) *probe {
	p := &probe{tenures: map[driver.Partition]int{}}
	p.ctx, p.end = context.WithCancel(context.Background())
	p.Driver = d
	p.wrapTenure = func(t driver.Tenure) driver.Tenure {
		p.mu.Lock()
		p.tenures[t.Partition()]++
		p.mu.Unlock()
		return &probeTenure{Tenure: t, p: p}
	}
	p.wrapLane = func(l driver.Lane, _ driver.Partition) driver.Lane { return &probeLane{Lane: l, p: p} }
	return p
}

var errKilled = fmt.Errorf("killed by the suite: %w", driver.ErrLost)

// enter is called before the store is touched.
func (p *probe) enter() (leave func(), err error) {
	p.gate.RLock()
	if p.dead {
		p.gate.RUnlock()
		return nil, errKilled
	}
	return p.gate.RUnlock, nil
}

// Cut kills.
func (p *probe) Cut() {
	p.end() // ends what waits
	p.gate.Lock()
	p.dead = true
	p.gone.Store(true)
	p.gate.Unlock()
	p.letGo()
	kill(p.Driver)
}

// both ends with ctx or with the kill.
func (p *probe) both(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(p.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// letGo completes the Appends that were held back.
func (p *probe) letGo() {
	p.mu.Lock()
	held := p.held
	p.held = nil
	p.mu.Unlock()
	for _, f := range held {
		f()
	}
}

func (p *probe) holding() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.held)
}

func (p *probe) EnsureTopic(ctx context.Context, want driver.TopicSpec) (driver.TopicSpec, error) {
	return alive(p, func() (driver.TopicSpec, error) { return p.Driver.EnsureTopic(ctx, want) })
}

// alive makes a call unless it has been killed.
func alive[T any](p *probe, call func() (T, error)) (T, error) {
	leave, err := p.enter()
	if err != nil {
		var none T
		return none, err
	}
	defer leave()
	return call()
}

func (p *probe) Topics(ctx context.Context) ([]driver.TopicSpec, error) {
	return alive(p, func() ([]driver.TopicSpec, error) { return p.Driver.Topics(ctx) })
}

func (p *probe) Plan(ctx context.Context, topics []driver.TopicSpec, groups []driver.GroupSpec) ([]driver.Planned, error) {
	return alive(p, func() ([]driver.Planned, error) { return p.Driver.Plan(ctx, topics, groups) })
}

func (p *probe) Extents(ctx context.Context, topic string) ([]driver.Extent, error) {
	return alive(p, func() ([]driver.Extent, error) { return p.Driver.Extents(ctx, topic) })
}

func (p *probe) Group(ctx context.Context, name string) (driver.GroupSpec, error) {
	return alive(p, func() (driver.GroupSpec, error) { return p.Driver.Group(ctx, name) })
}

func (p *probe) PauseGroup(ctx context.Context, name, why string) (driver.GroupSpec, error) {
	return alive(p, func() (driver.GroupSpec, error) { return p.Driver.PauseGroup(ctx, name, why) })
}

func (p *probe) NudgeGroup(ctx context.Context, name string) error {
	leave, err := p.enter()
	if err != nil {
		return err
	}
	defer leave()
	return p.Driver.NudgeGroup(ctx, name)
}

func (p *probe) ResetGroup(ctx context.Context, name string, topics []string, start driver.StartAt) error {
	leave, err := p.enter()
	if err != nil {
		return err
	}
	defer leave()
	return p.Driver.ResetGroup(ctx, name, topics, start)
}

func (p *probe) RemoveGroup(ctx context.Context, name string) error {
	leave, err := p.enter()
	if err != nil {
		return err
	}
	defer leave()
	return p.Driver.RemoveGroup(ctx, name)
}

func (p *probe) Members(ctx context.Context, group string) ([]driver.MemberInfo, error) {
	return alive(p, func() ([]driver.MemberInfo, error) { return p.Driver.Members(ctx, group) })
}

func (p *probe) Read(ctx context.Context, part driver.Partition, above uint64, limit int, bodies bool) ([]driver.Delivery, error) {
	return alive(p, func() ([]driver.Delivery, error) { return p.Driver.Read(ctx, part, above, limit, bodies) })
}

func (p *probe) ReadFrom(ctx context.Context, part driver.Partition, t time.Time) (uint64, error) {
	return alive(p, func() (uint64, error) { return p.Driver.ReadFrom(ctx, part, t) })
}

func (p *probe) Describe(ctx context.Context) ([]driver.Thing, error) {
	return alive(p, func() ([]driver.Thing, error) { return p.Driver.Describe(ctx) })
}

func (p *probe) EnsureGroup(ctx context.Context, want driver.GroupSpec) (driver.GroupSpec, error) {
	return alive(p, func() (driver.GroupSpec, error) { return p.Driver.EnsureGroup(ctx, want) })
}

func (p *probe) DropTypes(ctx context.Context, group string, types []string) error {
	leave, err := p.enter()
	if err != nil {
		return err
	}
	defer leave()
	return p.Driver.DropTypes(ctx, group, types)
}

func (p *probe) Groups(ctx context.Context) ([]driver.GroupSpec, error) {
	return alive(p, func() ([]driver.GroupSpec, error) { return p.Driver.Groups(ctx) })
}

func (p *probe) Append(part driver.Partition, msgs []driver.Message, deadline time.Time, done func([]driver.Outcome)) {
	p.appends.Add(1)
	p.appended.Add(int64(len(msgs)))
	var fault appendFault
	if f := p.onAppend.Load(); f != nil {
		fault = (*f)(part, msgs)
	}
	leave, err := p.enter()
	if err == nil {
		defer leave()
	}
	if err == nil {
		err = fault.refuse
	}
	if err != nil {
		out := make([]driver.Outcome, len(msgs))
		for i := range out {
			out[i] = driver.Outcome{State: driver.NotStored, Err: err}
		}
		go done(out)
		return
	}
	p.Driver.Append(part, msgs, deadline, func(out []driver.Outcome) {
		if fault.hold {
			p.mu.Lock()
			held := p.ctx.Err() == nil
			if held {
				p.held = append(p.held, func() { done(p.known(out)) })
			}
			p.mu.Unlock()
			if held {
				return
			}
		}
		done(p.known(out))
	})
}

// known hides what a killed process would not have heard.
func (p *probe) known(out []driver.Outcome) []driver.Outcome {
	if p.ctx.Err() != nil {
		for i := range out {
			out[i] = driver.Outcome{State: driver.Unknown, Err: errKilled}
		}
	}
	return out
}

func (p *probe) Join(ctx context.Context, group string, m driver.Member) error {
	leave, err := p.enter()
	if err != nil {
		return err
	}
	leave()
	outer := ctx
	ctx, stop := p.both(ctx)
	defer stop()
	err = p.shim.Join(ctx, group, m)
	if p.ctx.Err() != nil && outer.Err() == nil {
		return errKilled
	}
	return err
}

func (p *probe) Positions(ctx context.Context, group string) ([]driver.Position, error) {
	return alive(p, func() ([]driver.Position, error) { return p.Driver.Positions(ctx, group) })
}

func (p *probe) Trim(ctx context.Context, part driver.Partition, below uint64, before time.Time) (int64, error) {
	leave, err := p.enter()
	if err != nil {
		return 0, err
	}
	defer leave()
	floors := p.floors(ctx, part)
	n, err := p.Driver.Trim(ctx, part, below, before)
	p.mu.Lock()
	p.trims = append(p.trims, trimCall{p: part, below: below, n: n, floor: floors})
	p.mu.Unlock()
	return n, err
}

// floors is where each group stands in a partition.
func (p *probe) floors(ctx context.Context, part driver.Partition) map[string]uint64 {
	floors := map[string]uint64{}
	groups, err := p.Driver.Groups(ctx)
	if err != nil {
		return nil
	}
	for _, g := range groups {
		if _, ok := g.Types[part.Topic]; !ok {
			continue
		}
		pos, err := p.Driver.Positions(ctx, g.Name)
		if err != nil {
			return nil
		}
		for _, at := range pos {
			if at.Partition == part {
				floors[g.Name] = at.Floor
			}
		}
	}
	return floors
}

func (p *probe) trimmed() []trimCall {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]trimCall(nil), p.trims...)
}

// assigned is how many partitions of a topic were handed to the bus.
func (p *probe) assigned(topic string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for part, c := range p.tenures {
		if part.Topic == topic {
			n += c
		}
	}
	return n
}

func (p *probe) Health(ctx context.Context) error {
	leave, err := p.enter()
	if err != nil {
		return err
	}
	defer leave()
	return p.Driver.Health(ctx)
}

func (p *probe) Audit(ctx context.Context) error {
	leave, err := p.enter()
	if err != nil {
		return err
	}
	defer leave()
	return p.Driver.Audit(ctx)
}

type probeTenure struct {
	driver.Tenure
	p *probe
}

func (t *probeTenure) Fetch(ctx context.Context, into []driver.Delivery, maxBytes int) (int, error) {
	t.p.fetches.Add(1)
	if f := t.p.onFetch.Load(); f != nil {
		if err := (*f)(); err != nil {
			return 0, err
		}
	}
	ctx, stop := t.p.both(ctx)
	defer stop()
	n, err := t.Tenure.Fetch(ctx, into, maxBytes)
	if t.p.ctx.Err() != nil {
		return 0, errKilled
	}
	t.p.fetched.Add(int64(n))
	return n, err
}

func (t *probeTenure) Checkpoint(ctx context.Context, c driver.Checkpoint) error {
	leave, err := t.p.enter()
	if err != nil {
		return err
	}
	defer leave()
	return t.Tenure.Checkpoint(ctx, c)
}

func (t *probeTenure) Settle(ctx context.Context, s []driver.Settlement) error {
	leave, err := t.p.enter()
	if err != nil {
		return err
	}
	defer leave()
	return t.Tenure.Settle(ctx, s)
}

func (t *probeTenure) Release(ctx context.Context, c driver.Checkpoint) error {
	leave, err := t.p.enter()
	if err != nil {
		return err
	}
	defer leave()
	return t.Tenure.Release(ctx, c)
}

type probeLane struct {
	driver.Lane
	p *probe
}

func (l *probeLane) Scan(ctx context.Context, after string, most int) ([]driver.Entry, string, error) {
	leave, err := l.p.enter()
	if err != nil {
		return nil, "", err
	}
	defer leave()
	return l.Lane.Scan(ctx, after, most)
}

func (l *probeLane) Get(ctx context.Context, names []string) ([]driver.Entry, error) {
	leave, err := l.p.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	return l.Lane.Get(ctx, names)
}

func (l *probeLane) Parked(ctx context.Context, key string, after uint64, most int) ([]driver.Entry, error) {
	leave, err := l.p.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	return l.Lane.Parked(ctx, key, after, most)
}

// Watch does not hold the gate: it only reads.
func (l *probeLane) Watch(ctx context.Context, f func(driver.Entry)) error {
	ctx, stop := l.p.both(ctx)
	defer stop()
	err := l.Lane.Watch(ctx, func(e driver.Entry) {
		if l.p.ctx.Err() == nil {
			f(e)
		}
	})
	if l.p.ctx.Err() != nil {
		return errKilled
	}
	return err
}

func (l *probeLane) Apply(ctx context.Context, ops []driver.LaneOp) error {
	l.p.applies.Add(1)
	leave, err := l.p.enter()
	if err == nil {
		defer leave()
		if f := l.p.onApply.Load(); f != nil {
			err = (*f)(ops)
		}
	}
	if err != nil {
		for i := range ops {
			ops[i].Err = err
		}
		return err
	}
	return l.Lane.Apply(ctx, ops)
}

// laneFault makes Apply fail for as long as away says so.
func laneFault(away func() bool) func([]driver.LaneOp) error {
	return func([]driver.LaneOp) error {
		if away() {
			return fmt.Errorf("on purpose: %w", driver.ErrUnavailable)
		}
		return nil
	}
}
