package engine

import (
	"errors"
	"slices"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// fetch takes messages in until it is stopped.
func (t *tenure) fetch() {
	defer t.g.routines.Done()
	defer close(t.fetched)
	if !t.loadIndex() {
		return
	}
	into := make([]driver.Delivery, minFetch)
	var wait backoff
	defer t.calm(&wait, "fetch_failed")
	for {
		n, bytes := t.room()
		if n == 0 {
			return
		}
		n, err := t.d.Fetch(t.ctx, into[:min(n, len(into))], bytes)
		if n > 0 {
			if !t.admit(into[:n]) {
				t.dropped(into[:n])
				return
			}
			clear(into[:n])
			if n == len(into) && n < maxFetch { // an idle partition needs no more
				into = make([]driver.Delivery, min(4*n, maxFetch))
			}
		}
		switch {
		case t.ctx.Err() != nil:
			return
		case err == nil:
			t.calm(&wait, "fetch_failed")
		case errors.Is(err, driver.ErrLost):
			t.g.mu.Lock()
			t.lose(err)
			t.g.mu.Unlock()
			return
		default:
			t.trouble(&wait, "fetch_failed", "messages cannot be fetched", err)
			if !wait.sleep(t.ctx) {
				return
			}
		}
	}
}

// dropped notes that suspects were fetched and not taken in: they are suspects still
// for the next holder.
func (t *tenure) dropped(batch []driver.Delivery) {
	if slices.ContainsFunc(batch, func(d driver.Delivery) bool { return d.Again }) {
		t.g.mu.Lock()
		defer t.g.mu.Unlock()
		t.unclean = true
	}
}

// room waits until more may be taken in and says how much. It returns 0 when
// the tenure is to end.
func (t *tenure) room() (messages, bytes int) {
	g := t.g
	g.mu.Lock()
	defer g.mu.Unlock()
	defer func() { t.waits = false }()
	for {
		if t.lost || t.ctx.Err() != nil {
			return 0, 0
		}
		messages, bytes = t.roomNow(), g.share()-t.bytes
		if !g.paused && t.served() && bytes > 0 && t.roomy(messages) {
			return messages, bytes
		}
		t.waits = true
		t.roomC.Wait()
	}
}

// roomy tells whether there is room for so much that it is worth a Fetch: for a
// part of the window, or for anything when there is nothing else to do.
func (t *tenure) roomy(messages int) bool {
	return messages >= min(maxFetch, t.g.cfg.Window/4) || messages > 0 && (t.queue || t.running+t.ahead == 0)
}

// nudge has all fetchers look again whether there is room.
func (g *Group) nudge() {
	for _, t := range g.tenures {
		t.roomC.Broadcast()
	}
}

// share is how many bytes one tenure may hold.
func (g *Group) share() int { return max(g.cfg.WindowBytes/max(1, len(g.tenures)), 1) }

func (t *tenure) roomNow() int {
	if t.queue {
		return t.g.cfg.Window - t.held
	}
	return t.win.room()
}

// admit takes a batch in. It returns false when the tenure is to end.
func (t *tenure) admit(batch []driver.Delivery) bool {
	sub, skip, n, ok := t.skips(batch)
	if !ok {
		return false
	}
	items := make([]Item, len(batch)-n)
	j := 0
	for i := range batch {
		if !skip[i] {
			t.prepare(&items[j], batch[i])
			j++
		}
	}
	standing, ok := t.standing(items)
	if !ok {
		return false
	}
	g := t.g
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now() // monotonic
	passed := 0
	j = 0
	for i := range batch {
		var it *Item
		if !skip[i] {
			it = &items[j]
			j++
		}
		if !t.queue {
			if !t.makeRoom(batch[i].Pos) {
				return false
			}
			if t.win.settled(batch[i].Pos) {
				t.win.advance()
				continue
			}
		}
		if it == nil {
			t.passOver(batch[i].Pos, sub)
			passed++
			continue
		}
		if !t.awaitKey(it) {
			return false
		}
		t.bring(it, now, standing)
	}
	g.cfg.Counts.Skipped(passed)
	t.noted(passed)
	for k := range t.early {
		if k.first <= t.win.high {
			delete(t.early, k)
			t.nextOf(k)
		}
	}
	t.progress()
	return true
}

// skips tells which messages of a batch are of types that nobody has told us to
// handle, as far as that is seen at a glance. ok is false when the tenure is to
// end.
func (t *tenure) skips(batch []driver.Delivery) (sub *subscription, skip []bool, n int, ok bool) {
	var wait backoff
	defer t.calm(&wait, "record_failed")
	for asked := !t.queue; ; asked = true {
		t.g.mu.Lock()
		sub = t.g.sub
		t.g.mu.Unlock()
		if cap(t.skip) < len(batch) {
			t.skip = make([]bool, len(batch))
		}
		skip, n = t.skip[:len(batch)], 0
		for i := range batch {
			if skip[i] = t.passable(&batch[i], sub); skip[i] {
				n++
			}
		}
		if asked || n == 0 {
			return sub, skip, n, true
		}
		// What a queue has settled is gone: so the record has to be younger than
		// the messages.
		for {
			err := t.g.askRecord(t.ctx)
			if err == nil {
				break
			}
			t.trouble(&wait, "record_failed", "the group's record cannot be read", err)
			if !wait.sleep(t.ctx) {
				return nil, nil, 0, false
			}
		}
	}
}

// passable tells whether a message is to be skipped by its type alone. A suspect
// is looked at more closely, and so is what may carry its type in its body.
func (t *tenure) passable(d *driver.Delivery, sub *subscription) bool {
	m := &d.Msg
	if d.Bad != nil || m.Type == "" || m.ContentType == structuredType || d.Again || !t.queue && d.Pos <= t.trial {
		return false
	}
	if t.queue && sub.types[t.part.Topic][m.Type] {
		return false
	}
	return !t.wanted(sub, m.Type)
}

// passOver skips a message of a type that is outside of the subscription sub.
func (t *tenure) passOver(pos uint64, sub *subscription) {
	if t.queue {
		t.settling = append(t.settling, driver.Settlement{Pos: pos})
		return
	}
	t.win.pass(pos)
	if sub != t.g.sub {
		t.doubt()
	}
}

// makeRoom waits until a position fits into the window. It returns false when the
// tenure is to end.
func (t *tenure) makeRoom(pos uint64) bool {
	for !t.account(pos) {
		if t.lost || t.ctx.Err() != nil {
			return false
		}
		if t.win.gain() > 0 && t.win.soft == t.win.high && !t.unsure() && !t.press {
			t.press = true
			t.wakeRecorder()
		}
		t.waits, t.anyRoom = true, true
		t.roomC.Wait()
		t.waits, t.anyRoom = false, false
	}
	return true
}

// bring takes an item in that came from the partition.
func (t *tenure) bring(it *Item, now time.Time, standing map[string]driver.Entry) {
	t.enlist(it, now)
	t.held++
	t.bytes += it.size()
	if it.suspect {
		it.counted = true
		t.suspects++
	}
	t.take(it, standing)
}

// account makes room for a position in the window, and says false when it does
// not fit yet.
func (t *tenure) account(pos uint64) bool {
	w := t.win
	if pos <= w.high {
		return true
	}
	if !w.fits(pos) && w.high != w.floor {
		return false
	}
	w.skipTo(pos)
	w.high = pos
	w.advance()
	return true
}

// prepare fills an item from a delivery, without the lock.
func (t *tenure) prepare(it *Item, d driver.Delivery) {
	it.Delivery, it.t, it.order = d, t, d.Pos
	if t.queue {
		t.order++
		it.order = t.order
		it.suspect = d.Again
	} else {
		it.suspect = d.Pos <= t.trial
	}
	it.rec.Stored = unixMilli(d.Stored)
	if m := &it.Delivery.Msg; d.Bad == nil && (m.Type == "" || m.ContentType == structuredType) && len(m.Body) <= t.g.cfg.MaxPayload {
		if ok, err := t.g.cfg.Structured(m); ok && err != nil {
			it.Delivery.Bad = err
		}
		d = it.Delivery
	}
	it.expires = expiryOf(&d.Msg)
}

const structuredType = "application/cloudevents+json"

// expiryOf is when a message loses its use; zero for never.
func expiryOf(m *driver.Message) time.Time {
	for _, a := range m.Attrs {
		if a.Name == "expirytime" {
			at, _ := time.Parse(time.RFC3339Nano, a.Value)
			return at
		}
	}
	return time.Time{}
}

// standing looks which suspects the lane has already: what left the window for
// the lane before an unclean end is not handled from the window too.
func (t *tenure) standing(items []Item) (map[string]driver.Entry, bool) {
	var names []string
	for i := range items {
		if items[i].suspect {
			names = append(names, t.entryName(&items[i]))
		}
	}
	if len(names) == 0 {
		return nil, true
	}
	var wait backoff
	defer t.calm(&wait, "lane_failed")
	for {
		entries, err := t.d.Lane().Get(t.ctx, names)
		if err == nil {
			m := make(map[string]driver.Entry, len(entries))
			for _, e := range entries {
				m[e.Name] = e
			}
			return m, true
		}
		if t.ended(err) {
			return nil, false
		}
		t.trouble(&wait, "lane_failed", "the lane cannot be read", err)
		if !wait.sleep(t.ctx) {
			return nil, false
		}
	}
}

// entryName names the entry of an item. A queue's handles say nothing that lasts:
// there, copies of a message share an entry.
func (t *tenure) entryName(it *Item) string {
	m := &it.Delivery.Msg
	order := it.order
	if t.queue && m.ID != "" { // foreign messages have no id to tell them apart
		order = 0
	}
	return driver.EntryName(m.Key, order, m.Source, m.ID)
}

// take decides what becomes of an item that has come in.
func (t *tenure) take(it *Item, standing map[string]driver.Entry) {
	g := t.g
	m := &it.Delivery.Msg
	if it.suspect {
		if e, ok := standing[t.entryName(it)]; ok {
			if e.State != driver.Boot {
				t.settle(it) // the lane has it
				return
			}
			stored := it.rec.Stored
			it.rec, _ = decodeRecord(e.Head)
			it.rec.Stored, it.known = stored, it.rec.Attempts
			it.booted = true
		}
	}
	switch {
	case it.Delivery.Bad == nil && m.Type != "" && !t.wanted(g.sub, m.Type):
		t.skipItem(it)
		return
	case it.Delivery.Bad != nil, m.Type == "", len(m.Body) > g.cfg.MaxPayload:
		it.h = g.cfg.Foreign[t.part.Topic]
		if it.h == nil || it.Delivery.Bad != nil || len(m.Body) > g.cfg.MaxPayload {
			t.bury(it, g.cfg.Foreigner(it))
			return
		}
	default:
		it.h = g.cfg.Handlers[m.Type]
	}
	t.admitKeyed(it)
}

// skipItem skips an item of a type that is outside of the subscription.
func (t *tenure) skipItem(it *Item) {
	if t.g.sub.types[t.part.Topic][it.Delivery.Msg.Type] {
		it.where = inUnserved // for somebody who has the handler
		t.unserved.push(it)
		return
	}
	t.g.cfg.Counts.Skipped(1)
	it.skipped = true
	t.settle(it)
}

func (t *tenure) admitKeyed(it *Item) {
	it.kq = t.keyOf(it.Delivery.Msg.Key)
	if it.kq != nil && it.kq.spills(t, it.order) {
		t.park(it)
		return
	}
	t.enqueue(it)
}
