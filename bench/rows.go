package main

import (
	"fmt"
	"strings"
	"time"
)

// The sections of the page, and what has to be said about each.
var (
	publishing = &section{
		title: "Publishing",
		text: `A NATS server with its defaults confirms before its disk has the message: ours, with ` + "`?durability=server`" + `, the raw client and Watermill
are confirmed the same. Watermill knows no asynchronous publish: a batch of it waits for each message in turn.`,
		metrics: []*metric{rate, allocs, clientCPU, serverCPU},
	}
	durable = &section{
		title: "Durable publishing",
		text: `Confirmed means on the disk. Ours is a client of ` + "`posthorn serve`" + `, where one sync covers all who wait, or the same server embedded in the process
(then its CPU time and allocations are the client's, and are not compared); the others publish to a NATS server with ` + "`sync_interval: always`" + `, at equal safety.
What Watermill does as it comes, on a server with its defaults, stands under Publishing.`,
		metrics: []*metric{rate, allocs, clientCPU, serverCPU},
	}
	consuming = &section{
		title: "Consuming",
		text: `A backlog on a keyed topic (10,000 keys unless it says otherwise, 8 partitions), by a handler that does nothing, with all that a group does: order by key, attempts,
positions that survive a power cut. The raw client reads the same headers and acknowledges each message, without waiting for the server to have noted it; its consumer is durable.
Watermill's router has the retry middleware; as it comes it waits for the server after each acknowledgement, which is safer than the others are, and tuned it does not.
One subscription keeps the order of the stream, as the raw client does; four, with which it was fastest, keep none.
The clock runs from the first message handled until the consumer has stopped cleanly, all that it has handled settled on the broker; in the rows of keys and backlogs until the last one is
handled, since a stop takes longer than a small backlog.`,
		metrics: []*metric{rate, allocs, clientCPU, serverCPU},
	}
	slow = &section{
		title: "Handlers that wait",
		text: `Handlers that sleep for 1 ms, 64 at a time: at best 64,000 a second. The raw client starts a goroutine for each message, 64 at a time, and keeps no order.
Watermill handles one message of a subscription at a time; tuned it has 64 subscriptions, which pull 100 at a time, and keeps no order either.
The last line is what the machine's timers allow when there is nothing else to do.`,
		metrics: []*metric{rate, allocs, clientCPU, serverCPU},
	}
	latency = &section{
		title: "Latency",
		text: `From when an event was to be published until its handler has it, publisher and consumer in one process, on a NATS server with its defaults. The load is open: each event has its time,
however long others take, so that a stall counts for all that should have been published meanwhile.`,
		metrics: []*metric{p50, p99, p999, late, clientCPU, serverCPU},
	}
	memory = &section{
		title: "Memory",
		text: `1,000,000 events of 256 bytes wait, the server has been started anew with them, and the client has taken in as much as it takes, while its handlers do not return:
up to 8,192 messages of each of 8 partitions here, up to 5,000 with the raw client. Resident memory.`,
		metrics: []*metric{clientRSS, serverRSS},
	}
	starting = &section{
		title: "Start",
		text: `From Open, or from the connection, until a new group, or consumer, handles the one event that waits; and from the start of its process until then.
The embedded server starts with it.`,
		metrics: []*metric{opened, processed},
	}
	local = &section{
		title: "Without a broker",
		text: "`memory:`" + ` beside Watermill's GoChannel: one publisher, from the first publish to the last event handled, with retries on both sides. GoChannel as it comes forgets what nobody is subscribed to;
persistent it keeps it, as ` + "`memory:`" + ` does, but without any order.`,
		metrics: []*metric{rate, allocs, clientCPU},
	}
	sizes = &section{
		title: "Size",
		text: "Programs as `go build -trimpath` makes them. The smallest with the driver for NATS servers is `bench/size/posthorn`, the same with the raw client `bench/size/raw`; " +
			"`examples/hello` holds the embedded server.",
		metrics: []*metric{size},
	}
	tuning = &section{
		title:   "Tuning of the raw client and Watermill",
		text:    "What was tried to find their best settings.",
		metrics: []*metric{rate, allocs, clientCPU, serverCPU},
	}
)

// Names of entries.
const (
	nameAsync     = "Posthorn, PublishAsync"
	nameBatch     = "Posthorn, PublishAll of 1,000"
	nameOurs      = "Posthorn"
	nameServe     = "Posthorn, on posthorn serve"
	nameEmbedded  = "Posthorn, embedded"
	nameRaw       = "raw client"
	nameWatermill = "Watermill"
	nameTuned     = "Watermill, tuned"
	nameNobody    = "64 goroutines that sleep, no broker"
	nameTuned4    = "Watermill, tuned, 4 subscriptions"
)

// ownAllocs is the bar for what is allocated a message above the raw client.
const ownAllocs = 12

// A maker of rows: counts and times are for a whole run, and scaled for less.
type rowMaker struct{ scale float64 }

func (s rowMaker) count(n int) int { return max(min(n, 200), int(float64(n)*s.scale)) }

func (s rowMaker) duration(d time.Duration) time.Duration {
	return max(20*time.Millisecond, time.Duration(float64(d)*s.scale))
}

// limit bounds what may be slow. When all is scaled down to its least, all of it is
// handled.
func (s rowMaker) limit(d time.Duration) time.Duration {
	if s.scale == 0 {
		return 0
	}
	return d
}

// allRows returns all rows there are, those that cost time and disk and those that
// are no part of the figures too.
func allRows(scale float64) []*row {
	s := rowMaker{scale}
	var rows []*row
	for _, size := range []int{256, 1024} {
		rows = append(rows, s.async(size), s.waiting(size, 1, 1.0), s.waiting(size, 64, 1.5))
	}
	for _, size := range []int{256, 1024} {
		rows = append(rows, s.durable(size, 1, 0.9), s.durable(size, 64, 8), s.durable(size, 1000, 20))
	}
	for _, size := range []int{256, 1024} {
		rows = append(rows, s.pace(size, 1000), s.pace(size, 10_000))
	}
	rows = append(rows, s.local())
	rows = append(rows, s.consume(256, 300_000), s.consume(1024, 200_000), s.typed(), s.keys(), s.slow(), s.smallBacklog())
	rows = append(rows, s.millionBacklog(), s.memory(), s.hugeBacklog(), s.start(), binarySizes())
	return append(rows, s.tuning()...)
}

func rowNames(rows []*row) string {
	var names []string
	for _, r := range rows {
		names = append(names, r.id)
	}
	return strings.Join(names, ", ")
}

func bytesOf(size int) string {
	if size%1024 == 0 {
		return fmt.Sprintf("%d KiB", size/1024)
	}
	return fmt.Sprintf("%d B", size)
}

// publish is a task that publishes for a while.
func (s rowMaker) publish(who, how string, broker brokerKind, size, callers int) task {
	return task{Who: who, Work: workPublish, How: how, Broker: broker, Topic: "bench", Size: size, Callers: callers,
		Warm: s.duration(300 * time.Millisecond), For: s.duration(800 * time.Millisecond)}
}

func (s rowMaker) async(size int) *row {
	id := fmt.Sprintf("publish-async-%d", size)
	return &row{
		id: id, section: publishing, what: "many at a time, " + bytesOf(size),
		entries: []entry{
			{name: nameAsync, task: s.publish(posthornClient, howAsync, brokerNATS, size, 1)},
			{name: nameBatch, task: s.publish(posthornClient, howBatch, brokerNATS, size, 1)},
			{name: nameRaw, task: s.publish(rawClient, howAsync, brokerNATS, size, 1)},
			{name: nameWatermill, task: s.publish(watermill, howBatch, brokerNATS, size, 1)},
		},
		claims: []claim{
			{id: id, of: nameAsync, against: nameRaw, metric: rate, bar: 1.3},
			{id: id + "-allocs", of: nameAsync, against: nameRaw, metric: allocs, above: true, bar: ownAllocs},
			{id: id + "-cpu", of: nameAsync, against: nameRaw, metric: totalCPU},
			{id: id + "-batch", of: nameBatch, against: nameRaw, metric: rate, bar: 1.3},
			{id: id + "-batch-allocs", of: nameBatch, against: nameRaw, metric: allocs, above: true, bar: ownAllocs},
			{id: id + "-batch-cpu", of: nameBatch, against: nameRaw, metric: totalCPU},
		},
	}
}

func callersOf(n int) string {
	if n == 1 {
		return "one caller waiting"
	}
	return whole(float64(n)) + " callers waiting"
}

func (s rowMaker) waiting(size, callers int, bar float64) *row {
	id := fmt.Sprintf("publish-%d-%d", callers, size)
	return &row{
		id: id, section: publishing, what: callersOf(callers) + ", " + bytesOf(size),
		entries: []entry{
			{name: nameOurs, task: s.publish(posthornClient, howWait, brokerNATS, size, callers)},
			{name: nameRaw, task: s.publish(rawClient, howWait, brokerNATS, size, callers)},
			{name: nameWatermill, task: s.publish(watermill, howWait, brokerNATS, size, callers)},
		},
		claims: []claim{
			{id: id, of: nameOurs, against: nameRaw, metric: rate, bar: bar},
			{id: id + "-allocs", of: nameOurs, against: nameRaw, metric: allocs, above: true, bar: ownAllocs},
			{id: id + "-cpu", of: nameOurs, against: nameRaw, metric: totalCPU},
		},
	}
}

func (s rowMaker) durable(size, callers int, bar float64) *row {
	id := fmt.Sprintf("durable-%d-%d", callers, size)
	r := &row{
		id: id, section: durable, what: callersOf(callers) + ", " + bytesOf(size),
		entries: []entry{
			{name: nameServe, task: s.publish(posthornClient, howWait, brokerServe, size, callers)},
			{name: nameRaw, task: s.publish(rawClient, howWait, brokerAlways, size, callers)},
		},
		claims: []claim{{id: id, of: nameServe, against: nameRaw, metric: rate, bar: bar}},
	}
	if size == 256 {
		r.entries = append(r.entries,
			entry{name: nameEmbedded, task: s.publish(posthornClient, howWait, brokerEmbedded, size, callers)},
			entry{name: nameWatermill, task: s.publish(watermill, howWait, brokerAlways, size, callers)})
		r.claims = append(r.claims, claim{id: id + "-embedded", of: nameEmbedded, against: nameRaw, metric: rate, bar: bar})
	}
	return r
}

func (s rowMaker) pace(size, rate int) *row {
	id := fmt.Sprintf("latency-%d-%d", rate, size)
	of := func(who string) task {
		return task{Who: who, Work: workPace, Broker: brokerNATS, Topic: "bench", Size: size, Rate: rate,
			Warm: s.duration(500 * time.Millisecond), For: s.duration(2 * time.Second)}
	}
	return &row{
		id: id, section: latency, what: whole(float64(rate)) + " a second, " + bytesOf(size),
		entries: []entry{{name: nameOurs, task: of(posthornClient)}, {name: nameRaw, task: of(rawClient)}},
		claims: []claim{
			{id: id + "-p50", of: nameOurs, against: nameRaw, metric: p50, bar: 1.3},
			{id: id + "-p99", of: nameOurs, against: nameRaw, metric: p99, bar: 1.3, unsteady: true},
		},
	}
}

// backlogs is the server whose backlogs several rows share.
const backlogs = "backlogs"

// A waiting is a backlog.
type waiting struct {
	topic string
	size  int
	keys  int
	count int
}

// consume is an entry that handles n of a backlog, all of it when n is 0.
func (w waiting) consume(name, who, broker string, n int, change func(*task)) entry {
	if n == 0 {
		n = w.count
	}
	e := entry{name: name, broker: broker, task: task{Who: who, Work: workConsume, Broker: brokerNATS, Topic: w.topic, Size: w.size, Keys: w.keys,
		Backlog: w.count, Count: min(n, w.count)}}
	if change != nil {
		change(&e.task)
	}
	e.fill = w.fill(who)
	return e
}

// fill makes it wait. Watermill reads what the raw client has published.
func (w waiting) fill(who string) *task {
	topic := w.topic
	if who == watermill {
		who = rawClient
	}
	return &task{Who: who, Topic: topic, Size: w.size, Keys: w.keys, Count: w.count}
}

func (s rowMaker) base(size, count int) waiting {
	return waiting{topic: fmt.Sprintf("backlog-%d", size), size: size, keys: 10_000, count: s.count(count)}
}

func (s rowMaker) consume(size, count int) *row {
	id := fmt.Sprintf("consume-%d", size)
	w := s.base(size, count)
	return &row{
		id: id, section: consuming, what: "a backlog, " + bytesOf(size),
		entries: []entry{
			w.consume(nameOurs, posthornClient, backlogs, 0, nil),
			w.consume(nameRaw, rawClient, backlogs, 0, nil),
			w.consume(nameWatermill, watermill, backlogs, s.count(8000), nil),
			w.consume(nameTuned, watermill, backlogs, s.count(40_000), tuned(1)),
			w.consume(nameTuned4, watermill, backlogs, s.count(40_000), tuned(4)),
		},
		claims: []claim{
			{id: id, of: nameOurs, against: nameRaw, metric: rate, bar: 1.25},
			{id: id + "-watermill", of: nameOurs, against: nameWatermill, metric: rate, bar: 3},
			{id: id + "-watermill-tuned", of: nameOurs, against: nameTuned, metric: rate, bar: 3},
			{id: id + "-watermill-4", of: nameOurs, against: nameTuned4, metric: rate, bar: 3},
			{id: id + "-allocs", of: nameOurs, against: nameRaw, metric: allocs, above: true, bar: ownAllocs},
			{id: id + "-cpu", of: nameOurs, against: nameRaw, metric: totalCPU},
		},
	}
}

func tuned(subscriptions int) func(*task) {
	return func(t *task) { t.How, t.Subscriptions = howTuned, subscriptions }
}

func (s rowMaker) typed() *row {
	w := s.base(256, 300_000)
	decode := func(t *task) { t.How = howTyped }
	return &row{
		id: "consume-typed-256", section: consuming, what: "a backlog, 256 B, the JSON decoded",
		entries: []entry{
			w.consume(nameOurs, posthornClient, backlogs, 0, decode),
			w.consume(nameRaw, rawClient, backlogs, 0, decode),
		},
		claims: []claim{{id: "consume-typed-256", of: nameOurs, against: nameRaw, metric: rate}},
	}
}

func toLast(t *task) { t.ToLast = true }

func (s rowMaker) keys() *row {
	of := func(keys, count int) waiting {
		return waiting{topic: fmt.Sprintf("keys-%d", keys), size: 256, keys: keys, count: s.count(count)}
	}
	many, one, most := s.base(256, 300_000), of(1, 60_000), of(100_000, 300_000)
	const baseName, oneName, mostName, aloneName = "Posthorn, 10,000 keys", "Posthorn, 1 key", "Posthorn, 100,000 keys", "Posthorn, 10,000 keys, one handler at a time"
	alone := func(t *task) { t.ToLast, t.At = true, 1 }
	return &row{
		id: "consume-keys", section: consuming, what: "few and many keys, 256 B",
		entries: []entry{
			many.consume(baseName, posthornClient, backlogs, 0, toLast),
			one.consume(oneName, posthornClient, backlogs, 0, func(t *task) { t.ToLast, t.For = true, s.limit(3*time.Second) }),
			most.consume(mostName, posthornClient, backlogs, 0, toLast),
			many.consume(aloneName, posthornClient, backlogs, 0, alone),
		},
		claims: []claim{
			{id: "consume-keys-1", of: oneName, against: baseName, metric: rate, bar: 0.9},
			{id: "consume-keys-1-alone", of: oneName, against: aloneName, metric: rate, bar: 0.9},
			{id: "consume-keys-100000", of: mostName, against: baseName, metric: rate, bar: 0.9},
		},
	}
}

func (s rowMaker) smallBacklog() *row {
	w := waiting{topic: "small", size: 256, keys: 10_000, count: s.count(10_000)}
	base := s.base(256, 300_000)
	small := func(t *task) { t.ToLast, t.Times = true, max(1, int(20*s.scale)) }
	const ofSmall, ofBase = "Posthorn, of 10,000", "Posthorn, of 300,000"
	return &row{
		id: "consume-backlog-10000", section: consuming, what: "a small backlog, 256 B",
		entries: []entry{
			w.consume(ofSmall, posthornClient, backlogs, 0, small),
			base.consume(ofBase, posthornClient, backlogs, 0, toLast),
		},
		claims: []claim{{id: "consume-backlog-10000", of: ofSmall, against: ofBase, metric: rate, bar: 0.9}},
	}
}

// backlogRow is a large one, on a server of its own, beside the usual one.
func (s rowMaker) backlogRow(server string, n int) *row {
	w := waiting{topic: "large", size: 256, keys: 10_000, count: s.count(n)}
	base := s.base(256, 300_000)
	id, ofLarge, ofBase := fmt.Sprintf("consume-backlog-%d", n), "Posthorn, of "+whole(float64(n)), "Posthorn, of 300,000"
	return &row{
		id: id, section: consuming, what: "a backlog of " + whole(float64(n)) + ", 256 B",
		entries: []entry{
			w.consume(ofLarge, posthornClient, server, 0, toLast),
			base.consume(ofBase, posthornClient, backlogs, 0, toLast),
		},
		claims: []claim{{id: id, of: ofLarge, against: ofBase, metric: rate, bar: 0.9}},
	}
}

const (
	millionOurs = "a million for Posthorn"
	millionRaw  = "a million for the raw client"
)

func (s rowMaker) millionBacklog() *row {
	r := s.backlogRow(millionOurs, 1_000_000)
	r.entries[0].restart = true
	return r
}

func (s rowMaker) hugeBacklog() *row {
	r := s.backlogRow("ten million", 10_000_000)
	r.long = true
	return r
}

func (s rowMaker) memory() *row {
	w := waiting{topic: "large", size: 256, keys: 10_000, count: s.count(1_000_000)}
	of := func(name, who, broker string) entry {
		return entry{name: name, broker: broker, fill: w.fill(who), restart: true,
			task: task{Who: who, Work: workHold, Broker: brokerNATS, Topic: w.topic, Size: w.size, Keys: w.keys}}
	}
	return &row{
		id: "memory", section: memory, what: "1,000,000 waiting, 256 B",
		entries: []entry{of(nameOurs, posthornClient, millionOurs), of(nameRaw, rawClient, millionRaw)},
		claims: []claim{
			{id: "memory-client", of: nameOurs, against: nameRaw, metric: clientRSS},
			{id: "memory-server", of: nameOurs, against: nameRaw, metric: serverRSS},
		},
	}
}

func (s rowMaker) slow() *row {
	const at = 64
	w := s.base(256, 300_000)
	sleep := func(more func(*task)) func(*task) {
		return func(t *task) {
			t.Delay, t.At, t.ToLast = time.Millisecond, at, true
			if more != nil {
				more(t)
			}
		}
	}
	return &row{
		id: "slow-64", section: slow, what: "1 ms, 64 at a time, 256 B",
		entries: []entry{
			w.consume(nameOurs, posthornClient, backlogs, s.count(60_000), sleep(nil)),
			w.consume(nameRaw, rawClient, backlogs, s.count(60_000), sleep(nil)),
			w.consume(nameWatermill, watermill, backlogs, s.count(500), sleep(nil)),
			w.consume(nameTuned, watermill, backlogs, s.count(20_000), sleep(func(t *task) {
				t.How, t.Subscriptions, t.PullMax = howTuned, at, 100
			})),
			{name: nameNobody, task: task{Who: nobody, Work: workSleep, Broker: brokerNone, Callers: at, Delay: time.Millisecond, For: s.duration(500 * time.Millisecond)}},
		},
		claims: []claim{
			{id: "slow-64", of: nameOurs, metric: rate, ideal: at * 1000, what: "64,000 a second", bar: 0.7},
			{id: "slow-64-raw", of: nameOurs, against: nameRaw, metric: rate},
			{id: "slow-64-machine", of: nameOurs, against: nameNobody, metric: rate},
		},
	}
}

func (s rowMaker) start() *row {
	w := waiting{topic: "start", size: 256, keys: 1, count: 1}
	of := func(name, who, broker string, kind brokerKind) entry {
		return entry{name: name, broker: broker, fill: w.fill(who),
			task: task{Who: who, Work: workStart, Broker: kind, Topic: w.topic, Size: w.size, Keys: w.keys, Backlog: 1, Count: 1}}
	}
	return &row{
		id: "start", section: starting, what: "one event waits",
		entries: []entry{
			of(nameOurs, posthornClient, backlogs, brokerNATS),
			of(nameEmbedded, posthornClient, "embedded", brokerEmbedded),
			of(nameRaw, rawClient, backlogs, brokerNATS),
		},
		claims: []claim{
			{id: "start-open", of: nameOurs, against: nameRaw, metric: opened},
			{id: "start-process", of: nameOurs, against: nameRaw, metric: processed},
			{id: "start-process-embedded", of: nameEmbedded, against: nameRaw, metric: processed},
		},
	}
}

func (s rowMaker) local() *row {
	of := func(name, who, how string) entry {
		return entry{name: name, task: task{Who: who, Work: workLocal, How: how, Broker: brokerNone, Topic: "bench", Size: 256, Count: s.count(100_000)}}
	}
	const asItComes, persistent = "Watermill, GoChannel", "Watermill, GoChannel, persistent"
	return &row{
		id: "memory-bus", section: local, what: "256 B",
		entries: []entry{
			of("Posthorn, memory:", posthornClient, howWait),
			of(asItComes, watermill, howWait),
			of(persistent, watermill, howPersistent),
		},
		claims: []claim{
			{id: "memory-bus", of: "Posthorn, memory:", against: asItComes, metric: rate},
			{id: "memory-bus-persistent", of: "Posthorn, memory:", against: persistent, metric: rate},
		},
	}
}

func binarySizes() *row {
	const raw, ours, hello, command = "raw client", "Posthorn, driver for NATS servers", "Posthorn, embedded (examples/hello)", "the command posthorn"
	return &row{
		id: "size", section: sizes, what: "programs", once: true,
		entries: []entry{
			{name: ours, binary: func(b *binaries) string { return b.ours }},
			{name: hello, binary: func(b *binaries) string { return b.hello }},
			{name: command, binary: func(b *binaries) string { return b.posthorn }},
			{name: raw, binary: func(b *binaries) string { return b.raw }},
		},
		claims: []claim{
			{id: "size-nats", of: ours, against: raw, metric: size},
			{id: "size-embedded", of: hello, against: raw, metric: size},
			{id: "size-command", of: command, against: raw, metric: size},
		},
	}
}

// tuning are rows that try settings of the raw client and of Watermill.
func (s rowMaker) tuning() []*row {
	async := &row{id: "tune-async", section: tuning, what: "the raw client's PublishAsyncMaxPending, 256 B", extra: true}
	for _, n := range []int{250, 500, 1000, 4000, 16_000} {
		t := s.publish(rawClient, howAsync, brokerNATS, 256, 1)
		t.MaxPending = n
		async.entries = append(async.entries, entry{name: whole(float64(n)), task: t})
	}
	w := s.base(256, 300_000)
	consume := &row{id: "tune-consume", section: tuning, what: "the raw client's consumer, 256 B", extra: true}
	for _, c := range []struct {
		pull, pending int
		memory        bool
	}{{500, 1000, false}, {1000, 20_000, false}, {5000, 20_000, false}, {5000, 20_000, true}, {20_000, 60_000, false}} {
		name := fmt.Sprintf("PullMaxMessages %d, MaxAckPending %d", c.pull, c.pending)
		if c.memory {
			name += ", in memory"
		}
		consume.entries = append(consume.entries, w.consume(name, rawClient, backlogs, 0, func(t *task) {
			t.PullMax, t.MaxAckPending, t.InMemory = c.pull, c.pending, c.memory
		}))
	}
	peers := &row{id: "tune-watermill", section: tuning, what: "Watermill's subscriptions to one consumer, 256 B", extra: true}
	for _, n := range []int{1, 4, 16, 64} {
		peers.entries = append(peers.entries, w.consume(fmt.Sprint(n), watermill, backlogs, s.count(40_000), tuned(n)))
	}
	for _, n := range []int{1, 4} {
		peers.entries = append(peers.entries, w.consume(fmt.Sprintf("pkg/nats, %d", n), watermill, backlogs, s.count(40_000), func(t *task) {
			t.How, t.Subscriptions = howPush, n
		}))
	}
	waits := &row{id: "tune-slow", section: tuning, what: "Watermill's 64 subscriptions with handlers of 1 ms, 256 B", extra: true}
	for _, n := range []int{10, 100, 1000} {
		waits.entries = append(waits.entries, w.consume(fmt.Sprintf("PullMaxMessages %d", n), watermill, backlogs, s.count(20_000), func(t *task) {
			t.How, t.Subscriptions, t.PullMax, t.Delay, t.ToLast = howTuned, 64, n, time.Millisecond, true
		}))
	}
	waits.entries = append(waits.entries, w.consume("pkg/nats", watermill, backlogs, s.count(20_000), func(t *task) {
		t.How, t.Subscriptions, t.Delay, t.ToLast = howPush, 64, time.Millisecond, true
	}))
	return []*row{async, consume, peers, waits}
}
