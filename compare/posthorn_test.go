//go:build unix

package compare

import (
	"context"
	"log/slog"
	"testing"

	"github.com/posthorn/posthorn"
	_ "github.com/posthorn/posthorn/driver/jetstream"
)

type work struct {
	Key  string `json:"key"`
	Text string `json:"text"`
}

// One partition, so that nothing goes well only because the topic has several.
var (
	asked = posthorn.Define[work]("work.asked",
		posthorn.In(posthorn.DefineTopic("work", posthorn.TopicConfig{Partitions: 1})),
		posthorn.Key(func(w work) string { return w.Key }))
	answered = posthorn.Define[work]("answer.given",
		posthorn.In(posthorn.DefineTopic("answer", posthorn.TopicConfig{Partitions: 1})),
		posthorn.Key(func(w work) string { return w.Key }))
)

// Where the events of asked and answered stand: see docs/wire.md.
const (
	askedStream, askedSubject = "PH-T-work-0", "ph.t.work.0"
	answeredStream            = "PH-T-answer-0"
)

func open(t *testing.T, url string) *posthorn.Bus {
	t.Helper()
	bus, err := posthorn.Open(t.Context(), url+"?durability=server", posthorn.Service("compare"),
		posthorn.Logger(slog.New(slog.DiscardHandler)))
	must(t, err)
	t.Cleanup(func() { bus.Close(context.Background()) })
	return bus
}

// group starts a group with one handler for asked.
func group(t *testing.T, bus *posthorn.Bus, cfg posthorn.GroupConfig, fn func(context.Context, *posthorn.Event[work]) error) *posthorn.Group {
	t.Helper()
	g := bus.Group("compare", cfg)
	asked.Handle(g, fn)
	must(t, g.Start(t.Context()))
	return g
}

// ask publishes an event for each text, each of a key of its own.
func ask(t *testing.T, bus *posthorn.Bus, texts ...string) {
	t.Helper()
	for _, text := range texts {
		must(t, asked.Publish(t.Context(), bus, work{Key: text, Text: text}))
	}
}

// dead waits for the group's first dead letter.
func dead(t *testing.T, bus *posthorn.Bus) (letter posthorn.DeadLetter) {
	t.Helper()
	await(t, "there is a dead letter", func() bool {
		for d, err := range bus.DeadLetters(t.Context(), "compare") {
			must(t, err)
			letter = d
			return true
		}
		return false
	})
	return letter
}

// nothingLeft waits until the group has settled all.
func nothingLeft(t *testing.T, bus *posthorn.Bus) {
	t.Helper()
	await(t, "the group has settled all", func() bool {
		lag, err := bus.Lag(t.Context(), "compare")
		must(t, err)
		return lag == 0
	})
}
