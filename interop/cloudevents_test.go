package interop

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	jssdk "github.com/cloudevents/sdk-go/protocol/nats_jetstream/v2"
	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/embedded"
)

type placed struct {
	OrderID string `json:"order_id"`
	Pence   int    `json:"pence"`
}

const partitions = 4

var (
	topic = posthorn.DefineTopic("order", posthorn.TopicConfig{Partitions: partitions})

	orderPlaced = posthorn.Define[placed]("order.placed", posthorn.In(topic), posthorn.Version(3),
		posthorn.Schema("https://example.com/order.placed.json"),
		posthorn.Key(func(p placed) string { return p.OrderID }))

	// A message that protobuf brings along stands for one of the user's.
	orderNoted = posthorn.Define[*wrapperspb.StringValue]("order.noted", posthorn.In(topic),
		posthorn.Encode(posthorn.Protobuf),
		posthorn.Key(func(v *wrapperspb.StringValue) string { return v.GetValue() }))
)

// open returns a bus on the embedded broker, and a raw connection to that.
func open(t *testing.T) (*posthorn.Bus, *nats.Conn) {
	t.Helper()
	dir := t.TempDir()
	bus, err := posthorn.Open(t.Context(), "embedded:"+dir, posthorn.Service("shop"),
		posthorn.Logger(slog.New(slog.NewTextHandler(io.Discard, nil))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bus.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	nc, err := embedded.Connect(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return bus, nc
}

// place is where the events of a key stand, for programs that do without
// Posthorn: docs/wire.md says the same in words.
func place(key string) (stream, subject string) {
	n := driver.PartitionOf(key, partitions)
	return fmt.Sprintf("PH-T-order-%d", n), fmt.Sprintf("ph.t.order.%d", n)
}

// sdkReceives reads the first event of a stream with the SDK's client.
func sdkReceives(t *testing.T, nc *nats.Conn, stream, subject string) cloudevents.Event {
	t.Helper()
	consumer, err := jssdk.NewConsumerFromConn(nc, stream, subject, nil,
		[]nats.SubOpt{nats.BindStream(stream), nats.DeliverAll(), nats.AckNone()})
	if err != nil {
		t.Fatal(err)
	}
	client, err := cloudevents.NewClient(consumer)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	got := make(chan cloudevents.Event, 16)
	ended := make(chan error, 1)
	go func() {
		ended <- client.StartReceiver(ctx, func(e cloudevents.Event) { got <- e })
	}()
	var e cloudevents.Event
	select {
	case e = <-got:
	case err := <-ended:
		t.Fatalf("the SDK's receiver ended: %v", err)
	}
	cancel()
	<-ended
	return e
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// An event that we publish is read by the SDK.
func TestSDKReadsOurs(t *testing.T) {
	bus, nc := open(t)
	out := orderPlaced.New(placed{OrderID: "o-17", Pence: 1250}, posthorn.WithHeader("Tenant", "blue"),
		posthorn.WithCorrelationID("c-1"))
	if err := bus.PublishAll(t.Context(), out); err != nil {
		t.Fatal(err)
	}
	stream, subject := place("o-17")
	e := sdkReceives(t, nc, stream, subject)
	if err := e.Validate(); err != nil {
		t.Errorf("the SDK calls the event invalid: %v", err)
	}
	equal(t, "specversion", e.SpecVersion(), "1.0")
	equal(t, "id", e.ID(), out.ID())
	equal(t, "source", e.Source(), "shop")
	equal(t, "type", e.Type(), "order.placed")
	equal(t, "subject", e.Subject(), "o-17")
	equal(t, "datacontenttype", e.DataContentType(), "application/json")
	equal(t, "dataschema", e.DataSchema(), "https://example.com/order.placed.json")
	equal(t, "schemaversion", e.Extensions()["schemaversion"], any("3"))
	equal(t, "correlationid", e.Extensions()["correlationid"], any("c-1"))
	if age := time.Since(e.Time()); age < 0 || age > time.Minute {
		t.Errorf("time is %v, %v ago", e.Time(), age)
	}
	var data placed
	if err := e.DataAs(&data); err != nil {
		t.Fatal(err)
	}
	equal(t, "data", data, placed{"o-17", 1250})
}

// So is one whose data is protobuf.
func TestSDKReadsOurProtobuf(t *testing.T) {
	bus, nc := open(t)
	if err := orderNoted.Publish(t.Context(), bus, wrapperspb.String("o-18")); err != nil {
		t.Fatal(err)
	}
	stream, subject := place("o-18")
	e := sdkReceives(t, nc, stream, subject)
	equal(t, "datacontenttype", e.DataContentType(), "application/protobuf")
	var data wrapperspb.StringValue
	if err := proto.Unmarshal(e.Data(), &data); err != nil {
		t.Fatal(err)
	}
	equal(t, "data", data.GetValue(), "o-18")
}

// An event that the SDK sends is handled by our typed handlers, whichever way the
// SDK writes it.
func TestWeReadTheSDK(t *testing.T) {
	bus, nc := open(t)
	modes := map[string]func(context.Context) context.Context{
		"default":    func(ctx context.Context) context.Context { return ctx },
		"structured": binding.WithForceStructured,
		"binary":     binding.WithForceBinary,
	}
	type seen struct {
		meta posthorn.Meta
		data any
	}
	got := make(chan seen, 16)
	group := bus.Group("reader", posthorn.GroupConfig{})
	orderPlaced.Handle(group, func(_ context.Context, e *posthorn.Event[placed]) error {
		got <- seen{e.Meta, e.Data}
		return nil
	})
	orderNoted.Handle(group, func(_ context.Context, e *posthorn.Event[*wrapperspb.StringValue]) error {
		got <- seen{e.Meta, e.Data.GetValue()}
		return nil
	})
	if err := group.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := func(t *testing.T) seen {
		t.Helper()
		select {
		case s := <-got:
			return s
		case <-time.After(30 * time.Second):
			letters := ""
			for l, err := range bus.DeadLetters(t.Context(), "reader") {
				if err != nil {
					t.Fatal(err)
				}
				letters += fmt.Sprintf("\ndead letter: %s (id %q, type %q): %v", l.Reason, l.ID, l.Type, l.Errors)
			}
			t.Fatalf("no handler was called in 30 s%s", letters)
			return seen{}
		}
	}
	for mode, with := range modes {
		t.Run(mode, func(t *testing.T) {
			key := "o-" + mode
			e := cloudevents.NewEvent()
			e.SetID("id-" + mode)
			e.SetSource("https://example.com/till")
			e.SetType("order.placed")
			e.SetSubject(key)
			e.SetTime(time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC))
			e.SetDataSchema("https://example.com/order.placed.json")
			e.SetExtension("schemaversion", "2")
			e.SetExtension("correlationid", "c-2")
			if err := e.SetData(cloudevents.ApplicationJSON, placed{key, 99}); err != nil {
				t.Fatal(err)
			}
			send(t, nc, with, e)
			s := next(t)
			equal(t, "id", s.meta.ID, "id-"+mode)
			equal(t, "source", s.meta.Source, "https://example.com/till")
			equal(t, "type", s.meta.Type, "order.placed")
			equal(t, "key", s.meta.Key, key)
			equal(t, "time", s.meta.Time.UTC(), e.Time())
			equal(t, "content type", s.meta.ContentType, "application/json")
			equal(t, "schema", s.meta.Schema, "https://example.com/order.placed.json")
			equal(t, "schema version", s.meta.SchemaVersion, 2)
			equal(t, "correlation id", s.meta.CorrelationID, "c-2")
			equal(t, "data", s.data, any(placed{key, 99}))
		})
		t.Run(mode+" protobuf", func(t *testing.T) {
			key := "p-" + mode
			body, err := proto.Marshal(wrapperspb.String(key))
			if err != nil {
				t.Fatal(err)
			}
			e := cloudevents.NewEvent()
			e.SetID("id-p-" + mode)
			e.SetSource("till")
			e.SetType("order.noted")
			e.SetSubject(key)
			if err := e.SetData("application/protobuf", body); err != nil {
				t.Fatal(err)
			}
			send(t, nc, with, e)
			s := next(t)
			equal(t, "id", s.meta.ID, "id-p-"+mode)
			equal(t, "content type", s.meta.ContentType, "application/protobuf")
			equal(t, "data", s.data, any(key))
		})
	}
}

// send sends an event with the SDK's client to the partition of its key.
func send(t *testing.T, nc *nats.Conn, mode func(context.Context) context.Context, e cloudevents.Event) {
	t.Helper()
	stream, subject := place(e.Subject())
	sender, err := jssdk.NewSenderFromConn(nc, stream, subject, nil)
	if err != nil {
		t.Fatal(err)
	}
	client, err := cloudevents.NewClient(sender)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Send(mode(t.Context()), e); cloudevents.IsUndelivered(err) {
		t.Fatalf("the SDK did not send: %v", err)
	}
}

// A value that headers cannot carry as it is comes out of our own reader as it
// went in. The SDK does not decode what the binding asks to encode, and shows the
// escapes: docs/wire.md says so.
func TestPercentEncoding(t *testing.T) {
	bus, nc := open(t)
	const key = "Zoë & 100 %"
	got := make(chan string, 1)
	group := bus.Group("reader", posthorn.GroupConfig{})
	orderPlaced.Handle(group, func(_ context.Context, e *posthorn.Event[placed]) error {
		got <- e.Key
		return nil
	})
	if err := orderPlaced.Publish(t.Context(), bus, placed{OrderID: key}); err != nil {
		t.Fatal(err)
	}
	if err := group.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case k := <-got:
		equal(t, "our key", k, key)
	case <-time.After(30 * time.Second):
		t.Fatal("the handler was not called in 30 s")
	}
	stream, subject := place(key)
	e := sdkReceives(t, nc, stream, subject)
	equal(t, "the SDK's subject", e.Subject(), "Zo%C3%AB%20&%20100%20%25")
	var data placed
	if err := json.Unmarshal(e.Data(), &data); err != nil {
		t.Fatal(err)
	}
	equal(t, "the SDK's data", data.OrderID, key)
}
