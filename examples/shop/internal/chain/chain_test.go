package chain

import (
	"bytes"
	"encoding/hex"
	"testing"
)

func TestNext(t *testing.T) {
	t.Parallel()
	one := Next(nil, "ordered %s %d", "536365", 1)
	// printf 'ordered 536365 1\n' | sha256sum
	if got := hex.EncodeToString(one); got != "4d2304a5c55b8d15dfa1f6a27a499489ae078481129dc0a44fa793f2385b615e" {
		t.Errorf("the first link is %s", got)
	}
	roomy := append(make([]byte, 0, 100), one...)
	ab, ba := Next(Next(roomy, "a"), "b"), Next(Next(roomy, "b"), "a")
	if bytes.Equal(ab, ba) || !bytes.Equal(roomy, one) {
		t.Error("two orders have one hash, or a link was written to")
	}
}
