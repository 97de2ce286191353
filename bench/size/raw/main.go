// Command raw is measured by its size: the least that publishes and handles an
// event on a NATS server by the raw client.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

type placed struct {
	OrderID string `json:"order_id"`
}

func main() {
	if err := run(context.Background(), os.Getenv("BROKER")); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, url string) error {
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	stream, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "order", Subjects: []string{"order.>"}})
	if err != nil {
		return err
	}
	c, err := stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{Durable: "inventory", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		return err
	}
	body, err := json.Marshal(placed{OrderID: "o-1"})
	if err != nil {
		return err
	}
	if _, err := js.Publish(ctx, "order.placed", body); err != nil {
		return err
	}
	done := make(chan error, 1)
	cc, err := c.Consume(func(m jetstream.Msg) { done <- m.Ack() })
	if err != nil {
		return err
	}
	defer cc.Stop()
	return <-done
}
