package driver

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/fnv"
)

// HashFNV1a is the name of the hash that [PartitionOf] computes: FNV-1a of 64
// bits over the key's bytes.
const HashFNV1a = "fnv1a-64"

// PartitionOf returns the partition of a key, from 0: the key's 64-bit FNV-1a
// hash, its halves folded by exclusive or, modulo the number of partitions.
func PartitionOf(key string, partitions int) int {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * prime
	}
	return int((uint32(h>>32) ^ uint32(h)) % uint32(partitions))
}

// KeyToken returns the first part of the names of all lane entries of a key.
func KeyToken(key string) string {
	h := fnv.New64a()
	h.Write([]byte(key))
	return fmt.Sprintf("%016x", h.Sum64())
}

// EntryName returns the name of a message's lane entry, of 16 hexadecimal digits
// for the key, 16 for the order and 16 for the source and id, separated by dots.
// All three are needed: copies of a message share an id, positions come back
// after a store was restored, and the key's part lets a broker find the entries
// of one key. Names of one key sort by order.
func EntryName(key string, order uint64, source, id string) string {
	h := sha256.New()
	h.Write([]byte(source))
	h.Write([]byte{0})
	h.Write([]byte(id))
	return fmt.Sprintf("%s.%016x.%016x", KeyToken(key), order, binary.BigEndian.Uint64(h.Sum(nil)))
}

// ReservedHeaders are the names, and the prefixes ending in '-' or '_', in lower
// case, that a user's header may not have on any broker.
var ReservedHeaders = []string{
	"nats-", "posthorn-", "ce-", "ce_", "cloudevents_", "x-death", "x-delay", "x-first-death-", "content-type", "data",
}
