package main

import "slices"

// A spread is what several rounds came to.
type spread struct{ Median, Min, Max float64 }

// spreadOf returns the zero spread for no values. The median of an even number of
// values is the mean of the two in the middle.
func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return spread{Median: (v[(n-1)/2] + v[n/2]) / 2, Min: v[0], Max: v[n-1]}
}
