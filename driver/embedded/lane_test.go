package embedded_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/embedded"
)

func entry(key string, order uint64, state driver.EntryState) *driver.Entry {
	id := fmt.Sprintf("%s-%d", key, order)
	return &driver.Entry{
		Name: driver.EntryName(key, order, "test", id), State: state, Key: key, Order: order,
		Due: time.Unix(1_700_000_000, int64(order)), Head: []byte("head of " + id), Msg: event(id, key),
	}
}

func put(es ...*driver.Entry) []driver.LaneOp {
	var ops []driver.LaneOp
	for _, e := range es {
		ops = append(ops, driver.LaneOp{Entry: e})
	}
	return ops
}

func laneOf(t *testing.T) (*bed, driver.Lane) {
	b := fresh(t)
	b.topic("order", 2)
	b.group("g", driver.StartAt{}, "order")
	return b, b.Lane("g", order0)
}

func apply(t *testing.T, l driver.Lane, ops []driver.LaneOp) {
	t.Helper()
	if err := l.Apply(t.Context(), ops); err != nil {
		t.Fatal(err)
	}
}

func scan(t *testing.T, l driver.Lane, page int) []driver.Entry {
	t.Helper()
	var all []driver.Entry
	for after := ""; ; {
		es, next, err := l.Scan(t.Context(), after, page)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, es...)
		if next == "" {
			return all
		}
		after = next
	}
}

func TestLaneRoundTrip(t *testing.T) {
	t.Parallel()
	b, l := laneOf(t)
	e := entry("a key", 7, driver.Due)
	e.Msg.Headers = []driver.Attr{{Name: "Tenant", Value: "x"}}
	apply(t, l, put(e))
	if e.Rev == 0 {
		t.Error("no revision")
	}
	b.close()
	b = open(t, b.dir, embedded.Options{})
	l = b.Lane("g", order0)
	got, err := l.Get(t.Context(), []string{"nothing.is.there", e.Name})
	if err != nil || len(got) != 1 || !reflect.DeepEqual(&got[0], e) {
		t.Fatalf("got  %+v, %v\nwant %+v", got, err, e)
	}
	all := scan(t, l, 10)
	e.Msg.Body = nil
	if len(all) != 1 || len(all[0].Msg.Body) != 0 {
		t.Fatalf("%+v", all)
	}
	all[0].Msg.Body = nil
	if !reflect.DeepEqual(&all[0], e) {
		t.Errorf("got  %+v\nwant %+v", all[0], e)
	}
	boot := &driver.Entry{Name: driver.EntryName("k", 1, "s", "boot"), State: driver.Boot, Head: []byte{0, 1}}
	apply(t, l, put(boot))
	got, err = l.Get(t.Context(), []string{boot.Name})
	if err != nil || len(got) != 1 || !reflect.DeepEqual(&got[0], boot) {
		t.Fatalf("got  %+v, %v\nwant %+v", got, err, boot)
	}
	if other := scan(t, b.Lane("g", driver.Partition{Topic: "order", N: 1}), 10); len(other) != 0 {
		t.Errorf("another partition's lane has %+v", other)
	}
}

func TestLaneCompareAndSet(t *testing.T) {
	t.Parallel()
	_, l := laneOf(t)
	e := entry("k", 1, driver.Due)
	apply(t, l, put(e))
	again := entry("k", 1, driver.Dead)
	other := entry("k", 2, driver.Due)
	ops := put(again, other)
	wantErr(t, l.Apply(t.Context(), ops), driver.ErrConflict, e.Name)
	wantErr(t, ops[0].Err, driver.ErrConflict)
	if ops[1].Err != nil || other.Rev == 0 {
		t.Errorf("the one behind: %v", ops[1].Err)
	}
	again.Rev = e.Rev
	apply(t, l, put(again))
	wantErr(t, l.Apply(t.Context(), put(e)), driver.ErrConflict)
	got, _ := l.Get(t.Context(), []string{e.Name})
	if len(got) != 1 || got[0].State != driver.Dead || got[0].Rev != again.Rev {
		t.Errorf("%+v", got)
	}
	wantErr(t, l.Apply(t.Context(), []driver.LaneOp{{Entry: e, Delete: true}}), driver.ErrConflict)
	any := &driver.Entry{Name: e.Name}
	gone := []driver.LaneOp{{Entry: any, Delete: true}, {Entry: any, Delete: true}, {Entry: entry("k", 99, 0), Delete: true}}
	apply(t, l, gone)
	if got, err := l.Get(t.Context(), []string{e.Name}); len(got) != 0 || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	e.Rev = 0
	apply(t, l, put(e))
	e2 := *e
	e2.Rev = 0
	apply(t, l, []driver.LaneOp{{Entry: any, Delete: true}, {Entry: &e2}, {Entry: any, Delete: true}})
	if all := scan(t, l, 100); len(all) != 1 || all[0].Name != other.Name {
		t.Errorf("%+v", all)
	}
}

func TestLaneBadNames(t *testing.T) {
	t.Parallel()
	_, l := laneOf(t)
	for _, name := range []string{"", ".", "a..b", "a.>", "*", "a b"} {
		wantErr(t, l.Apply(t.Context(), put(&driver.Entry{Name: name, State: driver.Due})), driver.ErrInvalid)
	}
	e := entry("k", 1, driver.Due)
	e.Msg.Body = make([]byte, 9<<20)
	wantErr(t, l.Apply(t.Context(), put(e)), driver.ErrTooLarge, e.Name)
}

func TestLaneScanAndParked(t *testing.T) {
	t.Parallel()
	_, l := laneOf(t)
	const n = 1500
	var all []*driver.Entry
	for i := range n {
		all = append(all, entry("hot", uint64(n-i), driver.Parked), entry(fmt.Sprint("cold", i), 1, driver.Due))
	}
	all = append(all, entry("hot", n+1, driver.Due))
	apply(t, l, put(all...))
	got := scan(t, l, 1000)
	if len(got) != len(all) || !slices.IsSortedFunc(got, func(a, b driver.Entry) int { return strings.Compare(a.Name, b.Name) }) {
		t.Fatalf("%d entries of %d, or not in order", len(got), len(all))
	}
	next := uint64(0)
	for {
		es, err := l.Parked(t.Context(), "hot", next, 400)
		if err != nil {
			t.Fatal(err)
		}
		if len(es) == 0 {
			break
		}
		for _, e := range es {
			if next++; e.Order != next || e.Key != "hot" || len(e.Msg.Body) == 0 {
				t.Fatalf("order %d after %d: %+v", e.Order, next-1, e)
			}
		}
	}
	if next != n {
		t.Errorf("%d parked entries, want %d", next, n)
	}
}
