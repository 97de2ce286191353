// Command hello publishes one event and handles it. It is the first program of
// the README.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/posthorn/posthorn"
	_ "github.com/posthorn/posthorn/driver/embedded"
)

type Placed struct {
	OrderID string `json:"order_id"`
	Pence   int    `json:"pence"`
}

var OrderPlaced = posthorn.Define[Placed]("order.placed",
	posthorn.Key(func(p Placed) string { return p.OrderID })) // events of one order keep their order

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, stop); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, stop func()) error {
	bus, err := posthorn.Open(ctx, "embedded:./posthorn-data", posthorn.Service("hello"))
	if err != nil {
		return err
	}
	defer bus.Close(context.Background())

	inventory := bus.Group("inventory", posthorn.GroupConfig{})
	OrderPlaced.Handle(inventory, func(ctx context.Context, e *posthorn.Event[Placed]) error {
		fmt.Println("reserve the goods of order", e.Data.OrderID)
		stop() // one is enough here; a service goes on until it is told to stop
		return nil
	})

	if err := OrderPlaced.Publish(ctx, bus, Placed{OrderID: "o-1", Pence: 1250}); err != nil {
		return err
	}
	return bus.Run(ctx) // all groups, until ctx ends; then it drains
}
