package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver/embedded"
)

// The tests in this file look at what a user of a bus sees of bad input and bad
// days: codes, texts, health, alarms.

func wantCode(t *testing.T, err error, code posthorn.Code, words ...string) {
	t.Helper()
	if posthorn.CodeOf(err) != code {
		t.Fatalf("code %q of %v, want %q", posthorn.CodeOf(err), err, code)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the text does not say %q: %v", w, err)
		}
	}
}

func quiet() posthorn.Option { return posthorn.Logger(slog.New(slog.DiscardHandler)) }

func TestBusOpenRefuses(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]struct {
		code  posthorn.Code
		words []string
	}{
		"embedded:./x?colour=red": {posthorn.CodeInvalid, []string{"colour"}},
		"embedded://host/dir":     {posthorn.CodeInvalid, []string{"embedded:"}},
		"embedded:" + file:        {posthorn.CodeDenied, []string{file, "choose another"}},
	} {
		_, err := posthorn.Open(t.Context(), url, quiet())
		wantCode(t, err, want.code, want.words...)
	}
}

func TestBusPartitionsChanged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, n := range []int{4, 8} {
		bus, err := posthorn.Open(t.Context(), "embedded:"+dir, quiet())
		if err != nil {
			t.Fatal(err)
		}
		ev := posthorn.Define[string]("note.taken", posthorn.In(posthorn.DefineTopic("note", posthorn.TopicConfig{Partitions: n})))
		err = ev.Publish(t.Context(), bus, "x")
		if n == 4 && err != nil {
			t.Fatal(err)
		}
		if n == 8 {
			wantCode(t, err, posthorn.CodeConflict, `topic "note"`, "Partitions", "8", "4", "new topic name")
			g := bus.Group("g", posthorn.GroupConfig{})
			ev.Handle(g, func(context.Context, *posthorn.Event[string]) error { return nil })
			wantCode(t, g.Start(t.Context()), posthorn.CodeConflict, "Partitions")
		}
		if err := bus.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBusFailingSync: after a sync has failed nothing is confirmed, and health is
// red.
func TestBusFailingSync(t *testing.T) {
	t.Parallel()
	var g gate
	b := &bed{t: t}
	d, err := embedded.Open(t.Context(), t.TempDir(), g.options(), b.env())
	if err != nil {
		t.Fatal(err)
	}
	bus, err := posthorn.OpenDriver(t.Context(), d, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close(context.Background())
	if err := stepTaken.Publish(t.Context(), bus, step{Key: "a"}); err != nil {
		t.Fatal(err)
	}
	if !bus.Health(t.Context()).OK {
		t.Error("not healthy before")
	}
	broken := errors.New("the disk is on fire")
	g.fail.Store(&broken)
	err = stepTaken.Publish(t.Context(), bus, step{Key: "a"})
	wantCode(t, err, posthorn.CodeUnknown, "unknown", "fire", "restart")
	g.fail.Store(nil)
	err = stepTaken.Publish(t.Context(), bus, step{Key: "a"})
	wantCode(t, err, posthorn.CodeUnavailable, "not stored", "fire")
	if h := bus.Health(t.Context()); h.OK || !strings.Contains(h.Reasons[0].Text, "fire") {
		t.Errorf("health %+v", h)
	}
}

// TestBusOlderStore takes a store back to before its last 100 messages, under a
// group that has settled them: what is confirmed later is handled, and an alarm
// tells.
func TestBusOlderStore(t *testing.T) {
	t.Parallel()
	for name, publishFirst := range map[string]bool{"group first": false, "publisher first": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			busOlderStore(t, publishFirst)
		})
	}
}

func busOlderStore(t *testing.T, publishFirst bool) {
	dir := t.TempDir()
	store := filepath.Join(dir, "store")
	var handled atomic.Int64
	session := func(n int, opts ...posthorn.Option) {
		bus, err := posthorn.Open(t.Context(), "embedded:"+store, append(opts, posthorn.Service("test"), quiet())...)
		if err != nil {
			t.Fatal(err)
		}
		group := bus.Group("g", posthorn.GroupConfig{})
		stepTaken.Handle(group, func(context.Context, *posthorn.Event[step]) error {
			handled.Add(1)
			return nil
		})
		var batch []*posthorn.Outgoing
		for i := range n {
			batch = append(batch, stepTaken.New(step{Key: "k", Seq: i}))
		}
		steps := []func() error{
			func() error { return group.Start(t.Context()) },
			func() error { return bus.PublishAll(t.Context(), batch...) },
		}
		if publishFirst {
			slices.Reverse(steps)
		}
		for _, do := range steps {
			if err := do(); err != nil {
				t.Fatal(err)
			}
		}
		waitSettled(t, bus, "g")
		if err := bus.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	session(50)
	// The events' streams are put back, the group's records are not.
	older := filepath.Join(dir, "older")
	streams := eventStreams(t, store)
	for _, s := range streams {
		copyDir(t, filepath.Join(store, s), filepath.Join(older, s))
	}
	session(100)
	for _, s := range streams {
		if err := os.RemoveAll(filepath.Join(store, s)); err != nil {
			t.Fatal(err)
		}
		copyDir(t, filepath.Join(older, s), filepath.Join(store, s))
	}
	handled.Store(0)
	alarms := make(chan posthorn.Alarm, 100)
	session(70, posthorn.OnAlarm(func(a posthorn.Alarm) { alarms <- a }))
	if n := handled.Load(); n != 70 {
		t.Errorf("%d of the 70 events that were confirmed later were handled", n)
	}
	close(alarms)
	codes := map[string]bool{}
	for a := range alarms {
		codes[a.Code] = true
	}
	if !codes["position_ahead"] {
		t.Errorf("alarms: %v", codes)
	}
}

// eventStreams finds the folders of the streams that hold events.
func eventStreams(t *testing.T, store string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(store, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.IsDir() && strings.HasPrefix(e.Name(), "PH-T-") {
			rel, _ := filepath.Rel(store, path)
			found = append(found, rel)
			return filepath.SkipDir
		}
		return err
	})
	if err != nil || len(found) == 0 {
		t.Fatal("no stream of a topic in the store", err)
	}
	slices.Sort(found)
	return found
}

// TestBusFullDisk fills the disk under a bus that publishes and handles. Publishes
// wait up to their deadline and say what is true, health says so, and when there
// is room all goes on.
func TestBusFullDisk(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, "24m")
	alarms := make(chan posthorn.Alarm, 100)
	bus, err := posthorn.Open(t.Context(), "embedded:"+filepath.Join(dir, "store"), posthorn.Service("test"), quiet(),
		posthorn.OnAlarm(func(a posthorn.Alarm) { alarms <- a }))
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close(context.Background())
	blob := posthorn.Define[[]byte]("blob.kept", posthorn.In(posthorn.DefineTopic("blob", posthorn.TopicConfig{Partitions: 2})))
	group := bus.Group("g", posthorn.GroupConfig{})
	seen := make(chan string, 10_000)
	blob.Handle(group, func(ctx context.Context, e *posthorn.Event[[]byte]) error {
		seen <- e.ID
		return nil
	})
	if err := group.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	publish := func(id string, wait time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		defer cancel()
		return blob.Publish(ctx, bus, make([]byte, 50_000), posthorn.WithID(id))
	}
	confirmed := map[string]bool{}
	if err := publish("first", time.Minute); err != nil {
		t.Fatal(err)
	}
	confirmed["first"] = true
	free := fill(t, dir)
	for i := range 4 {
		id := fmt.Sprint("full", i)
		switch err := publish(id, 300*time.Millisecond); posthorn.CodeOf(err) {
		case posthorn.CodeNoSpace:
			var failed *posthorn.PublishError
			if !errors.As(err, &failed) || failed.Results[0].State != posthorn.NotStored {
				t.Errorf("%v", err)
			}
		case posthorn.CodeUnknown, posthorn.CodeTimeout:
		default:
			t.Fatalf("publishing on a full disk: %v", err)
		}
	}
	if h := bus.Health(t.Context()); h.OK {
		t.Error("healthy on a full disk")
	}
	if a := <-alarms; a.Code != "disk_full" || !strings.Contains(a.Text, "room") {
		t.Errorf("alarm %+v", a)
	}
	free()
	eventually(t, "publishing goes on", func() bool {
		id := fmt.Sprint("after", len(confirmed))
		if publish(id, time.Second) != nil {
			return false
		}
		confirmed[id] = true
		return len(confirmed) > 5
	})
	eventually(t, "all that was confirmed is handled", func() bool {
		select {
		case id := <-seen:
			delete(confirmed, id)
		default:
		}
		return len(confirmed) == 0
	})
	eventually(t, "healthy again", func() bool { return bus.Health(t.Context()).OK })
}
