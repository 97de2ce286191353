package delay

import (
	"container/heap"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// An item is what the index knows of an entry: about 200 bytes, with its name and
// its place in the map.
type item struct {
	name  string
	due   int64  // nanoseconds since 1970
	order uint64 // when it was stored, among all of the lane
	rev   uint64
	size  int32 // of the message
	part  int16
	at    int32 // its place in the shelf's heap
}

// A shelf holds what waits for one partition of the topic.
type shelf struct {
	n    int
	heap shelfHeap

	moving    bool
	undeleted []*load // published, and not yet deleted
	failed    int     // times in a row
	notBefore time.Time
}

type shelfHeap []*item

func (h shelfHeap) Len() int { return len(h) }

func (h shelfHeap) Less(i, j int) bool {
	if h[i].due != h[j].due {
		return h[i].due < h[j].due
	}
	return h[i].order < h[j].order
}

func (h shelfHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = int32(i), int32(j)
}

func (h *shelfHeap) Push(x any) {
	it := x.(*item)
	it.at = int32(len(*h))
	*h = append(*h, it)
}

func (h *shelfHeap) Pop() any {
	old := *h
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return it
}

// orderOf is an entry's place among those of equal due times: a claim gives it a
// new revision and notes the first one.
func orderOf(e *driver.Entry) uint64 {
	if e.Order != 0 {
		return e.Order
	}
	return e.Rev
}

// put adds an item to the index, or replaces the one of its name.
func (s *shift) put(it *item) {
	s.remove(it.name)
	if at, ok := s.refused[it.name]; ok {
		it.due = max(it.due, at)
	}
	s.items[it.name] = it
	heap.Push(&s.shelves[it.part].heap, it)
}

func (s *shift) remove(name string) {
	if old := s.items[name]; old != nil {
		delete(s.items, name)
		heap.Remove(&s.shelves[old.part].heap, int(old.at))
	}
}

// take removes from a shelf what is due, in its order, and notes that it is being
// moved. After a failure it takes one only.
func (s *shift) take(sh *shelf, now int64) []*item {
	most := maxBatch
	if sh.failed > 0 {
		most = 1
	}
	var batch []*item
	bytes := 0
	for len(sh.heap) > 0 && len(batch) < most && sh.heap[0].due <= now {
		if bytes += int(sh.heap[0].size); bytes > maxBatchBytes && len(batch) > 0 {
			break
		}
		it := heap.Pop(&sh.heap).(*item)
		delete(s.items, it.name)
		s.busy[it.name] = nil
		batch = append(batch, it)
	}
	return batch
}
