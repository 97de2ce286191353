//go:build unix

package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver/embedded/natstest"
)

// documentedRights reads from docs/nats.md what a user must be allowed.
func documentedRights(t *testing.T, instance string) (publish, subscribe []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "nats.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## What a user must be allowed\n")
	section, _, _ = strings.Cut(section, "\n## ")
	code := regexp.MustCompile("`([^`]+)`")
	for line := range strings.Lines(section) {
		switch cells := strings.Split(line, "|"); {
		case strings.HasPrefix(line, "| `"):
			for _, m := range code.FindAllStringSubmatch(cells[1], -1) {
				publish = append(publish, m[1])
			}
		case strings.HasPrefix(line, "Subscribe to "):
			line, _, _ = strings.Cut(line, ". ")
			for _, m := range code.FindAllStringSubmatch(line, -1) {
				subscribe = append(subscribe, m[1])
			}
		}
	}
	if instance != "" { // as the page says
		for _, all := range [][]string{publish, subscribe} {
			for i := range all {
				all[i] = strings.Replace(all[i], "ph.", "ph-"+instance+".", 1)
			}
		}
		publish = append(publish, "ph.x.serve")
	}
	if len(publish) < 10 || len(subscribe) < 2 {
		t.Fatalf("docs/nats.md: these rights were found: %q, %q", publish, subscribe)
	}
	return publish, subscribe
}

// A user who is allowed what docs/nats.md lists, and nothing else, can do all that
// a bus does.
func TestDocumentedRights(t *testing.T) {
	t.Parallel()
	for _, instance := range []string{"", "one"} {
		t.Run("instance "+instance, func(t *testing.T) {
			t.Parallel()
			publish, subscribe := documentedRights(t, instance)
			s := natstest.Start(t, natstest.Options{Config: fmt.Sprintf(
				`authorization { users: [ {user: ann, password: ann, permissions: { publish: {allow: [%s]}, subscribe: {allow: [%s]} } } ] }`,
				quoted(publish), quoted(subscribe))})
			url := fmt.Sprintf("nats://ann:ann@%s?durability=server&lease=500ms", s.Addr())
			if instance != "" {
				url += "&instance=" + instance
			}
			log := &lockedBuffer{}
			allThatABusDoes(t, url, posthorn.Logger(slog.New(slog.NewTextHandler(log, nil))))
			for line := range strings.Lines(log.String()) {
				if strings.Contains(line, "right is missing") || strings.Contains(line, "denied") || strings.Contains(line, "ermission") {
					t.Errorf("the log says: %s", line)
				}
			}
		})
	}
}

// The configuration that docs/nats.md shows is one that the server reads as it is meant.
func TestDocumentedConfig(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "nats.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(text), "<!-- checked by TestDocumentedConfig in driver/embedded -->\n\n```text\n")
	block, _, _ = strings.Cut(block, "```")
	t.Setenv("SHOP_PASSWORD", "a-secret")
	o := &server.Options{}
	if err := o.ProcessConfigString(block); err != nil {
		t.Fatalf("%v in\n%s", err, block)
	}
	if !o.JetStream || o.StoreDir == "" || o.ServerName == "" || o.Cluster.Name == "" || len(o.Routes) != 3 || len(o.Users) != 1 || o.Users[0].Password != "a-secret" {
		t.Errorf("read as %+v", o)
	}
}

func quoted(subjects []string) string {
	var all []string
	for _, s := range subjects {
		all = append(all, fmt.Sprintf("%q", s))
	}
	return strings.Join(all, ", ")
}

// allThatABusDoes uses each method of a bus that asks the broker.
func allThatABusDoes(t *testing.T, url string, log posthorn.Option) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for !ok() {
			if ctx.Err() != nil {
				t.Fatalf("it never came true: %s", what)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	bus, err := posthorn.Open(ctx, url, log, posthorn.Service("shop"))
	must("open", err)
	defer bus.Close(context.Background())

	orders := posthorn.DefineTopic("order", posthorn.TopicConfig{Partitions: 2, Keep: time.Second})
	placed := posthorn.Define[string]("order.placed", posthorn.In(orders), posthorn.Key(func(s string) string { return s }))
	spare := posthorn.Define[string]("order.spare", posthorn.In(orders))
	group := bus.Group("g", posthorn.GroupConfig{Concurrency: 1, Retry: posthorn.Retry{Attempts: posthorn.None, Late: 1, LateDelay: time.Millisecond}})
	placed.Handle(group, func(ctx context.Context, e *posthorn.Event[string]) error {
		if e.Data == "bad" {
			return errors.New("it is bad")
		}
		return nil
	})
	spare.Handle(group, func(context.Context, *posthorn.Event[string]) error { return nil })
	_, err = bus.Provision(ctx)
	must("provision", err)
	must("start", group.Start(ctx))

	order := placed.New("bad")
	var events []*posthorn.Outgoing
	for i := range 50 {
		events = append(events, placed.New(fmt.Sprint(i)))
	}
	must("publish", bus.PublishAll(ctx, append(events, order)...))
	must("publish for later", placed.Publish(ctx, bus, "soon", posthorn.After(50*time.Millisecond)))
	must("publish for much later", placed.Publish(ctx, bus, "late", posthorn.After(time.Hour), posthorn.WithID("late")))
	if was, err := placed.Cancel(ctx, bus, "late"); err != nil || !was {
		t.Fatalf("cancel: %v, %v", was, err)
	}
	until("all is handled, and one is dead", func() bool { return bus.Stats().Handled == 51 && bus.Stats().Dead == 1 })

	for _, err := range bus.DeadLetters(ctx, "g") {
		must("dead letters", err)
	}
	for _, err := range bus.Tail(ctx, posthorn.TailConfig{Since: time.Now().Add(-time.Hour), Stop: true}) {
		must("tail", err)
	}
	_, err = bus.Why(ctx, order.ID(), posthorn.WhyConfig{})
	must("why", err)
	_, err = bus.Topics(ctx)
	must("topics", err)
	_, err = bus.Groups(ctx)
	must("groups", err)
	_, err = bus.GroupStatus(ctx, "g")
	must("group", err)
	_, err = bus.Describe(ctx)
	must("describe", err)
	must("pause", bus.Pause(ctx, "g", "a test"))
	must("resume", bus.Resume(ctx, "g"))
	must("reset", bus.Reset(ctx, "g", posthorn.FromBeginning()))
	must("unsubscribe", bus.Unsubscribe(ctx, "g", "order.spare"))
	if h := bus.Health(ctx); !h.OK {
		t.Fatalf("health: %+v", h)
	}
	until("what is old and settled is deleted", func() bool {
		topics, err := bus.Topics(ctx)
		must("topics", err)
		return topics[0].Events == 0
	})
	must("stop", group.Stop(ctx))
	must("remove", bus.Remove(ctx, "g"))
	must("close", bus.Close(ctx))
}
