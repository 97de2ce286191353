package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/posthorn/posthorn/internal/clock"
)

// line prints one JSON object.
func (a *app) line(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// A table is aligned columns for people.
type table struct {
	w    *tabwriter.Writer
	rows int
}

func (a *app) table(heads ...string) *table {
	t := &table{w: tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)}
	fmt.Fprintln(t.w, strings.Join(heads, "\t"))
	return t
}

func (t *table) row(cells ...any) {
	t.rows++
	var text []string
	for _, c := range cells {
		text = append(text, plain(fmt.Sprint(c)))
	}
	fmt.Fprintln(t.w, strings.Join(text, "\t"))
}

func (t *table) end() error { return t.w.Flush() }

// plain takes what could move a terminal's cursor out of a text that came over the
// bus, and line breaks.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || r == '\r' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// cut bounds a text.
func cut(s string, most int) string {
	r := []rune(s)
	if len(r) <= most {
		return s
	}
	return string(r[:most-3]) + "..."
}

// dash stands for nothing.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// ago is a time as people say it.
func ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := clock.Wall().Sub(t)
	if d < 0 {
		return "in " + span(-d)
	}
	return span(d) + " ago"
}

// span is a duration with one or two units.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Second:
		return strconv.Itoa(int(d.Milliseconds())) + "ms"
	case d < time.Minute:
		return strconv.Itoa(int(d.Seconds())) + "s"
	case d < time.Hour:
		return two(d, time.Minute, "m", time.Second, "s")
	case d < day:
		return two(d, time.Hour, "h", time.Minute, "m")
	}
	return two(d, day, "d", time.Hour, "h")
}

func two(d, big time.Duration, bigName string, small time.Duration, smallName string) string {
	s := strconv.FormatInt(int64(d/big), 10) + bigName
	if rest := d % big / small; rest > 0 {
		s += strconv.FormatInt(int64(rest), 10) + smallName
	}
	return s
}

// bytesOf is a size; a negative one is not known.
func bytesOf(n int64) string {
	if n < 0 {
		return "?"
	}
	const unit = 1024
	if n < unit {
		return strconv.FormatInt(n, 10) + " B"
	}
	f, names := float64(n)/unit, "KMGTPE"
	for len(names) > 1 && f >= unit {
		f, names = f/unit, names[1:]
	}
	return fmt.Sprintf("%.1f %ciB", f, names[0])
}

// counted says how many of a thing there are.
func counted(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.FormatInt(n, 10) + " " + many
}

// jsonTime is a time that is left out when it is zero.
func jsonTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// data is an event's data in JSON: as it is, or in base64.
func data(b []byte) (raw json.RawMessage, base64 []byte) {
	if len(b) == 0 {
		return nil, nil
	}
	if json.Valid(b) {
		return b, nil
	}
	return nil, b
}

func (a *app) say(format string, args ...any) {
	_, _ = io.WriteString(a.out, fmt.Sprintf(format, args...)+"\n")
}

// each prints all of them, or as many as can be.
func each[T any](all []T, line func(T) error) error {
	for _, v := range all {
		if err := line(v); err != nil {
			return err
		}
	}
	return nil
}
