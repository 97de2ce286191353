// Package chance draws what fails on purpose: always the same.
package chance

import "hash/fnv"

// OneIn tells whether a key is one of those that are drawn, about one in n; none
// when n is zero. It depends on the key alone.
func OneIn(n uint32, key string) bool {
	h := fnv.New32a()
	h.Write([]byte(key))
	return n != 0 && h.Sum32()%n == 0
}
