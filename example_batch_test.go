package posthorn_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/posthorn/posthorn"
)

// Recommended is published for each order that a recommendation follows from.
type Recommended struct {
	OrderID string `json:"order_id"`
}

var OrderRecommended = posthorn.Define[Recommended]("recommendation.made",
	posthorn.Key(func(r Recommended) string { return r.OrderID }))

func ExampleEventType_HandleBatch() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)
	recommendation := bus.Group("recommendation", posthorn.GroupConfig{})
	OrderPlaced.HandleBatch(recommendation, func(ctx context.Context, events []*posthorn.Event[Placed]) error {
		fmt.Println(len(events), "orders")
		verdicts := make(posthorn.Verdicts, len(events))
		for i, e := range events {
			if e.Data.Pence == 0 {
				verdicts[i] = posthorn.Permanent(errors.New("an order without a price"))
				continue
			}
			verdicts[i] = OrderRecommended.Publish(ctx, bus, Recommended{OrderID: e.Data.OrderID}, posthorn.CausedBy(e))
		}
		return verdicts
	}, posthorn.BatchSize(3), posthorn.BatchWait(time.Minute), posthorn.Timeout(5*time.Second))
	must(recommendation.Start(ctx))

	must(bus.PublishAll(ctx, OrderPlaced.New(Placed{"1", 100}), OrderPlaced.New(Placed{"2", 0}), OrderPlaced.New(Placed{"3", 300})))
	waitUntil(func() bool { return bus.Stats().Handled == 2 && deadLetters(bus, "recommendation") == 1 })
	fmt.Println(bus.Stats().Published-3, "recommendations")
	// Output:
	// 3 orders
	// 2 recommendations
}
