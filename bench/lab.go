package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// A lab runs rows: it starts servers and client processes, and ends them.
type lab struct {
	bin    *binaries
	self   string // the program that is a client when clientEnv is set
	dir    string // everything is below it
	rounds int
	out    io.Writer // progress

	brokers map[string]*broker
	serial  int
}

// A broker is kept while rows need it.
type broker struct {
	dir    string
	server *server // nil for one within the client process
	filled map[string]bool
}

func newLab(bin *binaries, self, dir string, rounds int, out io.Writer) *lab {
	return &lab{bin: bin, self: self, dir: dir, rounds: rounds, out: out, brokers: map[string]*broker{}}
}

// close ends all servers, and removes what they stored.
func (l *lab) close() {
	for name := range l.brokers {
		l.drop(name)
	}
}

func (l *lab) drop(name string) {
	b := l.brokers[name]
	delete(l.brokers, name)
	if b.server != nil {
		b.server.stop()
	}
	_ = os.RemoveAll(b.dir)
}

// run measures rows one after the other.
func (l *lab) run(ctx context.Context, rows []*row) ([]*result, error) {
	defer l.close()
	var results []*result
	for i, r := range rows {
		fmt.Fprintf(l.out, "[%d/%d] %s: %s, %s\n", i+1, len(rows), r.id, r.section.title, r.what)
		res, err := l.measure(ctx, r)
		if ctx.Err() != nil {
			return nil, errors.New("interrupted")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.id, err)
		}
		results = append(results, res)
		l.dropUnused(rows[i+1:])
	}
	return results, nil
}

// dropUnused ends the servers that no row needs any more.
func (l *lab) dropUnused(rows []*row) {
	needed := map[string]bool{}
	for _, r := range rows {
		for _, e := range r.entries {
			needed[e.broker] = true
		}
	}
	for name := range l.brokers {
		if !needed[name] {
			l.drop(name)
		}
	}
}

func (l *lab) measure(ctx context.Context, r *row) (*result, error) {
	res := &result{row: r, measures: map[string][]measure{}}
	rounds := l.rounds
	if r.once {
		rounds = 1
	}
	for i := range r.entries {
		if err := l.prepare(ctx, &r.entries[i]); err != nil {
			return nil, err
		}
	}
	for round := range rounds {
		fmt.Fprintf(l.out, "  round %d:", round+1)
		for i := range r.entries {
			// Nobody is always the first.
			e := &r.entries[(i+round)%len(r.entries)]
			m, err := l.enter(ctx, e)
			if err != nil {
				fmt.Fprintln(l.out)
				return nil, fmt.Errorf("round %d, %s: %w", round+1, e.name, err)
			}
			res.measures[e.name] = append(res.measures[e.name], m)
			main := r.section.metrics[0]
			fmt.Fprintf(l.out, "  %s %s", e.name, main.show(main.of(&m)))
		}
		fmt.Fprintln(l.out)
	}
	return res, nil
}

// prepare starts the server that an entry shares, and fills it.
func (l *lab) prepare(ctx context.Context, e *entry) error {
	if e.broker == "" {
		return nil
	}
	b := l.brokers[e.broker]
	if b == nil {
		var err error
		if b, err = l.broker(ctx, e.task.Broker); err != nil {
			return err
		}
		l.brokers[e.broker] = b
	}
	key := e.fill.Who + " " + e.fill.Topic
	if b.filled[key] {
		return nil
	}
	fmt.Fprintf(l.out, "  %s events are made to wait for %s\n", whole(float64(e.fill.Count)), e.fill.Who)
	t := *e.fill
	t.Work, t.Broker = workFill, e.task.Broker
	if _, err := l.client(ctx, b, t); err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	b.filled[key] = true
	if e.restart && b.server != nil {
		b.server.stop()
		s, err := l.bin.start(ctx, e.task.Broker, b.dir)
		if err != nil {
			b.server = nil
			return err
		}
		b.server = s
	}
	return settleDisk(l.dir)
}

// broker starts a server on a new folder.
func (l *lab) broker(ctx context.Context, kind brokerKind) (*broker, error) {
	dir, err := os.MkdirTemp(l.dir, "broker-")
	if err != nil {
		return nil, err
	}
	b := &broker{dir: dir, filled: map[string]bool{}}
	if kind == brokerEmbedded || kind == brokerNone {
		return b, nil
	}
	if b.server, err = l.bin.start(ctx, kind, dir); err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	return b, nil
}

// enter measures one entry once.
func (l *lab) enter(ctx context.Context, e *entry) (measure, error) {
	if e.binary != nil {
		n, err := fileSize(e.binary(l.bin))
		return measure{Size: n}, err
	}
	b := l.brokers[e.broker]
	if e.broker == "" {
		var err error
		if b, err = l.broker(ctx, e.task.Broker); err != nil {
			return measure{}, err
		}
		defer func() {
			if b.server != nil {
				b.server.stop()
			}
			_ = os.RemoveAll(b.dir)
		}()
	}
	return l.client(ctx, b, e.task)
}

// clientWait bounds what one client process may take, beyond what its task says.
const clientWait = 2 * time.Minute

// client runs a task in a process of its own.
func (l *lab) client(ctx context.Context, b *broker, t task) (m measure, err error) {
	l.serial++
	t.Group = fmt.Sprintf("group-%d", l.serial)
	t.Dir = filepath.Join(b.dir, "store")
	if b.server != nil {
		t.URL, t.PID = b.server.url, b.server.pid
	}
	ctx, cancel := context.WithTimeout(ctx, clientWait+t.Warm+t.For+time.Duration(t.Count)*100*time.Microsecond)
	defer cancel()
	t.Began = time.Now()
	in, err := json.Marshal(t)
	if err != nil {
		return m, err
	}
	var out, diag bytes.Buffer
	cmd := exec.CommandContext(ctx, l.self)
	endWithUs(cmd)
	cmd.Env = append(os.Environ(), clientEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &diag
	if err := cmd.Run(); err != nil {
		return m, fmt.Errorf("the client process: %w\n%s", errors.Join(err, ctx.Err()), diag.Bytes())
	}
	if err := json.Unmarshal(out.Bytes(), &m); err != nil {
		return m, fmt.Errorf("the client process says %q: %w\n%s", out.Bytes(), err, diag.Bytes())
	}
	return m, t.doubt(&m)
}

// doubt says what cannot be in a measure.
func (t *task) doubt(m *measure) error {
	switch {
	case (t.Work == workPublish || t.Work == workFill) && m.Stored != m.Total:
		return fmt.Errorf("%d events were confirmed and the broker holds %d", m.Total, m.Stored)
	case t.Work == workConsume && t.For == 0 && m.Total < t.Count*max(1, t.Times):
		return fmt.Errorf("%d of %d events were handled", m.Total, t.Count*max(1, t.Times))
	case m.Count <= 0:
		return errors.New("nothing was measured")
	}
	return nil
}
