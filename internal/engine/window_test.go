package engine

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// A window is held against a plain set, over positions that have gaps, with the
// checkpoint taken and loaded at any time.
func TestWindowAgainstModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := newWindow(r.Uint64N(100), 128)
		settled, open := map[uint64]bool{}, []uint64{}
		next := w.floor + 1
		for range 1000 {
			switch n := r.IntN(10); {
			case n < 5 && w.fits(next): // one comes in, perhaps behind a gap
				pos := next + uint64(r.IntN(3)/2*r.IntN(10))
				if !w.fits(pos) {
					continue
				}
				w.skipTo(pos)
				w.high = pos
				w.advance()
				if w.settled(pos) {
					t.Fatalf("seed %d: %d is settled before it came", seed, pos)
				}
				open = append(open, pos)
				next = pos + 1
			case n < 9 && len(open) > 0:
				i := r.IntN(len(open))
				w.settle(open[i])
				settled[open[i]] = true
				open = append(open[:i], open[i+1:]...)
			default: // a restart
				floor, finished := w.recorded(false)
				v := newWindow(floor, 128)
				v.load(finished)
				v.high = w.high
				w = v
				w.advance()
			}
			for _, pos := range open {
				if w.settled(pos) || pos <= w.floor {
					t.Fatalf("seed %d: %d counts as settled, floor %d", seed, pos, w.floor)
				}
			}
			for pos := range settled {
				if !w.settled(pos) {
					t.Fatalf("seed %d: %d is forgotten, floor %d", seed, pos, w.floor)
				}
			}
			if len(open) == 0 && w.floor != w.high {
				t.Fatalf("seed %d: nothing is open, the floor is %d of %d", seed, w.floor, w.high)
			}
			if w.room() < 0 || w.room() > 128 {
				t.Fatalf("seed %d: room %d", seed, w.room())
			}
		}
	}
}

func TestGrowingBackoff(t *testing.T) {
	t.Parallel()
	last := time.Duration(0)
	for n := 1; n < 70; n++ {
		d := growing(100*time.Millisecond, time.Hour, n)
		if d < last || d > time.Hour {
			t.Fatalf("after %d failures %v, before it %v", n, d, last)
		}
		if n < 10 && d <= last {
			t.Fatalf("it does not grow: %v, %v", last, d)
		}
		last = d
		if j := jitter(d); j < d/2 || j > d {
			t.Fatalf("jitter of %v is %v", d, j)
		}
	}
}

func TestRecordIsCut(t *testing.T) {
	t.Parallel()
	var r record
	for i := range 100 {
		r.fail(Verdict{Err: errStuck, Code: "timeout"}, time.Unix(int64(i), 0))
		r.fail(Verdict{Err: &longError{strings.Repeat("é", 6000)}, Code: "handler_failed"}, time.Unix(int64(i), 0))
	}
	total := 0
	for _, e := range r.Errors {
		total += len(e)
	}
	if r.Attempts != 200 || total > maxErrors+100 || r.Errors[0] != errStuck.Error() {
		t.Errorf("%d attempts, %d bytes of errors, first %.20q", r.Attempts, total, r.Errors[0])
	}
	got, err := decodeRecord(r.encode())
	if err != nil || got.Attempts != 200 || got.First != 0 && got.First != r.First {
		t.Errorf("decoded %+v, %v", got, err)
	}
}

type longError struct{ text string }

func (e *longError) Error() string { return e.text }

// A newer member may write fields that this one does not know, and a larger number.
func TestRecordOfANewerMember(t *testing.T) {
	t.Parallel()
	r, err := decodeRecord([]byte(`{"v":7,"a":3,"zz":{"x":1}}`))
	if err != nil || r.Attempts != 3 {
		t.Errorf("%+v, %v", r, err)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add([]byte(`{"v":1,"a":3,"e":["x"]}`))
	f.Add([]byte(`{"v":-1}`))
	f.Add([]byte(``))
	f.Fuzz(func(t *testing.T, head []byte) {
		r, err := decodeRecord(head)
		if err != nil {
			return
		}
		if again, err := decodeRecord(r.encode()); err != nil || again.Attempts != r.Attempts {
			t.Errorf("%q does not survive: %+v, %v", head, again, err)
		}
	})
}
