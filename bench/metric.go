package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// A metric is one figure of a measure.
type metric struct {
	name  string // the head of its column
	lower bool   // the lower, the better
	show  func(v float64) string
	of    func(m *measure) float64 // 0: it could not be measured
}

var (
	rate      = &metric{"a second", false, whole, func(m *measure) float64 { return per(float64(m.Count), m.Elapsed.Seconds()) }}
	allocs    = &metric{"allocations", true, tenths, func(m *measure) float64 { return per(float64(m.Allocs), float64(m.Count)) }}
	clientCPU = &metric{"client CPU, µs", true, hundredths, func(m *measure) float64 { return per(micros(m.Client), float64(m.Count)) }}
	serverCPU = &metric{"server CPU, µs", true, hundredths, func(m *measure) float64 { return per(micros(m.Server), float64(m.Count)) }}
	totalCPU  = &metric{"CPU of client and server", true, hundredths, func(m *measure) float64 {
		if m.Client == 0 || m.Server == 0 {
			return 0
		}
		return per(micros(m.Client+m.Server), float64(m.Count))
	}}
	p50       = &metric{"p50, ms", true, hundredths, func(m *measure) float64 { return millis(m.P50) }}
	p99       = &metric{"p99, ms", true, hundredths, func(m *measure) float64 { return millis(m.P99) }}
	p999      = &metric{"p99.9, ms", true, hundredths, func(m *measure) float64 { return millis(m.P999) }}
	late      = &metric{"of it late at publishing, p50", true, hundredths, func(m *measure) float64 { return millis(m.Late) }}
	clientRSS = &metric{"client, MiB", true, tenths, func(m *measure) float64 { return mebi(m.ClientRSS) }}
	serverRSS = &metric{"server, MiB", true, tenths, func(m *measure) float64 { return mebi(m.ServerRSS) }}
	opened    = &metric{"Open to first handled, ms", true, tenths, func(m *measure) float64 { return millis(m.Open) }}
	processed = &metric{"process to first handled, ms", true, tenths, func(m *measure) float64 { return millis(m.Process) }}
	size      = &metric{"MiB", true, tenths, func(m *measure) float64 { return mebi(m.Size) }}
)

func per(v, n float64) float64 {
	if n == 0 {
		return 0
	}
	return v / n
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
func mebi(n int64) float64           { return float64(n) / (1 << 20) }

func tenths(v float64) string     { return fmt.Sprintf("%.1f", v) }
func hundredths(v float64) string { return fmt.Sprintf("%.2f", v) }

// whole shows a number without a fraction, with a comma each three digits.
func whole(v float64) string {
	s := strconv.FormatInt(int64(math.Round(v)), 10)
	var b strings.Builder
	for i, c := range s {
		if i > 0 && (len(s)-i)%3 == 0 && s[i-1] != '-' {
			b.WriteByte(',')
		}
		b.WriteRune(c)
	}
	return b.String()
}
