package delay

import "testing"

// FuzzHead: the head of a delayed event's entry has a size that can be reckoned with,
// whatever stands there, and comes back as it was written.
func FuzzHead(f *testing.F) {
	f.Add([]byte(`{"v":1,"s":100,"m":"m1"}`))
	f.Add([]byte(`{"v":1,"s":-1}`))
	f.Add([]byte(`{"s":1e30}`))
	f.Add([]byte(``))
	f.Fuzz(func(t *testing.T, b []byte) {
		h := decodeHead(b)
		if h.Size <= 0 {
			t.Errorf("%q has a size of %d", b, h.Size)
		}
		h.Format = headFormat
		if again := decodeHead(h.encode()); again != h {
			t.Errorf("%q is read as %+v, then as %+v", b, h, again)
		}
	})
}
