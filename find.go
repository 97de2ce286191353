package posthorn

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"sync"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// findAround is how an event is looked for by the time in its id: first close to
// it, then as far around it as clocks may differ and publishing may take, then
// through all the rest.
var findAround = []struct{ before, after time.Duration }{
	{2 * time.Second, 10 * time.Second},
	{5 * time.Minute, 15 * time.Minute},
}

const (
	findPage   = 1000 // messages a read
	findAtOnce = 4    // partitions that are read side by side
)

// A finder looks for an event in topics.
type finder struct {
	bus      *Bus
	id       string
	progress func(read, of int64)

	mu       sync.Mutex
	read, of int64
	found    []foundEvent
}

// A foundEvent is a message that has the id.
type foundEvent struct {
	p driver.Partition
	d driver.Delivery
}

// A stretch is a part of a partition, above one position and up to another.
type stretch struct {
	p         driver.Partition
	above, to uint64
}

// find looks through topics. It reads no further once it has found the event, but
// for copies that stand close to it.
func (f *finder) find(ctx context.Context, topics []driver.TopicSpec) error {
	at, timed := idTime(f.id)
	phases := make([][]stretch, len(findAround)+1)
	for _, spec := range topics {
		extents, err := f.bus.drv.Extents(ctx, spec.Name)
		if err != nil {
			return wrapf(err, "look into topic %q", spec.Name)
		}
		for n, e := range extents {
			if e.Last < e.First {
				continue
			}
			p, all := driver.Partition{Topic: spec.Name, N: n}, stretch{above: e.First - 1, to: e.Last}
			lo, hi := all.above, all.above // what has been read
			for i, around := range findAround {
				if !timed {
					break
				}
				from, err := f.position(ctx, p, at.Add(-around.before), e)
				if err != nil {
					return err
				}
				to, err := f.position(ctx, p, at.Add(around.after), e)
				if err != nil {
					return err
				}
				if i == 0 {
					phases[i] = append(phases[i], stretch{p, from, to})
				} else {
					phases[i] = append(phases[i], stretch{p, hi, to}, stretch{p, from, lo})
				}
				lo, hi = from, to
			}
			// What was made long before it was published, an event that was
			// delayed above all, stands further on.
			last := len(findAround)
			phases[last] = append(phases[last], stretch{p, hi, all.to}, stretch{p, all.above, lo})
		}
	}
	for i, stretches := range phases {
		if err := f.scan(ctx, stretches, i > 0); err != nil || len(f.found) > 0 {
			return err
		}
	}
	return nil
}

// position finds the one before a time, within what is kept.
func (f *finder) position(ctx context.Context, p driver.Partition, t time.Time, e driver.Extent) (uint64, error) {
	above, err := f.bus.drv.ReadFrom(ctx, p, t)
	if err != nil {
		return 0, wrapf(err, "look into topic %q", p.Topic)
	}
	return min(max(above, e.First-1), e.Last), nil
}

// scan reads all stretches, or until the event is found when it is to stop there.
func (f *finder) scan(ctx context.Context, all []stretch, stop bool) error {
	for _, s := range all {
		if s.to > s.above {
			f.of += int64(s.to - s.above)
		}
	}
	scan, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(all))
	turns := make(chan struct{}, findAtOnce)
	var wg sync.WaitGroup
	for i, s := range all {
		if s.above >= s.to {
			continue
		}
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			found, err := f.readStretch(scan, s)
			if found && stop {
				cancel()
			}
			if err != nil && scan.Err() == nil {
				errs[i] = err
				cancel()
			}
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return wrapf(err, "look for event %s", f.id)
	}
	return firstError(errs...)
}

// readStretch reads a stretch.
func (f *finder) readStretch(ctx context.Context, s stretch) (found bool, err error) {
	for above := s.above; above < s.to && ctx.Err() == nil; {
		page, err := f.bus.readPage(ctx, s.p, above, findPage, false)
		if err != nil {
			return found, err
		}
		f.mu.Lock()
		end := s.to
		if len(page) > 0 {
			end = min(page[len(page)-1].Pos, s.to)
		}
		for _, d := range page {
			if d.Msg.ID == f.id && d.Pos <= s.to {
				f.found, found = append(f.found, foundEvent{s.p, d}), true
			}
		}
		f.read += int64(end - above)
		if f.progress != nil {
			f.progress(f.read, f.of)
		}
		f.mu.Unlock()
		above = end
	}
	return found, nil
}

// readPage reads messages above a position as they are handled: those that carry
// their attributes in their body are read with it.
func (b *Bus) readPage(ctx context.Context, p driver.Partition, above uint64, limit int, bodies bool) ([]driver.Delivery, error) {
	page, err := b.drv.Read(ctx, p, above, limit, bodies)
	for i := 0; i < len(page) && !bodies; i++ {
		if mayBeStructured(&page[i].Msg) {
			bodies = true
			page, err = b.drv.Read(ctx, p, above, len(page), true)
		}
	}
	if err != nil {
		if isUnsupported(err) {
			return nil, &Error{Code: CodeUnsupported, Text: "this broker cannot be read without joining a group", Err: err}
		}
		return nil, wrapf(err, "read partition %d of topic %q", p.N, p.Topic)
	}
	for i := range page {
		if _, err := structured(&page[i].Msg); err != nil && page[i].Bad == nil {
			page[i].Bad = err
		}
	}
	return page, nil
}

// mayBeStructured tells whether the body is needed to know what a message is.
func mayBeStructured(m *driver.Message) bool {
	switch mediaType(m.ContentType) {
	case "application/cloudevents+json":
		return true
	case "", "application/json":
		return m.Type == ""
	}
	return false
}

// idTime reads the time out of a UUIDv7.
func idTime(id string) (time.Time, bool) {
	if len(id) != 36 || id[8] != '-' || id[13] != '-' || id[14] != '7' || id[18] != '-' || id[23] != '-' {
		return time.Time{}, false
	}
	u, err := hex.DecodeString(strings.ReplaceAll(id, "-", ""))
	if err != nil || len(u) != 16 {
		return time.Time{}, false
	}
	ms := int64(binary.BigEndian.Uint32(u[:4]))<<16 | int64(binary.BigEndian.Uint16(u[4:6]))
	return time.UnixMilli(ms), true
}
