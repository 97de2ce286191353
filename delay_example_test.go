package posthorn_test

import (
	"context"
	"fmt"
	"time"

	"github.com/posthorn/posthorn"
)

func ExampleAfter() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)

	handled := make(chan struct{})
	mail := bus.Group("mail", posthorn.GroupConfig{})
	OrderPlaced.Handle(mail, func(ctx context.Context, e *posthorn.Event[Placed]) error {
		fmt.Println("order", e.Key)
		if e.Key == "later" {
			close(handled)
		}
		return nil
	})
	must(mail.Start(ctx))

	must(bus.PublishAll(ctx,
		OrderPlaced.New(Placed{OrderID: "later"}, posthorn.After(100*time.Millisecond)),
		OrderPlaced.New(Placed{OrderID: "now"})))
	<-handled
	// Output:
	// order now
	// order later
}

func ExampleAt() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)

	tomorrow := time.Now().AddDate(0, 0, 1)
	must(OrderPlaced.Publish(ctx, bus, Placed{OrderID: "7"}, posthorn.At(tomorrow)))
	fmt.Println(bus.Stats().Delayed, bus.Stats().Moved) // it waits on the broker
	// Output: 1 0
}

func ExampleEventType_Cancel() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)

	reminder := posthorn.Define[string]("basket.forgotten")
	must(reminder.Publish(ctx, bus, "still in your basket", posthorn.WithID("basket-7"), posthorn.After(72*time.Hour)))

	// Seven has paid.
	fmt.Println(reminder.Cancel(ctx, bus, "basket-7"))
	fmt.Println(reminder.Cancel(ctx, bus, "basket-7")) // nothing waits any more
	// Output:
	// true <nil>
	// false <nil>
}

func ExampleBus_Cancel() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)

	must(bus.Publish(ctx, "basket.forgotten", "7", posthorn.WithID("basket-7"), posthorn.After(time.Hour)))
	fmt.Println(bus.Cancel(ctx, "basket.forgotten", "basket-7"))
	// Output: true <nil>
}
