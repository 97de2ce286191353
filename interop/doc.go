// Package interop tests that other people's programs read what Posthorn writes,
// and the other way round: here the official CloudEvents SDK for Go, over
// JetStream. What the two agree on is described in docs/wire.md.
package interop
