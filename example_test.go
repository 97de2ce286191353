package posthorn_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/posthorn/posthorn"
	_ "github.com/posthorn/posthorn/driver/memory"
)

// Placed is what the examples publish.
type Placed struct {
	OrderID string `json:"order_id"`
	Pence   int    `json:"pence"`
}

var OrderPlaced = posthorn.Define[Placed]("order.placed",
	posthorn.Key(func(p Placed) string { return p.OrderID }))

// openExample opens a bus that logs nothing.
func openExample(opts ...posthorn.Option) *posthorn.Bus {
	bus, err := posthorn.Open(context.Background(), "memory:",
		append([]posthorn.Option{posthorn.Service("shop"), posthorn.Logger(slog.New(slog.DiscardHandler))}, opts...)...)
	if err != nil {
		log.Fatal(err)
	}
	return bus
}

// closeExample stops the groups and closes the bus.
func closeExample(bus *posthorn.Bus) {
	if err := bus.Close(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func Example() {
	ctx := context.Background()
	bus, err := posthorn.Open(ctx, "memory:", posthorn.Service("inventory"))
	must(err)
	defer closeExample(bus)

	handled := make(chan struct{})
	inventory := bus.Group("inventory", posthorn.GroupConfig{Concurrency: 64})
	OrderPlaced.Handle(inventory, func(ctx context.Context, e *posthorn.Event[Placed]) error {
		fmt.Println("reserve stock for", e.Data.OrderID)
		close(handled)
		return nil
	}, posthorn.Timeout(5*time.Second))
	must(inventory.Start(ctx))

	must(OrderPlaced.Publish(ctx, bus, Placed{OrderID: "536365", Pence: 1530}))
	<-handled
	// Output: reserve stock for 536365
}

func ExampleBus_PublishAll() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)

	stockShort := posthorn.Define[string]("stock.short")
	err := bus.PublishAll(ctx,
		OrderPlaced.New(Placed{OrderID: "1"}),
		OrderPlaced.New(Placed{OrderID: ""}), // its key is empty
		stockShort.New("85123A"),
	)
	var failed *posthorn.PublishError
	if errors.As(err, &failed) {
		for _, r := range failed.Results {
			fmt.Println(r.Type, r.State)
		}
	}
	fmt.Println(posthorn.CodeOf(err))
	// Output:
	// order.placed stored
	// order.placed not stored
	// stock.short stored
	// invalid
}

func ExampleEventType_PublishAsync() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)

	var pending []*posthorn.Pending
	for _, id := range []string{"1", "", "3"} { // the second one's key is empty
		pending = append(pending, OrderPlaced.PublishAsync(ctx, bus, Placed{OrderID: id}))
	}
	for _, p := range pending {
		if err := p.Wait(ctx); err != nil {
			fmt.Println(p.Results()[0].State, "because it is", posthorn.CodeOf(err))
			continue
		}
		fmt.Println("stored")
	}
	// Output:
	// stored
	// not stored because it is invalid
	// stored
}

func ExamplePublishThrough() {
	ctx := context.Background()
	tenant := func(next posthorn.Publisher) posthorn.Publisher {
		return func(ctx context.Context, o *posthorn.Outgoing) error {
			if o.Key() == "" {
				return errors.New("events of this service are ordered")
			}
			o.SetHeader("tenant", "north")
			o.OnResult(func(r posthorn.Result) { fmt.Println(r.Type, r.State) })
			return next(ctx, o)
		}
	}
	bus := openExample(posthorn.PublishThrough(tenant))
	defer closeExample(bus)

	fmt.Println(OrderPlaced.Publish(ctx, bus, Placed{OrderID: "1"}))
	fmt.Println(OrderPlaced.PublishAsync(ctx, bus, Placed{OrderID: "2"}).Wait(ctx))
	err := bus.Publish(ctx, "order.counted", 2)
	fmt.Println(posthorn.CodeOf(err))
	// Output:
	// order.placed stored
	// <nil>
	// order.placed stored
	// <nil>
	// refused
}

func ExampleBus_Run() {
	ctx, stop := context.WithCancel(context.Background()) // of a signal, in a real program
	bus := openExample()
	defer closeExample(bus)

	points := bus.Group("points", posthorn.GroupConfig{})
	OrderPlaced.Handle(points, func(ctx context.Context, e *posthorn.Event[Placed]) error {
		fmt.Println("points for", e.Key)
		stop()
		return nil
	})
	must(OrderPlaced.Publish(ctx, bus, Placed{OrderID: "7"}))
	fmt.Println(bus.Run(ctx)) // drains
	// Output:
	// points for 7
	// <nil>
}

func ExampleGroup_Start() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)
	group := bus.Group("points", posthorn.GroupConfig{Start: posthorn.FromNow()})
	OrderPlaced.Handle(group, func(context.Context, *posthorn.Event[Placed]) error { return nil })
	fmt.Println(group.Start(ctx), group.Stop(ctx), group.Stop(ctx))
	fmt.Println(posthorn.CodeOf(group.Start(ctx)))
	// Output:
	// <nil> <nil> <nil>
	// conflict
}

func ExampleMiddleware() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)
	say := func(name string) posthorn.Middleware {
		return func(next posthorn.Handler) posthorn.Handler {
			return func(ctx context.Context, d *posthorn.Delivery) error {
				fmt.Println(name, "before", d.Type)
				err := next(ctx, d)
				fmt.Println(name, "after")
				return err
			}
		}
	}
	group := bus.Group("g", posthorn.GroupConfig{Middleware: []posthorn.Middleware{say("first"), say("second")}})
	OrderPlaced.Handle(group, func(context.Context, *posthorn.Event[Placed]) error {
		fmt.Println("handler")
		return nil
	}, posthorn.With(say("third")))
	must(group.Start(ctx))
	must(OrderPlaced.Publish(ctx, bus, Placed{OrderID: "1"}))
	waitUntil(func() bool { return bus.Stats().Handled == 1 })
	// Output:
	// first before order.placed
	// second before order.placed
	// third before order.placed
	// handler
	// third after
	// second after
	// first after
}

func ExampleBus_DeadLetters() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)
	group := bus.Group("billing", posthorn.GroupConfig{
		Retry: posthorn.Retry{Attempts: 2, Delay: time.Millisecond, Late: 1, LateDelay: time.Millisecond},
	})
	OrderPlaced.Handle(group, func(ctx context.Context, e *posthorn.Event[Placed]) error {
		return fmt.Errorf("card declined, attempt %d", e.Attempt)
	})
	must(group.Start(ctx))
	must(OrderPlaced.Publish(ctx, bus, Placed{OrderID: "536365"}))
	waitUntil(func() bool { return deadLetters(bus, "billing") == 1 })
	for d, err := range bus.DeadLetters(ctx, "billing") {
		must(err)
		fmt.Println(d.Type, d.Key, d.Reason, d.Attempts)
		for _, e := range d.Errors {
			fmt.Println(" ", e)
		}
	}
	// Output:
	// order.placed 536365 handler_failed 3
	//   card declined, attempt 1
	//   card declined, attempt 2
	//   card declined, attempt 3
}

func ExamplePermanent() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)
	group := bus.Group("billing", posthorn.GroupConfig{})
	OrderPlaced.Handle(group, func(ctx context.Context, e *posthorn.Event[Placed]) error {
		switch {
		case e.Data.Pence < 0:
			return posthorn.Permanent(errors.New("a negative price"))
		case e.Data.Pence == 0:
			return posthorn.Skip("nothing to pay")
		case e.Attempt == 1:
			return posthorn.RetryAfter(errors.New("the bank is busy"), time.Millisecond)
		}
		return nil
	})
	must(group.Start(ctx))
	for i, pence := range []int{-1, 0, 100} {
		must(OrderPlaced.Publish(ctx, bus, Placed{OrderID: fmt.Sprint(i), Pence: pence}))
	}
	waitUntil(func() bool {
		return deadLetters(bus, "billing") == 1 && bus.Stats().Handled == 1 && bus.Stats().Skipped == 1
	})
	s := bus.Stats()
	fmt.Println("handled", s.Handled, "skipped", s.Skipped, "dead", s.Dead, "retried", s.Retried)
	// Output: handled 1 skipped 1 dead 1 retried 1
}

func ExampleBus_Subscribe() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)
	handled := make(chan struct{})
	must(bus.Subscribe(ctx, "mail.wanted", "mailer", func(ctx context.Context, d *posthorn.Delivery) error {
		var to string
		if err := d.Decode(&to); err != nil {
			return err
		}
		fmt.Println(d.Type, d.ContentType, to)
		close(handled)
		return nil
	}))
	must(bus.Publish(ctx, "mail.wanted", "ada@example.com"))
	<-handled
	// Output: mail.wanted application/json ada@example.com
}

func ExampleProtobuf() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)
	renamed := posthorn.Define[*wrapperspb.StringValue]("customer.renamed", posthorn.Encode(posthorn.Protobuf),
		posthorn.Key(func(v *wrapperspb.StringValue) string { return v.GetValue() }))
	group := bus.Group("g", posthorn.GroupConfig{})
	handled := make(chan struct{})
	renamed.Handle(group, func(ctx context.Context, e *posthorn.Event[*wrapperspb.StringValue]) error {
		fmt.Println(e.ContentType, e.Data.GetValue())
		close(handled)
		return nil
	})
	must(group.Start(ctx))
	must(renamed.Publish(ctx, bus, wrapperspb.String("Ada")))
	<-handled
	// Output: application/protobuf Ada
}

func ExampleDefineTopic() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)
	orders := posthorn.DefineTopic("orders", posthorn.TopicConfig{Partitions: 4, Keep: 30 * 24 * time.Hour})
	placed := posthorn.Define[Placed]("order.placed", posthorn.In(orders))
	must(placed.Publish(ctx, bus, Placed{OrderID: "1"}))

	// Another program, later: it cannot change what stands.
	again := posthorn.DefineTopic("orders", posthorn.TopicConfig{Partitions: 16})
	cancelled := posthorn.Define[Placed]("order.cancelled", posthorn.In(again))
	fmt.Println(posthorn.CodeOf(cancelled.Publish(ctx, bus, Placed{OrderID: "1"})))
	// Output: conflict
}

func ExampleBus_Unsubscribe() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)
	group := bus.Group("points", posthorn.GroupConfig{})
	OrderPlaced.Handle(group, func(context.Context, *posthorn.Event[Placed]) error { return nil })
	must(group.Start(ctx))
	must(group.Stop(ctx))

	must(bus.Unsubscribe(ctx, "points", "order.placed"))
	d, err := bus.Describe(ctx)
	must(err)
	for _, g := range d.Groups {
		fmt.Println(g.Name, g.Types)
	}
	fmt.Println(bus.Unsubscribe(ctx, "points", "order.placed"))
	// Output:
	// points []
	// posthorn: group "points" is not subscribed to "order.placed"; its types are []
}

func ExampleBus_Describe() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)
	must(OrderPlaced.Publish(ctx, bus, Placed{OrderID: "1"}))
	d, err := bus.Describe(ctx)
	must(err)
	for _, t := range d.Things {
		fmt.Printf("%s %s: %s\n", t.Kind, t.Name, t.Why)
	}
	// Output: topic order: 8 partitions in memory
}

func ExampleBus_Health() {
	ctx := context.Background()
	var alarms sync.WaitGroup
	alarms.Add(1)
	bus := openExample(posthorn.OnAlarm(func(a posthorn.Alarm) {
		fmt.Println("alarm:", a.Code)
		alarms.Done()
	}))
	defer closeExample(bus)
	fmt.Println("healthy:", bus.Health(ctx).OK)

	group := bus.Group("slow", posthorn.GroupConfig{})
	wait := make(chan struct{})
	OrderPlaced.Handle(group, func(context.Context, *posthorn.Event[Placed]) error {
		<-wait // ignores its context
		return nil
	}, posthorn.Timeout(10*time.Millisecond))
	must(group.Start(ctx))
	must(OrderPlaced.Publish(ctx, bus, Placed{OrderID: "1"}))
	alarms.Wait()
	fmt.Println("healthy:", bus.Health(ctx).OK)
	close(wait)
	waitUntil(func() bool { return bus.Health(ctx).OK }) // when the handler has returned
	// Output:
	// healthy: true
	// alarm: handler_stuck
	// healthy: false
}

// What a handler publishes has ids that are derived from the event it handles:
// when the handler runs again, it repeats ids, not events.
func Example_publishFromHandler() {
	ctx := context.Background()
	bus := openExample(posthorn.Propagate("tenant"))
	defer closeExample(bus)
	captured := posthorn.Define[string]("payment.captured")

	payment := bus.Group("payment", posthorn.GroupConfig{Retry: posthorn.Retry{Delay: time.Millisecond}})
	OrderPlaced.Handle(payment, func(ctx context.Context, e *posthorn.Event[Placed]) error {
		if err := captured.Publish(ctx, bus, e.Key); err != nil {
			return err
		}
		if e.Attempt == 1 {
			return errors.New("failed after it had published")
		}
		return nil
	})
	points := bus.Group("points", posthorn.GroupConfig{})
	handled := make(chan struct{})
	captured.Handle(points, func(ctx context.Context, e *posthorn.Event[string]) error {
		fmt.Println("captured", e.Data, "tenant", e.Headers["tenant"], "correlation", e.CorrelationID, "cause", e.CausationID)
		close(handled)
		return nil
	})
	must(payment.Start(ctx))
	must(points.Start(ctx))
	must(OrderPlaced.Publish(ctx, bus, Placed{OrderID: "536365"}, posthorn.WithID("first"), posthorn.WithHeader("tenant", "acme")))
	<-handled
	waitUntil(func() bool { return bus.Stats().Handled == 2 })
	// Output: captured 536365 tenant acme correlation first cause first
}

func ExampleExpiresAt() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)
	group := bus.Group("offers", posthorn.GroupConfig{})
	OrderPlaced.Handle(group, func(context.Context, *posthorn.Event[Placed]) error { return nil })
	must(OrderPlaced.Publish(ctx, bus, Placed{OrderID: "1"}, posthorn.ExpiresAt(time.Now().Add(-time.Second))))
	must(group.Start(ctx))
	waitUntil(func() bool { return bus.Stats().Expired == 1 })
	fmt.Println("handled", bus.Stats().Handled, "expired", bus.Stats().Expired)
	// Output: handled 0 expired 1
}

// The span of the publisher reaches the handler, and what the handler publishes.
func Example_trace() {
	bus := openExample()
	defer closeExample(bus)
	id, _ := trace.TraceIDFromHex("4bf92f3577b34da6a3ce929d0e0e4736")
	span, _ := trace.SpanIDFromHex("00f067aa0ba902b7")
	ctx := trace.ContextWithSpanContext(context.Background(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: span, TraceFlags: trace.FlagsSampled}))

	group := bus.Group("g", posthorn.GroupConfig{})
	handled := make(chan struct{})
	OrderPlaced.Handle(group, func(ctx context.Context, e *posthorn.Event[Placed]) error {
		fmt.Println(trace.SpanContextFromContext(ctx).TraceID(), trace.SpanContextFromContext(ctx).IsRemote())
		close(handled)
		return nil
	})
	must(group.Start(ctx))
	must(OrderPlaced.Publish(ctx, bus, Placed{OrderID: "1"}))
	<-handled
	// Output: 4bf92f3577b34da6a3ce929d0e0e4736 true
}

// waitUntil waits for something that happens soon.
func waitUntil(ok func() bool) {
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			panic("it did not happen")
		}
	}
}

func deadLetters(bus *posthorn.Bus, group string) int {
	n := 0
	for _, err := range bus.DeadLetters(context.Background(), group) {
		must(err)
		n++
	}
	return n
}

// Events of one key are handled in the order they were stored in, whatever the
// number of handlers that run.
func ExampleKey() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)
	var mu sync.Mutex
	order := map[string][]int{}
	group := bus.Group("g", posthorn.GroupConfig{Concurrency: 16})
	OrderPlaced.Handle(group, func(ctx context.Context, e *posthorn.Event[Placed]) error {
		mu.Lock()
		defer mu.Unlock()
		order[e.Key] = append(order[e.Key], e.Data.Pence)
		return nil
	})
	must(group.Start(ctx))
	var events []*posthorn.Outgoing
	for i := range 5 {
		events = append(events, OrderPlaced.New(Placed{OrderID: "a", Pence: i}), OrderPlaced.New(Placed{OrderID: "b", Pence: i}))
	}
	must(bus.PublishAll(ctx, events...))
	waitUntil(func() bool { return bus.Stats().Handled == 10 })
	fmt.Println(order["a"], order["b"])
	// Output: [0 1 2 3 4] [0 1 2 3 4]
}

// A topic that has reached its declared size refuses what is published, and says
// which group holds it back.
func ExampleTopicConfig() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)
	small := posthorn.DefineTopic("note", posthorn.TopicConfig{Partitions: 1, MaxBytes: 2000})
	taken := posthorn.Define[string]("note.taken", posthorn.In(small))
	group := bus.Group("readers", posthorn.GroupConfig{})
	taken.Handle(group, func(context.Context, *posthorn.Event[string]) error { return nil })
	must(group.Start(ctx))
	must(group.Stop(ctx)) // registered, and away

	var err error
	for err == nil {
		err = taken.Publish(ctx, bus, "a note of some length, so that few of them are enough")
	}
	fmt.Println(posthorn.CodeOf(err), strings.Contains(err.Error(), `group "readers" holds it back`))
	// Output: topic_full true
}

// upper is a codec of one's own.
type upper struct{}

func (upper) ContentType() string                { return "text/x-upper" }
func (upper) Accepts(mediaType string) bool      { return mediaType == "text/x-upper" }
func (upper) Marshal(v any) ([]byte, error)      { return []byte(strings.ToUpper(v.(string))), nil }
func (upper) Unmarshal(data []byte, v any) error { *v.(*string) = string(data); return nil }

func ExampleCodec() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)
	shouted := posthorn.Define[string]("word.shouted", posthorn.Encode(upper{}))
	group := bus.Group("g", posthorn.GroupConfig{Start: posthorn.FromTime(time.Now().Add(-time.Hour))})
	handled := make(chan struct{})
	shouted.Handle(group, func(ctx context.Context, e *posthorn.Event[string]) error {
		fmt.Println(e.ContentType, e.Data)
		close(handled)
		return nil
	})
	must(group.Start(ctx))
	must(shouted.Publish(ctx, bus, "hello"))
	<-handled
	// Output: text/x-upper HELLO
}
