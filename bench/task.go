package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Who does the work of a task.
const (
	posthornClient = "posthorn"
	rawClient      = "raw"
	watermill      = "watermill"
	nobody         = "nobody"
)

// What there is to do.
const (
	workPublish = "publish" // for a while
	workFill    = "fill"    // so many, unmeasured
	workConsume = "consume" // so many of what waits
	workPace    = "pace"    // publish at a rate and handle, for the latency
	workHold    = "hold"    // hold as much of what waits as is taken in, for the memory
	workStart   = "start"   // from nothing to the first one handled
	workLocal   = "local"   // publish and handle within the process, without a broker
	workSleep   = "sleep"   // what handlers that sleep come to when they do nothing else
)

// How it is done, where there are several ways.
const (
	howWait       = ""           // callers wait for each
	howAsync      = "async"      // nobody waits for each
	howBatch      = "batch"      // batches, one after the other
	howTuned      = "tuned"      // with the settings that were found to be best
	howTyped      = "typed"      // the data is decoded
	howPush       = "push"       // Watermill's other package for JetStream
	howPersistent = "persistent" // kept for who subscribes later
)

// batchSize is how many events a batch has.
const batchSize = 1000

// A task is what one client process does in one round. It reads it, as JSON, from
// its standard input.
type task struct {
	Who  string
	Work string
	How  string

	Broker brokerKind
	URL    string // without what only one of the contenders needs
	Dir    string // of the store, for embedded
	PID    int    // of the server; 0: there is none

	Topic string // and stream, and subject
	Group string // and consumer; unused before
	Size  int    // of the data, in bytes
	Keys  int    // how many there are

	Callers int           // publish: who wait at a time
	Warm    time.Duration // publish, pace: before what counts
	For     time.Duration // publish, pace: what counts; consume: stop after that, all or not; 0: when all is handled
	Rate    int           // pace: a second
	Count   int           // fill, consume, local: how many
	Backlog int           // consume: how many wait
	Times   int           // consume: so many groups, one after the other
	ToLast  bool          // consume: the clock stops with the last one handled, not when all is settled
	Delay   time.Duration // consume: what a handler waits
	At      int           // consume: handlers at a time; 0: the default
	Began   time.Time     // start: when the process was started

	// The raw client's settings, for the rows that try them out.
	MaxPending    int
	PullMax       int
	MaxAckPending int
	InMemory      bool // the consumer's state
	Subscriptions int  // watermill: of the tuned way
}

// The raw client's settings that were found to be best; see the rows named tune-.
const (
	tunedMaxPending    = 4000
	tunedPullMax       = 5000
	tunedMaxAckPending = 20_000
)

func (t *task) withDefaults() {
	for field, value := range map[*int]int{
		&t.MaxPending: tunedMaxPending, &t.PullMax: tunedPullMax, &t.MaxAckPending: tunedMaxAckPending,
		&t.Keys: 10_000, &t.Callers: 1, &t.Times: 1, &t.Subscriptions: 1,
	} {
		if *field == 0 {
			*field = value
		}
	}
}

// A payload is the data of an event. As JSON it has the size of the task.
type payload struct {
	Key  string `json:"key"`
	Text string `json:"text"`
}

const keyDigits = 6

// bare is the size of a payload without text.
const bare = len(`{"key":"key-","text":""}`) + keyDigits

var text = strings.Repeat("abcdefghijklmnopqrstuvwxyz", 50)

// A maker makes payloads, and allocates nothing for it.
type maker struct {
	keys []string
	text string
}

func (t *task) maker() *maker {
	m := &maker{text: text[:t.Size-bare]}
	for i := range t.Keys {
		m.keys = append(m.keys, fmt.Sprintf("key-%0*d", keyDigits, i))
	}
	return m
}

func (m *maker) payload(i int) payload { return payload{Key: m.keys[i%len(m.keys)], Text: m.text} }

const (
	idPrefix = "0190b4c8-7e5d-7000-8000-"
	idDigits = 12
)

// eventID is the id of the event with a number, of the form and length of ours.
func eventID(i int) string {
	b := append(make([]byte, 0, len(idPrefix)+idDigits), idPrefix...)
	n := strconv.AppendInt(make([]byte, 0, idDigits), int64(i), 10)
	for range idDigits - len(n) {
		b = append(b, '0')
	}
	return string(append(b, n...))
}

// eventNumber reverses eventID. It is -1 for what is no such id.
func eventNumber(id string) int {
	digits, ok := strings.CutPrefix(id, idPrefix)
	if !ok || len(digits) != idDigits {
		return -1
	}
	n := 0
	for _, c := range []byte(digits) {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + int(c-'0')
	}
	return n
}
