package cli

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/deadletter"
)

func (a *app) dead() *cobra.Command {
	c := &cobra.Command{
		Use:   "dead",
		Short: "List, show, replay, edit, discard and export dead letters",
		Long: `List and mend dead letters: the events that a group has given up on. A dead letter is
replayed to the group that gave up on it and to no other. All of it is safe to
repeat, to interrupt and to do from two places at once; who did what and when is
kept, and "posthorn dead log" shows it.`,
		Example: `  posthorn dead list
  posthorn dead replay billing --type order.placed --canary 3 --rate 50`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("%q is no command of dead; there are list, show, replay, edit, discard, export and log", args[0])
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.deadList(), a.deadShow(), a.deadReplay(), a.deadEdit(), a.deadDiscard(), a.deadExport(), a.deadLog())
	return c
}

// A deadFilter holds the flags that say which dead letters are meant.
type deadFilter struct {
	q            deadletter.Query
	reasons      []string
	since, until string
}

func (d *deadFilter) flags(f *pflag.FlagSet) {
	f.StringArrayVar(&d.q.Topics, "topic", nil, "only in this topic; may be repeated")
	f.StringArrayVar(&d.q.Types, "type", nil, "only this event type, in which * stands for anything; may be repeated")
	f.StringArrayVar(&d.q.Keys, "key", nil, "only of this key; may be repeated")
	f.StringArrayVar(&d.reasons, "reason", nil, "only those that ended for this reason, such as timeout; may be repeated")
	f.StringVar(&d.since, "since", "", "only those that ended since a time in RFC 3339, or so long ago, such as 15m")
	f.StringVar(&d.until, "until", "", "only those that ended before a time in RFC 3339, or so long ago")
	f.StringVar(&d.q.Text, "grep", "", "only those with this text in their data, a header or an error")
}

// query is what the flags say.
func (d *deadFilter) query(groups, ids []string) (deadletter.Query, error) {
	q := d.q
	q.Groups, q.IDs = groups, ids
	for _, r := range d.reasons {
		q.Reasons = append(q.Reasons, posthorn.Code(r))
	}
	var err error
	if q.From, err = timeOf("since", d.since); err != nil {
		return q, err
	}
	q.Until, err = timeOf("until", d.until)
	return q, err
}

func (d *deadFilter) none() bool {
	return len(d.q.Topics)+len(d.q.Types)+len(d.q.Keys)+len(d.reasons)+len(d.since)+len(d.until)+len(d.q.Text) == 0
}

func (a *app) deadList() *cobra.Command {
	var filter deadFilter
	most := 100
	c := &cobra.Command{
		Use:   "list [GROUP...]",
		Short: "List dead letters",
		Long: `List the dead letters of all groups or of those that are named, with the last error of
each. With --json they are printed whole, but for their data.`,
		Example: `  posthorn dead list
  posthorn dead list billing --reason timeout --since 2h
  posthorn dead list --grep "no such customer" --json`,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if most < 0 {
				return usage("--limit is %d; it cannot be negative", most)
			}
			q, err := filter.query(args, nil)
			if err != nil {
				return err
			}
			return a.with(c.Context(), false, func(ctx context.Context, bus *posthorn.Bus) error { return a.listDead(ctx, bus, q, most) })
		},
	}
	filter.flags(c.Flags())
	c.Flags().IntVar(&most, "limit", most, "end after so many; 0 for no limit")
	return c
}

func (a *app) listDead(ctx context.Context, bus *posthorn.Bus, q deadletter.Query, most int) error {
	tab, n := (*table)(nil), 0
	for l, err := range deadletter.List(ctx, bus, q) {
		if err != nil && l.Entry == "" {
			return err
		}
		if n++; most > 0 && n > most {
			fmt.Fprintf(a.diag, "posthorn: there are more than %d; see them with --limit 0\n", most)
			break
		}
		if a.json {
			r := deadletter.RecordOf(l)
			r.Data, r.Base64 = nil, nil
			if err := a.line(r); err != nil {
				return err
			}
			continue
		}
		if tab == nil {
			tab = a.table("GROUP", "ID", "TYPE", "KEY", "REASON", "ATTEMPTS", "DIED", "ERROR")
		}
		tab.row(l.Group, dash(cut(l.ID, 40)), dash(l.Type), dash(cut(l.Key, 40)), dash(string(l.Reason)), l.Attempts, ago(l.Died), cut(lastOf(l, err), 80))
	}
	switch {
	case tab != nil:
		return tab.end()
	case n == 0 && !a.json:
		a.say("there are no dead letters%s", suchAs(q))
	}
	return nil
}

func suchAs(q deadletter.Query) string {
	if words := q.String(); words != "all" {
		return " such as: " + plain(words)
	}
	return ""
}

// lastOf is the last error of a dead letter, or that of reading it.
func lastOf(l deadletter.Letter, err error) string {
	switch n := len(l.Errors); {
	case err != nil:
		return oneLine(err)
	case n > 0:
		return l.Errors[n-1]
	}
	return "-"
}

func (a *app) deadShow() *cobra.Command {
	var data bool
	c := &cobra.Command{
		Use:   "show GROUP ID",
		Short: "Show a dead letter whole",
		Long: `Show a dead letter whole: the event with its headers and data, every error, and what it
died of before it was replayed. Copies of an event have one id; all are shown. With
--data the data alone is printed, as it is, to be edited for example.`,
		Example: `  posthorn dead show billing 01890a5d-ac96-774b-bcce-b302099a8057
  posthorn dead show billing order-4711-placed --data > order.json`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return a.asking(c.Context(), false, func(ctx context.Context, bus *posthorn.Bus) error {
				letters, err := deadletter.Get(ctx, bus, args[0], args[1])
				if err != nil {
					return err
				}
				if data {
					if _, err := one(letters, 0); err != nil {
						return err
					}
					_, err := a.out.Write(letters[0].Data)
					return err
				}
				for i, l := range letters {
					if a.json {
						if err := a.line(deadletter.RecordOf(l)); err != nil {
							return err
						}
						continue
					}
					if i > 0 {
						a.say("")
					}
					a.showDead(l)
				}
				return nil
			})
		},
	}
	c.Flags().BoolVar(&data, "data", false, "print the data alone")
	return c
}

// one is the letter that is meant, by its position where there are copies.
func one(letters []deadletter.Letter, position uint64) (deadletter.Letter, error) {
	if position != 0 {
		letters = slices.DeleteFunc(letters, func(l deadletter.Letter) bool { return l.Position != position })
	}
	switch len(letters) {
	case 0:
		return deadletter.Letter{}, &posthorn.Error{Code: posthorn.CodeNotFound, Text: fmt.Sprintf("no copy of the event stands at position %d", position)}
	case 1:
		return letters[0], nil
	}
	var at []string
	for _, l := range letters {
		at = append(at, fmt.Sprintf("%d (%s/%d)", l.Position, l.Topic, l.Partition))
	}
	return letters[0], &posthorn.Error{Code: posthorn.CodeConflict, Text: fmt.Sprintf("there are %d copies of the event, at %s; name one with --position", len(letters), strings.Join(at, ", "))}
}

func (a *app) showDead(l deadletter.Letter) {
	a.say("%s %s from %s, key %s", plain(dash(l.Type)), plain(l.ID), plain(dash(l.Source)), plain(dash(l.Key)))
	a.say("group %s, topic %s, partition %d, at %d; stored %s", plain(l.Group), plain(l.Topic), l.Partition, l.Position, ago(l.Stored))
	a.say("died %s of %s after %s, seen by %s; revision %d", ago(l.Died), plain(dash(string(l.Reason))), counted(int64(l.Attempts), "attempt", "attempts"), plain(dash(l.Member)), l.Revision)
	for _, d := range l.Deaths {
		a.say("before: died %s of %s after %s, replayed %s by %s", ago(d.Died), plain(dash(string(d.Reason))), counted(int64(d.Attempts), "attempt", "attempts"), ago(d.Replayed), plain(dash(d.By)))
	}
	if !l.Edited.IsZero() {
		a.say("edited %s by %s: the event is not as it was published; posthorn dead log %s has it as it was", ago(l.Edited), plain(dash(l.EditedBy)), plain(l.Group))
	}
	for i, e := range l.Errors {
		a.say("error %d: %s", i+1, plain(e))
	}
	for _, h := range slices.Sorted(maps.Keys(l.Attributes)) {
		a.say("attribute %s: %s", plain(h), plain(l.Attributes[h]))
	}
	for _, h := range slices.Sorted(maps.Keys(l.Headers)) {
		a.say("header %s: %s", plain(h), plain(l.Headers[h]))
	}
	a.say("data (%s, %d bytes): %s", plain(dash(l.ContentType)), len(l.Data), plain(string(l.Data)))
}

// A deadJob holds the flags of a job.
type deadJob struct {
	filter deadFilter
	job    deadletter.Job
	all    bool
}

func (d *deadJob) flags(f *pflag.FlagSet) {
	d.filter.flags(f)
	f.BoolVar(&d.all, "all", false, "all dead letters of the group, where nothing else says which")
	f.Float64Var(&d.job.Rate, "rate", 0, "do so many in a second (default: as fast as the broker takes it)")
	f.BoolVar(&d.job.DryRun, "dry-run", false, "only say how many are meant")
	f.StringVar(&d.job.By, "by", "", "who does it, for the log (default: the user)")
}

// query is what the flags and the arguments say, which have to say something.
func (d *deadJob) query(args []string) (deadletter.Query, error) {
	none := len(args) == 1 && d.filter.none()
	switch {
	case none && !d.all:
		return deadletter.Query{}, usage("say which: ids, flags such as --type, or --all")
	case !none && d.all:
		return deadletter.Query{}, usage("--all is for all dead letters of the group; leave it out, or the ids and the other flags")
	}
	if d.job.By == "" {
		d.job.By = userName()
	}
	return d.filter.query(args[:1], args[1:])
}

// userName is who runs the command.
func userName() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return os.Getenv("USER")
}

func (a *app) deadReplay() *cobra.Command {
	var d deadJob
	c := &cobra.Command{
		Use:   "replay GROUP [ID...]",
		Short: "Hand dead letters back to the group that gave up on them",
		Long: `Hand dead letters back to the group that gave up on them, to be handled at once and with
all attempts: those that are named, those that fit all of the flags, or --all. No
other group notices. Their ids, keys and headers stay; those of one key keep their
order.

With --canary, so many are replayed first. The rest follows when the group has
handled these; when it gives up on one again, nothing follows and the exit code is 1.

Interrupted, what was replayed is replayed; started again, the rest follows. What
somebody else has replayed or discarded meanwhile is skipped and counted. An event
whose use has expired is not replayed, and stays.`,
		Example: `  posthorn dead replay billing 01890a5d-ac96-774b-bcce-b302099a8057
  posthorn dead replay billing --type order.placed --reason timeout --canary 3 --rate 50
  posthorn dead replay billing --all --dry-run`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			q, err := d.query(args)
			if err != nil {
				return err
			}
			return a.deadRun(c.Context(), "replayed", q, d.job, deadletter.Replay)
		},
	}
	d.flags(c.Flags())
	c.Flags().IntVar(&d.job.Canary, "canary", 0, "replay so many first, and wait until the group has handled them")
	c.Flags().DurationVar(&d.job.CanaryTime, "canary-time", deadletter.DefaultCanaryTime, "how long to wait for them")
	return c
}

func (a *app) deadDiscard() *cobra.Command {
	var d deadJob
	c := &cobra.Command{
		Use:   "discard GROUP [ID...] --why REASON",
		Short: "End dead letters for good",
		Long: `End dead letters for good: those that are named, those that fit all of the flags, or
--all. The group does not see them again. Nothing of them is kept but a note with
their ids, twenty at most: export them first if they may be needed.`,
		Example: `  posthorn dead discard billing 01890a5d-ac96-774b-bcce-b302099a8057 --why "a test order"
  posthorn dead discard billing --type order.test --why "test data" --dry-run`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if strings.TrimSpace(d.job.Reason) == "" {
				return usage("say why, with --why, for those who look for the event later")
			}
			q, err := d.query(args)
			if err != nil {
				return err
			}
			return a.deadRun(c.Context(), "discarded", q, d.job, deadletter.Discard)
		},
	}
	d.flags(c.Flags())
	c.Flags().StringVar(&d.job.Reason, "why", "", "the reason, kept in the log")
	return c
}

type deadJSON struct {
	Group   string   `json:"group"`
	Done    string   `json:"done"`
	DryRun  bool     `json:"dry_run,omitempty"`
	Matched int      `json:"matched"`
	Count   int      `json:"count"`
	Skipped int      `json:"skipped"`
	Expired int      `json:"expired"`
	Failed  int      `json:"failed"`
	Missing []string `json:"missing,omitempty"`
	Waits   string   `json:"waits,omitempty"`
}

// deadRun runs a job and says what came of it.
func (a *app) deadRun(ctx context.Context, done string, q deadletter.Query, j deadletter.Job,
	run func(context.Context, *posthorn.Bus, deadletter.Query, deadletter.Job) (deadletter.Report, error)) error {
	return a.with(ctx, false, func(ctx context.Context, bus *posthorn.Bus) error {
		end := func() {}
		if terminal(a.diag) {
			var tell func(done, of int64)
			tell, end = a.progress(done + " %d of %d dead letters")
			j.Progress = func(done, of int) { tell(int64(done), int64(of)) }
		}
		r, err := run(ctx, bus, q, j)
		end()
		group := q.Groups[0]
		if a.json {
			if err != nil && r.Matched == 0 {
				return err
			}
			if e := a.line(deadJSON{Group: group, Done: done, DryRun: j.DryRun, Matched: r.Matched, Count: r.Done, Skipped: r.Skipped, Expired: r.Expired, Failed: r.Failed,
				Missing: r.Missing, Waits: r.Waits[group]}); e != nil {
				return e
			}
			return err
		}
		if err != nil {
			return err
		}
		letters := func(n int) string { return counted(int64(n), "dead letter", "dead letters") }
		if j.DryRun {
			a.say("%s of group %s would be %s", letters(r.Matched), plain(group), done)
		} else {
			a.say("%s of group %s %s %s", letters(r.Done), plain(group), isOrAre(r.Done), done)
		}
		if r.Skipped > 0 {
			a.say("%s %s none any more: somebody else was there first", letters(r.Skipped), isOrAre(r.Skipped))
		}
		if r.Expired > 0 {
			a.say("%s %s expired and stay; discard them", letters(r.Expired), isOrAre(r.Expired))
		}
		if len(r.Missing) > 0 {
			a.say("not among the dead letters that are meant: %s", plain(strings.Join(r.Missing, ", ")))
		}
		if why := r.Waits[group]; why != "" {
			a.say("they wait, for the group is not at work: %s", plain(why))
		}
		return nil
	})
}

func isOrAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

func (a *app) deadEdit() *cobra.Command {
	var change deadletter.Change
	var data, file string
	var headers []string
	var position, revision uint64
	var unchecked bool
	c := &cobra.Command{
		Use:   "edit GROUP ID",
		Short: "Change the data or the headers of a dead letter",
		Long: `Change the data or the headers of a dead letter, which stays one: replay it then. Its
id, type and key stay. Data that is said to be JSON has to be JSON, unless
--unchecked is given. "posthorn dead log" keeps the event as it was.

With --revision, as "posthorn dead show" says it, the edit is refused with the exit
code 6 when somebody has changed the dead letter since.`,
		Example: `  posthorn dead edit billing order-4711-placed --file order.json --why "wrong customer"
  posthorn dead edit billing order-4711-placed --data '{"customer":7}'
  posthorn dead edit billing order-4711-placed --header x-tenant=acme --header x-old=`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			f := c.Flags()
			if f.Changed("data") && f.Changed("file") {
				return usage("--data and --file both give the data; use one")
			}
			if f.Changed("data") {
				change.Data = []byte(data)
			}
			if f.Changed("file") {
				var err error
				if change.Data, err = a.readFile(file); err != nil {
					return err
				}
			}
			change.Headers = map[string]string{}
			for _, h := range headers {
				name, value, ok := strings.Cut(h, "=")
				if !ok || name == "" {
					return usage("--header %q is not of the form NAME=VALUE; an empty value removes it", h)
				}
				change.Headers[name] = value
			}
			if change.By == "" {
				change.By = userName()
			}
			if unchecked {
				change.Check = func(deadletter.Letter) error { return nil }
			}
			return a.asking(c.Context(), false, func(ctx context.Context, bus *posthorn.Bus) error {
				letters, err := deadletter.Get(ctx, bus, args[0], args[1])
				if err != nil {
					return err
				}
				l, err := one(letters, position)
				if err != nil {
					return err
				}
				l.Revision = revision
				if l, err = deadletter.Edit(ctx, bus, l, change); err != nil {
					return err
				}
				if a.json {
					return a.line(deadletter.RecordOf(l))
				}
				a.say("dead letter %s of group %s is edited; replay it with: posthorn dead replay %s %s", plain(l.ID), plain(l.Group), plain(l.Group), plain(l.ID))
				return nil
			})
		},
	}
	f := c.Flags()
	f.StringVar(&data, "data", "", "the new data")
	f.StringVar(&file, "file", "", "a file with the new data; - is standard input")
	f.StringVar(&change.ContentType, "content-type", "", "the new content type")
	f.StringArrayVar(&headers, "header", nil, "set a header, as NAME=VALUE; an empty value removes it; may be repeated")
	f.StringVar(&change.Reason, "why", "", "the reason, kept in the log")
	f.StringVar(&change.By, "by", "", "who does it, for the log (default: the user)")
	f.Uint64Var(&position, "position", 0, "which copy of the event, where there are several")
	f.Uint64Var(&revision, "revision", 0, "refuse the edit when the dead letter has another revision")
	f.BoolVar(&unchecked, "unchecked", false, "do not look whether the data is JSON")
	return c
}

func (a *app) deadExport() *cobra.Command {
	var filter deadFilter
	var file string
	c := &cobra.Command{
		Use:   "export [GROUP...]",
		Short: "Write dead letters as JSON, one a line",
		Long: `Write dead letters whole, as JSON, one a line: the event with its headers and data, and
all that is known of its end. Data that is JSON stands there as it is, any other in
base64. Nothing is changed.`,
		Example: `  posthorn dead export billing --file billing.jsonl
  posthorn dead export --since 24h | jq .reason`,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			q, err := filter.query(args, nil)
			if err != nil {
				return err
			}
			return a.with(c.Context(), false, func(ctx context.Context, bus *posthorn.Bus) error {
				if file == "" {
					_, err := deadletter.Export(ctx, bus, q, a.out)
					return err
				}
				f, err := os.Create(file)
				if err != nil {
					return usage("%w", err)
				}
				n, err := deadletter.Export(ctx, bus, q, f)
				if cerr := f.Close(); err == nil && cerr != nil {
					err = usage("%w", cerr)
				}
				if err != nil {
					return err
				}
				if a.json {
					return a.line(map[string]any{"done": "exported", "count": n, "file": file})
				}
				a.say("%s exported to %s", counted(int64(n), "dead letter", "dead letters"), plain(file))
				return nil
			})
		},
	}
	filter.flags(c.Flags())
	c.Flags().StringVar(&file, "file", "", "write to this file (default: standard output)")
	return c
}

type noteJSON struct {
	Group    string             `json:"group"`
	Action   string             `json:"action"`
	By       string             `json:"by"`
	Reason   string             `json:"reason,omitempty"`
	Query    string             `json:"query"`
	IDs      []string           `json:"ids"`
	Began    *time.Time         `json:"began,omitempty"`
	Ended    *time.Time         `json:"ended,omitempty"`
	Matched  int                `json:"matched"`
	Done     int                `json:"done"`
	Skipped  int                `json:"skipped"`
	Failed   int                `json:"failed"`
	Error    string             `json:"error,omitempty"`
	Original *deadletter.Record `json:"original,omitempty"`
}

func (a *app) deadLog() *cobra.Command {
	return &cobra.Command{
		Use:   "log GROUP",
		Short: "Show who did what to a group's dead letters, and when",
		Long: `Show who has replayed, edited or discarded dead letters of a group, when, why, and what
came of it. The last 100 notes of each partition are kept. With --json the note of an
edit has the event as it was.`,
		Example: `  posthorn dead log billing`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.with(c.Context(), false, func(ctx context.Context, bus *posthorn.Bus) error {
				notes, err := deadletter.Log(ctx, bus, args[0])
				if err != nil {
					return err
				}
				return a.showLog(args[0], notes)
			})
		},
	}
}

func (a *app) showLog(group string, notes []deadletter.Note) error {
	if a.json {
		return each(notes, func(n deadletter.Note) error {
			j := noteJSON{Group: n.Group, Action: n.Action, By: n.By, Reason: n.Reason, Query: n.Query, IDs: append([]string{}, n.IDs...), Began: jsonTime(n.Began), Ended: jsonTime(n.Ended),
				Matched: n.Matched, Done: n.Done, Skipped: n.Skipped, Failed: n.Failed, Error: n.Error}
			if n.Original != nil {
				r := deadletter.RecordOf(*n.Original)
				j.Original = &r
			}
			return a.line(j)
		})
	}
	if len(notes) == 0 {
		a.say("nobody has done anything to dead letters of group %s", plain(group))
		return nil
	}
	tab := a.table("WHEN", "WHO", "WHAT", "DONE", "OF", "SKIPPED", "WHICH", "WHY", "STATE")
	for _, n := range notes {
		state := "done"
		switch {
		case n.Error != "":
			state = "stopped: " + n.Error
		case n.Ended.IsZero():
			state = "at work, or killed"
		}
		tab.row(n.Began.Local().Format(time.DateTime), dash(n.By), dash(n.Action), n.Done, n.Matched, n.Skipped, cut(n.Query, 60), dash(cut(n.Reason, 60)), cut(state, 80))
	}
	return tab.end()
}
