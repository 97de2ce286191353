package engine

import (
	"math/bits"
)

// A window is which positions of a log are settled: all up to the floor, and
// those above it whose bit is set. It covers size positions above the floor.
type window struct {
	floor uint64
	high  uint64 // the highest position that was accounted for
	known uint64 // the highest position that load marked
	bits  []uint64
	size  uint64
}

func newWindow(floor uint64, size int) *window {
	size = (size + 63) / 64 * 64
	return &window{floor: floor, high: floor, bits: make([]uint64, size/64), size: uint64(size)}
}

// room is how many positions above high fit.
func (w *window) room() int { return int(w.size - (w.high - w.floor)) }

func (w *window) slot(pos uint64) (int, uint64) {
	i := pos % w.size
	return int(i / 64), 1 << (i % 64)
}

func (w *window) settled(pos uint64) bool {
	if pos <= w.floor {
		return true
	}
	if pos > w.floor+w.size {
		return false
	}
	i, bit := w.slot(pos)
	return w.bits[i]&bit != 0
}

// fits tells whether pos can be accounted for now.
func (w *window) fits(pos uint64) bool { return pos <= w.floor+w.size }

// skipTo accounts for all positions below pos that were not handed out: they
// do not exist (any more), which is as good as settled.
func (w *window) skipTo(pos uint64) {
	if w.high == w.floor && pos > w.floor+1 { // nothing is unsettled: jump
		for p := w.floor + 1; p < pos && p <= w.floor+w.size; p++ {
			i, bit := w.slot(p)
			w.bits[i] &^= bit
		}
		w.floor, w.high = pos-1, pos-1
		return
	}
	for p := w.high + 1; p < pos; p++ {
		w.mark(p)
	}
	w.high = max(w.high, pos-1)
}

func (w *window) mark(pos uint64) {
	i, bit := w.slot(pos)
	w.bits[i] |= bit
}

// settle marks a position that was accounted for, and advances the floor.
func (w *window) settle(pos uint64) {
	if pos <= w.floor {
		return
	}
	w.mark(pos)
	w.advance()
}

// advance raises the floor over all that is settled.
func (w *window) advance() {
	for w.floor < w.high {
		i, bit := w.slot(w.floor + 1)
		if w.bits[i]&bit == 0 {
			return
		}
		w.bits[i] &^= bit
		w.floor++
	}
}

// finished encodes the settled positions above the floor: a bit each from floor+1
// on, least significant first, without zero bytes at the end.
func (w *window) finished() []byte {
	end := max(w.high, w.known) // what was loaded counts before it is fetched again
	if end <= w.floor {
		return nil
	}
	n := int(end - w.floor)
	buf := make([]byte, (n+7)/8)
	last := -1
	for k := range n {
		i, bit := w.slot(w.floor + 1 + uint64(k))
		if w.bits[i]&bit != 0 {
			buf[k/8] |= 1 << (k % 8)
			last = k / 8
		}
	}
	return buf[:last+1]
}

// load takes over what finished has encoded for the same floor.
func (w *window) load(finished []byte) {
	for k, b := range finished {
		for b != 0 {
			j := bits.TrailingZeros8(b)
			b &^= 1 << j
			pos := w.floor + 1 + uint64(k*8+j)
			if w.fits(pos) {
				w.mark(pos)
				w.known = pos
			}
		}
	}
}
