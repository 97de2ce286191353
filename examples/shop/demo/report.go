package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/check"
	"github.com/posthorn/posthorn/examples/shop/order"
)

// writeSeen prints what the importer has seen in a file.
func writeSeen(out io.Writer, s order.Seen) {
	fmt.Fprintf(out, "  %d lines: %d orders, %d cancellations, %d adjustments\n", s.Lines, s.Placed, s.Cancelled, s.Adjusted)
	for _, dirt := range []struct {
		n    int
		what string
	}{
		{s.InPieces, "invoices not in one piece: placed where they begin, with all their lines"},
		{s.TwoDates, "invoices with two dates: the first counts"},
		{s.NoCustomer, "invoices without a customer: taken without one"},
		{s.Cancelled, "cancellations that do not say of what: refunded and restocked by their own lines"},
		{s.WriteOffs, fmt.Sprintf("lines below zero in orders: %d units written off", s.WrittenOff)},
		{s.Free, "lines without a price: free, and the units go out"},
		{s.Credits, "lines with a price below zero: booked as they are"},
		{s.NoDescription, "lines without a description: taken without one"},
		{s.Repeats, "lines that repeat another one: each counts"},
	} {
		fmt.Fprintf(out, "  %7d %s\n", dirt.n, dirt.what)
	}
}

// report prints the table and what happened on the way to it.
func (r *run) report(ctx context.Context) error {
	n, err := r.services.finish(ctx)
	if err != nil {
		return err
	}
	dead, err := r.observer.deadLetters(ctx)
	if err != nil {
		return err
	}
	r.badDay.write(r.Out)
	differs := r.compare(ctx, dead)
	if differs != nil && !errors.Is(differs, ErrDiffers) {
		return differs
	}
	r.writeStats(n, dead)
	if differs != nil {
		fmt.Fprintln(r.Out, "\nNOT EQUAL: the books of the services differ from the file.")
		return differs
	}
	fmt.Fprintln(r.Out, "\nAll equal.")
	return nil
}

// compare prints the table. The error is ErrDiffers when something is not equal.
func (r *run) compare(ctx context.Context, dead []posthorn.DeadLetter) error {
	should, err := check.FromFile(r.Data)
	if err != nil {
		return err
	}
	for _, group := range poisoned {
		should.DeadLetters[group]++
	}
	is, err := check.FromDatabases(ctx, r.Dir)
	if err != nil {
		return err
	}
	for _, d := range dead {
		is.DeadLetters[d.Group]++
	}
	table := check.Compare(should, is)
	fmt.Fprintln(r.Out)
	if err := table.Write(r.Out); err != nil {
		return err
	}
	if !table.Equal() {
		return ErrDiffers
	}
	return nil
}

// add adds up what buses have counted, as far as it is printed.
func add(sum *posthorn.Stats, n posthorn.Stats) {
	sum.Published += n.Published
	sum.Handled += n.Handled
	sum.Retried += n.Retried
	sum.Late += n.Late
	sum.Dead += n.Dead
	sum.Skipped += n.Skipped
	sum.Alarms += n.Alarms
}

func (r *run) writeStats(n posthorn.Stats, dead []posthorn.DeadLetter) {
	seconds := r.took.Seconds()
	fmt.Fprintf(r.Out, "\ntook %v: %d events published (%.0f/s), %d handled (%.0f/s), %d skipped\n",
		r.took.Round(10*time.Millisecond), n.Published, float64(n.Published)/seconds, n.Handled, float64(n.Handled)/seconds, n.Skipped)
	fmt.Fprintf(r.Out, "failed on purpose: %d attempts were repeated, %d of them late; %d events became dead letters\n", n.Retried, n.Late, n.Dead)
	if n.Alarms > 0 {
		fmt.Fprintf(r.Out, "ALARMS: %d, see the log\n", n.Alarms)
	}
	if len(dead) == 0 {
		return
	}
	fmt.Fprintln(r.Out, "dead letters:")
	for _, d := range dead {
		fmt.Fprintf(r.Out, "  %s\n", describe(d))
	}
}

func describe(d posthorn.DeadLetter) string {
	last := "no error was kept"
	if len(d.Errors) > 0 {
		last = d.Errors[len(d.Errors)-1]
	}
	return fmt.Sprintf("%s of %s, group %s, after %d attempt(s), %s: %s", d.Type, d.Key, d.Group, d.Attempts, d.Reason, last)
}
