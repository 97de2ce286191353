package main

import (
	"fmt"
	"slices"
	"strings"
)

// A page is what is written of a run.
type page struct {
	results []*result
	about   []string
	all     bool // of all rows, but for those of a long run
}

const head = `<!-- Made by make bench, from what it measured. To change the words, change bench/page.go and bench/rows.go. -->

# Benchmarks

Posthorn beside the raw NATS client and Watermill, each on the same broker in the same run, with the same data, headers and message ids. Rates drift from machine to machine; ratios hold.
What was tried to make it faster, and what bounds the rest, is in [performance.md](performance.md).

- [Bars](#bars)
- [Figures](#figures)
- [Settings](#settings)
- [How to repeat](#how-to-repeat)
`

const settingsText = `
- Each measurement is a client process of its own, so that nobody inherits another's heap, and allocations are the client's alone. The server is another process, on loopback.
  Publishing and latency have a server of their own for each measurement, new and empty; consuming shares one, on which the backlogs wait.
- The contenders take turns in each round, and another one begins each. A ratio is the median of the rounds' own ratios, its spread their lowest and highest; other figures are medians, their spread is that of the rounds.
- Publishers encode the event as JSON and write the same eight headers (the CloudEvents attributes and ` + "`Nats-Msg-Id`" + `), the time among them; Watermill adds one with its own id.
  Posthorn also computes what the broker knows the event by, and chooses the partition. 0.3 s go by before publishing is measured, for 0.8 s.
- Posthorn: all defaults; 8 partitions, which are 8 streams. Raw: one stream.
- Raw client, by what was best when tried (` + "`make bench ROW=tune`" + `): ` + "`WithPublishAsyncMaxPending(4000)`, `PullMaxMessages(5000)`, `MaxAckPending` 20,000" + `, a durable consumer with its state in a file. It does not wait for the result of each asynchronous publish, but for all at the end.
- Watermill: its package ` + "`pkg/jetstream`" + `, the no-op logger, router with ` + "`middleware.Retry`" + `. Its other package, ` + "`pkg/nats`" + `, was no faster. Tuned: ` + "`AckAsync`" + `, and the raw client's consumer settings.
- After each measurement of publishing the broker is asked how many events it holds: as many as were confirmed. Each handled event is ticked off by its id: one that is missing or comes twice fails the run.
- CPU time is that of the whole process, server or client, divided by the messages; on a noisy machine it is steadier than a rate.
- Allocations above the raw client's are the difference of the two in the same round.
`

const repeatText = `
` + "```sh" + `
make bench             # all of it, some 12 minutes, and writes this page
make bench LONG=1      # also the backlog of 10,000,000, some 10 GB of disk, 2 GB of memory and 10 minutes more
make bench ROW=consume # only the rows whose names match; writes nothing
make bench QUICK=1     # does it all work? The figures mean nothing
make bench CHECK=1     # fails when a ratio is more than 15 % worse than the stored one, twice in a row; not of a p99, which is unsteady
make bench STORE=1     # stores the ratios of the run in bench/ratios.json
` + "```" + `

Nothing else should be running. ` + "`ROUNDS=9`" + ` takes more rounds; ` + "`DIR=/path`" + ` puts the brokers' stores on another disk.
`

// text is the whole page.
func (p *page) text() string {
	var b strings.Builder
	b.WriteString(head)
	b.WriteString("\n## Bars\n\n")
	b.WriteString(p.bars())
	b.WriteString("\n## Figures\n")
	b.WriteString(p.sections())
	b.WriteString("\n## Settings\n\n")
	for _, line := range p.about {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	b.WriteString(strings.TrimPrefix(settingsText, "\n"))
	b.WriteString("\n## How to repeat\n")
	b.WriteString(repeatText)
	return b.String()
}

// figures are the tables alone.
func (p *page) figures() string { return p.bars() + p.sections() }

// bars is a table of all claims, what misses its bar too.
func (p *page) bars() string {
	var b strings.Builder
	reached, missed := 0, 0
	for _, r := range p.results {
		for i := range r.row.claims {
			c := &r.row.claims[i]
			verdict := "stated"
			bar := ""
			s, ok := r.claimed(c)
			switch {
			case !ok:
				verdict = "not measured"
			case c.bar == 0:
			case c.reached(s.Median):
				verdict = "reached"
				reached++
			default:
				verdict = "**missed**"
				missed++
			}
			if c.bar != 0 {
				bar = c.barText()
			}
			fmt.Fprintf(&b, "| %s: %s | %s | %s | %s | %s |\n", r.row.section.title, r.row.what, c.text(), c.showSpread(s), bar, verdict)
		}
	}
	head := fmt.Sprintf("%d bars are reached, %d are missed.\n\n", reached, missed)
	text := head + "| work | what is compared | measured | bar | |\n| --- | --- | --- | --- | --- |\n" + b.String()
	for _, r := range allRows(1) {
		if p.all && r.long && !p.has(r.id) {
			text += fmt.Sprintf("| %s: %s | %s | | | not run: it takes `make bench LONG=1` |\n", r.section.title, r.what, r.claims[0].text())
		}
	}
	return text
}

func (p *page) has(id string) bool {
	return slices.ContainsFunc(p.results, func(r *result) bool { return r.row.id == id })
}

// text says what a claim compares.
func (c *claim) text() string {
	against := c.against
	if against == "" {
		against = c.what
	}
	if c.above {
		return fmt.Sprintf("%s of %s above the %s's", c.metric.name, c.of, against)
	}
	return fmt.Sprintf("%s, %s / %s", c.metric.name, c.of, against)
}

func (c *claim) barText() string {
	if c.lower() {
		return "at most " + number(c.bar)
	}
	return number(c.bar)
}

func number(v float64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", v), "0"), ".")
}

// show shows a ratio, or a difference in the metric's own measure.
func (c *claim) show(v float64) string {
	if c.above {
		return c.metric.show(v)
	}
	return hundredths(v)
}

func (c *claim) showSpread(s spread) string {
	if s == (spread{}) {
		return ""
	}
	if s.Min == s.Max {
		return c.show(s.Median)
	}
	return fmt.Sprintf("%s (%s to %s)", c.show(s.Median), c.show(s.Min), c.show(s.Max))
}

// sections are the figures of all contenders.
func (p *page) sections() string {
	var b strings.Builder
	var done []*section
	for _, r := range p.results {
		if !slices.Contains(done, r.row.section) {
			done = append(done, r.row.section)
			p.section(&b, r.row.section)
		}
	}
	return b.String()
}

func (p *page) section(b *strings.Builder, s *section) {
	fmt.Fprintf(b, "\n### %s\n\n%s\n\n| work | contender |", s.title, strings.ReplaceAll(s.text, "\n", " "))
	for _, m := range s.metrics {
		fmt.Fprintf(b, " %s |", m.name)
	}
	b.WriteString("\n| --- | --- |" + strings.Repeat(" --- |", len(s.metrics)) + "\n")
	for _, r := range p.results {
		if r.row.section != s {
			continue
		}
		for _, e := range r.row.entries {
			fmt.Fprintf(b, "| %s | %s |", r.row.what, e.name)
			for i, m := range s.metrics {
				fmt.Fprintf(b, " %s |", r.cell(e.name, m, i == 0))
			}
			b.WriteByte('\n')
		}
	}
}

// cell is a median; of the main figure with its spread.
func (r *result) cell(entry string, m *metric, main bool) string {
	values := r.values(entry, m)
	s := spreadOf(values)
	switch {
	case len(values) == 0:
		return "-"
	case main && s.Min != s.Max:
		return fmt.Sprintf("%s (%s to %s)", m.show(s.Median), m.show(s.Min), m.show(s.Max))
	}
	return m.show(s.Median)
}
