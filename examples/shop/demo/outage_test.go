package demo

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/posthorn/posthorn/examples/shop/notification"
)

var (
	meanwhile = regexp.MustCompile(`(?m)^  (\w+) +(\d+) -> +(\d+) (\w+)$`)
	counted   = regexp.MustCompile(`(\w+) (\d+)`)
)

// TestBadDay wants each service but notification to have done all of its work while the
// mail provider was away, and notification none. It does not depend on how fast that is:
// the provider comes back when they are done, and if one of them waited for it the run
// would be given up.
func TestBadDay(t *testing.T) {
	t.Parallel()
	text := mustEqual(t, Config{URL: "memory:shop-bad-day", Dir: t.TempDir(), Data: slice(t, 300/few)})
	at := strings.Index(text, "the mail provider was away")
	if at < 0 {
		t.Fatalf("there was no outage:\n%s", text)
	}
	before := strings.Split(strings.TrimSpace(text[:at]), "\n")
	end := map[string]int{} // by the last line of the progress
	for _, m := range counted.FindAllStringSubmatch(before[len(before)-1], -1) {
		end[m[1]], _ = strconv.Atoi(m[2])
	}
	seen := map[string]bool{}
	for _, m := range meanwhile.FindAllStringSubmatch(text[at:], -1) {
		service, what := m[1], m[4]
		from, _ := strconv.Atoi(m[2])
		to, _ := strconv.Atoi(m[3])
		seen[service] = true
		switch {
		case service == notification.Group:
			const inHand = 64 // of its handlers, when the provider went away
			if to > from+inHand || end[what] <= to {
				t.Errorf("%d letters at the beginning of the outage, %d at its end, %d in all", from, to, end[what])
			}
		case what != "steps" && (to != end[what] || to == 0): // it learns of the letters later
			t.Errorf("%s had done %d of %d %s when the provider came back", service, to, end[what], what)
		}
	}
	if want := len(Names); len(seen) != want {
		t.Errorf("the report tells of %v, want %d services:\n%s", slices.Sorted(maps.Keys(seen)), want, text)
	}
}

func TestOutage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := outageIn(dir)
	p := &provider{Mail: &notification.Greylist{}, outage: o}
	send := func(n int) (away int) {
		for range n {
			if err := p.Send(t.Context(), "key", "", ""); errors.Is(err, notification.ErrAway) {
				away++
			} else if err != nil {
				t.Fatal(err)
			}
		}
		return away
	}
	if n := send(2 * firstLetters); n != 0 {
		t.Errorf("%d letters were refused, and no outage was planned", n)
	}
	if err := o.plan(); err != nil {
		t.Fatal(err)
	}
	p.taken.Store(0)
	if n := send(firstLetters + 10); n != 10 || !o.is() {
		t.Errorf("%d letters were refused, want those behind the first %d", n, firstLetters)
	}
	for range 2 {
		if err := o.end(); err != nil {
			t.Fatal(err)
		}
	}
	if n := send(10); n != 0 {
		t.Errorf("%d letters were refused after the outage", n)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v is left, %v", left, err)
	}
	if err := outageIn(filepath.Join(dir, "none")).plan(); err == nil {
		t.Error("an outage is planned in a folder that is not there")
	}
}
