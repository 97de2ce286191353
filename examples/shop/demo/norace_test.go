//go:build !race

package demo

const few = 1
