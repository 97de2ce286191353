package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/posthorn/posthorn"
)

// How many lines go out together.
const (
	batchEvents = 1000
	batchBytes  = 4 << 20
	maxLine     = 16 << 20
)

func (a *app) pub() *cobra.Command {
	p := &publisher{app: a}
	c := &cobra.Command{
		Use:   "pub TYPE [JSON]",
		Short: "Publish events",
		Long: `Publish one event with the JSON that is given, or one for each line of JSON of a file
or of standard input. It is done when the broker has stored them durably.

The topic is the one that the type's name says, "order.placed" in "order", unless
--topic names another. Events are ordered by key, which --key gives, or --key-field
takes out of the JSON. With --after or --at the broker keeps them until then; a
service that has a group in the topic has to run by then, to publish them. Lines go
out in batches of up to 1,000; when one cannot be stored, the command ends there and
says how many are.`,
		Example: `  posthorn pub order.placed '{"order_id":"o-1","pence":1250}' --key o-1
  posthorn pub order.placed --file orders.jsonl --key-field order_id
  generate | posthorn pub order.placed --key-field order_id
  posthorn pub order.reminder '{"order_id":"o-1"}' --after 36h --id reminder-o-1`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error { return p.run(c.Context(), args) },
	}
	f := c.Flags()
	f.StringVar(&p.file, "file", "", "read lines of JSON from this file; - is standard input, the default without JSON")
	f.StringVar(&p.key, "key", "", "the key of all events")
	f.StringVar(&p.keyField, "key-field", "", "take the key of each event from this field of its JSON")
	f.StringVar(&p.id, "id", "", "the id of the event, in place of a new one")
	f.DurationVar(&p.after, "after", 0, "publish it when so much time has passed, such as 36h")
	f.StringVar(&p.at, "at", "", "publish it at this time, in RFC 3339")
	f.StringVar(&p.source, "source", "posthorn-cli", "the service that it comes from")
	f.StringVar(&p.topic, "topic", "", "the topic, where the type's name says another")
	return c
}

type publisher struct {
	app                                    *app
	file, key, keyField, id, source, topic string
	after                                  time.Duration
	at                                     string

	due      posthorn.PublishOption
	def      *posthorn.EventType[json.RawMessage]
	stored   int64
	began    time.Time
	progress func(done, of int64)
}

func (p *publisher) run(ctx context.Context, args []string) error {
	switch {
	case p.key != "" && p.keyField != "":
		return usage("--key and --key-field are both given; one of them says the key")
	case len(args) == 2 && p.file != "":
		return usage("JSON and --file are both given; one of them says the data")
	case len(args) == 1 && p.file == "" && terminal(p.app.in):
		return usage("there is no JSON; give it behind the type, or with --file, or on standard input")
	case len(args) == 1 && p.id != "":
		return usage("--id is for one event, whose JSON stands behind the type")
	}
	if err := p.readDue(); err != nil {
		return err
	}
	p.def = typeIn(args[0], p.topic)
	lines := io.Reader(nil)
	if len(args) == 2 {
		if !json.Valid([]byte(args[1])) {
			return usage("%s is no JSON; a text wants quotes of its own, '\"like this\"'", cut(args[1], 60))
		}
	} else if p.file == "" || p.file == "-" {
		lines = p.app.in
	} else {
		f, err := os.Open(p.file)
		if errors.Is(err, os.ErrNotExist) {
			return &posthorn.Error{Code: posthorn.CodeNotFound, Text: "there is no file " + p.file}
		} else if err != nil {
			return usage("%w", err)
		}
		defer f.Close()
		lines = f
	}
	return p.app.with(ctx, true, func(ctx context.Context, bus *posthorn.Bus) error {
		if lines == nil {
			return p.one(ctx, bus, []byte(args[1]))
		}
		return p.all(ctx, bus, lines)
	}, posthorn.Service(p.source))
}

// readDue reads when the events are due.
func (p *publisher) readDue() error {
	switch {
	case p.after != 0 && p.at != "":
		return usage("--after and --at are both given; one of them says when")
	case p.after < 0:
		return usage("--after is %v; it cannot be negative", p.after)
	case p.after > 0:
		p.due = posthorn.After(p.after)
	case p.at != "":
		t, err := time.Parse(time.RFC3339Nano, p.at)
		if err != nil {
			return usage("--at %q is no time such as 2026-01-31T15:04:05Z", p.at)
		}
		p.due = posthorn.At(t)
	}
	return nil
}

// event makes one of its JSON.
func (p *publisher) event(text []byte) (*posthorn.Outgoing, error) {
	var opts []posthorn.PublishOption
	if p.id != "" {
		opts = append(opts, posthorn.WithID(p.id))
	}
	key := p.key
	if p.keyField != "" {
		var err error
		if key, err = fieldOf(text, p.keyField); err != nil {
			return nil, err
		}
	}
	if key != "" {
		opts = append(opts, posthorn.WithKey(key))
	}
	if p.due != nil {
		opts = append(opts, p.due)
	}
	return p.def.New(bytes.Clone(text), opts...), nil
}

// fieldOf reads a field of a JSON object that is a text or a number.
func fieldOf(text []byte, name string) (string, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(text, &object); err != nil {
		return "", fmt.Errorf("it is no JSON object, and the key is to come from its field %q", name)
	}
	raw := object[name]
	var s string
	if json.Unmarshal(raw, &s) == nil && s != "" {
		return s, nil
	}
	var n json.Number
	if json.Unmarshal(raw, &n) == nil && n != "" {
		return n.String(), nil
	}
	return "", fmt.Errorf("its field %q, which the key is to come from, is missing or neither a text nor a number", name)
}

func (p *publisher) one(ctx context.Context, bus *posthorn.Bus, text []byte) error {
	o, err := p.event(text)
	if err != nil {
		return usage("the JSON: %w", err)
	}
	if err := bus.PublishAll(ctx, o); err != nil {
		return err
	}
	return p.say(o)
}

func (p *publisher) say(o *posthorn.Outgoing) error {
	if p.app.json {
		return p.app.line(map[string]string{"id": o.ID(), "type": p.def.Name(), "topic": p.def.Topic().Name(), "state": string(posthorn.Stored)})
	}
	what := "stored"
	if p.due != nil {
		what = "stored for later"
	}
	p.app.say("%s %s %s in topic %s", what, p.def.Name(), o.ID(), p.def.Topic().Name())
	return nil
}

// all publishes each line, batch by batch.
func (p *publisher) all(ctx context.Context, bus *posthorn.Bus, lines io.Reader) error {
	p.began = time.Now() // monotonic
	end := func() {}
	if terminal(p.app.diag) {
		p.progress, end = p.app.progress("stored %d of %d events read")
	}
	err := p.batches(ctx, bus, lines)
	end()
	if err != nil {
		return err
	}
	if !p.app.json {
		p.app.say("stored %s of type %s in topic %s, in %s", counted(p.stored, "event", "events"), p.def.Name(), p.def.Topic().Name(), span(time.Since(p.began))) // monotonic
	}
	return nil
}

func (p *publisher) batches(ctx context.Context, bus *posthorn.Bus, lines io.Reader) error {
	scan := bufio.NewScanner(lines)
	scan.Buffer(make([]byte, 64<<10), maxLine)
	var batch []*posthorn.Outgoing
	size, n := 0, 0
	first := 1 // line of the batch
	flush := func() error {
		err := p.flush(ctx, bus, batch, first)
		batch, size, first = batch[:0], 0, n+1
		return err
	}
	for scan.Scan() {
		n++
		text := bytes.TrimSpace(scan.Bytes())
		if len(text) == 0 {
			continue
		}
		bad := error(nil)
		var o *posthorn.Outgoing
		if !json.Valid(text) {
			bad = fmt.Errorf("%s is no JSON", cut(string(text), 60))
		} else {
			o, bad = p.event(text)
		}
		if bad != nil {
			if err := flush(); err != nil {
				return err
			}
			return usage("line %d: %w; the %s before it are stored", n, bad, counted(p.stored, "event", "events"))
		}
		batch, size = append(batch, o), size+len(text)
		if len(batch) == batchEvents || size >= batchBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	if err := scan.Err(); errors.Is(err, bufio.ErrTooLong) {
		return usage("line %d is longer than %d bytes; the %s before it are stored", n+1, maxLine, counted(p.stored, "event", "events"))
	} else if err != nil {
		return fmt.Errorf("reading line %d: %w; the %s before it are stored", n+1, err, counted(p.stored, "event", "events"))
	}
	return nil
}

// flush stores a batch. first is the line that it begins at.
func (p *publisher) flush(ctx context.Context, bus *posthorn.Bus, batch []*posthorn.Outgoing, first int) error {
	if len(batch) == 0 {
		return nil
	}
	err := bus.PublishAll(ctx, batch...)
	var failed *posthorn.PublishError
	if errors.As(err, &failed) {
		p.stored += int64(failed.Count(posthorn.Stored))
		return &posthorn.Error{Code: failed.Code(), Err: err, Text: fmt.Sprintf("the batch that begins at line %d; %s are stored in all", first, strings.TrimSpace(counted(p.stored, "event", "events")))}
	}
	if err != nil {
		return err
	}
	p.stored += int64(len(batch))
	if p.progress != nil {
		p.progress(p.stored, p.stored)
	}
	if p.app.json {
		for _, o := range batch {
			if err := p.say(o); err != nil {
				return err
			}
		}
	}
	return nil
}
