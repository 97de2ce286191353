package main

import (
	"testing"
	"time"
)

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   spread
	}{
		{nil, spread{}},
		{[]float64{3}, spread{3, 3, 3}},
		{[]float64{9, 1, 5}, spread{5, 1, 9}},
		{[]float64{4, 1, 3, 2}, spread{2.5, 1, 4}},
		{[]float64{-1, -3, -2}, spread{-2, -3, -1}},
	} {
		before := append([]float64(nil), c.values...)
		if got := spreadOf(c.values); got != c.want {
			t.Errorf("spread of %v: %v, want %v", c.values, got, c.want)
		}
		for i := range before {
			if c.values[i] != before[i] {
				t.Errorf("%v was put in order", before)
			}
		}
	}
}

func TestPercentiles(t *testing.T) {
	var d []time.Duration
	for i := range 1000 {
		d = append(d, time.Duration((i*7)%1000)) // 0 to 999, in no order
	}
	a, b, c := percentiles(d)
	if a != 500 || b != 990 || c != 999 {
		t.Errorf("%d, %d, %d of 0 to 999", a, b, c)
	}
	if a, b, c := percentiles(d[:1]); a != 0 || b != 0 || c != 0 {
		t.Errorf("%d, %d, %d of one", a, b, c)
	}
}

func TestWhole(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 7.5: "8", 999: "999", 1000: "1,000", 1234567.4: "1,234,567", -1234: "-1,234", -123: "-123"} {
		if got := whole(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
}
