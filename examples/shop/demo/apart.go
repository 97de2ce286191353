package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/internal/child"
	"github.com/posthorn/posthorn/examples/shop/order"
)

// stopping is how long a child may take to end when it is asked to: longer than a
// service needs to drain.
const stopping = time.Minute

// apart are the services in processes of their own, children of this one.
type apart struct {
	cfg      Config
	children map[string]*remote // the last one of each service
	killed   int                // of cfg.Kill
	ended    chan error         // of the first that ends unasked
}

var _ services = (*apart)(nil)

// A remote is a service in a process of its own.
type remote struct {
	name    string
	process *child.Process
	once    sync.Once
	started chan struct{}  // closed when it handles events
	stats   posthorn.Stats // when it has ended, if it has said so
	asked   atomic.Bool    // to end
}

func newApart(cfg Config) *apart {
	return &apart{cfg: cfg, children: map[string]*remote{}, ended: make(chan error, 1)}
}

// start starts the services beside each other. The order service imports the file
// by itself.
func (a *apart) start(ctx context.Context, _ *order.Retail) error {
	for _, name := range Names {
		if err := a.run(name); err != nil {
			return err
		}
		fmt.Fprintf(a.cfg.Out, "%-14s  process %d\n", name, a.children[name].process.ID())
	}
	fmt.Fprintln(a.cfg.Out)
	late := time.NewTimer(patience)
	defer late.Stop()
	for _, name := range Names {
		select {
		case <-a.children[name].started:
		case err := <-a.ended:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-late.C:
			return fmt.Errorf("%s has not started in %v", name, patience)
		}
	}
	return nil
}

// run starts a service.
func (a *apart) run(name string) error {
	r := &remote{name: name, started: make(chan struct{})}
	p, err := child.Start(name, a.cfg.Apart(name, a.cfg), r.hear, a.cfg.Err)
	if err != nil {
		return err
	}
	r.process = p
	a.children[name] = r
	go func() {
		<-p.Ended()
		if r.asked.Load() {
			return
		}
		select {
		case a.ended <- p.Why():
		default:
		}
	}()
	return nil
}

// disturb kills the next service that is to be killed, when its share of the orders is
// published, and starts it again, as whatever runs a service does when it has ended.
func (a *apart) disturb(share float64) error {
	if n := len(a.cfg.Kill); a.killed == n || share < float64(a.killed+1)/float64(n+2) {
		return nil
	}
	old := a.children[a.cfg.Kill[a.killed]]
	a.killed++
	old.asked.Store(true)
	if err := old.process.Kill(); err != nil {
		return err
	}
	if err := a.run(old.name); err != nil {
		return err
	}
	fmt.Fprintf(a.cfg.Out, "%-14s  process %d is killed when %.0f %% of the orders are published\n%-14s  process %d takes its place\n",
		old.name, old.process.ID(), 100*share, old.name, a.children[old.name].process.ID())
	return nil
}

// hear takes in what a service says.
func (r *remote) hear(line string) {
	var w word
	if json.Unmarshal([]byte(line), &w) != nil {
		return
	}
	switch {
	case w.State == started:
		r.once.Do(func() { close(r.started) })
	case w.Stats != nil:
		r.stats = *w.Stats
	}
}

func (a *apart) failed() <-chan error { return a.ended }

// health has nothing to say: what ails a service stands in its log.
func (a *apart) health(context.Context) []string { return nil }

// finish stops all services, each of which drains, and adds up what they have
// counted.
func (a *apart) finish(ctx context.Context) (sum posthorn.Stats, err error) {
	if err := a.close(context.WithoutCancel(ctx)); err != nil {
		return sum, err
	}
	for _, r := range a.children {
		add(&sum, r.stats)
	}
	return sum, nil
}

// close ends the services that run, beside each other. Those that have not
// started have nothing to drain, and nobody can when ctx has ended.
func (a *apart) close(ctx context.Context) error {
	kill := ctx.Err() != nil
	ctx, cancel := a.cfg.stopping(ctx)
	defer cancel()
	errs := make([]error, len(Names))
	var wg sync.WaitGroup
	for i, name := range Names {
		r := a.children[name]
		if r == nil || r.asked.Swap(true) {
			continue
		}
		wg.Go(func() {
			if kill || !closed(r.started) {
				errs[i] = r.process.Kill()
			} else {
				errs[i] = r.process.Stop(ctx)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// stopping bounds how long children may take to end.
func (cfg Config) stopping(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, stopping)
	go func() {
		select {
		case <-cfg.Hurry:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}
