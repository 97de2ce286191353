package drivertest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
)

var contextCases = []Case{
	{Name: "context/travels", Promise: "P10", Doc: "correlation, causation, trace and registered headers travel from a handler into what it publishes, over several hops", run: contextTravels},
	{Name: "context/after-retry", Promise: "P10 peer 10", Doc: "after a retry, in memory and late, the context has its values and a whole timeout", run: contextAfterRetry},
}

func contextTravels(r *rig) {
	a, b, c := r.kind(r.topic("a", 1), "a"), r.kind(r.topic("b", 1), "b"), r.kind(r.topic("c", 1), "c")
	n := r.open(posthorn.Propagate("x-tenant", "x-absent"))
	pass := func(to itemType) itemFunc {
		return func(ctx context.Context, e *posthorn.Event[item]) error {
			return to.Publish(ctx, n.bus, e.Data, posthorn.WithHeader("x-own", to.Name()))
		}
	}
	var traces sync.Map
	look := func(p driver.Partition, msgs []driver.Message) appendFault {
		for _, m := range msgs {
			for _, at := range m.Attrs {
				if at.Name == "traceparent" {
					traces.Store(p.Topic, at.Value)
				}
			}
		}
		return appendFault{}
	}
	n.cut.onAppend.Store(&look)
	n.listen("a", quick(), pass(b), a)
	n.listen("b", quick(), pass(c), b)
	got := make(chan posthorn.Event[item], 2)
	n.listen("c", quick(), func(_ context.Context, e *posthorn.Event[item]) error { got <- *e; return nil }, c)

	// The first event comes from elsewhere, with a trace.
	const trace = "0af7651916cd43dd8448eb211c80319c"
	m := event(r, a, "first", "k", fmt.Sprintf(`{"k":"k","n":%d}`, r.next.Add(1)))
	m.Attrs = []driver.Attr{{Name: "traceparent", Value: "00-" + trace + "-b7ad6b7169203331-01"}}
	m.Headers = []driver.Attr{{Name: "X-Tenant", Value: "acme"}, {Name: "x-other", Value: "stays"}}
	n.raw(a.Topic().Name(), 0, m)
	var e posthorn.Event[item]
	select {
	case e = <-got:
	case <-time.After(r.patience):
		r.Fatalf("the third event does not arrive")
	}
	if e.CorrelationID != m.ID {
		r.Errorf("correlation id is %q, want that of the first event, %q", e.CorrelationID, m.ID)
	}
	if e.CausationID == "" || e.CausationID == m.ID || e.CausationID == e.ID {
		r.Errorf("causation id is %q; the first event is %q, its own id %q", e.CausationID, m.ID, e.ID)
	}
	if v := header(e.Headers, "x-tenant"); v != "acme" {
		r.Errorf("the registered header arrived as %q", v)
	}
	if v := header(e.Headers, "x-other"); v != "(none)" {
		r.Errorf("a header that is not registered travelled: %q", v)
	}
	if v := header(e.Headers, "x-own"); v != c.Name() {
		r.Errorf("its own header is %q", v)
	}
	for _, t := range []itemType{b, c} {
		v, _ := traces.Load(t.Topic().Name())
		if s, _ := v.(string); !strings.Contains(s, trace) {
			r.Errorf("traceparent of %s is %q, want the trace %s", t.Name(), s, trace)
		}
	}
}

func contextAfterRetry(r *rig) {
	const timeout = 7 * time.Second
	up, down := r.kind(r.topic("up", 1), "up"), r.kind(r.topic("down", 1), "down")
	n := r.open(posthorn.Propagate("x-tenant"))
	cfg := quick()
	cfg.Timeout = timeout
	n.listen("up", cfg, func(ctx context.Context, e *posthorn.Event[item]) error {
		end, has := ctx.Deadline()
		if left := time.Until(end); !has || left > timeout || left < timeout-3*time.Second {
			r.Errorf("attempt %d has %v left of its timeout of %v", e.Attempt, left, timeout)
		}
		if ctx.Err() != nil {
			r.Errorf("the context of attempt %d has ended: %v", e.Attempt, ctx.Err())
		}
		if e.CorrelationID != "corr-9" || header(e.Headers, "x-tenant") != "acme" {
			r.Errorf("attempt %d has correlation id %q and headers %v", e.Attempt, e.CorrelationID, e.Headers)
		}
		if e.Attempt < 5 {
			return errHandler
		}
		return down.Publish(ctx, n.bus, e.Data)
	}, up)
	got := make(chan posthorn.Event[item], 2)
	n.listen("down", quick(), func(_ context.Context, e *posthorn.Event[item]) error { got <- *e; return nil }, down)
	first := up.New(item{K: "k", N: int(r.next.Add(1))}, posthorn.WithCorrelationID("corr-9"), posthorn.WithHeader("x-tenant", "acme"))
	if err := n.bus.PublishAll(r.ctx, first); err != nil {
		r.Fatalf("publish: %v", err)
	}
	select {
	case e := <-got:
		if e.CorrelationID != "corr-9" || e.CausationID != first.ID() || header(e.Headers, "x-tenant") != "acme" {
			r.Errorf("what the fifth attempt published has correlation %q, causation %q (want %q), headers %v", e.CorrelationID, e.CausationID, first.ID(), e.Headers)
		}
	case <-time.After(r.patience):
		r.Fatalf("what the fifth attempt publishes does not arrive")
	}
}
