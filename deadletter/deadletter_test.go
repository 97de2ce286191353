package deadletter_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/deadletter"
	_ "github.com/posthorn/posthorn/driver/memory"
	"github.com/posthorn/posthorn/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

type order struct {
	ID   string `json:"id"`
	Note string `json:"note,omitempty"`
}

var placed = posthorn.Define[order]("order.placed", posthorn.Key(func(o order) string { return o.ID }))

// A shop is a bus with a group "billing" that gives up on everything until it is
// mended.
type shop struct {
	*testing.T
	bus     *posthorn.Bus
	group   *posthorn.Group
	mended  atomic.Bool
	handled chan posthorn.Event[order]
}

func open(t *testing.T) *shop {
	t.Helper()
	bus, err := posthorn.Open(t.Context(), "memory:"+strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")), posthorn.Service("shop"), posthorn.Logger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{T: t, bus: bus, handled: make(chan posthorn.Event[order], 1000)}
	t.Cleanup(func() { s.check(bus.Close(context.Background())) })
	return s
}

func (s *shop) check(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// start starts the group.
func (s *shop) start() {
	s.Helper()
	s.group = s.bus.Group("billing", posthorn.GroupConfig{Retry: posthorn.Retry{Attempts: posthorn.None, Late: posthorn.None}})
	placed.Handle(s.group, func(_ context.Context, e *posthorn.Event[order]) error {
		if !s.mended.Load() || e.Data.Note == "never" {
			return posthorn.Permanent(errors.New("no such customer " + e.Data.ID))
		}
		s.handled <- *e
		return nil
	})
	s.check(s.group.Start(s.Context()))
}

func (s *shop) publish(n int, note string) {
	s.Helper()
	for i := range n {
		s.check(placed.Publish(s.Context(), s.bus, order{fmt.Sprint("o-", i), note}, posthorn.WithID(fmt.Sprint(note, "id-", i)), posthorn.WithHeader("x-tenant", "acme")))
	}
}

func (s *shop) letters(q deadletter.Query) []deadletter.Letter {
	s.Helper()
	var all []deadletter.Letter
	for l, err := range deadletter.List(s.Context(), s.bus, q) {
		s.check(err)
		all = append(all, l)
	}
	return all
}

func (s *shop) until(what string, ok func() bool) {
	s.Helper()
	for began := time.Now(); !ok(); time.Sleep(time.Millisecond) {
		if time.Since(began) > 30*time.Second {
			s.Fatalf("still not: %s", what)
		}
	}
}

// next is the next event that was handled.
func (s *shop) next() posthorn.Event[order] {
	s.Helper()
	select {
	case e := <-s.handled:
		return e
	case <-time.After(30 * time.Second):
		s.Fatal("nothing more is handled")
		return posthorn.Event[order]{}
	}
}

// dead has n events become dead letters.
func (s *shop) dead(n int) {
	s.Helper()
	s.start()
	s.publish(n, "")
	s.until("all are dead letters", func() bool { return len(s.letters(deadletter.Query{})) == n })
}

func (s *shop) wants(code posthorn.Code, text string, err error) {
	s.Helper()
	if err == nil || posthorn.CodeOf(err) != code || !strings.Contains(err.Error(), text) {
		s.Errorf("got %v (%v), want code %v and %q", err, posthorn.CodeOf(err), code, text)
	}
}

func TestQuery(t *testing.T) {
	s := open(t)
	s.dead(20)
	l := s.letters(deadletter.Query{IDs: []string{"id-7"}})[0]
	for name, c := range map[string]struct {
		q    deadletter.Query
		want int
	}{
		"all":           {deadletter.Query{}, 20},
		"group":         {deadletter.Query{Groups: []string{"billing"}}, 20},
		"topic":         {deadletter.Query{Topics: []string{"order"}}, 20},
		"type":          {deadletter.Query{Types: []string{"stock.*", "order.*"}}, 20},
		"another type":  {deadletter.Query{Types: []string{"stock.*"}}, 0},
		"key":           {deadletter.Query{Keys: []string{"o-3", "o-4", "none"}}, 2},
		"id":            {deadletter.Query{IDs: []string{"id-3"}}, 1},
		"reason":        {deadletter.Query{Reasons: []posthorn.Code{posthorn.CodePermanent}}, 20},
		"other reason":  {deadletter.Query{Reasons: []posthorn.Code{posthorn.CodeTimeout}}, 0},
		"from":          {deadletter.Query{From: l.Died.Add(time.Hour)}, 0},
		"until":         {deadletter.Query{Until: l.Died.Add(time.Hour)}, 20},
		"until before":  {deadletter.Query{Until: l.Died.Add(-time.Hour)}, 0},
		"text in error": {deadletter.Query{Text: "CUSTOMER o-11"}, 1},
		"text in data":  {deadletter.Query{Text: `"id":"o-12"`}, 1},
		"in a header":   {deadletter.Query{Text: "acme"}, 20},
		"text nowhere":  {deadletter.Query{Text: "zzz"}, 0},
		"both":          {deadletter.Query{Keys: []string{"o-3"}, Text: "o-4"}, 0},
	} {
		if got := len(s.letters(c.q)); got != c.want {
			t.Errorf("%s: %d letters, want %d", name, got, c.want)
		}
	}
	for _, c := range []struct {
		q    deadletter.Query
		code posthorn.Code
		text string
	}{
		{deadletter.Query{Groups: []string{"nobody"}}, posthorn.CodeNotFound, `group "nobody" is not registered on this broker; there are billing`},
		{deadletter.Query{Groups: []string{"billing"}, Topics: []string{"desk"}}, posthorn.CodeNotFound, `group "billing" is not subscribed to anything in topic "desk"`},
		{deadletter.Query{Types: []string{"["}}, posthorn.CodeInvalid, "cannot be read"},
		{deadletter.Query{From: l.Died, Until: l.Died}, posthorn.CodeInvalid, "nothing can lie between"},
	} {
		for _, err := range deadletter.List(t.Context(), s.bus, c.q) {
			s.wants(c.code, c.text, err)
		}
	}
	if _, err := deadletter.Get(t.Context(), s.bus, "billing", "id-99"); true {
		s.wants(posthorn.CodeNotFound, "posthorn why id-99", err)
	}
	for range deadletter.List(t.Context(), s.bus, deadletter.Query{}) {
		break // it can be stopped
	}
}

func TestReplay(t *testing.T) {
	s := open(t)
	s.dead(30)
	r, err := deadletter.Replay(t.Context(), s.bus, deadletter.Query{}, deadletter.Job{DryRun: true})
	if s.check(err); r.Matched != 30 || r.Done != 0 || len(s.letters(deadletter.Query{})) != 30 {
		t.Errorf("a dry run: %+v", r)
	}
	// While nothing is mended, all of it dies again, with what it died of before.
	r, err = deadletter.Replay(t.Context(), s.bus, deadletter.Query{Keys: []string{"o-1"}}, deadletter.Job{By: "anna"})
	if s.check(err); r.Done != 1 {
		t.Errorf("%+v", r)
	}
	var l deadletter.Letter
	s.until("it is dead again", func() bool {
		ls := s.letters(deadletter.Query{IDs: []string{"id-1"}})
		if len(ls) == 1 {
			l = ls[0]
		}
		return len(ls) == 1 && len(l.Deaths) == 1
	})
	if d := l.Deaths[0]; l.Attempts != 1 || len(l.Errors) != 2 || d.By != "anna" || d.Attempts != 1 || d.Reason != posthorn.CodePermanent || d.Died.Before(l.First) || d.Replayed.Before(d.Died) {
		t.Errorf("%+v", l)
	}
	s.mended.Store(true)
	var told []int
	r, err = deadletter.Replay(t.Context(), s.bus, deadletter.Query{Groups: []string{"billing"}}, deadletter.Job{By: "anna", Canary: 3, Rate: 10_000,
		Progress: func(done, of int) { told = append(told, done, of) }})
	if s.check(err); r.Matched != 30 || r.Done != 30 || len(r.Waits) != 0 || len(told) < 4 || told[len(told)-2] != 30 || told[1] != 30 {
		t.Errorf("%+v, told %v", r, told)
	}
	for range 30 {
		if e := s.next(); e.Attempt != 1 || e.Headers["x-tenant"] != "acme" {
			t.Errorf("%+v", e.Meta)
		}
	}
	// Once more: there is nothing left.
	_, err = deadletter.Replay(t.Context(), s.bus, deadletter.Query{Groups: []string{"billing"}, Types: []string{"order.placed"}}, deadletter.Job{})
	s.wants(posthorn.CodeNotFound, "replay: no dead letter is meant by: type order.placed, in group billing", err)
	notes, err := deadletter.Log(t.Context(), s.bus, "billing")
	if s.check(err); len(notes) != 2 || notes[1].Done != 30 || notes[1].By != "anna" || notes[1].Ended.IsZero() || notes[0].IDs[0] != "id-1" || notes[0].Query != "key o-1" {
		t.Errorf("%+v", notes)
	}
}

// What the group gives up on again stops the others.
func TestCanary(t *testing.T) {
	s := open(t)
	s.dead(10)
	r, err := deadletter.Replay(t.Context(), s.bus, deadletter.Query{}, deadletter.Job{Canary: 2})
	s.wants(posthorn.CodeHandler, "of the canary, the first is id-", err)
	s.wants(posthorn.CodeHandler, "no such customer o-", err)
	s.wants(posthorn.CodeHandler, "the other 8 stay dead letters", err)
	if r.Done != 2 || r.Matched != 10 {
		t.Errorf("%+v", r)
	}
	replayed := 0
	for _, l := range s.letters(deadletter.Query{}) {
		replayed += len(l.Deaths)
	}
	if replayed > 2 {
		t.Errorf("%d were replayed", replayed)
	}
	s.check(s.bus.Pause(t.Context(), "billing", "stock-taking"))
	_, err = deadletter.Replay(t.Context(), s.bus, deadletter.Query{}, deadletter.Job{Canary: 2})
	s.wants(posthorn.CodeConflict, "nobody would handle the canary: it is paused: stock-taking", err)
	notes, err := deadletter.Log(t.Context(), s.bus, "billing")
	if s.check(err); len(notes) != 1 || notes[0].Done != 2 || !strings.Contains(notes[0].Error, "gave up again") {
		t.Errorf("%+v", notes)
	}
}

// A canary that is not handled in time stops the others, too.
func TestCanaryTime(t *testing.T) {
	s := open(t)
	release := make(chan struct{})
	g := s.bus.Group("billing", posthorn.GroupConfig{Retry: posthorn.Retry{Attempts: posthorn.None, Late: 1, LateDelay: time.Hour, MaxLateDelay: time.Hour}})
	placed.Handle(g, func(ctx context.Context, e *posthorn.Event[order]) error {
		if !s.mended.Load() {
			return posthorn.Permanent(errors.New("no"))
		}
		if e.Data.ID == "o-0" {
			return errors.New("later")
		}
		select {
		case <-release:
		case <-ctx.Done():
		}
		return nil
	})
	s.check(g.Start(t.Context()))
	s.publish(3, "")
	s.until("all are dead letters", func() bool { return len(s.letters(deadletter.Query{})) == 3 })
	s.mended.Store(true)
	_, err := deadletter.Replay(t.Context(), s.bus, deadletter.Query{Keys: []string{"o-1", "o-2"}}, deadletter.Job{Canary: 1, CanaryTime: 50 * time.Millisecond})
	s.wants(posthorn.CodeTimeout, "1 of the canary are not handled after 50ms; the other 1 stay dead letters", err)
	close(release)
	_, err = deadletter.Replay(t.Context(), s.bus, deadletter.Query{Keys: []string{"o-0"}}, deadletter.Job{Canary: 1, CanaryTime: 2 * time.Second})
	s.wants(posthorn.CodeTimeout, "1 have failed and will be tried again, the first is id-0: later", err)
}

func TestReplayWaits(t *testing.T) {
	s := open(t)
	s.dead(3)
	s.check(s.bus.Pause(t.Context(), "billing", "stock-taking"))
	r, err := deadletter.Replay(t.Context(), s.bus, deadletter.Query{}, deadletter.Job{By: "anna"})
	if s.check(err); r.Done != 3 || r.Waits["billing"] != "it is paused: stock-taking" {
		t.Errorf("%+v", r)
	}
	at, err := s.bus.Why(t.Context(), "id-0", posthorn.WhyConfig{})
	if s.check(err); at[0].Groups[0].State != posthorn.StandsRetry || !strings.Contains(at[0].Groups[0].Why, "replayed by anna") {
		t.Errorf("%+v", at)
	}
	s.mended.Store(true)
	s.check(s.bus.Resume(t.Context(), "billing"))
	for range 3 {
		s.next()
	}
}

// What is replayed while no member is there is handled by the next one.
func TestReplayToNobody(t *testing.T) {
	s := open(t)
	s.dead(3)
	s.check(s.group.Stop(t.Context()))
	r, err := deadletter.Replay(t.Context(), s.bus, deadletter.Query{}, deadletter.Job{})
	if s.check(err); r.Done != 3 || r.Waits["billing"] != "it has no member" {
		t.Errorf("%+v", r)
	}
	discarded := s.letters(deadletter.Query{})
	if len(discarded) != 0 {
		t.Errorf("%d are left", len(discarded))
	}
}

// What has lost its use is not replayed, only to be dropped: it stays, until somebody
// discards it.
func TestExpired(t *testing.T) {
	s := open(t)
	s.start()
	for use := 200 * time.Millisecond; ; use *= 2 {
		expires := time.Now().Add(use)
		s.check(placed.Publish(t.Context(), s.bus, order{ID: "o"}, posthorn.ExpiresAt(expires)))
		s.until("it has ended", func() bool { return s.bus.Stats().Dead+s.bus.Stats().Expired > 0 })
		if s.bus.Stats().Dead > 0 {
			s.until("it is on record, and has expired", func() bool { return len(s.letters(deadletter.Query{})) == 1 && time.Now().After(expires) })
			break
		}
	}
	r, err := deadletter.Replay(t.Context(), s.bus, deadletter.Query{}, deadletter.Job{})
	if s.check(err); r.Matched != 1 || r.Expired != 1 || r.Done != 0 || len(s.letters(deadletter.Query{})) != 1 {
		t.Errorf("%+v", r)
	}
	r, err = deadletter.Discard(t.Context(), s.bus, deadletter.Query{}, deadletter.Job{Reason: "too late"})
	if s.check(err); r.Done != 1 {
		t.Errorf("%+v", r)
	}
}

func TestInterrupted(t *testing.T) {
	s := open(t)
	s.dead(200)
	s.mended.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := deadletter.Replay(ctx, s.bus, deadletter.Query{}, deadletter.Job{Rate: 1000, Progress: func(done, of int) {
		if done >= 60 {
			cancel()
		}
	}})
	s.wants(posthorn.CodeCanceled, fmt.Sprintf("replay: stopped after %d of 200; what was done is done", r.Done), err)
	if r.Done < 60 || r.Done == 200 {
		t.Errorf("%+v", r)
	}
	notes, err := deadletter.Log(t.Context(), s.bus, "billing")
	if s.check(err); len(notes) != 1 || notes[0].Done != r.Done || notes[0].Matched != 200 || notes[0].Error == "" {
		t.Errorf("%+v", notes)
	}
	again, err := deadletter.Replay(t.Context(), s.bus, deadletter.Query{}, deadletter.Job{})
	if s.check(err); again.Done+r.Done != 200 {
		t.Errorf("%+v, then %+v", r, again)
	}
	for range 200 {
		s.next()
	}
	s.until("all are settled", func() bool { return s.bus.Stats().Handled == 200 })
}

// From many places at once, each is replayed once.
func TestAtOnce(t *testing.T) {
	s := open(t)
	s.dead(200)
	s.mended.Store(true)
	type end struct {
		r   deadletter.Report
		err error
	}
	ends := make(chan end)
	for range 4 {
		go func() {
			r, err := deadletter.Replay(t.Context(), s.bus, deadletter.Query{}, deadletter.Job{})
			ends <- end{r, err}
		}()
	}
	done := 0
	for range 4 {
		e := <-ends
		if e.err != nil && posthorn.CodeOf(e.err) != posthorn.CodeNotFound || e.r.Done+e.r.Skipped != e.r.Matched {
			t.Errorf("%+v", e)
		}
		done += e.r.Done
	}
	if done != 200 {
		t.Errorf("%d were replayed of 200", done)
	}
	s.until("all are handled", func() bool { return s.bus.Stats().Handled == 200 })
	if n := len(s.handled); n != 200 {
		t.Errorf("handled %d times", n)
	}
}

func TestEdit(t *testing.T) {
	s := open(t)
	s.dead(1)
	get := func() deadletter.Letter {
		t.Helper()
		ls, err := deadletter.Get(t.Context(), s.bus, "billing", "id-0")
		s.check(err)
		return ls[0]
	}
	l := get()
	for _, c := range []struct {
		c    deadletter.Change
		code posthorn.Code
		text string
	}{
		{deadletter.Change{}, posthorn.CodeInvalid, "neither data nor headers are given"},
		{deadletter.Change{Data: []byte(`{"id":`)}, posthorn.CodeInvalid, "the data is not JSON, as its content type application/json says"},
		{deadletter.Change{Headers: map[string]string{"Nats-Msg-Id": "x"}}, posthorn.CodeInvalid, "reserved"},
		{deadletter.Change{ContentType: ";"}, posthorn.CodeInvalid, "content type"},
		{deadletter.Change{Data: make([]byte, 2<<20)}, posthorn.CodeTooLarge, "the limit is"},
		{deadletter.Change{Reason: strings.Repeat("x", 1025), Data: []byte("1")}, posthorn.CodeInvalid, "1025 bytes"},
		{deadletter.Change{Data: []byte("1"), Check: func(deadletter.Letter) error { return errors.New("not like this") }}, posthorn.CodeInvalid, "not like this"},
	} {
		_, err := deadletter.Edit(t.Context(), s.bus, l, c.c)
		s.wants(c.code, c.text, err)
	}
	if now := get(); now.Revision != l.Revision {
		t.Errorf("what was refused has changed it")
	}
	edited, err := deadletter.Edit(t.Context(), s.bus, l, deadletter.Change{By: "anna", Reason: "wrong customer", Data: []byte(`{"id":"o-0","note":"mended"}`),
		Headers: map[string]string{"X-Tenant": "", "x-by": "hand"}})
	s.check(err)
	now := get()
	if now.Revision != edited.Revision || now.Edited.IsZero() || now.EditedBy != "anna" || string(now.Data) != `{"id":"o-0","note":"mended"}` || now.ID != "id-0" ||
		len(now.Headers) != 1 || now.Headers["x-by"] != "hand" || now.Reason != posthorn.CodePermanent || len(now.Errors) != 1 {
		t.Errorf("%+v", now)
	}
	_, err = deadletter.Edit(t.Context(), s.bus, l, deadletter.Change{Data: []byte("1")})
	s.wants(posthorn.CodeConflict, "replayed, edited or discarded since it was read", err)
	notes, err := deadletter.Log(t.Context(), s.bus, "billing")
	s.check(err)
	if len(notes) != 1 || notes[0].Original == nil {
		t.Fatalf("%+v", notes)
	}
	if n := notes[0]; n.Action != deadletter.ActionEdit || n.By != "anna" || n.Reason != "wrong customer" || n.Done != 1 || n.Original.ID != "id-0" ||
		string(n.Original.Data) != string(l.Data) || n.Original.Headers["x-tenant"] != "acme" || n.Original.Key != "o-0" {
		t.Errorf("%+v, original %+v", n, n.Original)
	}
	s.mended.Store(true)
	_, err = deadletter.Replay(t.Context(), s.bus, deadletter.Query{}, deadletter.Job{})
	s.check(err)
	if e := s.next(); e.Data.Note != "mended" || e.ID != "id-0" || e.Headers["x-by"] != "hand" || e.Headers["x-tenant"] != "" {
		t.Errorf("%+v", e)
	}
}

func TestDiscard(t *testing.T) {
	s := open(t)
	s.dead(5)
	_, err := deadletter.Discard(t.Context(), s.bus, deadletter.Query{}, deadletter.Job{})
	s.wants(posthorn.CodeInvalid, "the reason is empty", err)
	_, err = deadletter.Discard(t.Context(), s.bus, deadletter.Query{}, deadletter.Job{Reason: "x", Canary: 1})
	s.wants(posthorn.CodeInvalid, "a canary is for replay", err)
	r, err := deadletter.Discard(t.Context(), s.bus, deadletter.Query{Keys: []string{"o-1", "o-2"}}, deadletter.Job{By: "anna", Reason: "test data"})
	if s.check(err); r.Done != 2 || len(s.letters(deadletter.Query{})) != 3 {
		t.Errorf("%+v", r)
	}
	s.until("its entry is gone", func() bool {
		at, err := s.bus.Why(t.Context(), "id-1", posthorn.WhyConfig{})
		s.check(err)
		return at[0].Groups[0].Why == "it was handled, skipped, discarded or expired"
	})
	s.check(s.group.Stop(t.Context()))
	_, err = deadletter.Discard(t.Context(), s.bus, deadletter.Query{Keys: []string{"o-3"}}, deadletter.Job{By: "anna", Reason: "test data"})
	s.check(err)
	at, err := s.bus.Why(t.Context(), "id-3", posthorn.WhyConfig{})
	if s.check(err); at[0].Groups[0].State != posthorn.StandsSettled || at[0].Groups[0].Why != "it was a dead letter, and was discarded by anna: test data" {
		t.Errorf("%+v", at)
	}
}

func TestExport(t *testing.T) {
	s := open(t)
	s.dead(3)
	var b strings.Builder
	n, err := deadletter.Export(t.Context(), s.bus, deadletter.Query{Keys: []string{"o-0", "o-2"}}, &b)
	if s.check(err); n != 2 {
		t.Errorf("%d", n)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(b.String()) {
		var r deadletter.Record
		s.check(json.Unmarshal([]byte(line), &r))
		seen[r.ID] = true
		if r.Group != "billing" || r.Type != "order.placed" || r.Reason != posthorn.CodePermanent || len(r.Errors) != 1 || string(r.Data) != `{"id":"`+r.Key+`"}` ||
			r.Headers["x-tenant"] != "acme" || r.Died == nil || r.ContentType != "application/json" || r.Member == "" {
			t.Errorf("%s", line)
		}
	}
	if !seen["id-0"] || !seen["id-2"] {
		t.Errorf("%v", seen)
	}
}

func TestJob(t *testing.T) {
	s := open(t)
	for _, c := range []struct {
		j    deadletter.Job
		text string
	}{
		{deadletter.Job{Rate: -1}, "the rate is -1"},
		{deadletter.Job{Canary: -1}, "the canary is -1"},
		{deadletter.Job{CanaryTime: -1}, "the time for the canary is -1ns"},
		{deadletter.Job{Reason: strings.Repeat("x", 1025)}, "the reason is 1025 bytes long"},
	} {
		_, err := deadletter.Replay(t.Context(), s.bus, deadletter.Query{}, c.j)
		s.wants(posthorn.CodeInvalid, c.text, err)
	}
	_, err := deadletter.Replay(t.Context(), s.bus, deadletter.Query{}, deadletter.Job{})
	s.wants(posthorn.CodeNotFound, "no dead letter is meant by: all, in all groups", err)
}

// The oldest notes go.
func TestNotes(t *testing.T) {
	s := open(t)
	s.dead(1)
	for i := range 105 {
		l, err := deadletter.Get(t.Context(), s.bus, "billing", "id-0")
		s.check(err)
		_, err = deadletter.Edit(t.Context(), s.bus, l[0], deadletter.Change{Data: fmt.Appendf(nil, `{"id":"o-0","note":"%d"}`, i)})
		s.check(err)
	}
	notes, err := deadletter.Log(t.Context(), s.bus, "billing")
	if s.check(err); len(notes) != 100 || string(notes[0].Original.Data) != `{"id":"o-0","note":"4"}` {
		t.Errorf("%d notes, the first %+v", len(notes), notes[0].Original)
	}
}
