package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// clientEnv makes this program a client: it does one task and ends.
const clientEnv = "POSTHORN_BENCH_CLIENT"

// works are what the contenders can do.
var works = map[[2]string]func(context.Context, *task, *meter) error{
	{posthornClient, workPublish}: posthornPublish,
	{posthornClient, workFill}:    posthornFill,
	{posthornClient, workConsume}: posthornConsume,
	{posthornClient, workPace}:    posthornPace,
	{posthornClient, workHold}:    posthornHold,
	{posthornClient, workStart}:   posthornStart,
	{posthornClient, workLocal}:   posthornLocal,
	{rawClient, workPublish}:      rawPublish,
	{rawClient, workFill}:         rawFill,
	{rawClient, workConsume}:      rawConsume,
	{rawClient, workPace}:         rawPace,
	{rawClient, workHold}:         rawHold,
	{rawClient, workStart}:        rawStart,
	{watermill, workPublish}:      watermillPublish,
	{watermill, workConsume}:      watermillConsume,
	{watermill, workLocal}:        watermillLocal,
	{nobody, workSleep}:           sleepers,
}

// clientMain is the whole of a client process.
func clientMain(in io.Reader, out io.Writer) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var t task
	if err := json.NewDecoder(in).Decode(&t); err != nil {
		return fmt.Errorf("read the task: %w", err)
	}
	m, err := do(ctx, &t)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(m)
}

func do(ctx context.Context, t *task) (measure, error) {
	t.withDefaults()
	if t.Size > 0 && (t.Size < bare || t.Size > bare+len(text)) {
		return measure{}, fmt.Errorf("a body of %d bytes cannot be made: it is %d to %d", t.Size, bare, bare+len(text))
	}
	work := works[[2]string{t.Who, t.Work}]
	if work == nil {
		return measure{}, fmt.Errorf("%s does not know how to %s", t.Who, t.Work)
	}
	m := newMeter(t)
	if err := work(ctx, t, m); err != nil {
		return measure{}, err
	}
	return m.m, nil
}

// sleepers are callers that sleep: what the machine's timers allow.
func sleepers(ctx context.Context, t *task, m *meter) error {
	return m.publishing(ctx, func() error {
		return m.callers(func(int) error {
			time.Sleep(t.Delay)
			return nil
		})
	})
}

// stored counts what the broker holds of the task's topic: ours is a stream for
// each partition, with the others it is one.
func (t *task) stored(ctx context.Context, nc *nats.Conn) (int, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return 0, err
	}
	n := 0
	list := js.ListStreams(ctx)
	for info := range list.Info() {
		ours := strings.HasPrefix(info.Config.Name, "PH-T-"+t.Topic+"-")
		if t.Who == posthornClient && ours || t.Who != posthornClient && info.Config.Name == t.Topic {
			n += int(info.State.Msgs)
		}
	}
	return n, list.Err()
}

// closeWait bounds what ends a client.
const closeWait = 30 * time.Second
