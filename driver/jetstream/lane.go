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

// How many operations and reads a lane has under way at a time.
const (
	applyWindow = 256
	getWindow   = 256
)

// A lane keeps one message a subject: putting an entry replaces it whole.
type lane struct {
	d      *jsDriver
	stream string
	prefix string          // of subjects
	name   string          // for errors
	ended  <-chan struct{} // of the tenure that it belongs to, nil for none

	mu   sync.Mutex
	scan []driver.Entry // what a walk that has begun will still return
}

var _ driver.Lane = (*lane)(nil)

func (d *jsDriver) laneConfig(group string) streamConfig {
	c := fileStream(d.names.lane(group), "Posthorn: what group "+group+" handles later, and its dead letters", 0, d.names.laneSubjects(group))
	c.MaxPerSubject, c.Discard = 1, "old"
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
	l.scan = nil
	err := l.d.readAll(ctx, l.stream, l.prefix+">", true, func(m *nats.Msg) error {
		r, ok := parseReply(m.Reply)
		if !ok {
			return fmt.Errorf("jetstream: %s: reply subject %q is not of a known form", l.name, m.Reply)
		}
		l.scan = append(l.scan, l.entry(m.Subject, r.stream, m))
		return nil
	})
	slices.SortFunc(l.scan, func(a, b driver.Entry) int { return strings.Compare(a.Name, b.Name) })
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
		subjects := make([]string, 0, len(chunk))
		for _, name := range chunk {
			s, err := l.subject(name)
			if err != nil {
				return nil, err
			}
			subjects = append(subjects, s)
		}
		err := l.d.getLast(ctx, l.stream, subjects, func(m *nats.Msg) {
			e := l.entry(first(m.Header["Nats-Subject"]), sequence(m), m)
			found[e.Name] = e
		})
		if err != nil {
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

// Parked lists the key's names, which sort by order, and reads as many as it
// takes.
func (l *lane) Parked(ctx context.Context, key string, after uint64, limit int) ([]driver.Entry, error) {
	names, err := l.namesOf(ctx, driver.KeyToken(key), after)
	if err != nil {
		return nil, err
	}
	var parked []driver.Entry
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

// namesOf returns the names of a key's entries above an order.
func (l *lane) namesOf(ctx context.Context, token string, after uint64) ([]string, error) {
	from := fmt.Sprintf("%s.%016x.\xff", token, after)
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
	a := applying{l: l, ops: ops, answers: make(chan answer, applyWindow), names: map[string]struct{}{}, headers: newHeaderMap()}
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

// usable returns why nothing can be written, if so. That the tenure has ended is
// known here because its successor is in this process.
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
	answers chan answer
	headers *headerMap
	names   map[string]struct{} // under way
	pending int
	durable bool // something was stored that must be synced
}

type answer struct {
	op int
	m  *nats.Msg
}

func (a *applying) run(ctx context.Context) {
	ctx, cancel := a.l.d.waiting(ctx)
	defer cancel()
	token := a.l.d.mux.add(a.receive)
	defer a.l.d.mux.remove(token)
	for i := range a.ops {
		a.ops[i].Err = fmt.Errorf("jetstream: %s: entry %q: no answer: %w", a.l.name, a.ops[i].Entry.Name, driver.ErrUnavailable)
	}
	for i := range a.ops {
		name := a.ops[i].Entry.Name
		for _, same := a.names[name]; same || a.pending >= applyWindow; _, same = a.names[name] {
			if !a.next(ctx) {
				return
			}
		}
		if err := a.send(i, a.l.d.mux.prefix+token+"."+strconv.Itoa(i)); err != nil {
			a.ops[i].Err = err
			continue
		}
		a.pending++
		a.names[name] = struct{}{}
	}
	for a.pending > 0 && a.next(ctx) {
	}
}

// send sends an operation. Deletions and puts take different ways in the server,
// so that two of one name never go at the same time.
func (a *applying) send(i int, reply string) error {
	op := &a.ops[i]
	subject, err := a.l.subject(op.Entry.Name)
	if err != nil {
		return err
	}
	if op.Delete {
		a.durable = true
		req, _ := json.Marshal(purgeRequest{Filter: subject})
		return a.publish(&nats.Msg{Subject: "$JS.API.STREAM.PURGE." + a.l.stream, Reply: reply, Data: req})
	}
	a.durable = a.durable || op.Entry.State != driver.Boot
	h := a.headers.encode(&op.Entry.Msg)
	delete(h, headerMsgID) // an entry is stored again and again
	h[headerEntry] = []string{formatEntry(op.Entry)}
	h["Nats-Expected-Last-Subject-Sequence"] = []string{strconv.FormatUint(op.Entry.Rev, 10)}
	size := wireSize(h) + len(op.Entry.Msg.Body)
	if limit := a.l.d.nc.MaxPayload(); int64(size) > limit {
		return fmt.Errorf("jetstream: %s: entry %q has %d bytes, the server takes %d: %w", a.l.name, op.Entry.Name, size, limit, driver.ErrTooLarge)
	}
	return a.publish(&nats.Msg{Subject: subject, Reply: reply, Header: h, Data: op.Entry.Msg.Body})
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
	select {
	case r := <-a.answers:
		a.pending--
		op := &a.ops[r.op]
		delete(a.names, op.Entry.Name)
		op.Err = a.l.result(op, r.m)
		return true
	case <-ctx.Done():
		return false
	}
}

// result reads the answer to an operation.
func (l *lane) result(op *driver.LaneOp, m *nats.Msg) error {
	ack, err := parseAck(m)
	if err == nil && ack.Error != nil {
		err = ack.Error
	}
	if err != nil {
		return fmt.Errorf("jetstream: %s: entry %q: %w", l.name, op.Entry.Name, err)
	}
	if !op.Delete {
		op.Entry.Rev = ack.Seq
	}
	return nil
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
