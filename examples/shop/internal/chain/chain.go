// Package chain makes a hash over a history: two histories are the same, and in the
// same order, when their last links are.
package chain

import (
	"crypto/sha256"
	"fmt"
)

// Next is the link that follows last, which is nil at first: SHA-256 over last and
// the line, with a line feed at its end.
func Next(last []byte, format string, args ...any) []byte {
	text := fmt.Appendf(last[:len(last):len(last)], format+"\n", args...)
	sum := sha256.Sum256(text)
	return sum[:]
}
