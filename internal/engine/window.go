package engine

import (
	"math/bits"
)

// A window is which positions of a log are settled. It covers size positions
// above the floor, each of which is open, settled, or passed over.
//
// Passed over is what was skipped for being of a type that nobody had told us to
// handle. It counts as settled in what is recorded, and as settled for good once
// that record stands: until then the subscription may turn out to have grown
// before the message was published.
type window struct {
	floor uint64 // all at or below it are settled for good
	soft  uint64 // all at or below it are settled or passed over
	high  uint64 // the highest position that was accounted for
	known uint64 // the highest position that load marked
	bits  []uint64
	over  []uint64 // of these, the ones that are passed over
	overs int      // how many
	size  uint64
}

func newWindow(floor uint64, size int) *window {
	size = (size + 63) / 64 * 64
	return &window{floor: floor, soft: floor, high: floor, bits: make([]uint64, size/64), over: make([]uint64, size/64), size: uint64(size)}
}

// room is how many positions above high fit.
func (w *window) room() int { return int(w.size - (w.high - w.floor)) }

// gain is how far the floor would rise if what is passed over were recorded.
func (w *window) gain() uint64 { return w.soft - w.floor }

func (w *window) slot(pos uint64) (int, uint64) {
	i := pos % w.size
	return int(i / 64), 1 << (i % 64)
}

// settled tells whether a position is settled or passed over.
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
		w.floor, w.soft, w.high = pos-1, pos-1, pos-1
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

// pass passes over a position that was accounted for.
func (w *window) pass(pos uint64) {
	if pos <= w.floor {
		return
	}
	i, bit := w.slot(pos)
	if w.bits[i]&bit == 0 {
		w.bits[i] |= bit
		w.over[i] |= bit
		w.overs++
	}
	w.advance()
}

// passed tells whether a position is passed over.
func (w *window) passed(pos uint64) bool {
	if pos <= w.floor || pos > w.high {
		return false
	}
	i, bit := w.slot(pos)
	return w.over[i]&bit != 0
}

// reopen opens a position that was passed over.
func (w *window) reopen(pos uint64) {
	i, bit := w.slot(pos)
	w.bits[i] &^= bit
	w.over[i] &^= bit
	w.overs--
	w.soft = min(w.soft, pos-1)
}

// confirm settles for good what is passed over up to a position.
func (w *window) confirm(upTo uint64) {
	for p := w.floor + 1; p <= min(upTo, w.high) && w.overs > 0; p++ {
		i, bit := w.slot(p)
		if word := w.over[i]; word == 0 { // none in the rest of the word
			p += 63 - p%w.size%64
		} else if word&bit != 0 {
			w.over[i] &^= bit
			w.overs--
		}
	}
	w.advance()
}

// advance raises the floor over all that is settled.
func (w *window) advance() {
	for w.soft < w.high {
		i, bit := w.slot(w.soft + 1)
		if w.bits[i]&bit == 0 {
			break
		}
		w.soft++
	}
	if w.overs == 0 { // as a rule
		for w.floor < w.soft {
			i, bit := w.slot(w.floor + 1)
			w.bits[i] &^= bit
			w.floor++
		}
		return
	}
	for w.floor < w.soft {
		i, bit := w.slot(w.floor + 1)
		if w.over[i]&bit != 0 {
			return
		}
		w.bits[i] &^= bit
		w.floor++
	}
}

// recorded is what is to be recorded: the floor, and the settled positions above
// it, a bit each from floor+1 on, least significant first, without zero bytes at
// the end. What is passed over counts as settled unless sure is asked for.
func (w *window) recorded(sure bool) (floor uint64, finished []byte) {
	floor = w.soft
	if sure {
		floor = w.floor
	}
	end := max(w.high, w.known) // what was loaded counts before it is fetched again
	if end <= floor {
		return floor, nil
	}
	n := int(end - floor)
	buf := make([]byte, (n+7)/8)
	last := -1
	for k := range n {
		i, bit := w.slot(floor + 1 + uint64(k))
		if w.bits[i]&bit != 0 && (!sure || w.over[i]&bit == 0) {
			buf[k/8] |= 1 << (k % 8)
			last = k / 8
		}
	}
	return floor, buf[:last+1]
}

// load takes over what recorded has returned, for the same floor.
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
