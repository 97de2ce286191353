package posthorn

import (
	"bytes"
	"context"
	"iter"
	"path"
	"slices"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// A TailConfig says what [Bus.Tail] shows. The zero value shows all that is
// published from now on.
type TailConfig struct {
	// Topics are the topics to look at. Default: all, also those that are created
	// while it runs.
	Topics []string
	// Types are event types, or patterns of them such as "order.*", in which a *
	// stands for anything. Default: all, foreign messages among them.
	Types []string
	// Key is the key that events must have. Default: any, and none.
	Key string
	// Text has to stand in the data. Default: none.
	Text string
	// Since is the time from when on events are shown. Default: now.
	Since time.Time
	// Stop ends the walk behind what was stored when it began. Default: it goes on.
	Stop bool
}

// How a tail reads: topics have no way to call.
const (
	tailPage   = 200
	tailPause  = 200 * time.Millisecond
	tailTopics = 5 * time.Second // how often new topics are looked for
	tailAtOnce = 8               // partitions that are read side by side
)

// Tail walks over events as they are stored, without being a group: nobody's
// progress is touched. It shows those of one partition in order, and those of
// several about in the order of their storing. It goes on until ctx ends, which is
// not an error. After an error with CodeUnavailable or CodeTimeout it goes on, where the
// loop does, as soon as the broker answers again; any other ends it. The deliveries, in
// which Group, Attempt and Fence are not set, belong to the caller.
func (b *Bus) Tail(ctx context.Context, cfg TailConfig) iter.Seq2[*Delivery, error] {
	return func(yield func(*Delivery, error) bool) {
		t := &tail{bus: b, cfg: cfg, at: map[driver.Partition]*tailAt{}}
		if err := t.check(); err != nil {
			yield(nil, err)
			return
		}
		for ctx.Err() == nil {
			more, ok := true, true
			err := t.find(ctx)
			if err == nil {
				more, ok, err = t.round(ctx, yield)
			}
			switch {
			case !ok, ctx.Err() != nil:
				return
			case err != nil:
				if !yield(nil, err) || CodeOf(err) != CodeUnavailable && CodeOf(err) != CodeTimeout {
					return
				}
				more = false
			case cfg.Stop && !more:
				return
			}
			if !more && !wait(ctx, tailPause) {
				return
			}
		}
	}
}

func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// A tail is one walk.
type tail struct {
	bus    *Bus
	cfg    TailConfig
	at     map[driver.Partition]*tailAt
	order  []*tailAt
	looked time.Time // for topics; zero before the first time
}

// A tailAt is where the walk is in a partition.
type tailAt struct {
	p     driver.Partition
	above uint64
	end   uint64 // with Stop: the last to show
	page  []driver.Delivery
}

func (t *tail) check() error {
	for _, name := range t.cfg.Topics {
		if err := checkName("topic", name, maxTopicName); err != nil {
			return err
		}
	}
	for _, pattern := range t.cfg.Types {
		if _, err := path.Match(pattern, ""); err != nil {
			return errorf(CodeInvalid, "tail: type pattern %q cannot be read; it is a name in which * stands for anything", pattern)
		}
	}
	return nil
}

// find finds the topics, and from time to time those that are new.
func (t *tail) find(ctx context.Context) error {
	first := t.looked.IsZero()
	if !first && (len(t.cfg.Topics) > 0 || t.cfg.Stop || time.Since(t.looked) < tailTopics) { // monotonic
		return nil
	}
	specs, err := t.bus.topicSpecs(ctx)
	if err != nil {
		return err
	}
	for _, name := range t.cfg.Topics {
		if _, err := findTopic(specs, name); err != nil {
			return err
		}
	}
	for _, spec := range specs {
		if len(t.cfg.Topics) > 0 && !slices.Contains(t.cfg.Topics, spec.Name) {
			continue
		}
		if err := t.open(ctx, spec, first); err != nil {
			return err
		}
	}
	t.looked = time.Now() // monotonic
	return nil
}

// open sets where the walk begins in a topic. One that was created meanwhile is
// shown from its beginning.
func (t *tail) open(ctx context.Context, spec driver.TopicSpec, first bool) error {
	if t.at[driver.Partition{Topic: spec.Name}] != nil {
		return nil
	}
	extents, err := t.bus.drv.Extents(ctx, spec.Name)
	if err != nil {
		return wrapf(err, "tail topic %q", spec.Name)
	}
	var fresh []*tailAt
	for n, e := range extents {
		at := &tailAt{p: driver.Partition{Topic: spec.Name, N: n}, above: e.First - 1, end: e.Last}
		switch {
		case !t.cfg.Since.IsZero():
			if at.above, err = t.bus.drv.ReadFrom(ctx, at.p, t.cfg.Since); err != nil {
				return wrapf(err, "tail topic %q", spec.Name)
			}
		case first:
			at.above = e.Last
		}
		fresh = append(fresh, at)
	}
	for _, at := range fresh {
		t.at[at.p] = at
	}
	t.order = append(t.order, fresh...)
	return nil
}

// round reads a page of each partition and shows them by the time of storing, as
// far as all partitions have been read.
func (t *tail) round(ctx context.Context, yield func(*Delivery, error) bool) (more, ok bool, err error) {
	if err := t.fill(ctx); err != nil {
		return false, true, err
	}
	full := map[*tailAt]bool{} // there may be more behind its page
	for _, at := range t.order {
		full[at] = len(at.page) >= tailPage
	}
	for {
		var next *tailAt
		for _, at := range t.order {
			switch {
			case len(at.page) > 0:
				if next == nil || at.page[0].Stored.Before(next.page[0].Stored) {
					next = at
				}
			case full[at]:
				return true, true, nil
			}
		}
		if next == nil {
			return false, true, nil
		}
		d := &next.page[0]
		next.page, next.above = next.page[1:], d.Pos
		if t.shows(&d.Msg) && !yield(delivery(next.p, d), nil) || ctx.Err() != nil {
			return false, false, nil
		}
	}
}

// fill reads a page of each partition that has none.
func (t *tail) fill(ctx context.Context) error {
	type result struct {
		at  *tailAt
		err error
	}
	turns := make(chan struct{}, tailAtOnce)
	results := make(chan result, len(t.order))
	n := 0
	for _, at := range t.order {
		if len(at.page) > 0 || t.cfg.Stop && at.above >= at.end {
			continue
		}
		n++
		turns <- struct{}{}
		go func() {
			page, err := t.bus.readPage(ctx, at.p, at.above, tailPage, true)
			for t.cfg.Stop && len(page) > 0 && page[len(page)-1].Pos > at.end {
				page = page[:len(page)-1]
			}
			at.page = page
			if t.cfg.Stop && len(page) == 0 {
				at.above = at.end // what stood there has gone
			}
			<-turns
			results <- result{at, err}
		}()
	}
	var first error
	for range n {
		if r := <-results; r.err != nil && first == nil {
			first = r.err
		}
	}
	return first
}

func (t *tail) shows(m *driver.Message) bool {
	if t.cfg.Key != "" && m.Key != t.cfg.Key || t.cfg.Text != "" && !bytes.Contains(m.Body, []byte(t.cfg.Text)) {
		return false
	}
	return len(t.cfg.Types) == 0 || slices.ContainsFunc(t.cfg.Types, func(pattern string) bool {
		ok, _ := path.Match(pattern, m.Type)
		return ok
	})
}

func delivery(p driver.Partition, d *driver.Delivery) *Delivery {
	e := &Delivery{Data: d.Msg.Body}
	readMeta(&d.Msg, &e.Meta)
	e.Topic, e.Partition, e.Position, e.Stored = p.Topic, p.N, d.Pos, d.Stored
	return e
}
