package posthorn_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/posthorn/posthorn"
)

func testBus(t *testing.T, opts ...posthorn.Option) *posthorn.Bus {
	t.Helper()
	bus, err := posthorn.Open(t.Context(), "memory:", append([]posthorn.Option{posthorn.Service("test"), posthorn.Logger(slog.New(slog.DiscardHandler))}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bus.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return bus
}

// wantError holds an error against its code and against what its text has to name.
func wantError(t *testing.T, err error, code posthorn.Code, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; wanted %s with %q", code, words)
	}
	if got := posthorn.CodeOf(err); got != code {
		t.Errorf("code %s, wanted %s: %v", got, code, err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the text does not say %q: %v", w, err)
		}
	}
	if strings.Count(err.Error(), "posthorn: ") > 1 {
		t.Errorf("the prefix stands twice: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		url   string
		opts  []posthorn.Option
		code  posthorn.Code
		words []string
	}{
		{url: "", code: posthorn.CodeInvalid, words: []string{"no scheme", "embedded:./data"}},
		{url: "orders", code: posthorn.CodeInvalid, words: []string{"no scheme", "orders"}},
		{url: "://x", code: posthorn.CodeInvalid, words: []string{"cannot be read"}},
		{url: "localhost:4222", code: posthorn.CodeInvalid, words: []string{"no scheme", "nats://localhost:4222"}},
		{url: "127.0.0.1:4222", code: posthorn.CodeInvalid, words: []string{"cannot be read", "nats://host:4222"}},
		{url: "carrier-pigeon://loft", code: posthorn.CodeInvalid, words: []string{"carrier-pigeon", "memory", "embedded"}},
		{url: "embedded:./data", code: posthorn.CodeInvalid, words: []string{"not in this program", `import _ "github.com/posthorn/posthorn/driver/embedded"`}},
		{url: "memory:?shape=ring", code: posthorn.CodeInvalid, words: []string{"shape=ring", "log and queue"}},
		{url: "memory:?size=3", code: posthorn.CodeInvalid, words: []string{`"size"`, "shape"}},
		{url: "memory://host/x", code: posthorn.CodeInvalid, words: []string{"memory:name"}},
		{url: "memory:", opts: []posthorn.Option{posthorn.Service("My Shop")}, code: posthorn.CodeInvalid, words: []string{`"My Shop"`, "lower-case"}},
		{url: "memory:", opts: []posthorn.Option{posthorn.Logger(nil)}, code: posthorn.CodeInvalid, words: []string{"Logger(nil)", "slog.Default"}},
		{url: "memory:", opts: []posthorn.Option{posthorn.PublishTimeout(0)}, code: posthorn.CodeInvalid, words: []string{"PublishTimeout"}},
		{url: "memory:", opts: []posthorn.Option{posthorn.MaxPayload(-1)}, code: posthorn.CodeInvalid, words: []string{"MaxPayload"}},
		{url: "memory:", opts: []posthorn.Option{posthorn.Propagate("ce-id")}, code: posthorn.CodeInvalid, words: []string{"ce-id", "reserved"}},
	} {
		t.Run(c.url, func(t *testing.T) {
			t.Parallel()
			_, err := posthorn.Open(t.Context(), c.url, c.opts...)
			wantError(t, err, c.code, c.words...)
		})
	}
}

// A password in a URL is in no error.
func TestOpenHidesSecrets(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"nats://user:hunter2@host:4222", "nats://user:hunter2@ho st:4222/%zz"} {
		_, err := posthorn.Open(t.Context(), url)
		wantError(t, err, posthorn.CodeInvalid)
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the password is in the error: %v", err)
		}
	}
}

func TestDefineRefuses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 81)
	for _, c := range []struct {
		name  string
		ev    *posthorn.EventType[string]
		words []string
	}{
		{"empty", posthorn.Define[string](""), []string{`""`, "is empty"}},
		{"upper case", posthorn.Define[string]("Order.Placed"), []string{`"Order.Placed"`, "lower-case"}},
		{"space", posthorn.Define[string]("order placed"), []string{`"order placed"`}},
		{"wildcard", posthorn.Define[string]("order.>"), []string{`'>'`}},
		{"empty part", posthorn.Define[string]("order..placed"), []string{"empty part"}},
		{"dot at the end", posthorn.Define[string]("order."), []string{"empty part"}},
		{"too long", posthorn.Define[string](long), []string{"81 bytes", "at most 80"}},
		{"nil topic", posthorn.Define[string]("a.b", posthorn.In(nil)), []string{"In(nil)"}},
		{"nil codec", posthorn.Define[string]("a.b", posthorn.Encode(nil)), []string{"Encode(nil)"}},
		{"version", posthorn.Define[string]("a.b", posthorn.Version(0)), []string{"Version(0)"}},
		{"key of another type", posthorn.Define[string]("a.b", posthorn.Key(func(int) string { return "" })), []string{"func(int) string", "string"}},
		{"topic name", posthorn.Define[string]("a.b", posthorn.In(posthorn.DefineTopic("A", posthorn.TopicConfig{}))), []string{`topic name "A"`}},
		{"partitions", posthorn.Define[string]("a.b", posthorn.In(posthorn.DefineTopic("a", posthorn.TopicConfig{Partitions: 1000}))), []string{"Partitions is 1000", "256"}},
		{"keep", posthorn.Define[string]("a.b", posthorn.In(posthorn.DefineTopic("a", posthorn.TopicConfig{Keep: -time.Hour}))), []string{"Keep"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			bus := testBus(t)
			wantError(t, c.ev.Publish(t.Context(), bus, "x"), posthorn.CodeInvalid, c.words...)
			g := bus.Group("g", posthorn.GroupConfig{})
			c.ev.Handle(g, func(context.Context, *posthorn.Event[string]) error { return nil })
			wantError(t, g.Start(t.Context()), posthorn.CodeInvalid, c.words...)
			wantError(t, bus.Run(t.Context()), posthorn.CodeInvalid, c.words...)
		})
	}
}

func TestPublishRefuses(t *testing.T) {
	t.Parallel()
	bus := testBus(t, posthorn.MaxPayload(1000))
	note := posthorn.Define[any]("note.taken")
	pb := posthorn.Define[*wrapperspb.StringValue]("note.sealed", posthorn.Encode(posthorn.Protobuf))
	ctx := t.Context()
	done, cancel := context.WithCancel(ctx)
	cancel()
	wantError(t, note.Publish(ctx, bus, strings.Repeat("x", 2000)), posthorn.CodeTooLarge, "note.taken", "2002", "1000", "MaxPayload")
	wantError(t, note.Publish(ctx, bus, func() {}), posthorn.CodeInvalid, "note.taken", "encode")
	wantError(t, note.Publish(ctx, bus, "x", posthorn.WithHeader("Nats-Msg-Id", "1")), posthorn.CodeInvalid, "Nats-Msg-Id", "reserved")
	wantError(t, note.Publish(ctx, bus, "x", posthorn.WithHeader("a b", "1")), posthorn.CodeInvalid, `"a b"`)
	wantError(t, note.Publish(ctx, bus, "x", posthorn.WithHeader("a", "1\r\nb: 2")), posthorn.CodeInvalid, "line break")
	wantError(t, note.Publish(ctx, bus, "x", posthorn.WithHeader("a", strings.Repeat("x", 9000))), posthorn.CodeTooLarge, "headers", "8192")
	wantError(t, note.Publish(ctx, bus, "x", posthorn.WithID("")), posthorn.CodeInvalid, "WithID")
	wantError(t, note.Publish(ctx, bus, "x", posthorn.WithKey("")), posthorn.CodeInvalid, "WithKey")
	wantError(t, note.Publish(ctx, bus, "x", posthorn.Named("n")), posthorn.CodeInvalid, "Named", "handler")
	wantError(t, note.Publish(done, bus, "x"), posthorn.CodeCanceled)
	wantError(t, bus.PublishAll(ctx, nil), posthorn.CodeInvalid, "event 0")
	wantError(t, bus.Publish(ctx, "Bad Name", 1), posthorn.CodeInvalid, "Bad Name")
	wantError(t, OrderPlaced.Publish(ctx, bus, Placed{}), posthorn.CodeInvalid, "order.placed", "key is empty")
	if err := pb.Publish(ctx, bus, wrapperspb.String("x")); err != nil {
		t.Error(err)
	}
	if s := bus.Stats(); s.Published != 1 || s.Unknown != 0 {
		t.Errorf("something was stored: %+v", s)
	}
}

func TestDefinedTwice(t *testing.T) {
	t.Parallel()
	bus := testBus(t)
	a := posthorn.Define[string]("note.taken")
	b := posthorn.Define[string]("note.taken", posthorn.Version(2))
	c := posthorn.Define[string]("note.taken", posthorn.Key(func(s string) string { return s }))
	same := posthorn.Define[string]("note.taken")
	for _, err := range []error{a.Publish(t.Context(), bus, "x"), same.Publish(t.Context(), bus, "x")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	wantError(t, b.Publish(t.Context(), bus, "x"), posthorn.CodeConflict, "note.taken", "defined twice", "version (1 and 2)")
	g := bus.Group("g", posthorn.GroupConfig{})
	c.Handle(g, func(context.Context, *posthorn.Event[string]) error { return nil })
	wantError(t, g.Start(t.Context()), posthorn.CodeConflict, "note.taken", "key")
}

func TestGroupRefuses(t *testing.T) {
	t.Parallel()
	nothing := func(context.Context, *posthorn.Event[Placed]) error { return nil }
	for _, c := range []struct {
		name  string
		set   func(bus *posthorn.Bus) *posthorn.Group
		code  posthorn.Code
		words []string
	}{
		{"name", func(bus *posthorn.Bus) *posthorn.Group { return bus.Group("The Group", posthorn.GroupConfig{}) }, posthorn.CodeInvalid, []string{`"The Group"`, "group name"}},
		{"long name", func(bus *posthorn.Bus) *posthorn.Group {
			return bus.Group(strings.Repeat("g", 65), posthorn.GroupConfig{})
		}, posthorn.CodeInvalid, []string{"65 bytes"}},
		{"no handler", func(bus *posthorn.Bus) *posthorn.Group { return bus.Group("g", posthorn.GroupConfig{}) }, posthorn.CodeInvalid, []string{`"g"`, "no handler"}},
		{"negative", func(bus *posthorn.Bus) *posthorn.Group { return bus.Group("g", posthorn.GroupConfig{Concurrency: -1}) }, posthorn.CodeInvalid, []string{"Concurrency", "negative"}},
		{"retry", func(bus *posthorn.Bus) *posthorn.Group {
			return bus.Group("g", posthorn.GroupConfig{Retry: posthorn.Retry{Late: -2}})
		}, posthorn.CodeInvalid, []string{"Retry", "posthorn.None"}},
		{"two configs", func(bus *posthorn.Bus) *posthorn.Group {
			bus.Group("g", posthorn.GroupConfig{Concurrency: 3})
			return bus.Group("g", posthorn.GroupConfig{Concurrency: 4})
		}, posthorn.CodeConflict, []string{`"g"`, "twice"}},
		{"two handlers", func(bus *posthorn.Bus) *posthorn.Group {
			g := bus.Group("g", posthorn.GroupConfig{})
			OrderPlaced.Handle(g, nothing)
			OrderPlaced.Handle(g, nothing)
			return g
		}, posthorn.CodeConflict, []string{`"g"`, "two handlers", "order.placed"}},
		{"nil handler", func(bus *posthorn.Bus) *posthorn.Group {
			g := bus.Group("g", posthorn.GroupConfig{})
			OrderPlaced.Handle(g, nil)
			return g
		}, posthorn.CodeInvalid, []string{"order.placed", "nil"}},
		{"timeout", func(bus *posthorn.Bus) *posthorn.Group {
			g := bus.Group("g", posthorn.GroupConfig{})
			OrderPlaced.Handle(g, nothing, posthorn.Timeout(-1))
			return g
		}, posthorn.CodeInvalid, []string{"timeout", "order.placed"}},
		{"started twice", func(bus *posthorn.Bus) *posthorn.Group {
			g := bus.Group("g", posthorn.GroupConfig{})
			OrderPlaced.Handle(g, nothing)
			must(g.Start(context.Background()))
			return g
		}, posthorn.CodeConflict, []string{`"g"`, "started before"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			bus := testBus(t)
			g := c.set(bus)
			wantError(t, g.Start(t.Context()), c.code, c.words...)
			wantError(t, bus.Run(t.Context()), c.code, c.words...)
		})
	}
	wantError(t, testBus(t).Run(t.Context()), posthorn.CodeInvalid, "no group", "bus.Group")
}

func TestTopicChanged(t *testing.T) {
	t.Parallel()
	var logged strings.Builder
	var n atomic.Int64
	bus := testBus(t, posthorn.Logger(slog.New(slog.NewTextHandler(&logged, nil))))
	ctx := t.Context()
	in := func(c posthorn.TopicConfig) *posthorn.EventType[string] {
		return posthorn.Define[string](fmt.Sprintf("t.n%d", n.Add(1)), posthorn.In(posthorn.DefineTopic("t", c)))
	}
	if err := in(posthorn.TopicConfig{Partitions: 4, Keep: time.Hour, MaxBytes: 1 << 20}).Publish(ctx, bus, "x"); err != nil {
		t.Fatal(err)
	}
	wantError(t, in(posthorn.TopicConfig{Partitions: 8}).Publish(ctx, bus, "x"), posthorn.CodeConflict, `topic "t"`, "Partitions", "8", "4", "new topic name")
	wantError(t, in(posthorn.TopicConfig{Keep: 2 * time.Hour}).Publish(ctx, bus, "x"), posthorn.CodeConflict, "Keep", "2h0m0s", "1h0m0s")
	wantError(t, in(posthorn.TopicConfig{MaxBytes: 2 << 20}).Publish(ctx, bus, "x"), posthorn.CodeConflict, "MaxBytes")
	if err := in(posthorn.TopicConfig{Keep: time.Minute}).Publish(ctx, bus, "x"); err != nil {
		t.Errorf("a declaration that asks for less is refused: %v", err)
	}
	if !strings.Contains(logged.String(), "1m0s") {
		t.Errorf("no warning for it: %s", logged.String())
	}
}

func TestClosed(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	bus := testBus(t)
	if err := bus.Close(ctx); err != nil {
		t.Fatal(err)
	}
	wantError(t, OrderPlaced.Publish(ctx, bus, Placed{OrderID: "1"}), posthorn.CodeClosed, "closed")
	g := bus.Group("g", posthorn.GroupConfig{})
	OrderPlaced.Handle(g, func(context.Context, *posthorn.Event[Placed]) error { return nil })
	wantError(t, g.Start(ctx), posthorn.CodeClosed, "closed")
	if bus.Health(ctx).OK {
		t.Error("a closed bus is healthy")
	}
	if err := bus.Close(ctx); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

func TestUnsubscribeRefuses(t *testing.T) {
	t.Parallel()
	bus := testBus(t)
	wantError(t, bus.Unsubscribe(t.Context(), "nobody", "order.placed"), posthorn.CodeNotFound, `"nobody"`, "not registered")
	wantError(t, bus.Unsubscribe(t.Context(), "No One", "order.placed"), posthorn.CodeInvalid, `"No One"`)
	for _, err := range bus.DeadLetters(t.Context(), "nobody") {
		wantError(t, err, posthorn.CodeNotFound, `"nobody"`)
	}
}
