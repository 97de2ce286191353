package drivertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/posthorn/posthorn/driver"
)

var seamCases = []Case{
	{Name: "seam/append-order", Promise: "P1 P5", Doc: "a batch is stored in its order, outcomes come in that order with ascending positions, and Fetch hands out the same", run: appendOrder},
	{Name: "seam/append-content", Promise: "P1", Doc: "every field of a message comes back as it was stored, odd values and no body included", run: appendContent},
	{Name: "seam/append-duplicate", Promise: "P1 U", Doc: "a repeated id is told as a duplicate with the position where it stands, within the declared window", run: appendDuplicate},
	{Name: "seam/append-too-large", Promise: "P1", Doc: "a message above the declared limit is not stored, with ErrTooLarge, and its neighbours are not harmed", run: appendTooLarge},
	{Name: "seam/append-unknown-topic", Promise: "P1", Doc: "an Append to a topic that does not exist stores nothing and says so", run: appendUnknownTopic},
	{Name: "seam/topic-stands", Promise: "P1", Doc: "EnsureTopic never changes a topic that exists, also after a restart", run: topicStands},
	{Name: "seam/group-record", Promise: "P2", Doc: "EnsureGroup adds what is missing, keeps what stands, and the record outlives a restart; DropTypes removes", run: groupRecord},
	{Name: "seam/group-start", Promise: "P2", Doc: "a new topic of a group begins at the beginning, now, or at a time, from the call on", run: groupStart},
	{Name: "seam/unknown-group", Promise: "P2", Doc: "a group or topic that does not exist is ErrNotFound", run: unknownGroup},
	{Name: "seam/fetch-bounds", Promise: "P9", Doc: "Fetch keeps to the length it is given and about to the bytes, waits, and ends with its context", run: fetchBounds},
	{Name: "seam/release", Promise: "P8", Doc: "after a Release the next holder gets what is not settled, at once and in order, and the checkpoint as it was left", run: releaseGivesBack},
	{Name: "seam/unclean", Promise: "P8", Doc: "without a Release the next holder gets the last checkpoint that was recorded, not clean, and all that is not settled", run: uncleanEnd},
	{Name: "seam/fenced", Promise: "P5", Doc: "after a new holder has come, the old one can record, settle and write nothing: ErrLost; fences ascend", run: fenced},
	{Name: "seam/positions", Promise: "P12", Doc: "Positions tells first, last, floor and lag without joining", run: positions},
	{Name: "seam/trim", Promise: "P2", Doc: "Trim deletes what is below and older, never more, and says how much", needs: needsLog, run: trims},
	{Name: "seam/give-back", Promise: "P8", Doc: "what is given back comes again in its old place", needs: needsQueue, run: givesBack},
	{Name: "seam/describe", Promise: "P12", Doc: "Describe lists what was set up, with a reason each, and Health is fine", run: describes},
	{Name: "seam/closed", Promise: "P8", Doc: "after Close calls fail, and a second Close is harmless", run: closedDriver},
}

// A holder is a member that takes partitions and does nothing with them.
type holder struct {
	topics  []string
	tenures chan driver.Tenure
	lost    chan error
	leave   context.CancelFunc
	left    chan error

	mu     sync.Mutex
	specs  []driver.GroupSpec // that it was told
	status driver.Status
}

var _ driver.Member = (*holder)(nil)

func (h *holder) Subscribed(spec driver.GroupSpec) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.specs = append(h.specs, spec)
	return h.topics
}

func (h *holder) Status() driver.Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.status
}

func (h *holder) tell(s driver.Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.status = s
}

// told tells whether the last record that it was told is one like this.
func (h *holder) told(match func(driver.GroupSpec) bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.specs) > 0 && match(h.specs[len(h.specs)-1])
}

func (h *holder) Assigned(t driver.Tenure) { h.tenures <- t }
func (h *holder) Revoke(ctx context.Context, t driver.Tenure) {
	_ = t.Release(ctx, t.Start())
}
func (h *holder) Lost(_ driver.Tenure, err error) { h.lost <- err }

// join joins a group without an engine.
func (r *rig) join(d driver.Driver, group string, topics ...string) *holder {
	return r.joinAs(d, group, &holder{topics: topics})
}

func (r *rig) joinAs(d driver.Driver, group string, h *holder) *holder {
	ctx, cancel := context.WithCancel(r.ctx)
	h.tenures, h.lost, h.leave, h.left = make(chan driver.Tenure, 64), make(chan error, 64), cancel, make(chan error, 1)
	go func() { h.left <- d.Join(ctx, group, h) }()
	r.mu.Lock()
	r.holders = append(r.holders, h)
	r.mu.Unlock()
	return h
}

// loses waits until a holder is told that it has lost a partition.
func (r *rig) loses(h *holder) {
	r.Helper()
	select {
	case err := <-h.lost:
		if !errors.Is(err, driver.ErrLost) {
			r.Errorf("the holder is told that it has lost its partition with %v, want ErrLost", err)
		}
	case <-time.After(r.patience):
		r.Fatalf("the holder is not told that it has lost its partition")
	}
}

// tenure waits for the next partition.
func (r *rig) tenure(h *holder) driver.Tenure {
	r.Helper()
	select {
	case t := <-h.tenures:
		return t
	case err := <-h.left:
		r.Fatalf("Join ended: %v", err)
	case <-time.After(r.patience):
		r.Fatalf("no partition is assigned")
	}
	return nil
}

// gone ends a membership, without a Release.
func (r *rig) gone(h *holder) {
	r.Helper()
	h.leave()
	select {
	case err := <-h.left:
		h.left <- err
		if err != nil && !errors.Is(err, context.Canceled) {
			r.Errorf("Join ended with %v, its context has ended", err)
		}
	case <-time.After(r.patience):
		r.Fatalf("Join does not return when its context has ended")
	}
}

// setUp makes a topic of one partition and a group that reads it.
func (r *rig) setUp(d driver.Driver, name string) (driver.Partition, string) {
	r.Helper()
	p := r.makeTopic(d, name, 1)
	group := r.name("g")
	if _, err := d.EnsureGroup(r.ctx, driver.GroupSpec{Name: group, Types: map[string][]string{p.Topic: {"some.type"}}}); err != nil {
		r.Fatalf("EnsureGroup: %v", err)
	}
	return p, group
}

func (r *rig) makeTopic(d driver.Driver, name string, partitions int) driver.Partition {
	r.Helper()
	spec := driver.TopicSpec{Name: r.name(name), Hash: driver.HashFNV1a, Partitions: partitions, Keep: time.Hour}
	if _, err := d.EnsureTopic(r.ctx, spec); err != nil {
		r.Fatalf("EnsureTopic: %v", err)
	}
	return driver.Partition{Topic: spec.Name}
}

func message(i int) driver.Message {
	return driver.Message{ID: fmt.Sprintf("id-%d", i), Source: "suite", Type: "some.type", Key: fmt.Sprint("k", i%3),
		Time: "2026-01-02T03:04:05Z", ContentType: "text/plain", Body: fmt.Appendf(nil, "body %d", i)}
}

func messages(from, to int) []driver.Message {
	var m []driver.Message
	for i := from; i < to; i++ {
		m = append(m, message(i))
	}
	return m
}

// store appends and wants everything stored; it returns the positions.
func (r *rig) store(d driver.Driver, p driver.Partition, msgs ...driver.Message) []uint64 {
	r.Helper()
	var pos []uint64
	for i, o := range appendTo(r, d, p, msgs...) {
		if o.State != driver.Stored || o.Err != nil {
			r.Fatalf("message %d: state %d, error %v", i, o.State, o.Err)
		}
		pos = append(pos, o.Pos)
	}
	return pos
}

// fetch takes n deliveries.
func (r *rig) fetch(t driver.Tenure, n int) []driver.Delivery {
	r.Helper()
	ctx, cancel := r.deadline()
	defer cancel()
	var got []driver.Delivery
	into := make([]driver.Delivery, n)
	for len(got) < n {
		k, err := t.Fetch(ctx, into[:n-len(got)], 1<<20)
		if err != nil {
			r.Fatalf("Fetch after %d of %d: %v", len(got), n, err)
		}
		got = append(got, into[:k]...)
	}
	return got
}

// nothing wants a Fetch to wait.
func (r *rig) nothing(t driver.Tenure) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.ctx, 60*time.Millisecond)
	defer cancel()
	into := make([]driver.Delivery, 8)
	if k, err := t.Fetch(ctx, into, 1<<20); k > 0 {
		r.Errorf("Fetch handed out %d more, the first is %s", k, into[0].Msg.ID)
	} else if !errors.Is(err, context.DeadlineExceeded) {
		r.Errorf("Fetch without anything to hand out, when its context has ended: %v", err)
	}
}

// where returns the positions of the first n messages of a partition, which a
// batch need not tell, as another group reads them. A queue has none.
func (r *rig) where(d driver.Driver, p driver.Partition, n int) []uint64 {
	r.Helper()
	pos := make([]uint64, n)
	if r.caps.Queue {
		return pos
	}
	group := r.name("where")
	if _, err := d.EnsureGroup(r.ctx, driver.GroupSpec{Name: group, Types: map[string][]string{p.Topic: {"some.type"}}}); err != nil {
		r.Fatalf("EnsureGroup: %v", err)
	}
	h := r.join(d, group, p.Topic)
	t := r.tenure(h)
	for t.Partition() != p {
		t = r.tenure(h)
	}
	for i, got := range r.fetch(t, n) {
		pos[i] = got.Pos
	}
	r.gone(h)
	return pos
}

func ids(ds []driver.Delivery) string {
	var s []string
	for _, d := range ds {
		s = append(s, strings.TrimPrefix(d.Msg.ID, "id-"))
	}
	return strings.Join(s, " ")
}

// settle ends deliveries, in either shape.
func (r *rig) settle(t driver.Tenure, ds ...driver.Delivery) {
	r.Helper()
	if len(ds) == 0 {
		return
	}
	if !r.caps.Queue {
		last := ds[len(ds)-1].Pos
		if err := t.Checkpoint(r.ctx, driver.Checkpoint{Floor: last, Mark: last}); err != nil {
			r.Fatalf("Checkpoint: %v", err)
		}
		return
	}
	var s []driver.Settlement
	for _, d := range ds {
		s = append(s, driver.Settlement{Pos: d.Pos})
	}
	if err := t.Settle(r.ctx, s); err != nil {
		r.Fatalf("Settle: %v", err)
	}
}

func appendOrder(r *rig) {
	d := r.driver()
	p, group := r.setUp(d, "order")
	var pos []uint64
	for i := 0; i < 100; i += 10 {
		pos = append(pos, r.store(d, p, messages(i, i+10)...)...)
	}
	t := r.tenure(r.join(d, group, p.Topic))
	if t.Partition() != p || t.Lane() == nil {
		r.Errorf("the tenure is of %v with lane %v", t.Partition(), t.Lane())
	}
	var last uint64
	for i, got := range r.fetch(t, 100) {
		if got.Msg.ID != fmt.Sprintf("id-%d", i) || got.Bad != nil {
			r.Fatalf("delivery %d is %s (%v)", i, got.Msg.ID, got.Bad)
		}
		if !r.caps.Queue && (got.Pos <= last || pos[i] != 0 && got.Pos != pos[i]) {
			r.Fatalf("delivery %d is at %d behind %d, it was stored at %d", i, got.Pos, last, pos[i])
		}
		last = got.Pos
		if !got.Stored.IsZero() && time.Since(got.Stored).Abs() > time.Minute {
			r.Errorf("it was stored at %v", got.Stored)
		}
	}
	r.nothing(t)
}

func appendContent(r *rig) {
	d := r.driver()
	p, group := r.setUp(d, "content")
	odd := message(1)
	odd.Key = "käy %25 / \" \\ \t € 𝄞 "
	odd.Source = "//host/söurce?x=%41"
	odd.Attrs = []driver.Attr{{Name: "correlationid", Value: "a b%20c"}, {Name: "custom", Value: "ü\"%"}, {Name: "empty", Value: "x"}}
	odd.Headers = []driver.Attr{{Name: "X-Case", Value: "Kept %41"}, {Name: "Status", Value: "404"}, {Name: "a.b_c-d", Value: "€ \x7e \""}}
	odd.Body = []byte{0, 255, 1, '\r', '\n', 0}
	none := message(2)
	none.Body = nil
	bare := driver.Message{Body: []byte("foreign")}
	want := []driver.Message{odd, none, bare, message(3)}
	r.store(d, p, want...)
	t := r.tenure(r.join(d, group, p.Topic))
	for i, got := range r.fetch(t, len(want)) {
		r.sameMessage(fmt.Sprint("delivery ", i), got.Msg, want[i])
		if got.Bad != nil {
			r.Errorf("delivery %d is bad: %v", i, got.Bad)
		}
	}
}

// sameMessage compares a message with what was stored. The order of attributes
// and headers and the case of header names are the broker's affair.
func (r *rig) sameMessage(what string, got, want driver.Message) {
	r.Helper()
	field := func(name, got, want string) {
		r.Helper()
		if got != want {
			r.Errorf("%s: %s is %q, want %q", what, name, got, want)
		}
	}
	field("id", got.ID, want.ID)
	field("source", got.Source, want.Source)
	field("type", got.Type, want.Type)
	field("key", got.Key, want.Key)
	field("time", got.Time, want.Time)
	field("content type", got.ContentType, want.ContentType)
	field("body", string(got.Body), string(want.Body))
	pairs := func(as []driver.Attr) string {
		var s []string
		for _, a := range as {
			s = append(s, strings.ToLower(a.Name)+"="+a.Value)
		}
		slices.Sort(s)
		return strings.Join(s, ";")
	}
	field("attributes", pairs(got.Attrs), pairs(want.Attrs))
	field("headers", pairs(got.Headers), pairs(want.Headers))
}

func appendDuplicate(r *rig) {
	d := r.driver()
	p, group := r.setUp(d, "duplicate")
	r.store(d, p, messages(0, 5)...)
	again := appendTo(r, d, p, message(2), message(5), message(2))
	want := 8
	if r.caps.DedupWindow > 0 {
		want = 6
		pos := r.where(d, p, 6)
		for i, at := range []int{2, 5, 2} {
			o := again[i]
			if o.State != driver.Stored || o.Err != nil {
				r.Errorf("outcome %d: state %d, %v", i, o.State, o.Err)
			}
			if o.Dup && at == 5 || !o.Dup && at == 2 && o.Pos != 0 { // a batch need not tell
				r.Errorf("outcome %d says duplicate %v", i, o.Dup)
			}
			if !r.caps.Queue && o.Pos != 0 && o.Pos != pos[at] {
				r.Errorf("outcome %d stands at %d, it was stored at %d", i, o.Pos, pos[at])
			}
		}
	}
	t := r.tenure(r.join(d, group, p.Topic))
	got := r.fetch(t, want)
	if s := ids(got); want == 6 && s != "0 1 2 3 4 5" {
		r.Errorf("fetched %s", s)
	}
	r.nothing(t)
}

func appendTooLarge(r *rig) {
	d := r.driver()
	p, group := r.setUp(d, "large")
	most := r.caps.MaxMessage
	if most <= 0 {
		r.Fatalf("Caps.MaxMessage is %d", most)
	}
	big := message(1)
	big.Body = bytes.Repeat([]byte("x"), most-(big.Size()-len(big.Body)))
	r.store(d, p, message(0), big)
	over := message(2)
	over.Body = bytes.Repeat([]byte("x"), most+256<<10) // a broker's own limit may leave some room
	if o := appendTo(r, d, p, over)[0]; o.State != driver.NotStored || !errors.Is(o.Err, driver.ErrTooLarge) {
		r.Errorf("256 KiB above the limit: state %d, %v", o.State, o.Err)
	}
	r.store(d, p, message(3))
	t := r.tenure(r.join(d, group, p.Topic))
	got := r.fetch(t, 3)
	if s := ids(got); s != "0 1 3" {
		r.Errorf("fetched %s", s)
	}
	if len(got[1].Msg.Body) != len(big.Body) {
		r.Errorf("the largest message came with %d bytes of %d", len(got[1].Msg.Body), len(big.Body))
	}
}

func appendUnknownTopic(r *rig) {
	d := r.driver()
	for _, p := range []driver.Partition{{Topic: r.name("unknown")}, {Topic: r.makeTopic(d, "known", 1).Topic, N: 1}} {
		if o := appendTo(r, d, p, message(1))[0]; o.State == driver.Stored || o.Err == nil {
			r.Errorf("Append to %v, which does not exist: state %d, %v", p, o.State, o.Err)
		}
	}
}

func topicStands(r *rig) {
	d := r.driver()
	want := driver.TopicSpec{Name: r.name("stands"), Hash: driver.HashFNV1a, Partitions: 2, Unordered: true, Keep: 90 * time.Minute, MaxBytes: 64 << 20, Dedup: time.Minute}
	first, err := d.EnsureTopic(r.ctx, want)
	if err != nil {
		r.Fatalf("EnsureTopic: %v", err)
	}
	if first.Name != want.Name || first.Partitions != 2 || first.Keep != want.Keep || !first.Unordered || first.MaxBytes != want.MaxBytes || first.Hash != want.Hash {
		r.Errorf("created as %+v, want %+v", first, want)
	}
	other := want
	other.Partitions, other.Keep, other.Unordered, other.MaxBytes, other.Hash = 5, time.Minute, false, 0, "other"
	second, err := d.EnsureTopic(r.ctx, other)
	if err != nil || second != first {
		r.Errorf("EnsureTopic with other settings: %+v, %v; it stands as %+v", second, err, first)
	}
	third, err := r.driver().EnsureTopic(r.ctx, other)
	if err != nil || third != first {
		r.Errorf("the same after opening again: %+v, %v; it stands as %+v", third, err, first)
	}
}

func groupRecord(r *rig) {
	d := r.driver()
	a, b := r.makeTopic(d, "a", 1), r.makeTopic(d, "b", 2)
	name := r.name("g")
	ensure := func(d driver.Driver, types map[string][]string) map[string][]string {
		r.Helper()
		g, err := d.EnsureGroup(r.ctx, driver.GroupSpec{Name: name, Types: types})
		if err != nil {
			r.Fatalf("EnsureGroup: %v", err)
		}
		for _, t := range g.Types {
			slices.Sort(t)
		}
		return g.Types
	}
	want := func(got map[string][]string, want string) {
		r.Helper()
		if s := strings.ReplaceAll(fmt.Sprint(got), r.id+"-", ""); s != want {
			r.Errorf("the record is %s, want %s", s, want)
		}
	}
	want(ensure(d, map[string][]string{a.Topic: {"a.one"}}), "map[a:[a.one]]")
	want(ensure(d, map[string][]string{a.Topic: {"a.two", "a.one"}, b.Topic: {"b.one"}}), "map[a:[a.one a.two] b:[b.one]]")
	want(ensure(d, map[string][]string{a.Topic: {"a.one"}}), "map[a:[a.one a.two] b:[b.one]]")
	d = r.driver()
	want(ensure(d, nil), "map[a:[a.one a.two] b:[b.one]]")
	groups, err := d.Groups(r.ctx)
	if err != nil {
		r.Fatalf("Groups: %v", err)
	}
	if !slices.ContainsFunc(groups, func(g driver.GroupSpec) bool { return g.Name == name && len(g.Types) == 2 }) {
		r.Errorf("Groups does not list %s", name)
	}
	if err := d.DropTypes(r.ctx, name, []string{"a.two", "b.one"}); err != nil {
		r.Errorf("DropTypes: %v", err)
	}
	want(ensure(r.driver(), nil), "map[a:[a.one]]")
}

func groupStart(r *rig) {
	d := r.driver()
	p := r.makeTopic(d, "start", 1)
	r.store(d, p, messages(0, 5)...)
	time.Sleep(20 * time.Millisecond) // the times of storing differ
	at := time.Now()
	time.Sleep(20 * time.Millisecond)
	r.store(d, p, messages(5, 8)...)
	type start struct {
		name string
		at   driver.StartAt
		want string
		past bool
	}
	starts := []start{
		{"begin", driver.StartAt{}, "0 1 2 3 4 5 6 7 8 9", true},
		{"now", driver.StartAt{Now: true}, "8 9", false},
		{"time", driver.StartAt{Time: at}, "5 6 7 8 9", true},
		{"future", driver.StartAt{Time: time.Now().Add(time.Hour)}, "8 9", true},
		{"long-ago", driver.StartAt{Time: time.Now().Add(-time.Hour)}, "0 1 2 3 4 5 6 7 8 9", true},
	}
	for _, s := range starts {
		if s.past && !r.caps.ReadFrom {
			continue
		}
		if _, err := d.EnsureGroup(r.ctx, driver.GroupSpec{Name: r.name(s.name), Types: map[string][]string{p.Topic: {"some.type"}}, Start: s.at}); err != nil {
			r.Errorf("EnsureGroup %s: %v", s.name, err)
		}
	}
	r.store(d, p, messages(8, 10)...)
	for _, s := range starts {
		if s.past && !r.caps.ReadFrom {
			continue
		}
		// Registered again with another start: what stands, stands.
		if _, err := d.EnsureGroup(r.ctx, driver.GroupSpec{Name: r.name(s.name), Types: map[string][]string{p.Topic: {"some.type"}}, Start: driver.StartAt{Now: true}}); err != nil {
			r.Errorf("EnsureGroup %s again: %v", s.name, err)
		}
		t := r.tenure(r.join(d, r.name(s.name), p.Topic))
		got := r.fetch(t, len(strings.Fields(s.want)))
		if g := ids(got); g != s.want {
			if s.name == "future" {
				continue // nothing says where a time to come begins, but that it begins
			}
			r.Errorf("start %s got %s, want %s", s.name, g, s.want)
		}
	}
}

func unknownGroup(r *rig) {
	d := r.driver()
	ctx, cancel := r.deadline()
	defer cancel()
	if _, err := d.EnsureGroup(ctx, driver.GroupSpec{Name: r.name("g"), Types: map[string][]string{r.name("nowhere"): {"x"}}}); !errors.Is(err, driver.ErrNotFound) {
		r.Errorf("EnsureGroup on a topic that does not exist: %v", err)
	}
	if _, err := d.Positions(ctx, r.name("nobody")); !errors.Is(err, driver.ErrNotFound) {
		r.Errorf("Positions of a group that does not exist: %v", err)
	}
	if err := d.Join(ctx, r.name("nobody"), &holder{topics: []string{r.name("nowhere")}}); !errors.Is(err, driver.ErrNotFound) {
		r.Errorf("Join of a group that does not exist: %v", err)
	}
}

func fetchBounds(r *rig) {
	d := r.driver()
	p, group := r.setUp(d, "bounds")
	t := r.tenure(r.join(d, group, p.Topic))
	r.nothing(t)
	late := make(chan []driver.Delivery, 1)
	go func() {
		into := make([]driver.Delivery, 4)
		ctx, cancel := r.deadline()
		defer cancel()
		k, err := t.Fetch(ctx, into, 1<<20)
		if err != nil {
			r.Errorf("Fetch: %v", err)
		}
		late <- into[:k]
	}()
	r.store(d, p, message(0))
	got := <-late
	if len(got) != 1 {
		r.Fatalf("a Fetch that waited got %d", len(got))
	}
	body := bytes.Clone(got[0].Msg.Body)
	var more []driver.Message
	for i := 1; i < 21; i++ {
		m := message(i)
		m.Body = bytes.Repeat([]byte{'x'}, 1000)
		more = append(more, m)
	}
	r.store(d, p, more...)
	into := make([]driver.Delivery, 20)
	ctx, cancel := r.deadline()
	defer cancel()
	total := 0
	for total < 20 {
		k, err := t.Fetch(ctx, into[:min(7, 20-total)], 3000)
		if err != nil || k < 1 {
			r.Fatalf("Fetch: %d, %v", k, err)
		}
		if k > 4 {
			r.Errorf("Fetch for 3000 bytes gave %d messages of 1000", k)
		}
		for i := range k {
			if want := fmt.Sprintf("id-%d", 1+total+i); into[i].Msg.ID != want {
				r.Errorf("fetched %s, want %s", into[i].Msg.ID, want)
			}
		}
		total += k
	}
	if !bytes.Equal(got[0].Msg.Body, body) {
		r.Errorf("a body that was handed out was changed: %q", got[0].Msg.Body)
	}
	r.nothing(t)
}

func releaseGivesBack(r *rig) {
	d := r.driver()
	p, group := r.setUp(d, "release")
	r.store(d, p, messages(0, 20)...)
	pos := r.where(d, p, 20)
	h := r.join(d, group, p.Topic)
	t := r.tenure(h)
	fence := t.Fence()
	got := r.fetch(t, 15)
	r.settle(t, got[:5]...)
	c := driver.Checkpoint{}
	if !r.caps.Queue {
		c = driver.Checkpoint{Floor: pos[6], Mark: pos[14], Finished: []byte("any bytes \x00\xff"), Clean: true}
	} else {
		r.settle(t, got[5:7]...)
		r.settle(t, got[9]) // a gap
	}
	if err := t.Release(r.ctx, c); err != nil {
		r.Fatalf("Release: %v", err)
	}
	r.gone(h)
	for _, again := range []driver.Driver{d, r.driver()} {
		h = r.join(again, group, p.Topic)
		t = r.tenure(h)
		if t.Fence() <= fence {
			r.Errorf("fence %d follows %d", t.Fence(), fence)
		}
		fence = t.Fence()
		want := "7 8 9 10 11 12 13 14 15 16 17 18 19"
		if r.caps.Queue {
			want = "7 8 10 11 12 13 14 15 16 17 18 19"
		} else {
			s := t.Start()
			if s.Floor != c.Floor || s.Mark != c.Mark || !bytes.Equal(s.Finished, c.Finished) || !s.Clean {
				r.Errorf("the next holder starts at %+v, it was left at %+v", s, c)
			}
		}
		if s := ids(r.fetch(t, len(strings.Fields(want)))); s != want {
			r.Errorf("the next holder got %s, want %s", s, want)
		}
		if err := t.Release(r.ctx, c); err != nil {
			r.Fatalf("Release: %v", err)
		}
		r.gone(h)
	}
}

func uncleanEnd(r *rig) {
	d := r.driver()
	p, group := r.setUp(d, "unclean")
	r.store(d, p, messages(0, 10)...)
	pos := r.where(d, p, 10)
	h := r.join(d, group, p.Topic)
	t := r.tenure(h)
	got := r.fetch(t, 8)
	if !r.caps.Queue {
		if err := t.Checkpoint(r.ctx, driver.Checkpoint{Mark: pos[7], Floor: t.Start().Floor}); err != nil {
			r.Fatalf("Checkpoint: %v", err)
		}
		if err := t.Checkpoint(r.ctx, driver.Checkpoint{Floor: pos[3], Mark: pos[7], Finished: []byte("f")}); err != nil {
			r.Fatalf("Checkpoint: %v", err)
		}
	} else {
		r.settle(t, got[:4]...)
	}
	r.gone(h) // no Release
	h = r.join(r.driver(), group, p.Topic)
	t = r.tenure(h)
	if s := t.Start(); !r.caps.Queue && (s.Floor != pos[3] || s.Mark != pos[7] || string(s.Finished) != "f" || s.Clean) {
		r.Errorf("the next holder starts at %+v, floor %d and mark %d were recorded", s, pos[3], pos[7])
	}
	if r.caps.Queue { // a holder that has not come to them says nothing of them
		if err := t.Release(r.ctx, driver.Checkpoint{Clean: true}); err != nil {
			r.Fatalf("Release: %v", err)
		}
		h = r.join(r.driver(), group, p.Topic)
		t = r.tenure(h)
	}
	rest := r.fetch(t, 6)
	if s := ids(rest); s != "4 5 6 7 8 9" {
		r.Errorf("the next holder got %s", s)
	}
	for i, g := range rest {
		if r.caps.Queue && i < 4 && !g.Again {
			r.Errorf("%s was handed out before and is not marked so", g.Msg.ID)
		}
	}
}

func fenced(r *rig) {
	d := r.driver()
	p, group := r.setUp(d, "fenced")
	r.store(d, p, messages(0, 10)...)
	pos := r.where(d, p, 10)
	h := r.join(d, group, p.Topic)
	old := r.tenure(h)
	got := r.fetch(old, 5)
	lane := old.Lane()
	r.gone(h)
	h = r.join(d, group, p.Topic)
	t := r.tenure(h)
	if t.Fence() <= old.Fence() {
		r.Errorf("fence %d follows %d", t.Fence(), old.Fence())
	}
	lost := func(what string, err error) {
		r.Helper()
		if !errors.Is(err, driver.ErrLost) {
			r.Errorf("%s of the old holder: %v, want ErrLost", what, err)
		}
	}
	if r.caps.Queue {
		lost("Settle", old.Settle(r.ctx, []driver.Settlement{{Pos: got[0].Pos}}))
	} else {
		lost("Checkpoint", old.Checkpoint(r.ctx, driver.Checkpoint{Floor: pos[4], Mark: pos[4]}))
		lost("Release", old.Release(r.ctx, driver.Checkpoint{Floor: pos[4], Mark: pos[4], Clean: true}))
	}
	e := laneEntry(1, driver.Due)
	lost("Lane.Apply", lane.Apply(r.ctx, put(&e)))
	ctx, cancel := context.WithTimeout(r.ctx, time.Second)
	defer cancel()
	_, err := old.Fetch(ctx, make([]driver.Delivery, 1), 100)
	lost("Fetch", err)
	if s := ids(r.fetch(t, 10)); s != "0 1 2 3 4 5 6 7 8 9" {
		r.Errorf("the new holder got %s", s)
	}
	if es, _, err := t.Lane().Scan(r.ctx, "", 10); err != nil || len(es) > 0 {
		r.Errorf("the lane has %d entries of the old holder, %v", len(es), err)
	}
}

func positions(r *rig) {
	d := r.driver()
	p, group := r.setUp(d, "positions")
	at := func() driver.Position {
		r.Helper()
		ps, err := d.Positions(r.ctx, group)
		if err != nil || len(ps) != 1 || ps[0].Partition != p {
			r.Fatalf("Positions: %v, %v", ps, err)
		}
		return ps[0]
	}
	if a := at(); a.Lag != 0 || a.First != a.Last+1 && !r.caps.Queue {
		r.Errorf("an empty partition: %+v", a)
	}
	r.store(d, p, messages(0, 10)...)
	pos := r.where(d, p, 10)
	if a := at(); a.Lag != 10 || !r.caps.Queue && (a.First != pos[0] || a.Last != pos[9] || a.Floor >= pos[0]) {
		r.Errorf("10 messages from %d to %d: %+v", pos[0], pos[9], a)
	}
	h := r.join(d, group, p.Topic)
	t := r.tenure(h)
	got := r.fetch(t, 10)
	r.settle(t, got[:4]...)
	a := at()
	if a.Lag != 6 || a.Fence != t.Fence() || a.Member == "" || !r.caps.Queue && a.Floor != pos[3] {
		r.Errorf("4 of 10 are settled, floor %d, fence %d: %+v", pos[3], t.Fence(), a)
	}
	c := driver.Checkpoint{Floor: pos[9], Mark: pos[9], Clean: true}
	if r.caps.Queue {
		r.settle(t, got[4:]...)
		c = driver.Checkpoint{}
	}
	if err := t.Release(r.ctx, c); err != nil {
		r.Errorf("Release: %v", err)
	}
	r.gone(h)
	if a := at(); a.Lag != 0 || a.Member != "" {
		r.Errorf("all settled and released: %+v", a)
	}
}

func trims(r *rig) {
	d := r.driver()
	p, group := r.setUp(d, "trim")
	r.store(d, p, messages(0, 10)...)
	pos := r.where(d, p, 10)
	check := func(what string, below uint64, before time.Time, gone int64, first uint64) {
		r.Helper()
		n, err := d.Trim(r.ctx, p, below, before)
		if err != nil || n != gone {
			r.Errorf("%s: %d went, %v; want %d", what, n, err, gone)
		}
		ps, err := d.Positions(r.ctx, group)
		if err != nil || len(ps) != 1 {
			r.Fatalf("Positions: %v", err)
		}
		if ps[0].First != first {
			r.Errorf("%s: the first that is kept is %d, want %d", what, ps[0].First, first)
		}
	}
	check("nothing is as old", pos[5], time.Now().Add(-time.Hour), 0, pos[0])
	check("below is exclusive", pos[3], time.Time{}, 3, pos[3])
	check("again", pos[3], time.Time{}, 0, pos[3])
	check("all of it is old", pos[6], time.Now().Add(time.Hour), 3, pos[6])
	r.store(d, p, messages(10, 12)...)
	t := r.tenure(r.join(d, group, p.Topic))
	if s := ids(r.fetch(t, 6)); s != "6 7 8 9 10 11" {
		r.Errorf("kept are %s", s)
	}
}

func givesBack(r *rig) {
	d := r.driver()
	p, group := r.setUp(d, "back")
	r.store(d, p, messages(0, 6)...)
	t := r.tenure(r.join(d, group, p.Topic))
	got := r.fetch(t, 4)
	if err := t.Settle(r.ctx, []driver.Settlement{{Pos: got[0].Pos}, {Pos: got[2].Pos}, {Pos: got[1].Pos, GiveBack: true}, {Pos: got[3].Pos, GiveBack: true}}); err != nil {
		r.Fatalf("Settle: %v", err)
	}
	if s := ids(r.fetch(t, 4)); s != "1 3 4 5" {
		r.Errorf("given back: 1 and 3; fetched %s", s)
	}
}

func describes(r *rig) {
	d := r.driver()
	r.setUp(d, "described")
	things, err := d.Describe(r.ctx)
	if err != nil || len(things) == 0 {
		r.Errorf("Describe: %d things, %v", len(things), err)
	}
	named := false
	for _, t := range things {
		if t.Kind == "" || t.Name == "" || t.Why == "" {
			r.Errorf("a thing without kind, name or reason: %+v", t)
		}
		named = named || strings.Contains(t.Name+t.Why, "described")
	}
	if !named {
		r.Errorf("Describe does not mention the topic")
	}
	if err := d.Health(r.ctx); err != nil {
		r.Errorf("Health: %v", err)
	}
}

func closedDriver(r *rig) {
	d := r.openDriver(nil)
	p, group := r.setUp(d, "closed")
	r.store(d, p, message(0))
	r.closeDriver(d)
	r.closeDriver(d)
	ctx, cancel := r.deadline()
	defer cancel()
	if o := appendTo(r, d, p, message(1))[0]; o.State != driver.NotStored || o.Err == nil {
		r.Errorf("Append after Close: state %d, %v", o.State, o.Err)
	}
	if _, err := d.EnsureTopic(ctx, driver.TopicSpec{Name: r.name("later"), Hash: driver.HashFNV1a, Partitions: 1}); err == nil {
		r.Errorf("EnsureTopic after Close succeeds")
	}
	if err := d.Join(ctx, group, &holder{topics: []string{p.Topic}}); err == nil {
		r.Errorf("Join after Close succeeds")
	}
	if err := d.Health(ctx); err == nil {
		r.Errorf("Health after Close is fine")
	}
	t := r.tenure(r.join(r.driver(), group, p.Topic))
	if s := ids(r.fetch(t, 1)); s != "0" {
		r.Errorf("fetched %s", s)
	}
}
