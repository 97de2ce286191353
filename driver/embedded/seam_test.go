package embedded_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/embedded"
)

var order0 = driver.Partition{Topic: "order", N: 0}

func TestPublishAndFetch(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.topic("order", 1)
	b.group("g", driver.StartAt{}, "order")
	m := event("a1", "key with space, \"quotes\", 100 % and ü")
	m.Attrs = []driver.Attr{{Name: "causationid", Value: "x y"}, {Name: "traceparent", Value: "00-11-22-01"}}
	m.Headers = []driver.Attr{{Name: "Tenant", Value: "acme"}, {Name: "tenant.id", Value: "50%20"}}
	o := b.publish(order0, m)
	if want := []driver.Outcome{{State: driver.Stored, Pos: 1}}; !reflect.DeepEqual(o, want) {
		t.Fatalf("outcome %+v, want %+v", o, want)
	}
	b.mustPublish(order0, events("b", 1000)...)
	tn, _ := b.tenure("g", "order")
	ds := fetch(t, tn, 1001)
	if got := ds[0].Msg; !reflect.DeepEqual(got, m) {
		t.Errorf("got  %+v\nwant %+v", got, m)
	}
	for i, d := range ds {
		if d.Pos != uint64(i+1) || d.Bad != nil || time.Since(d.Stored) > time.Hour || i > 0 && d.Msg.ID != fmt.Sprintf("b%d", i-1) {
			t.Fatalf("delivery %d: %+v", i, d)
		}
	}
	if err := tn.Release(t.Context(), driver.Checkpoint{Floor: 1001, Mark: 1001, Clean: true}); err != nil {
		t.Fatal(err)
	}
}

func TestForeignMessageKeepsItsHeaders(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.topic("order", 1)
	b.group("g", driver.StartAt{}, "order")
	m := driver.Message{ContentType: "text/plain", Headers: []driver.Attr{{Name: "X", Value: "1"}, {Name: "Y", Value: "2"}}, Body: []byte("hi")}
	b.mustPublish(order0, m, driver.Message{Body: []byte("bare")})
	tn, _ := b.tenure("g", "order")
	ds := fetch(t, tn, 2)
	if !reflect.DeepEqual(ds[0].Msg, m) || string(ds[1].Msg.Body) != "bare" {
		t.Errorf("got %+v", ds)
	}
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.topic("order", 1)
	huge := event("huge", "k")
	huge.Body = make([]byte, 9<<20)

	t.Run("a repeated id is a duplicate", func(t *testing.T) {
		first := b.publish(order0, event("d", "k"))[0]
		second := b.publish(order0, event("d", "k"))[0]
		if !second.Dup || second.Pos != first.Pos || second.State != driver.Stored {
			t.Errorf("first %+v, second %+v", first, second)
		}
		other := event("d", "k")
		other.Source = "other"
		if o := b.publish(order0, other)[0]; o.Dup {
			t.Errorf("the same id of another source: %+v", o)
		}
	})
	t.Run("duplicates among a batch are stored", func(t *testing.T) {
		before := b.last(order0)
		for range 2 {
			b.mustPublish(order0, events("dup", 10)...)
		}
		b.mustPublish(order0, append(events("dup", 10), event("new", "k"))...)
		if got := b.last(order0) - before; got != 11 {
			t.Errorf("%d were stored, want 11", got)
		}
	})
	for _, at := range []int{0, 1, 2} {
		t.Run(fmt.Sprintf("too large at %d of 3", at), func(t *testing.T) {
			before := b.last(order0)
			msgs := events(fmt.Sprintf("large%d-", at), 3)
			msgs[at] = huge
			for i, o := range b.publish(order0, msgs...) {
				if i == at {
					wantErr(t, o.Err, driver.ErrTooLarge, "9437")
				}
				if want := map[bool]driver.StoreState{true: driver.NotStored, false: driver.Stored}[i == at]; o.State != want {
					t.Errorf("message %d: %+v", i, o)
				}
			}
			if got := b.last(order0) - before; got != 2 {
				t.Errorf("%d were stored, want 2", got)
			}
		})
	}
	t.Run("a deadline that has passed", func(t *testing.T) {
		o := b.publishBy(-time.Second, order0, event("late", "k"))[0]
		if o.State != driver.NotStored {
			t.Errorf("%+v", o)
		}
	})
	t.Run("no such topic", func(t *testing.T) {
		o := b.publish(driver.Partition{Topic: "nowhere"}, events("n", 3)...)
		for _, o := range o {
			if o.State != driver.NotStored || o.Err == nil {
				t.Errorf("%+v", o)
			}
		}
	})
}

func (b *bed) last(p driver.Partition) uint64 {
	b.t.Helper()
	nc, err := embedded.Connect(b.t.Context(), b.dir)
	if err != nil {
		b.t.Fatal(err)
	}
	defer nc.Close()
	js, err := nc.JetStream()
	if err != nil {
		b.t.Fatal(err)
	}
	info, err := js.StreamInfo(fmt.Sprintf("PH-T-%s-%d", p.Topic, p.N))
	if err != nil {
		b.t.Fatal(err)
	}
	return info.State.LastSeq
}

func TestTopicFull(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	spec := driver.TopicSpec{Name: "order", Hash: driver.HashFNV1a, Partitions: 2, MaxBytes: 40_000}
	if _, err := b.EnsureTopic(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	msgs := events("a", 20)
	for i := range msgs {
		msgs[i].Body = make([]byte, 2000)
	}
	stored := 0
	for i, o := range b.publish(order0, msgs...) {
		switch {
		case o.State == driver.Stored && i == stored:
			stored++
		case o.State == driver.NotStored:
			wantErr(t, o.Err, driver.ErrTopicFull)
		default:
			t.Errorf("message %d: %+v", i, o)
		}
	}
	if stored < 5 || stored > 10 {
		t.Errorf("%d messages of 2 kB were stored in 20 kB", stored)
	}
	if n, err := b.Trim(t.Context(), order0, 6, time.Time{}); n != 5 || err != nil {
		t.Fatalf("trimmed %d, %v", n, err)
	}
	b.mustPublish(order0, event("after", "k"))
	if _, ok := b.alarm("messages_missing"); ok {
		t.Error("trimming raised an alarm")
	}
}

func TestTopicStands(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	want := driver.TopicSpec{Name: "a.b-c_d", Hash: driver.HashFNV1a, Partitions: 8, Keep: time.Hour, Dedup: time.Minute}
	for _, ask := range []driver.TopicSpec{want, {Name: want.Name, Partitions: 3}} {
		if got, err := b.EnsureTopic(t.Context(), ask); err != nil || got != want {
			t.Errorf("got %+v, %v", got, err)
		}
	}
	b.close()
	b = open(t, b.dir, embedded.Options{})
	if got, err := b.EnsureTopic(t.Context(), driver.TopicSpec{Name: want.Name, Partitions: 1}); err != nil || got != want {
		t.Errorf("after a restart %+v, %v", got, err)
	}
}

func TestGroups(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.topic("order", 1)
	b.mustPublish(order0, events("old", 5)...)
	time.Sleep(2 * time.Millisecond) // the broker's clock must move on between the two
	since := time.Now()
	time.Sleep(2 * time.Millisecond)
	b.mustPublish(order0, events("new", 5)...)
	for name, c := range map[string]struct {
		start driver.StartAt
		floor uint64
	}{
		"beginning": {driver.StartAt{}, 0},
		"now":       {driver.StartAt{Now: true}, 10},
		"time":      {driver.StartAt{Time: since}, 5},
		"future":    {driver.StartAt{Time: time.Now().Add(time.Hour)}, 10},
		"past":      {driver.StartAt{Time: time.Now().Add(-time.Hour)}, 0},
	} {
		b.group(name, c.start, "order")
		b.group(name, driver.StartAt{Now: true}, "order") // changes nothing
		ps, err := b.Positions(t.Context(), name)
		want := []driver.Position{{Partition: order0, First: 1, Last: 10, Floor: c.floor, Lag: int64(10 - c.floor), Begin: c.floor, Mark: c.floor}}
		if err != nil || !reflect.DeepEqual(ps, want) {
			t.Errorf("%s: %+v, %v", name, ps, err)
		}
	}
	groups, err := b.Groups(t.Context())
	if err != nil || len(groups) != 5 {
		t.Errorf("groups %+v, %v", groups, err)
	}
	_, err = b.EnsureGroup(t.Context(), driver.GroupSpec{Name: "x", Types: map[string][]string{"nope": {"nope.made"}}})
	wantErr(t, err, driver.ErrNotFound, "nope")
	_, err = b.Positions(t.Context(), "nobody")
	wantErr(t, err, driver.ErrNotFound, "nobody")
}

func TestDropTypes(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.topic("order", 1)
	b.topic("stock", 2)
	spec := driver.GroupSpec{Name: "g", Types: map[string][]string{"order": {"order.b", "order.a"}, "stock": {"stock.x"}}}
	if _, err := b.EnsureGroup(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if err := b.DropTypes(t.Context(), "g", []string{"stock.x", "order.b"}); err != nil {
		t.Fatal(err)
	}
	got, err := b.EnsureGroup(t.Context(), driver.GroupSpec{Name: "g"})
	if want := map[string][]string{"order": {"order.a"}}; err != nil || !reflect.DeepEqual(got.Types, want) {
		t.Errorf("types %v, %v", got.Types, err)
	}
	b.mustPublish(driver.Partition{Topic: "stock", N: 1}, event("s", "k"))
	if _, err := b.EnsureGroup(t.Context(), driver.GroupSpec{Name: "g", Types: spec.Types, Start: driver.StartAt{Now: true}}); err != nil {
		t.Fatal(err)
	}
	ps, err := b.Positions(t.Context(), "g")
	if err != nil || len(ps) != 3 || ps[2].Floor != 1 {
		t.Errorf("a topic that comes back begins anew: %+v, %v", ps, err)
	}
}

func TestCheckpointOutlivesTheTenure(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.topic("order", 1)
	b.group("g", driver.StartAt{}, "order")
	b.mustPublish(order0, events("a", 10)...)
	tn, leave := b.tenure("g", "order")
	fetch(t, tn, 10)
	c := driver.Checkpoint{Floor: 3, Mark: 8, Finished: []byte{1, 2, 3}}
	if err := tn.Checkpoint(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	leave() // without Release, as if it had died
	tn2, leave := b.tenure("g", "order")
	if got := tn2.Start(); !reflect.DeepEqual(got, c) || tn2.Fence() <= tn.Fence() {
		t.Errorf("start %+v, fences %d and %d", got, tn.Fence(), tn2.Fence())
	}
	if got := ids(fetch(t, tn2, 7)); got != "a3 a4 a5 a6 a7 a8 a9" {
		t.Errorf("fetched %s", got)
	}
	wantErr(t, tn.Checkpoint(t.Context(), c), driver.ErrLost)
	if err := tn2.Release(t.Context(), driver.Checkpoint{Floor: 10, Mark: 10, Clean: true}); err != nil {
		t.Fatal(err)
	}
	leave()
	b.close()
	b = open(t, b.dir, embedded.Options{})
	tn3, _ := b.tenure("g", "order")
	if got := tn3.Start(); !got.Clean || got.Floor != 10 {
		t.Errorf("start %+v", got)
	}
	b.mustPublish(order0, event("z", "k"))
	if d := fetch(t, tn3, 1)[0]; d.Pos != 11 {
		t.Errorf("position %d", d.Pos)
	}
}

func TestStandby(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b2 := open(t, b.dir, embedded.Options{})
	b.topic("order", 4)
	b.group("g", driver.StartAt{}, "order")
	m1, leave := b.join("g", "order")
	var held []driver.Tenure
	for range 4 {
		held = append(held, m1.next(t))
	}
	m2, _ := b2.join("g", "order")
	ps, err := b2.Positions(t.Context(), "g")
	for _, p := range ps {
		if err != nil || p.Member == "" {
			t.Errorf("%+v, %v", p, err)
		}
	}
	for _, tn := range held {
		if err := tn.Release(t.Context(), driver.Checkpoint{Clean: true}); err != nil {
			t.Fatal(err)
		}
	}
	leave()
	for range 4 {
		if tn := m2.next(t); tn.Fence() != 2 {
			t.Errorf("fence %d", tn.Fence())
		}
	}
	if len(m1.got) != 0 {
		t.Error("who released was given it again")
	}
}

func TestFetchWaits(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.topic("order", 1)
	b.group("g", driver.StartAt{}, "order")
	tn, _ := b.tenure("g", "order")
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := tn.Fetch(ctx, make([]driver.Delivery, 1), 1)
		result <- err
	}()
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	go func() { b.publish(order0, event("a", "k")) }()
	if got := ids(fetch(t, tn, 1)); got != "a" {
		t.Error(got)
	}
}

func TestLargeMessages(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.topic("order", 1)
	b.group("g", driver.StartAt{}, "order")
	for i, size := range []int{0, 7 << 20, 10, 3 << 20, 3 << 20, 1 << 20} {
		m := event(fmt.Sprint(i), "k")
		m.Body = bytes.Repeat([]byte{byte(i)}, size)
		b.mustPublish(order0, m)
	}
	tn, _ := b.tenure("g", "order")
	if got := ids(fetch(t, tn, 6)); got != "0 1 2 3 4 5" {
		t.Error(got)
	}
}

func TestLostConsumerIsMadeAnew(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.topic("order", 1)
	b.group("g", driver.StartAt{}, "order")
	b.mustPublish(order0, events("a", 3)...)
	tn, _ := b.tenure("g", "order")
	fetch(t, tn, 3)
	if err := tn.Checkpoint(t.Context(), driver.Checkpoint{Floor: 1, Mark: 3}); err != nil {
		t.Fatal(err)
	}
	_, js := b.raw()
	if err := js.DeleteConsumer("PH-T-order-0", "g-1"); err != nil {
		t.Fatal(err)
	}
	b.mustPublish(order0, events("b", 3)...)
	if got := ids(fetch(t, tn, 3)); got != "b0 b1 b2" {
		t.Errorf("fetched %s", got)
	}
}

func TestTrim(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.topic("order", 1)
	b.mustPublish(order0, events("a", 10)...)
	time.Sleep(2 * time.Millisecond)
	middle := time.Now()
	time.Sleep(2 * time.Millisecond)
	b.mustPublish(order0, events("b", 10)...)
	for _, c := range []struct {
		below  uint64
		before time.Time
		want   int64
	}{
		{1, time.Time{}, 0},
		{4, time.Time{}, 3},
		{15, middle, 7},
		{15, middle, 0},
		{1000, time.Now().Add(-time.Hour), 0},
		{12, time.Now().Add(time.Hour), 1},
		{1000, time.Time{}, 9},
		{1000, time.Time{}, 0},
	} {
		if n, err := b.Trim(t.Context(), order0, c.below, c.before); n != c.want || err != nil {
			t.Errorf("trim below %d: %d, %v, want %d", c.below, n, err, c.want)
		}
	}
	b.group("g", driver.StartAt{}, "order")
	ps, _ := b.Positions(t.Context(), "g")
	if ps[0].First != 21 || ps[0].Last != 20 || ps[0].Lag != 0 || ps[0].Floor != 20 {
		t.Errorf("%+v", ps[0])
	}
	b.close()
	b = open(t, b.dir, embedded.Options{})
	b.topic("order", 1)
	b.mustPublish(order0, event("c", "k"))
	if a, ok := b.alarm("messages_missing"); ok {
		t.Error(a)
	}
	tn, _ := b.tenure("g", "order")
	if d := fetch(t, tn, 1)[0]; d.Pos != 21 {
		t.Errorf("%+v", d)
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	b.topic("order.v2", 2)
	b.group("my.group", driver.StartAt{}, "order.v2")
	m, _ := b.join("my.group", "order.v2")
	for range 2 {
		m.next(t)
	}
	tn := m
	_ = tn
	things, err := b.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, th := range things {
		names = append(names, th.Kind+" "+th.Name)
		if th.Why == "" {
			t.Errorf("%+v", th)
		}
	}
	for _, want := range []string{"stream PH-STATE", "stream PH-T-order+v2-0", "stream PH-T-order+v2-1", "stream PH-L-my+group"} {
		if !slices.Contains(names, want) {
			t.Errorf("no %s in %s", want, strings.Join(names, ", "))
		}
	}
	if err := b.Health(t.Context()); err != nil {
		t.Error(err)
	}
}
