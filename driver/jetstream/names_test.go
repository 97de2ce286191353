package jetstream

import (
	"math"
	"strings"
	"testing"

	"github.com/posthorn/posthorn/driver"
)

func FuzzNames(f *testing.F) {
	for _, s := range []string{"order", "a.b-c_d", "", "A", "ü", "a+b", "%2b", "-1", "a b", "x.>", "*"} {
		f.Add(s, "b", 3, uint64(7))
	}
	f.Fuzz(func(t *testing.T, a, b string, n int, fence uint64) {
		n &= math.MaxInt32
		enc := encodeName(a)
		if strings.ContainsAny(enc, ". *>/\\\t\r\n") || strings.ToLower(enc) != enc {
			t.Errorf("%q becomes %q", a, enc)
		}
		if dec, ok := decodeName(enc); !ok || dec != a {
			t.Errorf("%q becomes %q becomes %q", a, enc, dec)
		}
		if a != b && encodeName(b) == enc {
			t.Errorf("%q and %q both become %q", a, b, enc)
		}
		for _, ns := range []names{newNames(""), newNames(b)} {
			p := driver.Partition{Topic: a, N: n}
			if got, ok := ns.parsePartition(ns.partition(p)); !ok || got != p {
				t.Errorf("%+v becomes %q becomes %+v", p, ns.partition(p), got)
			}
			if got, ok := ns.parseAt(ns.at(b, p)); !ok || got != p {
				t.Errorf("%+v becomes %q becomes %+v", p, ns.at(b, p), got)
			}
			if id, ok := ns.parseMember(b, ns.member(b, a)); !ok || id != a {
				t.Errorf("member %q becomes %q becomes %q", a, ns.member(b, a), id)
			}
			if prefix := ns.lanePrefix(b, p); strings.HasPrefix(ns.fence(b, p), prefix) {
				t.Errorf("the fence %q stands among the entries of %q", ns.fence(b, p), prefix)
			}
			if g, no, ok := ns.parseConsumer(ns.consumer(a, fence)); !ok || g != a || no != fence {
				t.Errorf("consumer %q of group %q, fence %d", ns.consumer(a, fence), a, fence)
			}
		}
	})
}

// TestInstancesDoNotMeet takes instances that are named like the parts of names.
func TestInstancesDoNotMeet(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, instance := range []string{"", "a", "t", "l", "s", "state", "T", "a-T-b", "t-a"} {
		n := newNames(instance)
		p := driver.Partition{Topic: "a", N: 0}
		for what, name := range map[string]string{"state": n.state(), "partition": n.partition(p), "lane": n.lane("a"), "lane2": n.lane("a-0")} {
			if by, ok := seen[name]; ok {
				t.Errorf("%s of instance %q is %q, as is %s", what, instance, name, by)
			}
			seen[name] = what + " of " + instance
		}
	}
}

func TestLongestNames(t *testing.T) {
	t.Parallel()
	n := newNames(strings.Repeat("i", 24))
	p := driver.Partition{Topic: strings.Repeat("t.", 39) + "tt", N: 1023}
	group := strings.Repeat("g.", 31) + "gg"
	for _, s := range []string{n.partition(p), n.lane(group), n.consumer(group, 1<<63)} {
		if len(s) > 255 {
			t.Errorf("%q has %d bytes", s, len(s))
		}
	}
}
