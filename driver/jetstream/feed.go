package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
)

// How much a feed asks for ahead of Fetch.
const (
	feedMessages  = 4000
	feedBytes     = 4 << 20
	pullExpires   = 30 * time.Second
	pullHeartbeat = 2 * time.Second
	pullSilence   = 3 * pullHeartbeat
	keptMessages  = 1024 // for how many a list is kept that is empty
)

// A feed reads a partition in order, from a position on, through a consumer that
// it makes and makes again whenever something is amiss: all that matters is the
// last position that has arrived.
type feed struct {
	d        *jsDriver
	stream   string
	consumer string
	group    string
	wake     chan struct{} // holds one after something has arrived
	handed   atomic.Uint64 // the last position that fetch has returned
	timer    *time.Timer   // fetch's own, as is headers
	headers  []nats.Header
	check    func(context.Context) error // that the tenure stands

	mu        sync.Mutex
	sub       *nats.Subscription
	inbox     string
	last      uint64 // the last position that has arrived
	stored    int64  // when the message there was stored, in nanoseconds; 0: none has arrived
	doubts    uint64 // how often the stream may have become another one
	sureOf    uint64 // how many of these turned out to be nothing
	deliverNo uint64 // the consumer's count of it
	msgs      []arrived
	head      int
	bytes     int       // of msgs
	asked     int       // messages asked for that have not arrived
	alone     bool      // ask for one message of any size
	heard     bool      // something arrived since the wait for it began
	broken    error     // why the consumer must be made again
	denied    error     // the right to read is missing; told once
	made      time.Time // when the stream was created, as first seen
	closed    bool
}

type arrived struct {
	pos    uint64
	stored int64
	m      *nats.Msg
}

func newFeed(d *jsDriver, stream, consumer, group string, floor uint64) *feed {
	f := &feed{d: d, stream: stream, consumer: consumer, group: group, wake: make(chan struct{}, 1), last: floor}
	f.handed.Store(floor)
	f.broken = errors.New("not there yet")
	d.mu.Lock()
	d.feeds[f] = struct{}{}
	d.mu.Unlock()
	return f
}

// interrupt makes the consumer be made again.
func (f *feed) interrupt(why error) {
	f.mu.Lock()
	f.broken = why
	f.doubts++
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// deny makes fetch fail.
func (f *feed) deny(err error) {
	f.mu.Lock()
	f.denied = err
	f.mu.Unlock()
	f.interrupt(err)
}

// nextSubject is where the feed asks for messages.
func (f *feed) nextSubject() string {
	return "$JS.API.CONSUMER.MSG.NEXT." + f.stream + "." + f.consumer
}

func (f *feed) handedOut() uint64 { return f.handed.Load() }

// fetch waits for messages. ended ends the wait.
func (f *feed) fetch(ctx context.Context, into []driver.Delivery, maxBytes int, ended <-chan struct{}) (int, error) {
	for {
		n, err := f.take(into, maxBytes)
		if n > 0 || err != nil {
			return n, err
		}
		if err := f.open(ctx); err != nil {
			return 0, err
		}
		if err := f.pull(); err != nil {
			return 0, err
		}
		if err := f.waitArrival(ctx, ended); err != nil {
			return 0, err
		}
	}
}

// waitArrival returns when something has arrived or has failed to for too long.
func (f *feed) waitArrival(ctx context.Context, ended <-chan struct{}) error {
	f.mu.Lock()
	f.heard = false
	f.mu.Unlock()
	if f.timer == nil {
		f.timer = time.NewTimer(pullSilence)
	} else {
		f.timer.Reset(pullSilence)
	}
	select {
	case <-f.wake:
		runtime.Gosched() // more is about to arrive: take it in one go
	case <-ctx.Done():
		return ctx.Err()
	case <-ended:
		return fmt.Errorf("jetstream: stream %s: %w", f.stream, driver.ErrLost)
	case <-f.timer.C:
		f.mu.Lock()
		if !f.heard {
			f.broken = errors.New("not even a heartbeat came")
		}
		f.mu.Unlock()
	}
	return nil
}

// take hands out what is there and asks for more when that is little.
func (f *feed) take(into []driver.Delivery, maxBytes int) (int, error) {
	f.mu.Lock()
	n, size := 0, 0
	for n < len(into) && f.head < len(f.msgs) {
		a := &f.msgs[f.head]
		if n > 0 && size+len(a.m.Data) > maxBytes {
			break
		}
		size += len(a.m.Data)
		into[n] = driver.Delivery{Pos: a.pos, Stored: time.Unix(0, a.stored)}
		into[n].Msg.Body = a.m.Data
		f.headers = append(f.headers, a.m.Header)
		f.bytes -= messageBytes(a.m)
		a.m = nil
		n++
		f.head++
	}
	if f.head == len(f.msgs) {
		if f.head = 0; cap(f.msgs) > keptMessages { // an idle partition needs no more
			f.msgs = nil
		}
		f.msgs = f.msgs[:0]
	}
	f.mu.Unlock()
	for i, h := range f.headers {
		into[i].Bad = decode(h, &into[i].Msg)
	}
	clear(f.headers)
	f.headers = f.headers[:0]
	if n == 0 {
		return 0, nil
	}
	f.handed.Store(into[n-1].Pos)
	return n, f.pull()
}

func messageBytes(m *nats.Msg) int { return m.Size() }

// open makes the consumer if there is none that works, beginning behind what has
// arrived.
func (f *feed) open(ctx context.Context) error {
	f.mu.Lock()
	if err := f.denied; err != nil {
		f.denied = nil
		f.mu.Unlock()
		return fmt.Errorf("jetstream: reading %s: %w", f.stream, err)
	}
	why, closed, old, from := f.broken, f.closed, f.sub, f.last+1
	first := f.inbox == ""
	f.mu.Unlock()
	if closed {
		return fmt.Errorf("jetstream: stream %s: %w", f.stream, driver.ErrLost)
	}
	if why == nil {
		return nil
	}
	if err := f.sameStream(ctx); err != nil {
		return err
	}
	if !first {
		if err := f.check(ctx); err != nil {
			return err
		}
		f.d.env.Log.Warn("jetstream: making a consumer anew", "stream", f.stream, "consumer", f.consumer, "from", from, "why", why)
	}
	if old != nil {
		_ = old.Unsubscribe()
	}
	if err := f.d.deleteConsumer(ctx, f.stream, f.consumer); err != nil {
		return err
	}
	if _, err := f.d.createConsumer(ctx, f.stream, f.config(from)); err != nil {
		return err
	}
	return f.subscribe()
}

// sameStream ends the tenure when the stream is no longer the one in which the
// positions mean something: it was deleted and made anew, or is an older copy.
// The next tenure finds out where to start. To go on would pass over what is
// stored below the old end.
//
// That an older copy ends before what has arrived does not last: after a power cut the
// server lacks what was not on its disk, and those who publish may be quicker than we
// are to store other messages at those positions. So the last message that has arrived
// must still stand where it did.
func (f *feed) sameStream(ctx context.Context) error {
	f.mu.Lock()
	last, stored, doubts := f.last, f.stored, f.doubts
	f.mu.Unlock()
	info, err := f.d.streamInfo(ctx, f.stream)
	if errors.Is(err, driver.ErrNotFound) {
		f.d.streamMissing(f.stream)
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	if f.made.IsZero() {
		f.made = info.Created
	}
	made := f.made
	f.mu.Unlock()
	same := info.Created.Equal(made) && info.State.Last >= last
	if same && stored != 0 && info.State.First <= last {
		at, err := f.d.storedAt(ctx, f.stream, last)
		if err != nil && !errors.Is(err, driver.ErrNotFound) {
			return err
		}
		same = err == nil && at.UnixNano() == stored
	}
	if !same {
		return fmt.Errorf("jetstream: stream %s is not the one that was read: all up to %d had arrived, and its last message is %d, or it has another one there: %w",
			f.stream, last, info.State.Last, driver.ErrLost)
	}
	f.mu.Lock()
	f.sureOf = max(f.sureOf, doubts)
	f.mu.Unlock()
	return nil
}

// doubted tells whether the stream may be another one than that which was read.
func (f *feed) doubted() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.doubts != f.sureOf
}

// config is that of a consumer which only reads: our own record says what is
// settled, and the server keeps nothing of each message.
func (f *feed) config(from uint64) consumerConfig {
	return consumerConfig{
		Name: f.consumer, Durable: f.consumer, Description: "Posthorn: a tenure of group " + f.group,
		Deliver: "by_start_sequence", Start: from, Ack: "none", Replay: "instant", MaxWaiting: 64, Replicas: 1, Memory: true,
	}
}

// subscribe begins with a new inbox, so that what was on its way to the old one
// goes nowhere.
func (f *feed) subscribe() error {
	inbox := nats.NewInbox()
	f.mu.Lock()
	defer f.mu.Unlock()
	sub, err := f.d.nc.Subscribe(inbox, func(m *nats.Msg) { f.receive(inbox, m) })
	if err != nil {
		return f.d.unavailable("subscribe", err)
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return err
	}
	f.sub, f.inbox, f.broken = sub, inbox, nil
	f.asked, f.deliverNo = 0, 0
	return nil
}

// receive takes what arrives, on the subscription's goroutine.
func (f *feed) receive(inbox string, m *nats.Msg) {
	f.mu.Lock()
	idle := f.head == len(f.msgs)
	if inbox == f.inbox && !f.closed {
		f.heard = true
		if strings.HasPrefix(m.Reply, "$JS.ACK.") {
			f.arrive(m)
		} else {
			f.control(m)
		}
	}
	idle = idle || f.broken != nil
	f.mu.Unlock()
	if !idle {
		return // whoever fetches has been woken, or will look before it sleeps
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *feed) arrive(m *nats.Msg) {
	a, ok := parseReply(m.Reply)
	if !ok {
		f.broken = fmt.Errorf("reply subject %q is not of a known form", m.Reply)
		return
	}
	f.asked--
	if f.broken != nil || a.stream <= f.last {
		return
	}
	if a.consumer != f.deliverNo+1 {
		f.broken = fmt.Errorf("the consumer's delivery %d came after %d", a.consumer, f.deliverNo)
		return
	}
	f.last, f.stored, f.deliverNo, f.alone = a.stream, a.stored, a.consumer, false
	f.msgs = append(f.msgs, arrived{pos: a.stream, stored: a.stored, m: m})
	f.bytes += messageBytes(m)
}

// control handles a status: the end of a pull, a heartbeat, or the consumer's end.
func (f *feed) control(m *nats.Msg) {
	switch s, text := status(m), m.Header.Get("Description"); {
	case s == "100":
	case s == "404" || s == "408" || s == "409" && strings.Contains(text, "Batch Completed"):
		f.pullOver(m)
	case s == "409" && strings.Contains(text, "MaxBytes"):
		if len(f.msgs) == f.head {
			f.alone = true // perhaps the next message is larger than what we ask for
		}
		f.pullOver(m)
	case s == "503":
		f.broken = errors.New("there is no such consumer")
	default:
		f.broken = fmt.Errorf("status %s %s", s, text)
	}
}

// pullOver takes back what a pull had asked for and did not get.
func (f *feed) pullOver(m *nats.Msg) {
	n, err := strconv.Atoi(first(m.Header["Nats-Pending-Messages"]))
	if err != nil {
		n = f.asked
	}
	f.asked = max(0, f.asked-n)
}

// pull asks for more unless enough is there or on its way.
func (f *feed) pull() error {
	f.mu.Lock()
	n := feedMessages - f.asked - (len(f.msgs) - f.head)
	if f.broken != nil || f.closed || n < feedMessages/2 || f.bytes > feedBytes/2 {
		f.mu.Unlock()
		return nil
	}
	size := feedBytes / 2
	if f.alone {
		if f.asked > 0 {
			f.mu.Unlock()
			return nil
		}
		n, size = 1, 0
	}
	f.asked += n
	inbox := f.inbox
	f.mu.Unlock()
	req, _ := json.Marshal(pullRequest{Batch: n, MaxBytes: size, Expires: pullExpires, Heartbeat: pullHeartbeat})
	if err := f.d.nc.PublishRequest(f.nextSubject(), inbox, req); err != nil {
		f.mu.Lock()
		f.broken = err
		f.mu.Unlock()
		return f.d.unavailable("reading "+f.stream, err)
	}
	return nil
}

type pullRequest struct {
	Batch     int           `json:"batch"`
	MaxBytes  int           `json:"max_bytes,omitempty"`
	Expires   time.Duration `json:"expires"`
	Heartbeat time.Duration `json:"idle_heartbeat"`
}

func (f *feed) close() {
	f.d.mu.Lock()
	delete(f.d.feeds, f)
	f.d.mu.Unlock()
	f.mu.Lock()
	f.closed = true
	sub := f.sub
	f.mu.Unlock()
	if sub != nil {
		_ = sub.Unsubscribe()
	}
}

// A replyInfo is what the reply subject of a delivery tells:
// $JS.ACK.<stream>.<consumer>.<times>.<position>.<count>.<time>.<pending>, or with
// a domain and an account before the stream and perhaps a token at the end.
type replyInfo struct {
	stream   uint64 // position in the stream
	consumer uint64 // count of the consumer
	stored   int64  // nanoseconds
}

func parseReply(s string) (replyInfo, bool) {
	var cut [12]int // where tokens begin
	n := 1
	for i := 0; i < len(s); i++ {
		if s[i] != '.' {
			continue
		}
		if n < len(cut) {
			cut[n] = i + 1
		}
		n++
	}
	at := 4 // the token of times
	switch {
	case n == 9:
	case n == 11 || n == 12:
		at = 6
	default:
		return replyInfo{}, false
	}
	token := func(i int) string {
		if i+1 == n {
			return s[cut[i]:]
		}
		return s[cut[i] : cut[i+1]-1]
	}
	var a replyInfo
	var err1, err2, err3 error
	a.stream, err1 = strconv.ParseUint(token(at+1), 10, 64)
	a.consumer, err2 = strconv.ParseUint(token(at+2), 10, 64)
	a.stored, err3 = strconv.ParseInt(token(at+3), 10, 64)
	return a, err1 == nil && err2 == nil && err3 == nil
}
