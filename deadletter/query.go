package deadletter

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/internal/bridge"
)

// A Letter is a dead letter.
type Letter = posthorn.DeadLetter

// A Query says which dead letters are meant: those that fit each of its fields that is
// set. The zero value means all of all groups.
type Query struct {
	// Groups that gave up on it. Default: all that are registered.
	Groups []string
	// Topics in which it is stored, and Keys that it has.
	Topics, Keys []string
	// Types are event types, or patterns of them such as "order.*", in which a *
	// stands for anything.
	Types []string
	// IDs of events. Copies of an event have the same one.
	IDs []string
	// Reasons why the group gave up.
	Reasons []posthorn.Code
	// From and Until bound when the group gave up: at or after From, before Until.
	From, Until time.Time
	// Text stands in the data, in a header or in one of the errors. Upper and lower
	// case are the same.
	Text string
}

// String says the query in words; "all" when it means all.
func (q Query) String() string {
	var parts []string
	list := func(name string, values []string) {
		if len(values) > 3 {
			values = append(slices.Clone(values[:3]), fmt.Sprintf("and %d more", len(values)-3))
		}
		if len(values) > 0 {
			parts = append(parts, name+" "+strings.Join(values, ", "))
		}
	}
	list("topic", q.Topics)
	list("type", q.Types)
	list("key", q.Keys)
	list("id", q.IDs)
	var reasons []string
	for _, r := range q.Reasons {
		reasons = append(reasons, string(r))
	}
	list("reason", reasons)
	if !q.From.IsZero() {
		list("from", []string{q.From.UTC().Format(time.RFC3339)})
	}
	if !q.Until.IsZero() {
		list("until", []string{q.Until.UTC().Format(time.RFC3339)})
	}
	if q.Text != "" {
		list("text", []string{fmt.Sprintf("%.100q", q.Text)})
	}
	if len(parts) == 0 {
		return "all"
	}
	return strings.Join(parts, "; ")
}

func (q *Query) check() error {
	for _, pattern := range q.Types {
		if _, err := path.Match(pattern, ""); err != nil {
			return errorf(posthorn.CodeInvalid, "type pattern %q cannot be read; it is a name in which * stands for anything", pattern)
		}
	}
	if !q.From.IsZero() && !q.Until.IsZero() && !q.From.Before(q.Until) {
		return errorf(posthorn.CodeInvalid, "the time from %s is not before %s: nothing can lie between", q.From.Format(time.RFC3339), q.Until.Format(time.RFC3339))
	}
	return nil
}

func within[T comparable](all []T, v T) bool { return len(all) == 0 || slices.Contains(all, v) }

// fits tells whether a letter is meant, as far as that can be said without its data.
func (q *Query) fits(l *Letter) bool {
	if !within(q.Keys, l.Key) || !within(q.IDs, l.ID) || !within(q.Reasons, l.Reason) {
		return false
	}
	if !q.From.IsZero() && l.Died.Before(q.From) || !q.Until.IsZero() && !l.Died.Before(q.Until) {
		return false
	}
	return len(q.Types) == 0 || slices.ContainsFunc(q.Types, func(pattern string) bool {
		ok, _ := path.Match(pattern, l.Type)
		return ok
	})
}

// says tells whether the text stands in a letter.
func (q *Query) says(l *Letter) bool {
	if q.Text == "" {
		return true
	}
	text := strings.ToLower(q.Text)
	for _, e := range l.Errors {
		if strings.Contains(strings.ToLower(e), text) {
			return true
		}
	}
	for _, v := range l.Headers {
		if strings.Contains(strings.ToLower(v), text) {
			return true
		}
	}
	return bytes.Contains(bytes.ToLower(l.Data), []byte(text))
}

// List walks over dead letters: by group, topic and partition, and within these by key
// and position. It reads in pages and can be stopped at any time; ctx bounds the
// whole walk. An error ends it, but for a record that cannot be read
// (CodeUndecodable), which comes with its event. A group or topic that does not exist
// is an error with CodeNotFound.
func List(ctx context.Context, bus *posthorn.Bus, q Query) iter.Seq2[Letter, error] {
	return func(yield func(Letter, error) bool) {
		w := &walk{b: bridge.Of(bus), q: q}
		stopped := false
		err := w.groups(ctx, func(group driver.GroupSpec) error {
			return w.lanes(ctx, group.Name, nil, func(p driver.Partition, entries []driver.Entry) error {
				return w.letters(ctx, group.Name, p, entries, true, func(l Letter, _ *driver.Entry, err error) error {
					if stopped = !yield(l, err); stopped {
						return errStopped
					}
					return nil
				})
			})
		})
		if err != nil && !stopped {
			yield(Letter{}, err)
		}
	}
}

var errStopped = fmt.Errorf("stopped")

// Get returns the dead letters of an event in a group: one, or several when copies of
// it were stored. Without any it is an error with CodeNotFound.
func Get(ctx context.Context, bus *posthorn.Bus, group, id string) ([]Letter, error) {
	if id == "" {
		return nil, errorf(posthorn.CodeInvalid, "the id is empty")
	}
	var found []Letter
	for l, err := range List(ctx, bus, Query{Groups: []string{group}, IDs: []string{id}}) {
		if err != nil && l.Entry == "" {
			return nil, err
		}
		found = append(found, l)
	}
	if len(found) == 0 {
		return nil, errorf(posthorn.CodeNotFound, "group %q has no dead letter with the id %s: it was replayed or discarded, or never was one; posthorn why %s says where it stands", group, id, id)
	}
	return found, nil
}

// A walk reads lanes.
type walk struct {
	b bridge.Bus
	q Query
}

// How many entries are read at a time: without data, and with.
const (
	headPage = 1000
	bodyPage = 64
)

// groups calls f for each group that is meant.
func (w *walk) groups(ctx context.Context, f func(driver.GroupSpec) error) error {
	if err := w.q.check(); err != nil {
		return err
	}
	var specs []driver.GroupSpec
	for _, name := range w.q.Groups {
		spec, err := w.b.Group(ctx, name)
		if err != nil {
			return err
		}
		specs = append(specs, spec)
	}
	if len(w.q.Groups) == 0 {
		var err error
		if specs, err = w.b.Groups(ctx); err != nil {
			return err
		}
	}
	if err := w.topics(specs); err != nil {
		return err
	}
	for _, spec := range specs {
		if err := f(spec); err != nil {
			return err
		}
	}
	return nil
}

// topics refuses topics that none of the groups has.
func (w *walk) topics(specs []driver.GroupSpec) error {
	for _, topic := range w.q.Topics {
		if !slices.ContainsFunc(specs, func(s driver.GroupSpec) bool { return s.Types[topic] != nil }) {
			what := "no group is"
			if len(specs) == 1 {
				what = fmt.Sprintf("group %q is not", specs[0].Name)
			}
			return errorf(posthorn.CodeNotFound, "%s subscribed to anything in topic %q", what, topic)
		}
	}
	return nil
}

// lanes calls f for pages of the lanes of a group that hold dead letters which may be
// meant, without data, and note for each note in them.
func (w *walk) lanes(ctx context.Context, group string, note func(driver.Partition, *driver.Entry), f func(driver.Partition, []driver.Entry) error) error {
	positions, err := w.b.Driver.Positions(ctx, group)
	if err != nil {
		return w.b.Wrap(err, fmt.Sprintf("lanes of group %q", group))
	}
	slices.SortFunc(positions, func(x, y driver.Position) int {
		return cmp.Or(strings.Compare(x.Topic, y.Topic), x.N-y.N)
	})
	for _, p := range positions {
		if !within(w.q.Topics, p.Topic) {
			continue
		}
		lane := w.b.Driver.Lane(group, p.Partition)
		for after := ""; ; {
			entries, next, err := lane.Scan(ctx, after, headPage)
			if err != nil {
				return w.b.Wrap(err, fmt.Sprintf("lane of group %q beside partition %d of topic %q", group, p.N, p.Topic))
			}
			entries = slices.DeleteFunc(entries, func(e driver.Entry) bool {
				if note != nil && e.State == driver.Note {
					note(p.Partition, &e)
				}
				return e.State != driver.Dead
			})
			if err := f(p.Partition, entries); err != nil {
				return err
			}
			if after = next; after == "" {
				break
			}
		}
	}
	return nil
}

// letters calls f for those of a page that are meant, with their data if that is asked
// for or needed.
func (w *walk) letters(ctx context.Context, group string, p driver.Partition, heads []driver.Entry, data bool, f func(Letter, *driver.Entry, error) error) error {
	type found struct {
		l   Letter
		e   *driver.Entry
		err error
	}
	read := func(e *driver.Entry) found {
		l, err := w.b.Letter(group, p, e)
		return found{l.(Letter), e, err}
	}
	var some []found
	for i := range heads {
		if x := read(&heads[i]); w.q.fits(&x.l) {
			some = append(some, x)
		}
	}
	lane := w.b.Driver.Lane(group, p)
	for chunk := range slices.Chunk(some, bodyPage) {
		var names []string
		for _, x := range chunk {
			if data || !w.q.says(&x.l) {
				names = append(names, x.e.Name)
			}
		}
		whole := map[string]*driver.Entry{}
		if len(names) > 0 {
			entries, err := lane.Get(ctx, names)
			if err != nil {
				return w.b.Wrap(err, fmt.Sprintf("dead letters of group %q", group))
			}
			for i := range entries {
				whole[entries[i].Name] = &entries[i]
			}
		}
		for _, x := range chunk {
			if slices.Contains(names, x.e.Name) {
				e := whole[x.e.Name]
				if e == nil || e.State != driver.Dead {
					continue // replayed or discarded since
				}
				if x = read(e); !w.q.fits(&x.l) || !w.q.says(&x.l) {
					continue
				}
			}
			if err := f(x.l, x.e, x.err); err != nil {
				return err
			}
		}
	}
	return nil
}

func errorf(code posthorn.Code, format string, args ...any) *posthorn.Error {
	return &posthorn.Error{Code: code, Text: fmt.Sprintf(format, args...)}
}
