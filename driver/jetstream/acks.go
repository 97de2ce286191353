package jetstream

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
)

// A client of a `posthorn serve` has its publishes acknowledged there, at a subject
// that serve listens to: [ServeStatus.AckSubject], then the client's box, then what
// tells the client which publish it is. After a sync that began when serve had them,
// serve sends the acknowledgements on, those of a client in one message. So a durable
// publish costs one round trip, and a share of a sync.
//
//	ph.x.ack.<run>.<box>.<rest>   where the stream acknowledges
//	_INBOX.<box>.acks             what is durable: an [AckBundle]
//	_INBOX.<box>.nacks            what is not known to be: a [ServeStatus] that says why
const (
	ackSubject = "ph.x.ack."
	boxPrefix  = "_INBOX."
	passedOn   = "acks"
	notPassed  = "nacks"
)

// AckSubject is what the subjects begin with that acknowledgements of a run go to,
// with the last dot.
func (s *ServeStatus) AckSubject() string { return ackSubject + s.Run + "." }

// AckBox takes apart what follows AckSubject: the client's box and the rest.
func AckBox(tail string) (box, rest string, ok bool) {
	box, rest, ok = strings.Cut(tail, ".")
	return box, rest, ok && box != "" && rest != ""
}

// PassedOn is where a client hears of acknowledgements that are durable.
func PassedOn(box string) string { return boxPrefix + box + "." + passedOn }

// NotPassed is where a client hears that no acknowledgement will be passed on.
func NotPassed(box string) string { return boxPrefix + box + "." + notPassed }

// An AckBundle is acknowledgements of one client, each with the rest of its subject.
type AckBundle []byte

// Add adds one.
func (b *AckBundle) Add(rest string, data []byte) {
	s := append(*b, rest...)
	s = append(s, ' ')
	s = strconv.AppendInt(s, int64(len(data)), 10)
	s = append(s, '\n')
	*b = append(s, data...)
}

// Next takes one off. ok is false at the end, and where it cannot be read.
func (b *AckBundle) Next() (rest string, data []byte, ok bool) {
	head, tail, _ := bytes.Cut(*b, []byte{'\n'})
	name, size, _ := bytes.Cut(head, []byte{' '})
	n, err := strconv.Atoi(string(size))
	if err != nil || n < 0 || n > len(tail) {
		return "", nil, false
	}
	*b = AckBundle(tail[n:])
	return string(name), tail[:n], true
}

// flowControl tells apart what a stream says of a batch that is not at its end.
func flowControl(data []byte) bool { return bytes.HasPrefix(data, []byte(`{"type":"ack"`)) }

// AckIsNews tells whether an answer to a publish has to be passed on.
func AckIsNews(m *nats.Msg) bool { return !flowControl(m.Data) }

// passed takes in what serve has passed on.
func (d *jsDriver) passed(m *nats.Msg) {
	for b := AckBundle(m.Data); ; {
		rest, data, ok := b.Next()
		if !ok {
			return
		}
		d.mux.deliver(rest, &nats.Msg{Subject: rest, Data: data})
	}
}

// notPassed is told when nothing will be passed on any more.
func (d *jsDriver) notPassed(m *nats.Msg) {
	var st ServeStatus
	if err := json.Unmarshal(m.Data, &st); err != nil || st.Failed == "" {
		return
	}
	err := d.syncs.fail(fmt.Errorf("%s: %s", d.opts.Store, st.Failed))
	for _, w := range d.allWriters() {
		for _, b := range w.underWay() {
			b.unsynced(err)
		}
	}
}

// errSilent: the server says nothing, and there is nobody who would.
var errSilent = errors.New("no stream takes this subject now")
