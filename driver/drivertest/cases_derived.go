package drivertest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
)

var derivedCases = []Case{
	{Name: "derived/repeats-ids", Promise: "P7", Doc: "a handler that runs again publishes the same ids, not new events", run: repeatsIDs},
	{Name: "derived/named", Promise: "P7", Doc: "a named event keeps its id whatever the order of publishing, and a name outside of a handler is refused", run: namedIDs},
	{Name: "derived/after-return", Promise: "P7", Doc: "publishing with the context of a handler that has returned is refused", run: afterReturn},
	{Name: "derived/settles-after-confirm", Promise: "P7 P1", Doc: "a delivery settles only after what its handler published is confirmed", run: settlesAfterConfirm},
	{Name: "derived/not-stored-is-failure", Promise: "P7", Doc: "a handler that ignores the error of its publish has failed all the same", run: notStoredIsFailure},
	{Name: "derived/kill-repeats-ids", Promise: "P7", Doc: "a handler that runs again after a kill publishes the same ids", run: killRepeatsIDs},
}

// idsOf collects the ids of the events of a type, by item.
type idsOf struct {
	mu  sync.Mutex
	ids map[string]map[string]int // by note, then id
}

func (s *idsOf) add(note, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ids == nil {
		s.ids = map[string]map[string]int{}
	}
	if s.ids[note] == nil {
		s.ids[note] = map[string]int{}
	}
	s.ids[note][id]++
}

// of returns the distinct ids of a note.
func (s *idsOf) of(note string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.ids[note]))
}

func repeatsIDs(r *rig) {
	up, down := r.kind(r.topic("up", 1), "up"), r.kind(r.topic("down", 1), "down")
	n := r.open()
	var sent, got idsOf
	n.listen("up", quick(), func(ctx context.Context, e *posthorn.Event[item]) error {
		for i := range 3 {
			out := down.New(item{K: "k", N: e.Data.N*10 + i})
			if err := n.bus.PublishAll(ctx, out); err != nil {
				return err
			}
			sent.add(fmt.Sprint(e.Data.N, "/", i), out.ID())
		}
		if e.Attempt < 5 { // twice in memory, twice late
			return errHandler
		}
		return nil
	}, up)
	n.group("down", quick(), func(g *posthorn.Group) {
		down.Handle(g, func(_ context.Context, e *posthorn.Event[item]) error {
			got.add(fmt.Sprint(e.Data.N/10, "/", e.Data.N%10), e.ID)
			return nil
		})
	})
	n.publish(up, r.items(5, keys(5)...)...)
	n.ended("up")
	n.settled("down")
	all := map[string]bool{}
	for _, it := range r.log.of(opEffect, "up") {
		for i := range 3 {
			note := fmt.Sprint(it.n, "/", i)
			if ids := sent.of(note); len(ids) != 1 {
				r.Errorf("event %s was published under %d ids over 5 attempts: %v", note, len(ids), ids)
			} else if all[ids[0]] {
				r.Errorf("id %s was given twice", ids[0])
			} else {
				all[ids[0]] = true
				if ids[0][14] != '8' {
					r.Errorf("id %s is no UUIDv8", ids[0])
				}
			}
			if ids := got.of(note); len(ids) != 1 {
				r.Errorf("event %s arrived under %d ids", note, len(ids))
			}
		}
	}
}

func namedIDs(r *rig) {
	up, down := r.kind(r.topic("up", 1), "up"), r.kind(r.topic("down", 1), "down")
	n := r.open()
	var sent idsOf
	n.listen("up", quick(), func(ctx context.Context, e *posthorn.Event[item]) error {
		names := []string{"first", "second", "third"}
		if e.Attempt%2 == 0 {
			slices.Reverse(names)
		}
		for _, name := range names {
			out := down.New(item{K: "k", N: e.Data.N}, posthorn.Named(name))
			if err := n.bus.PublishAll(ctx, out); err != nil {
				return err
			}
			sent.add(name, out.ID())
		}
		if e.Attempt < 4 {
			return errHandler
		}
		return nil
	}, up)
	n.publish(up, r.items(1, "k")...)
	n.ended("up")
	all := map[string]bool{}
	for _, name := range []string{"first", "second", "third"} {
		for _, id := range sent.of(name) {
			all[id] = true
		}
	}
	if len(all) != 3 {
		r.Errorf("3 named events were published under %d ids over 4 attempts", len(all))
	}
	if err := down.Publish(r.ctx, n.bus, item{K: "k"}, posthorn.Named("x")); posthorn.CodeOf(err) != posthorn.CodeInvalid {
		r.Errorf("a named event outside of a handler: code %q (%v)", posthorn.CodeOf(err), err)
	}
}

func afterReturn(r *rig) {
	up, down := r.kind(r.topic("up", 1), "up"), r.kind(r.topic("down", 1), "down")
	n := r.open()
	kept := make(chan context.Context, 1)
	n.listen("up", quick(), func(ctx context.Context, _ *posthorn.Event[item]) error {
		kept <- context.WithoutCancel(ctx)
		return nil
	}, up)
	n.publish(up, r.items(1, "k")...)
	n.ended("up")
	n.settled("up")
	err := down.Publish(<-kept, n.bus, item{K: "k", N: 1})
	if posthorn.CodeOf(err) != posthorn.CodeClosed {
		r.Errorf("publishing after the handler's return: code %q (%v), want %q", posthorn.CodeOf(err), err, posthorn.CodeClosed)
	}
}

func settlesAfterConfirm(r *rig) {
	settlesOnlyConfirmed(r, func(n *node, down itemType, returns chan<- struct{}) itemFunc {
		return func(ctx context.Context, e *posthorn.Event[item]) error {
			go func() { // it returns before this is confirmed
				_ = n.bus.PublishAll(ctx, down.New(item{K: "k", N: e.Data.N}, posthorn.WithID(r.name(fmt.Sprint("id-", e.Data.N)))))
			}()
			r.wait(func() bool { return n.cut.holding() > 0 })
			returns <- struct{}{}
			return nil
		}
	})
}

// settlesOnlyConfirmed has a handler return while what it has published is held
// back.
func settlesOnlyConfirmed(r *rig, handler func(n *node, down itemType, returns chan<- struct{}) itemFunc) {
	up, down := r.kind(r.topic("up", 1), "up"), r.kind(r.topic("down", 1), "down")
	n := r.open()
	returns := make(chan struct{}, 16)
	n.listen("up", quick(), handler(n, down, returns), up)
	topic := down.Topic().Name()
	hold := func(p driver.Partition, _ []driver.Message) appendFault { return appendFault{hold: p.Topic == topic} }
	n.cut.onAppend.Store(&hold)
	n.publish(up, r.items(1, "k")...)
	select {
	case <-returns:
		r.never("it settled before what it published was confirmed", func() bool { return n.bus.Stats().Handled > 0 })
		if lag, err := n.bus.Lag(r.ctx, r.name("up")); err != nil || lag != 1 {
			r.Errorf("lag is %d, %v while a handler's publish is not confirmed, want 1", lag, err)
		}
	case <-time.After(r.patience):
		r.Fatalf("the handler is not called")
	}
	n.cut.onAppend.Store(nil)
	n.cut.letGo()
	n.settled("up")
	if s := n.bus.Stats(); s.Handled != 1 || s.Retried != 0 {
		r.Errorf("%d handled, %d retried", s.Handled, s.Retried)
	}
}

// refuseTwice has the first two batches for a topic refused.
func (n *node) refuseTwice(topic string) {
	var mu sync.Mutex
	refusals := 0
	refuse := func(p driver.Partition, _ []driver.Message) appendFault {
		mu.Lock()
		defer mu.Unlock()
		if p.Topic != topic || refusals >= 2 {
			return appendFault{}
		}
		refusals++
		return appendFault{refuse: fmt.Errorf("on purpose: %w", driver.ErrTooLarge)}
	}
	n.cut.onAppend.Store(&refuse)
}

func notStoredIsFailure(r *rig) {
	up, down := r.kind(r.topic("up", 1), "up"), r.kind(r.topic("down", 1), "down")
	n := r.open()
	n.listen("up", quick(), func(ctx context.Context, e *posthorn.Event[item]) error {
		_ = down.Publish(ctx, n.bus, item{K: "k", N: e.Data.N}) // carelessly
		return nil
	}, up)
	down.Publish(r.ctx, n.bus, item{K: "k", N: 1 << 20}) // the topic exists
	n.refuseTwice(down.Topic().Name())
	var got idsOf
	n.group("down", quick(), func(g *posthorn.Group) {
		down.Handle(g, func(_ context.Context, e *posthorn.Event[item]) error {
			got.add(fmt.Sprint(e.Data.N), e.ID)
			return nil
		})
	})
	it := r.items(1, "k")
	n.publish(up, it...)
	r.eventually("it is published in the end", func() bool { return len(got.of(fmt.Sprint(it[0].N))) == 1 })
	n.settled("up")
	if s := n.bus.Stats(); s.Retried < 2 {
		r.Errorf("2 publishes of a handler were refused, and it was tried again %d times", s.Retried)
	}
}

func killRepeatsIDs(r *rig) {
	up, down := r.kind(r.topic("up", 1), "up"), r.kind(r.topic("down", 1), "down")
	var sent idsOf
	handler := func(n *node, hang bool) itemFunc {
		return func(ctx context.Context, e *posthorn.Event[item]) error {
			out := down.New(item{K: "k", N: e.Data.N})
			if err := n.bus.PublishAll(ctx, out); err != nil {
				return err
			}
			sent.add(fmt.Sprint(e.Data.N), out.ID())
			if hang {
				return n.block(ctx, nil)
			}
			return nil
		}
	}
	n := r.open()
	n.listen("up", quick(), handler(n, true), up)
	n.publish(up, r.items(4, keys(4)...)...)
	r.eventually("four handlers have published", func() bool {
		return len(sent.of("1"))+len(sent.of("2"))+len(sent.of("3"))+len(sent.of("4")) == 4
	})
	n.cutOff()
	n.bury()
	n = r.open()
	n.listen("up", quick(), handler(n, false), up)
	n.ended("up")
	for i := range 4 {
		if ids := sent.of(fmt.Sprint(i + 1)); len(ids) != 1 {
			r.Errorf("the event of item %d has %d ids over a kill: %s", i+1, len(ids), strings.Join(ids, " "))
		}
	}
}
