package engine

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
	"time"
)

// FuzzRecord: what is read of a lane entry stays the same when it is written, and a
// further failure is counted and bounded whatever stood there before.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"v":1,"a":3,"n":1,"e":["x","y"],"c":"timeout","f":1,"d":2,"s":3,"o":4,"m":"m","b":"b"}`), "boom")
	f.Add([]byte(`{"v":9,"new":[{}],"e":["","",""]}`), "\xff")
	f.Add([]byte(`{"v":1,"a":9223372036854775807}`), "")
	f.Add([]byte(`{"v":1,"n":-1}`), "")
	f.Fuzz(func(t *testing.T, head []byte, failure string) {
		r, err := decodeRecord(head)
		dead, derr := DecodeDead(head)
		if (err == nil) != (derr == nil) {
			t.Fatalf("%v, but %v", err, derr)
		}
		if err != nil {
			return
		}
		r.Format = recordFormat
		if len(r.Errors) == 0 {
			r.Errors = nil // an empty list is not written
		}
		again, err := decodeRecord(r.encode())
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Errorf("%q is read as %+v, then as %+v, %v", head, r, again, err)
		}
		if dead.Attempts != r.Attempts || dead.Boots != r.Boots || dead.Order != r.Order {
			t.Errorf("%+v and %+v", dead, r)
		}
		before := r.Attempts
		r.fail(Verdict{Err: errors.New(failure), Code: "handler_failed"}, time.UnixMilli(5))
		if r.Attempts <= before || len(r.Errors) == 0 {
			t.Errorf("after another failure %d attempts, before it %d", r.Attempts, before)
		}
		total := 0
		for _, e := range r.Errors {
			total += len(e)
		}
		if total > maxErrors+len(r.Errors[0])+len(r.Errors[len(r.Errors)-1]) {
			t.Errorf("%d bytes of errors are kept", total)
		}
		if _, err := decodeRecord(r.encode()); err != nil {
			t.Errorf("%+v cannot be read any more: %v", r, err)
		}
	})
}

// FuzzFinished: what a checkpoint says is finished is that in the window, and nothing
// else, and is recorded again as it was.
func FuzzFinished(f *testing.F) {
	f.Add(uint64(0), []byte{0xff, 0, 1}, uint16(64))
	f.Add(uint64(1<<40), []byte{0, 0, 0x80}, uint16(1))
	f.Add(uint64(7), bytes.Repeat([]byte{0xaa}, 100), uint16(200))
	f.Fuzz(func(t *testing.T, floor uint64, finished []byte, size uint16) {
		floor %= 1 << 62
		w := newWindow(floor, 1+int(size))
		w.load(finished)
		is := func(pos uint64) bool {
			k := pos - floor - 1
			return k < uint64(len(finished))*8 && finished[k/8]&(1<<(k%8)) != 0
		}
		for pos := floor + 1; pos <= floor+w.size+8; pos++ {
			if want := is(pos) && w.fits(pos); w.settled(pos) != want {
				t.Fatalf("position %d: settled %v, want %v", pos, w.settled(pos), want)
			}
		}
		if w.floor != floor {
			t.Errorf("floor %d became %d by loading", floor, w.floor)
		}
		want := bytes.TrimRight(finished[:min(len(finished), int(w.size/8))], "\x00")
		if got, bits := w.recorded(false); got != floor || !bytes.Equal(bits, want) {
			t.Errorf("%x at %d is recorded as %x at %d", want, floor, bits, got)
		}
	})
}
