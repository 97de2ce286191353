package posthorn_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/posthorn/posthorn"
)

func ExampleBus_Provision() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)

	orders := posthorn.DefineTopic("order", posthorn.TopicConfig{Partitions: 4, Keep: 30 * 24 * time.Hour})
	placed := posthorn.Define[Placed]("order.placed", posthorn.In(orders))
	inventory := bus.Group("inventory", posthorn.GroupConfig{})
	placed.Handle(inventory, func(context.Context, *posthorn.Event[Placed]) error { return nil })

	plan, err := bus.Plan(ctx) // makes nothing
	must(err)
	for _, thing := range plan {
		fmt.Println(thing.Kind, thing.Name, thing.State, thing.Notes)
	}
	made, err := bus.Provision(ctx, inventory) // or a *Topic, an *EventType, a Declaration
	must(err)
	fmt.Println(made.Missing())
	// Output:
	// topic order missing [4 partitions, kept for 720h0m0s]
	// group inventory missing [subscribes to order.placed]
	// false
}

func ExampleParseDeclaration() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)

	d, err := posthorn.ParseDeclaration([]byte(`{
		"topics": [{"name": "order", "partitions": 4, "keep": "30d"}],
		"groups": [{"name": "inventory", "types": ["order.placed"], "start": "beginning"}]
	}`))
	must(err)
	made, err := bus.Provision(ctx, d)
	must(err)
	for _, thing := range made {
		fmt.Println(thing.Kind, thing.Name, thing.State)
	}
	// Output:
	// topic order made
	// group inventory made
}

func ExampleBus_Why() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)

	failed := make(chan struct{})
	billing := bus.Group("billing", posthorn.GroupConfig{})
	OrderPlaced.Handle(billing, func(context.Context, *posthorn.Event[Placed]) error {
		defer close(failed)
		return posthorn.Permanent(errors.New("no such customer"))
	})
	must(billing.Start(ctx))
	order := OrderPlaced.New(Placed{OrderID: "7"})
	must(bus.PublishAll(ctx, order))
	<-failed
	must(billing.Stop(ctx))

	copies, err := bus.Why(ctx, order.ID(), posthorn.WhyConfig{})
	must(err)
	for _, s := range copies[0].Groups {
		fmt.Printf("%s: %s: %s\n", s.Group, s.State, s.Why)
	}
	// Output: billing: dead letter: the group gave up after 1 attempt: no such customer
}

func ExampleBus_Tail() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)
	for _, id := range []string{"1", "2", "3"} {
		must(OrderPlaced.Publish(ctx, bus, Placed{OrderID: id}))
	}

	// Without Stop it goes on with what is published next, until ctx ends.
	hour := time.Now().Add(-time.Hour)
	for d, err := range bus.Tail(ctx, posthorn.TailConfig{Types: []string{"order.*"}, Since: hour, Stop: true}) {
		must(err)
		fmt.Println(d.Type, d.Key)
	}
	// Output:
	// order.placed 1
	// order.placed 2
	// order.placed 3
}

func ExampleBus_Pause() {
	ctx := context.Background()
	bus := openExample()
	defer closeExample(bus)
	_, err := bus.Provision(ctx, posthorn.Declaration{Groups: []posthorn.GroupDeclaration{{Name: "inventory", Types: []string{"order.placed"}}}})
	must(err)

	must(bus.Pause(ctx, "inventory", "stock-taking"))
	g, err := bus.GroupStatus(ctx, "inventory")
	must(err)
	fmt.Println(g.Paused)
	must(bus.Resume(ctx, "inventory"))
	must(bus.Reset(ctx, "inventory", posthorn.FromNow()))
	must(bus.Remove(ctx, "inventory"))
	// Output: stock-taking
}
