package jetstream

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
)

// headerEntry is the header of a lane entry beside its message's own:
//
//	Posthorn-Entry: 1 <state> <due> <order> <key> <head>
//
// 1 is the format; due is in nanoseconds since 1970, 0 for none; key and head
// are in base64 for URLs, behind a '='.
const (
	headerEntry = "Posthorn-Entry"
	entryFormat = "1"
)

// gone is the state of an entry that a tenure has deleted. Only what is put can be
// held against the fence: so a deletion is put, and then the subject is purged. If
// that is cut off, the next holder does it.
const gone driver.EntryState = 255

// markName is an entry that is always gone. A holder puts it before it reads the
// others: who has it has all that was put before.
const markName = "MARK"

// How many operations and reads a lane has under way at a time.
const (
	applyWindow = 256
	getWindow   = 256
)

// A listing is kept up to so many names of a key, and of all keys. The server takes
// long to make one.
const (
	maxListed    = 1 << 14
	maxAllListed = 1 << 16
)

// A lane has a subject for each entry: putting an entry replaces it whole.
type lane struct {
	d      *jsDriver
	stream string
	prefix string // of subjects
	name   string // for errors

	// Of a tenure's lane only.
	holder   *tenure
	ended    <-chan struct{}
	fence    string        // the subject that writes are held against
	fenceSeq uint64        // what must stand there
	seen     atomic.Uint64 // a replica that has not come so far is behind
	alone    atomic.Bool   // the server takes one write at a time

	mu     sync.Mutex
	scan   []driver.Entry     // what a walk that has begun will still return
	listed map[string]listing // of a tenure's lane: names that are still to be read, by the token of their key
}

var _ driver.Lane = (*lane)(nil)

func (d *jsDriver) laneConfig(group string) streamConfig {
	c := fileStream(d.names.lane(group), "Posthorn: what group "+group+" handles later, and its dead letters", 0, d.names.laneSubjects(group))
	c.Discard, c.AllowRollupHdr = "old", true
	return c
}

func (d *jsDriver) Lane(group string, p driver.Partition) driver.Lane { return d.lane(group, p) }

func (d *jsDriver) lane(group string, p driver.Partition) *lane {
	return &lane{
		d: d, stream: d.names.lane(group), prefix: d.names.lanePrefix(group, p),
		name: fmt.Sprintf("lane of group %q beside partition %d of topic %q", group, p.N, p.Topic),
	}
}

// subject returns an entry's subject. Names are tokens with dots between them.
func (l *lane) subject(name string) (string, error) {
	for token := range strings.SplitSeq(name, ".") {
		if token == "" || strings.ContainsAny(token, " *>\t\r\n") {
			return "", fmt.Errorf("jetstream: %s: entry name %q: %w", l.name, name, driver.ErrInvalid)
		}
	}
	return l.prefix + name, nil
}

// Scan reads the headers of all entries when a walk begins and keeps them to its
// end: the server knows them by age, not by name.
func (l *lane) Scan(ctx context.Context, after string, limit int) ([]driver.Entry, string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if after == "" || len(l.scan) == 0 {
		if err := l.load(ctx); err != nil {
			return nil, "", err
		}
	}
	i, found := slices.BinarySearchFunc(l.scan, after, func(e driver.Entry, name string) int { return strings.Compare(e.Name, name) })
	if found {
		i++
	}
	rest := l.scan[i:]
	if limit <= 0 || len(rest) <= limit {
		l.scan = nil
		return rest, "", nil
	}
	l.scan = rest[limit:]
	page := slices.Clip(rest[:limit])
	return page, page[limit-1].Name, nil
}

func (l *lane) load(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	mark := driver.Entry{Name: markName, State: gone}
	if l.holder != nil {
		if err := l.Apply(ctx, []driver.LaneOp{{Entry: &mark}}); err != nil {
			return err
		}
	}
	for {
		marked, err := l.loadOnce(ctx)
		if err != nil {
			l.scan = nil
			return err
		}
		if marked >= mark.Rev {
			slices.SortFunc(l.scan, func(a, b driver.Entry) int { return strings.Compare(a.Name, b.Name) })
			return nil
		}
		// What answered was a replica that is behind, and may lack the last entries
		// of the tenure before.
		select {
		case <-time.After(lastBehind):
		case <-l.ended:
			return l.usable()
		case <-ctx.Done():
			return l.d.unavailable(l.name, ctx.Err())
		}
	}
}

// loadOnce reads all entries, and tells the revision of the mark among them. A
// holder purges deletions that were cut off.
func (l *lane) loadOnce(ctx context.Context) (marked uint64, err error) {
	l.scan = nil
	var left []driver.Entry
	err = l.d.readAll(ctx, l.stream, l.prefix+">", true, func(m *nats.Msg) error {
		r, ok := parseReply(m.Reply)
		if !ok {
			return fmt.Errorf("jetstream: %s: reply subject %q is not of a known form", l.name, m.Reply)
		}
		switch e := l.entry(m.Subject, r.stream, m); {
		case e.Name == markName:
			marked = e.Rev
		case e.State == gone:
			left = append(left, e)
		default:
			l.scan = append(l.scan, e)
		}
		return nil
	})
	if l.holder == nil {
		return marked, err
	}
	for _, e := range left {
		if _, err := l.d.purge(ctx, l.stream, purgeRequest{Filter: l.prefix + e.Name, Seq: e.Rev + 1}); err != nil {
			return 0, err
		}
	}
	return marked, err
}

// fenced ends the tenure that the lane belongs to.
func (l *lane) fenced() error {
	err := fmt.Errorf("jetstream: %s: tenure %d is over: %w", l.name, l.holder.fence, driver.ErrLost)
	l.holder.end(err)
	return err
}

// entry decodes an entry. One that cannot be read is dead, so that somebody sees
// it.
func (l *lane) entry(subject string, rev uint64, m *nats.Msg) driver.Entry {
	e := driver.Entry{Name: strings.TrimPrefix(subject, l.prefix), Rev: rev}
	if err := parseEntry(first(m.Header[headerEntry]), &e); err != nil {
		l.d.env.Log.Error("jetstream: an entry cannot be read", "lane", l.name, "entry", e.Name, "err", err)
		e.State = driver.Dead
	}
	if err := decode(m.Header, &e.Msg); err != nil {
		l.d.env.Log.Debug("jetstream: the message of an entry", "lane", l.name, "entry", e.Name, "err", err)
	}
	if len(m.Data) > 0 {
		e.Msg.Body = m.Data
	}
	return e
}

// Get reads entries by their names, in the order asked for.
func (l *lane) Get(ctx context.Context, names []string) ([]driver.Entry, error) {
	found := make(map[string]driver.Entry, len(names))
	for chunk := range slices.Chunk(names, getWindow) {
		subjects := make([]string, 0, len(chunk)+1)
		for _, name := range chunk {
			s, err := l.subject(name)
			if err != nil {
				return nil, err
			}
			subjects = append(subjects, s)
		}
		if l.holder != nil {
			subjects = append(subjects, l.fence) // so that there is an answer in any case, which tells how far the replica is
		}
		if err := l.getSome(ctx, subjects, found); err != nil {
			return nil, err
		}
	}
	entries := make([]driver.Entry, 0, len(found))
	for _, name := range names {
		if e, ok := found[name]; ok {
			entries = append(entries, e)
			delete(found, name)
		}
	}
	return entries, nil
}

// getSome reads the entries that have one of the subjects.
func (l *lane) getSome(ctx context.Context, subjects []string, found map[string]driver.Entry) error {
	for {
		fenced := l.holder == nil
		_, err := l.d.getLast(ctx, l.stream, subjects, l.seen.Load(), func(m *nats.Msg) error {
			subject := first(m.Header["Nats-Subject"])
			if subject == l.fence {
				fenced = true
				return nil
			}
			if e := l.entry(subject, sequence(m), m); e.State != gone {
				found[e.Name] = e
			}
			return nil
		})
		if err != nil || fenced {
			return err
		}
		// Not even the fence is there: what answered is a replica that is being
		// filled anew.
		select {
		case <-time.After(lastBehind):
		case <-l.ended:
			return l.holder.over()
		case <-ctx.Done():
			return l.d.unavailable(l.name, ctx.Err())
		}
	}
}

// Parked lists the key's names, which sort by order, and reads as many as it
// takes.
func (l *lane) Parked(ctx context.Context, key string, after uint64, limit int) ([]driver.Entry, error) {
	token := driver.KeyToken(key)
	names := l.listedOf(token, after)
	known := len(names) >= limit
	for {
		if !known {
			var err error
			if names, err = l.namesOf(ctx, token, after); err != nil {
				return nil, err
			}
		}
		parked, err := l.parked(ctx, key, names, after, limit)
		if err != nil {
			return nil, err
		}
		if len(parked) == limit || !known {
			l.keepListed(token, names, parked)
			return parked, nil
		}
		known = false // some are gone
	}
}

// parked reads entries of a key by their names.
func (l *lane) parked(ctx context.Context, key string, names []string, after uint64, limit int) (parked []driver.Entry, err error) {
	for len(names) > 0 && len(parked) < limit {
		n := min(len(names), getWindow, max(limit-len(parked), 16))
		entries, err := l.Get(ctx, names[:n])
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.State == driver.Parked && e.Key == key && e.Order > after && len(parked) < limit {
				parked = append(parked, e)
			}
		}
		names = names[n:]
	}
	return parked, nil
}

// listedOf returns what is known of a key's names above an order. It goes on as far
// as it is long: names behind may be missing.
func (l *lane) listedOf(token string, after uint64) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if known := l.listed[token]; after >= known.above {
		return above(known.names, token, after)
	}
	return nil // those below were cut off
}

// A listing is the names of a key above an order.
type listing struct {
	above uint64
	names []string
}

// above cuts off the names of a key up to an order.
func above(names []string, token string, after uint64) []string {
	i, _ := slices.BinarySearch(names, namesAbove(token, after))
	return names[i:]
}

// keepListed keeps the names of a key that a holder will read next, those behind what
// it has read.
func (l *lane) keepListed(token string, names []string, read []driver.Entry) {
	if l.holder == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.listed, token)
	if len(read) == 0 {
		return
	}
	from := read[len(read)-1].Order
	names = above(names, token, from)
	if names = names[:min(len(names), maxListed)]; len(names) == 0 {
		return
	}
	all := len(names)
	for _, other := range l.listed {
		all += len(other.names)
	}
	if l.listed == nil || all > maxAllListed {
		l.listed = map[string]listing{}
	}
	l.listed[token] = listing{from, slices.Clone(names)} // not all that was listed
}

// unlist forgets the names of a key before the last of which an entry is put.
func (l *lane) unlist(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.listed) == 0 {
		return
	}
	token, _, _ := strings.Cut(name, ".")
	if names := l.listed[token].names; len(names) > 0 && name < names[len(names)-1] {
		delete(l.listed, token)
	}
}

// namesAbove is what the names of a key sort behind that are above an order.
func namesAbove(token string, after uint64) string {
	return fmt.Sprintf("%s.%016x.\xff", token, after)
}

// namesOf returns the names of a key's entries above an order.
func (l *lane) namesOf(ctx context.Context, token string, after uint64) ([]string, error) {
	from := namesAbove(token, after)
	var names []string
	for offset := 0; ; {
		var info streamInfo
		req := map[string]any{"subjects_filter": l.prefix + token + ".>", "offset": offset}
		if err := l.d.request(ctx, "$JS.API.STREAM.INFO."+l.stream, req, &info); err != nil {
			return nil, err
		}
		for s := range info.State.Subjects {
			if name := strings.TrimPrefix(s, l.prefix); name > from {
				names = append(names, name)
			}
		}
		offset += len(info.State.Subjects)
		if len(info.State.Subjects) == 0 || offset >= info.Total {
			slices.Sort(names)
			return names, nil
		}
	}
}

// Apply sends the operations one behind the other and then waits for the answers
// and for one sync.
func (l *lane) Apply(ctx context.Context, ops []driver.LaneOp) error {
	if err := l.usable(); err != nil {
		for i := range ops {
			ops[i].Err = err
		}
		return err
	}
	a := applying{l: l, ops: ops, answers: make(chan answer, applyWindow), names: map[string]struct{}{}, headers: newHeaderMap(), expect: map[int]uint64{}, purge: map[int]uint64{}}
	a.run(ctx)
	if a.durable {
		if err := l.d.syncs.wait(ctx); err != nil {
			for i := range ops {
				if ops[i].Err == nil {
					ops[i].Err = err
				}
			}
		}
	}
	for i := range ops {
		if ops[i].Err != nil {
			return ops[i].Err
		}
	}
	return nil
}

// usable returns why nothing can be written, if so.
func (l *lane) usable() error {
	select {
	case <-l.ended:
		return fmt.Errorf("jetstream: %s: %w", l.name, driver.ErrLost)
	default:
		return l.d.usable()
	}
}

// An applying is an Apply at work.
type applying struct {
	l       *lane
	ops     []driver.LaneOp
	token   string
	answers chan answer
	headers *headerMap
	names   map[string]struct{} // under way
	pending int
	durable bool           // something was stored that must be synced
	again   []int          // operations that the server wants to have again, one at a time
	expect  map[int]uint64 // the revisions of deleted entries that stand in a put's way
	purge   map[int]uint64 // the revisions of deletions that have been put
}

type answer struct {
	op int
	m  *nats.Msg
}

func (a *applying) run(ctx context.Context) {
	ctx, cancel := a.l.d.waiting(ctx, a.l.prefix, "$JS.API.STREAM.PURGE."+a.l.stream, "$JS.API.STREAM.MSG.DELETE."+a.l.stream)
	defer cancel()
	defer func() { a.refused(why(ctx, nil)) }()
	a.token = a.l.d.mux.add(a.receive)
	defer a.l.d.mux.remove(a.token)
	for i := range a.ops {
		a.ops[i].Err = a.unanswered(i)
	}
	for i := range a.ops {
		name := a.ops[i].Entry.Name
		for _, same := a.names[name]; same || a.full(); _, same = a.names[name] {
			if !a.next(ctx) {
				return
			}
		}
		a.begin(ctx, i)
	}
	for a.pending+len(a.again) > 0 && a.next(ctx) {
	}
}

// refused is called with why the wait ended, nil if it did not. Operations that
// were not answered because a right is missing say so.
func (a *applying) refused(err error) {
	if !errors.Is(err, driver.ErrDenied) {
		return
	}
	for i := range a.ops {
		if errors.Is(a.ops[i].Err, driver.ErrUnavailable) {
			a.ops[i].Err = fmt.Errorf("jetstream: %s: entry %q: %w", a.l.name, a.ops[i].Entry.Name, err)
		}
	}
}

func (a *applying) unanswered(i int) error {
	return fmt.Errorf("jetstream: %s: entry %q: no answer: %w", a.l.name, a.ops[i].Entry.Name, driver.ErrUnavailable)
}

// full tells whether no more may be under way.
func (a *applying) full() bool {
	window := applyWindow
	if a.l.alone.Load() {
		window = 1
	}
	return a.pending+len(a.again) >= window
}

// begin sends an operation, for the first time or again.
func (a *applying) begin(ctx context.Context, i int) {
	name := a.ops[i].Entry.Name
	if err := a.send(ctx, i); err != nil {
		a.ops[i].Err = err
		delete(a.names, name)
		return
	}
	a.pending++
	a.names[name] = struct{}{}
}

// send sends an operation. From outside, deletions and puts take different ways in
// the server, so that two of one name never go at the same time.
func (a *applying) send(ctx context.Context, i int) error {
	op := &a.ops[i]
	subject, err := a.l.subject(op.Entry.Name)
	if err != nil {
		return err
	}
	reply := a.l.d.mux.prefix + a.token + "." + strconv.Itoa(i)
	a.durable = a.durable || op.Delete || op.Entry.State != driver.Boot && op.Entry.State != gone
	var h nats.Header
	var body []byte
	switch {
	case a.purge[i] != 0:
		req, _ := json.Marshal(purgeRequest{Filter: subject, Seq: a.purge[i] + 1})
		return a.publish(&nats.Msg{Subject: "$JS.API.STREAM.PURGE." + a.l.stream, Reply: reply, Data: req})
	case !op.Delete:
		if op.Entry.State == driver.Parked && a.l.holder != nil {
			a.l.unlist(op.Entry.Name)
		}
		h = a.headers.anew(&op.Entry.Msg)
		delete(h, headerMsgID) // an entry is stored again and again
		h[headerEntry] = []string{formatEntry(op.Entry)}
		body = op.Entry.Msg.Body
	case a.l.holder != nil:
		h = nats.Header{headerEntry: {formatEntry(&driver.Entry{State: gone})}}
	default:
		req, err := a.deletion(ctx, subject, op.Entry)
		if err != nil {
			return err
		}
		return a.publish(&nats.Msg{Subject: "$JS.API.STREAM.PURGE." + a.l.stream, Reply: reply, Data: req})
	}
	rev := op.Entry.Rev
	if a.l.holder != nil {
		rev = a.l.fenceSeq
		h[headerExpectOf] = []string{a.l.fence}
	} else if at, ok := a.expect[i]; ok {
		rev = at
	}
	h[headerExpect] = []string{strconv.FormatUint(rev, 10)}
	h[headerRollup] = []string{rollupSubject}
	size := wireSize(h) + len(body)
	if limit := a.l.d.nc.MaxPayload(); int64(size) > limit {
		return fmt.Errorf("jetstream: %s: entry %q has %d bytes, the server takes %d: %w", a.l.name, op.Entry.Name, size, limit, driver.ErrTooLarge)
	}
	return a.publish(&nats.Msg{Subject: subject, Reply: reply, Header: h, Data: body})
}

// deletion asks for a deletion from outside. The server deletes what has the
// revision or an earlier one: that it is this one is seen before.
func (a *applying) deletion(ctx context.Context, subject string, e *driver.Entry) ([]byte, error) {
	req := purgeRequest{Filter: subject}
	if e.Rev != 0 {
		var stands uint64
		_, err := a.l.d.getLast(ctx, a.l.stream, []string{subject}, 0, func(m *nats.Msg) error {
			stands = sequence(m)
			return nil
		})
		if err == nil && stands != e.Rev {
			err = fmt.Errorf("jetstream: %s: entry %q is not of revision %d: %w", a.l.name, e.Name, e.Rev, driver.ErrConflict)
		}
		if err != nil {
			return nil, err
		}
		req.Seq = e.Rev + 1
	}
	return json.Marshal(req)
}

func (a *applying) publish(m *nats.Msg) error {
	if err := a.l.d.nc.PublishMsg(m); err != nil {
		return a.l.d.unavailable(a.l.name, err)
	}
	return nil
}

// receive runs on the mux. There is room for as many answers as are under way.
func (a *applying) receive(m *nats.Msg) {
	i, err := strconv.Atoi(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:])
	if err != nil || i >= len(a.ops) {
		return
	}
	select {
	case a.answers <- answer{i, m}:
	default:
	}
}

// next handles one answer. False: none came in time.
func (a *applying) next(ctx context.Context) bool {
	if a.pending == 0 {
		i := a.again[0]
		a.again = a.again[1:]
		a.begin(ctx, i)
		return true
	}
	select {
	case r := <-a.answers:
		a.pending--
		a.answered(ctx, r.op, r.m)
		return true
	case <-ctx.Done():
		return false
	}
}

// answered ends an operation, or has it sent again.
func (a *applying) answered(ctx context.Context, i int, m *nats.Msg) {
	op := &a.ops[i]
	if a.purge[i] != 0 { // whatever came of it
		delete(a.names, op.Entry.Name)
		return
	}
	seq, err := a.result(op, m)
	if op.Err = err; err == nil && op.Delete && a.l.holder != nil {
		a.purge[i] = seq
		a.begin(ctx, i)
		op.Err = nil
		return
	}
	refused := (*apiError)(nil)
	switch {
	case a.l.holder != nil && errors.As(op.Err, &refused) && refused.ErrCode == codeWrongLastBusy:
		// Where there are replicas, the server compares one message at a time.
		a.l.alone.Store(true)
		a.again = append(a.again, i)
		op.Err = a.unanswered(i) // so far
		return
	case a.l.holder == nil && !op.Delete && op.Entry.Rev == 0 && a.expect[i] == 0 && errors.Is(op.Err, driver.ErrConflict):
		if a.expect[i] = a.goneAt(ctx, op.Entry.Name); a.expect[i] != 0 {
			a.begin(ctx, i)
			return
		}
	}
	delete(a.names, op.Entry.Name)
}

// goneAt is the revision of an entry that a tenure has deleted and that still
// stands where another one of its name is to be put; 0 if it is none such.
func (a *applying) goneAt(ctx context.Context, name string) (rev uint64) {
	_, err := a.l.d.getLast(ctx, a.l.stream, []string{a.l.prefix + name}, 0, func(m *nats.Msg) error {
		if a.l.entry(a.l.prefix+name, 0, m).State == gone {
			rev = sequence(m)
		}
		return nil
	})
	if err != nil {
		a.l.d.env.Log.Debug("jetstream: reading what stands in the way of an entry", "lane", a.l.name, "entry", name, "err", err)
	}
	return rev
}

// result reads the answer to an operation, which tells what was put.
func (a *applying) result(op *driver.LaneOp, m *nats.Msg) (seq uint64, err error) {
	l := a.l
	ack, err := parseAck(m)
	if err == nil && ack.Error != nil {
		err = ack.Error
	}
	refused := (*apiError)(nil)
	switch {
	case l.holder != nil && errors.As(err, &refused) && refused.ErrCode == codeWrongLast:
		return 0, l.fenced()
	case err == nil && l.holder == nil && op.Delete && op.Entry.Rev != 0 && ack.Purged == 0:
		err = driver.ErrConflict
	}
	if err != nil {
		return 0, fmt.Errorf("jetstream: %s: entry %q: %w", l.name, op.Entry.Name, err)
	}
	if !op.Delete {
		op.Entry.Rev = ack.Seq
	}
	if l.holder != nil {
		l.sawPut(ack.Seq)
	}
	return ack.Seq, nil
}

func (l *lane) sawPut(seq uint64) {
	for at := l.seen.Load(); at < seq && !l.seen.CompareAndSwap(at, seq); at = l.seen.Load() {
	}
}

func formatEntry(e *driver.Entry) string {
	due := int64(0)
	if !e.Due.IsZero() {
		due = e.Due.UnixNano()
	}
	b := append([]byte(nil), entryFormat...)
	b = append(b, ' ')
	b = strconv.AppendUint(b, uint64(e.State), 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, due, 10)
	b = append(b, ' ')
	b = strconv.AppendUint(b, e.Order, 10)
	b = append(b, " ="...)
	b = base64.RawURLEncoding.AppendEncode(b, []byte(e.Key))
	b = append(b, " ="...)
	b = base64.RawURLEncoding.AppendEncode(b, e.Head)
	return string(b)
}

func parseEntry(s string, e *driver.Entry) error {
	f := strings.Split(s, " ")
	if len(f) != 6 || f[0] != entryFormat {
		return fmt.Errorf("header %s %.40q is not of format %s", headerEntry, s, entryFormat)
	}
	state, err1 := strconv.ParseUint(f[1], 10, 8)
	due, err2 := strconv.ParseInt(f[2], 10, 64)
	order, err3 := strconv.ParseUint(f[3], 10, 64)
	key, err4 := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(f[4], "="))
	head, err5 := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(f[5], "="))
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return err
	}
	e.State, e.Order, e.Key = driver.EntryState(state), order, string(key)
	if due != 0 {
		e.Due = time.Unix(0, due)
	}
	if len(head) > 0 {
		e.Head = head
	}
	return nil
}
