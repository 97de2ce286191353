package jetstream

import (
	"cmp"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"

	"github.com/posthorn/posthorn/driver"
)

// A candidate is a member as the division sees it.
type candidate struct {
	id     string
	topics []string // that it can take
}

// divide says which member each partition belongs to. sizes is the number of
// partitions of each topic. It is a function of its arguments alone, whatever
// their order, so that all members who see the same come to the same.
//
// Each topic is divided evenly among those who can take it; by rendezvous
// hashing, so that little moves when a member comes or goes. Where members can
// take different topics, their totals are then evened out as far as that goes.
func divide(sizes map[string]int, members []candidate) map[driver.Partition]string {
	v := newDivision(sizes, members)
	for _, topic := range v.topics {
		v.share(topic)
	}
	v.level()
	owners := make(map[driver.Partition]string, len(v.owner))
	for p, i := range v.owner {
		owners[p] = v.members[i].id
	}
	return owners
}

// A division is at work. Members are known by their place in the order of ids.
type division struct {
	sizes   map[string]int
	topics  []string
	members []candidate
	able    map[string][]int // by topic, who can take it
	load    []int
	extra   []int // how often a member got the odd one of a topic
	owner   map[driver.Partition]int
}

func newDivision(sizes map[string]int, members []candidate) *division {
	v := &division{
		sizes: sizes, members: slices.Clone(members), able: map[string][]int{},
		load: make([]int, len(members)), extra: make([]int, len(members)), owner: map[driver.Partition]int{},
	}
	slices.SortFunc(v.members, func(a, b candidate) int { return strings.Compare(a.id, b.id) })
	for i, m := range v.members {
		topics := slices.Clone(m.topics)
		slices.Sort(topics)
		for _, topic := range slices.Compact(topics) {
			if sizes[topic] > 0 {
				v.able[topic] = append(v.able[topic], i)
			}
		}
	}
	for topic := range v.able {
		v.topics = append(v.topics, topic)
	}
	slices.Sort(v.topics)
	return v
}

// score is how much a member is drawn to something.
func score(id, what string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(what))
	h.Write([]byte{0})
	h.Write([]byte(id))
	// The hash's last bytes hardly reach its high bits: mix them.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// share divides one topic: of all pairs of a partition and a member, those with
// the highest score first, as long as the member has room.
func (v *division) share(topic string) {
	able, n := v.able[topic], v.sizes[topic]
	room := v.quotas(topic)
	type pair struct {
		score     uint64
		n, member int
	}
	pairs := make([]pair, 0, n*len(able))
	for k := range n {
		what := topic + " " + strconv.Itoa(k)
		for _, i := range able {
			pairs = append(pairs, pair{score(v.members[i].id, what), k, i})
		}
	}
	slices.SortFunc(pairs, func(a, b pair) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.n, b.n), cmp.Compare(a.member, b.member))
	})
	for _, c := range pairs {
		p := driver.Partition{Topic: topic, N: c.n}
		if _, has := v.owner[p]; has || room[c.member] == 0 {
			continue
		}
		room[c.member]--
		v.owner[p] = c.member
		v.load[c.member]++
	}
}

// quotas is how many partitions of a topic each member gets. What does not come
// out even goes to those who got the least such, then to those drawn to it.
func (v *division) quotas(topic string) map[int]int {
	able, n := slices.Clone(v.able[topic]), v.sizes[topic]
	slices.SortFunc(able, func(a, b int) int {
		return cmp.Or(
			cmp.Compare(v.extra[a], v.extra[b]),
			cmp.Compare(score(v.members[b].id, topic), score(v.members[a].id, topic)),
			cmp.Compare(a, b))
	})
	room := make(map[int]int, len(able))
	for k, i := range able {
		room[i] = n / len(able)
		if k < n%len(able) {
			room[i]++
			v.extra[i]++
		}
	}
	return room
}

// level moves partitions from those with more to those with less until nobody
// has two more than somebody that could take from it, over others if need be.
func (v *division) level() {
	for v.levelOnce() {
	}
}

// levelOnce looks for a way from a member to one that has at least two less: a
// row of members, each of which can take a partition of the one before it.
func (v *division) levelOnce() bool {
	parts := v.partitions()
	from := make([]int, len(v.members))
	for i := range from {
		from[i] = i
	}
	slices.SortStableFunc(from, func(a, b int) int { return cmp.Compare(v.load[b], v.load[a]) })
	for _, start := range from {
		if v.walk(start, parts) {
			return true
		}
	}
	return false
}

// partitions lists each member's, in order.
func (v *division) partitions() [][]driver.Partition {
	parts := make([][]driver.Partition, len(v.members))
	for _, topic := range v.topics {
		for n := range v.sizes[topic] {
			p := driver.Partition{Topic: topic, N: n}
			i := v.owner[p]
			parts[i] = append(parts[i], p)
		}
	}
	return parts
}

func (v *division) walk(start int, parts [][]driver.Partition) bool {
	type step struct {
		p    driver.Partition
		from int
	}
	came := map[int]step{start: {from: -1}}
	best := -1
	for queue := []int{start}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		done := map[string]bool{}
		for _, p := range parts[at] {
			if done[p.Topic] {
				continue
			}
			done[p.Topic] = true
			for _, next := range v.able[p.Topic] {
				if _, seen := came[next]; seen {
					continue
				}
				came[next] = step{p, at}
				queue = append(queue, next)
				if v.load[next] <= v.load[start]-2 && (best < 0 || v.load[next] < v.load[best]) {
					best = next
				}
			}
		}
	}
	if best < 0 {
		return false
	}
	v.load[start]--
	v.load[best]++
	for at := best; at != start; at = came[at].from {
		v.owner[came[at].p] = at
	}
	return true
}
