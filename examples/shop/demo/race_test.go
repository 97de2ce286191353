//go:build race

package demo

// few is by how much tests take fewer orders under the race detector, which
// slows SQLite down by twenty times.
const few = 10
