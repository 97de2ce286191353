package deadletter_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/deadletter"
)

var ctx = context.Background()

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// A bank knows no customer until it is mended.
type bank struct{ mended atomic.Bool }

func (b *bank) charge(_ context.Context, e *posthorn.Event[order]) error {
	if !b.mended.Load() && e.Data.Note == "" {
		return posthorn.Permanent(errors.New("no such customer"))
	}
	fmt.Println(strings.TrimSpace("charged " + e.Data.ID + " " + e.Data.Note))
	return nil
}

// openBilling opens a bus with a group "billing" that has given up on n orders.
func openBilling(n int) (*posthorn.Bus, *bank) {
	bus, err := posthorn.Open(ctx, "memory:", posthorn.Service("billing"), posthorn.Logger(slog.New(slog.DiscardHandler)))
	must(err)
	b := &bank{}
	billing := bus.Group("billing", posthorn.GroupConfig{})
	placed.Handle(billing, b.charge)
	must(billing.Start(ctx))
	for i := range n {
		must(placed.Publish(ctx, bus, order{ID: fmt.Sprint(i + 1)}, posthorn.WithID(fmt.Sprintf("order-%d-placed", i+1))))
	}
	q := deadletter.Query{Groups: []string{"billing"}}
	for count(bus, q) < n {
		time.Sleep(time.Millisecond)
	}
	return bus, b
}

func count(bus *posthorn.Bus, q deadletter.Query) (n int) {
	for _, err := range deadletter.List(ctx, bus, q) {
		must(err)
		n++
	}
	return n
}

func wait(bus *posthorn.Bus, handled int64) {
	for bus.Stats().Handled < handled {
		time.Sleep(time.Millisecond)
	}
	must(bus.Close(ctx))
}

func ExampleList() {
	bus, _ := openBilling(1)
	defer bus.Close(ctx)

	q := deadletter.Query{Groups: []string{"billing"}, Types: []string{"order.*"}, From: time.Now().Add(-time.Hour)}
	for letter, err := range deadletter.List(ctx, bus, q) {
		must(err)
		fmt.Println(letter.ID, letter.Reason, letter.Attempts, letter.Errors)
	}
	// Output: order-1-placed permanent 1 [no such customer]
}

// The first is replayed by itself, as a canary; the others follow when it was handled.
func ExampleReplay() {
	bus, bank := openBilling(10)
	bank.mended.Store(true)

	report, err := deadletter.Replay(ctx, bus, deadletter.Query{Groups: []string{"billing"}},
		deadletter.Job{By: "anna", Canary: 1, Rate: 500, Progress: func(done, of int) {
			if done == of {
				fmt.Println(done, "of", of)
			}
		}})
	must(err)
	wait(bus, 10)
	fmt.Println(report.Done, "replayed")
	// Unordered output:
	// 10 of 10
	// 10 replayed
	// charged 1
	// charged 2
	// charged 3
	// charged 4
	// charged 5
	// charged 6
	// charged 7
	// charged 8
	// charged 9
	// charged 10
}

func ExampleEdit() {
	bus, _ := openBilling(1)

	letters, err := deadletter.Get(ctx, bus, "billing", "order-1-placed")
	must(err)
	_, err = deadletter.Edit(ctx, bus, letters[0], deadletter.Change{By: "anna", Reason: "a typing error", Data: []byte(`{"id":"1","note":"customer 7"}`)})
	must(err)
	_, err = deadletter.Replay(ctx, bus, deadletter.Query{Groups: []string{"billing"}, IDs: []string{"order-1-placed"}}, deadletter.Job{By: "anna"})
	must(err)
	wait(bus, 1)
	// Output: charged 1 customer 7
}

func ExampleDiscard() {
	bus, _ := openBilling(2)
	defer bus.Close(ctx)

	report, err := deadletter.Discard(ctx, bus, deadletter.Query{Groups: []string{"billing"}, Keys: []string{"2"}}, deadletter.Job{By: "anna", Reason: "a test order"})
	must(err)
	fmt.Println(report.Done, "discarded,", count(bus, deadletter.Query{}), "left")
	notes, err := deadletter.Log(ctx, bus, "billing")
	must(err)
	for _, n := range notes {
		fmt.Println(n.By, n.Action, n.IDs, n.Reason)
	}
	// Output:
	// 1 discarded, 1 left
	// anna discard [order-2-placed] a test order
}

func ExampleExport() {
	bus, _ := openBilling(3)
	defer bus.Close(ctx)

	file, err := os.CreateTemp("", "billing-*.jsonl")
	must(err)
	defer os.Remove(file.Name())
	n, err := deadletter.Export(ctx, bus, deadletter.Query{Groups: []string{"billing"}}, file)
	must(err)
	must(file.Close())
	fmt.Println(n, "exported")
	// Output: 3 exported
}
