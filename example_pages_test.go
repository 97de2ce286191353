package posthorn_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/posthorn/posthorn"
)

// These examples stand in the pages of docs.

var OrderCancelled = posthorn.Define[Placed]("order.cancelled",
	posthorn.Key(func(p Placed) string { return p.OrderID }))

// An event keeps its id, so that publishing it again is safe when it is not known
// whether it is stored.
func ExampleOutgoing() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)

	order := OrderPlaced.New(Placed{OrderID: "7"})
	err := bus.PublishAll(ctx, order)
	for range 3 {
		if posthorn.CodeOf(err) != posthorn.CodeUnknown {
			break
		}
		err = bus.PublishAll(ctx, order) // the same id: it is stored once
	}
	must(err)

	must(bus.PublishAll(ctx, order))
	topics, err := bus.Topics(ctx)
	must(err)
	fmt.Println(topics[0].Events)
	// Output: 1
}

// A handler may see an event again. What it does then must do no harm: the key is
// the same each time.
func ExampleMeta_IdempotencyKey() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)
	bank := map[string]int{} // stands for a system that takes a key with each request

	billing := bus.Group("billing", posthorn.GroupConfig{Retry: posthorn.Retry{Delay: time.Millisecond}})
	OrderPlaced.Handle(billing, func(ctx context.Context, e *posthorn.Event[Placed]) error {
		bank[e.IdempotencyKey()] = e.Data.Pence
		if e.Attempt == 1 {
			return errors.New("the answer got lost")
		}
		return nil
	})
	must(billing.Start(ctx))
	must(OrderPlaced.Publish(ctx, bus, Placed{OrderID: "7", Pence: 1250}))
	waitUntil(func() bool { return bus.Stats().Handled == 1 })
	fmt.Println("attempts", bus.Stats().Started, "payments", len(bank))
	// Output: attempts 2 payments 1
}

func ExampleRetry() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)

	billing := bus.Group("billing", posthorn.GroupConfig{
		Retry: posthorn.Retry{Attempts: 5, Late: 20, MaxLateDelay: 6 * time.Hour}, // the bank may be away for a day
	})
	OrderPlaced.Handle(billing, func(context.Context, *posthorn.Event[Placed]) error { return nil })
	OrderCancelled.Handle(billing, func(context.Context, *posthorn.Event[Placed]) error {
		return errors.New("no such order")
	}, posthorn.WithRetry(posthorn.Retry{Attempts: posthorn.None, Late: posthorn.None})) // one attempt, no other
	must(billing.Start(ctx))
	must(OrderCancelled.Publish(ctx, bus, Placed{OrderID: "7"}))
	waitUntil(func() bool { return deadLetters(bus, "billing") == 1 })
	fmt.Println("attempts", bus.Stats().Started)
	// Output: attempts 1
}

// A new group goes through what is kept of the past, no quicker than it may.
func Example_rateLimit() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)
	for i := range 30 {
		must(OrderPlaced.Publish(ctx, bus, Placed{OrderID: fmt.Sprint(i)}))
	}

	report := bus.Group("report", posthorn.GroupConfig{Start: posthorn.FromBeginning(), RateLimit: 100})
	OrderPlaced.Handle(report, func(context.Context, *posthorn.Event[Placed]) error { return nil })
	began := time.Now()
	must(report.Start(ctx))
	waitUntil(func() bool { return bus.Stats().Handled == 30 })
	fmt.Println("took its time:", time.Since(began) > 150*time.Millisecond)
	// Output: took its time: true
}

// In strict order, the events of a key wait behind one of them that has failed. Those
// of other keys go on.
func Example_strictOrder() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)
	mended := make(chan struct{})
	booked := make(chan string, 4)

	ledger := bus.Group("ledger", posthorn.GroupConfig{StrictOrder: true})
	book := func(ctx context.Context, e *posthorn.Event[Placed]) error {
		if e.Type == "order.placed" && e.Key == "7" {
			select {
			case <-mended:
			default:
				return errors.New("the books are closed")
			}
		}
		booked <- fmt.Sprint(e.Type, " ", e.Key)
		return nil
	}
	soon := posthorn.WithRetry(posthorn.Retry{Attempts: posthorn.None, Late: 1000, LateDelay: time.Millisecond, MaxLateDelay: 10 * time.Millisecond})
	OrderPlaced.Handle(ledger, book, soon)
	OrderCancelled.Handle(ledger, book, soon)
	must(ledger.Start(ctx))
	must(OrderPlaced.Publish(ctx, bus, Placed{OrderID: "7"}))
	must(OrderCancelled.Publish(ctx, bus, Placed{OrderID: "7"}))
	must(OrderPlaced.Publish(ctx, bus, Placed{OrderID: "8"}))
	fmt.Println(<-booked)
	close(mended)
	fmt.Println(<-booked)
	fmt.Println(<-booked)
	// Output:
	// order.placed 8
	// order.placed 7
	// order.cancelled 7
}

// Types of one topic share the order of their keys.
func Example_orderOfTypes() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)

	packing := bus.Group("packing", posthorn.GroupConfig{})
	OrderPlaced.Handle(packing, func(ctx context.Context, e *posthorn.Event[Placed]) error {
		fmt.Println("pack", e.Key)
		return nil
	})
	OrderCancelled.Handle(packing, func(ctx context.Context, e *posthorn.Event[Placed]) error {
		fmt.Println("unpack", e.Key)
		return nil
	})
	must(packing.Start(ctx))
	must(bus.PublishAll(ctx, OrderPlaced.New(Placed{OrderID: "7"}), OrderCancelled.New(Placed{OrderID: "7"})))
	waitUntil(func() bool { return bus.Stats().Handled == 2 })
	// Output:
	// pack 7
	// unpack 7
}

// A face for a load balancer or an orchestrator.
func Example_healthz() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)

	healthz := func(w http.ResponseWriter, r *http.Request) {
		h := bus.Health(r.Context())
		if !h.OK {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(h)
	}

	w := httptest.NewRecorder()
	healthz(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/healthz", nil))
	fmt.Print(w.Code, " ", w.Body)
	// Output: 200 {"OK":true,"Reasons":null}
}

// A service runs until it is told to stop, and then finishes what it has begun.
func Example_service() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	bus := openExample()
	defer closeExample(bus)

	billing := bus.Group("billing", posthorn.GroupConfig{Drain: 20 * time.Second})
	OrderPlaced.Handle(billing, func(ctx context.Context, e *posthorn.Event[Placed]) error {
		stop()                       // stands for the signal
		time.Sleep(time.Millisecond) // and this for work
		fmt.Println("finished", e.Key)
		return ctx.Err() // which has not ended
	})
	must(OrderPlaced.Publish(ctx, bus, Placed{OrderID: "7"}))
	if err := bus.Run(ctx); err != nil {
		fmt.Println("not all could be finished in time:", err)
	}
	// Output: finished 7
}
