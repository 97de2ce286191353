package chance

import (
	"strconv"
	"testing"
)

func TestOneIn(t *testing.T) {
	t.Parallel()
	drawn := 0
	for i := range 10_000 {
		key := strconv.Itoa(i)
		if OneIn(0, key) || !OneIn(1, key) || OneIn(50, key) != OneIn(50, key) {
			t.Fatalf("key %s: none in 0, all in 1, and always the same are expected", key)
		}
		if OneIn(50, key) {
			drawn++
		}
	}
	if drawn < 100 || drawn > 300 {
		t.Errorf("%d of 10,000 are drawn, want about 200", drawn)
	}
}
