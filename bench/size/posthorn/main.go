// Command posthorn is measured by its size: the least that publishes and handles
// an event on a NATS server by a bus.
package main

import (
	"context"
	"log"
	"os"

	"github.com/posthorn/posthorn"
	_ "github.com/posthorn/posthorn/driver/jetstream"
)

type placed struct {
	OrderID string `json:"order_id"`
}

var orderPlaced = posthorn.Define[placed]("order.placed")

func main() {
	if err := run(context.Background(), os.Getenv("BROKER")); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, url string) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	bus, err := posthorn.Open(ctx, url)
	if err != nil {
		return err
	}
	defer bus.Close(context.Background())
	orderPlaced.Handle(bus.Group("inventory", posthorn.GroupConfig{}), func(ctx context.Context, e *posthorn.Event[placed]) error {
		stop()
		return nil
	})
	if err := orderPlaced.Publish(ctx, bus, placed{OrderID: "o-1"}); err != nil {
		return err
	}
	return bus.Run(ctx)
}
