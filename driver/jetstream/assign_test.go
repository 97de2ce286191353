package jetstream

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/posthorn/posthorn/driver"
)

func someMembers(n int, topics ...string) []candidate {
	var all []candidate
	for i := range n {
		all = append(all, candidate{fmt.Sprintf("svc@host:%d-abc%d", 100+i, i), topics})
	}
	return all
}

func loads(owner map[driver.Partition]string, members []candidate) []int {
	count := map[string]int{}
	for _, id := range owner {
		count[id]++
	}
	var all []int
	for _, m := range members {
		all = append(all, count[m.id])
	}
	slices.Sort(all)
	return all
}

func TestDivide(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		sizes   map[string]int
		members []candidate
		want    string // loads, sorted
		none    int    // partitions that nobody can take
	}{
		{"nobody", map[string]int{"a": 4}, nil, "", 4},
		{"one has all", map[string]int{"a": 4, "b": 3}, someMembers(1, "a", "b"), "7", 0},
		{"eight among three", map[string]int{"a": 8}, someMembers(3, "a"), "2 3 3", 0},
		{"more members than partitions", map[string]int{"a": 2}, someMembers(5, "a"), "0 0 0 1 1", 0},
		{"ten topics among three", sizes(10, 8), someMembers(3, slices.Collect(maps.Keys(sizes(10, 8)))...), "26 27 27", 0},
		{"odd ones go round", sizes(7, 1), someMembers(3, slices.Collect(maps.Keys(sizes(7, 1)))...), "2 2 3", 0},
		{"a topic that one cannot take is made up for by another", map[string]int{"a": 4, "b": 4},
			[]candidate{{"m1", []string{"a", "b"}}, {"m2", []string{"a"}}}, "4 4", 0},
		{"over a third", map[string]int{"a": 2, "b": 2, "c": 2},
			[]candidate{{"m1", []string{"a", "b", "c"}}, {"m2", []string{"b", "c"}}, {"m3", []string{"c"}}}, "2 2 2", 0},
		{"as far as it goes", map[string]int{"a": 9, "b": 1},
			[]candidate{{"m1", []string{"a"}}, {"m2", []string{"b"}}}, "1 9", 0},
		{"nobody can take one of two", map[string]int{"a": 2, "b": 3}, someMembers(2, "a"), "1 1", 3},
		{"a topic that is not known", map[string]int{"a": 2}, someMembers(2, "a", "gone"), "1 1", 0},
		{"a topic named twice", map[string]int{"a": 2}, someMembers(2, "a", "a"), "1 1", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			owner := divide(c.sizes, c.members)
			if got := strings.Trim(fmt.Sprint(loads(owner, c.members)), "[]"); got != c.want {
				t.Errorf("loads %s, want %s", got, c.want)
			}
			total := 0
			for _, n := range c.sizes {
				total += n
			}
			if len(owner) != total-c.none {
				t.Errorf("%d of %d partitions have an owner, %d cannot", len(owner), total, c.none)
			}
		})
	}
}

func sizes(topics, partitions int) map[string]int {
	all := map[string]int{}
	for i := range topics {
		all[fmt.Sprintf("topic%d", i)] = partitions
	}
	return all
}

// TestDivideMovesLittle adds members one by one and takes them away again.
func TestDivideMovesLittle(t *testing.T) {
	t.Parallel()
	for _, s := range []map[string]int{sizes(1, 8), sizes(1, 64), sizes(10, 8), sizes(30, 3)} {
		total := 0
		for _, n := range s {
			total += n
		}
		members := someMembers(10, slices.Collect(maps.Keys(s))...)
		moved, least := 0, 0
		for n := 1; n < len(members); n++ {
			before, after := divide(s, members[:n]), divide(s, members[:n+1])
			for p, id := range before {
				if after[p] != id {
					moved++
				}
			}
			least += total / (n + 1)
		}
		t.Logf("%d topics, %d partitions: %d moved, at least %d must", len(s), total, moved, least)
		if moved > 3*least+len(s) {
			t.Errorf("%d partitions moved where %d had to", moved, least)
		}
	}
}

// FuzzDivide holds divisions against what they have to be.
func FuzzDivide(f *testing.F) {
	for i := range 20 {
		f.Add(uint64(i), uint8(i), uint8(i*3))
	}
	f.Fuzz(func(t *testing.T, seed uint64, topics, members uint8) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		s := map[string]int{}
		for i := range int(topics % 8) {
			s[fmt.Sprintf("t%d", i)] = 1 + rnd.IntN(12)
		}
		var all []candidate
		alike := rnd.IntN(3) == 0
		for i := range int(members % 9) {
			c := candidate{id: fmt.Sprintf("m%d-%x", i, rnd.Uint32())}
			for topic := range s {
				if alike || rnd.IntN(2) == 0 {
					c.topics = append(c.topics, topic)
				}
			}
			all = append(all, c)
		}
		checkDivision(t, s, all, alike)
	})
}

func checkDivision(t *testing.T, s map[string]int, all []candidate, alike bool) {
	owner := divide(s, all)
	able := map[string]map[string]bool{} // topic, id
	for _, m := range all {
		for _, topic := range m.topics {
			if able[topic] == nil {
				able[topic] = map[string]bool{}
			}
			able[topic][m.id] = true
		}
	}
	load, inTopic := map[string]int{}, map[string]int{}
	for topic, n := range s {
		for i := range n {
			id, ok := owner[driver.Partition{Topic: topic, N: i}]
			if ok != (len(able[topic]) > 0) || ok && !able[topic][id] {
				t.Fatalf("partition %d of %s is %q's, of %v", i, topic, id, able[topic])
			}
			load[id]++
			inTopic[topic+" "+id]++
		}
	}
	reversed := slices.Clone(all)
	slices.Reverse(reversed)
	if again := divide(s, reversed); !maps.Equal(owner, again) {
		t.Errorf("the order of members changes the division")
	}
	if alike && len(all) > 0 {
		ls := loads(owner, all)
		if ls[len(ls)-1]-ls[0] > 1 {
			t.Errorf("loads %v", ls)
		}
		for topic, n := range s {
			for _, m := range all {
				if k := inTopic[topic+" "+m.id]; k < n/len(all) || k > (n+len(all)-1)/len(all) {
					t.Errorf("%d of %d partitions of %s are one's of %d", k, n, topic, len(all))
				}
			}
		}
	}
	// Nobody has two more than somebody who could take from it, over others too.
	for _, from := range all {
		reach := map[string]bool{from.id: true}
		for grown := true; grown; {
			grown = false
			for p, id := range owner {
				if !reach[id] {
					continue
				}
				for to := range able[p.Topic] {
					if !reach[to] {
						reach[to], grown = true, true
					}
				}
			}
		}
		for to := range reach {
			if load[from.id]-load[to] > 1 {
				t.Errorf("%s has %d and could give to %s with %d", from.id, load[from.id], to, load[to])
			}
		}
	}
}
