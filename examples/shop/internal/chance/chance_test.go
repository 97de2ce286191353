package chance

import (
	"slices"
	"strconv"
	"testing"
)

func TestOneIn(t *testing.T) {
	t.Parallel()
	draw := func() (keys []int) {
		for i := range 10_000 {
			if OneIn(50, strconv.Itoa(i)) {
				keys = append(keys, i)
			}
		}
		return keys
	}
	keys := draw()
	if again := draw(); !slices.Equal(again, keys) {
		t.Error("other keys are drawn the second time")
	}
	if n := len(keys); n < 100 || n > 300 {
		t.Errorf("%d of 10,000 are drawn, want about 200", n)
	}
	if OneIn(0, "key") || !OneIn(1, "key") {
		t.Error("none in 0 and all in 1 are expected")
	}
}
