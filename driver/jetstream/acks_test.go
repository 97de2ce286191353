package jetstream

import (
	"bytes"
	"strings"
	"testing"
)

func TestAckBundle(t *testing.T) {
	t.Parallel()
	all := []struct{ rest, data string }{
		{"run-1", `{"stream":"S","seq":1}`},
		{"run-2.65535.fail.3.2.$FI", "with\nline ends 12\n"},
		{"run-3", ""},
	}
	var b AckBundle
	for _, a := range all {
		b.Add(a.rest, []byte(a.data))
	}
	for _, a := range all {
		if rest, data, ok := b.Next(); !ok || rest != a.rest || string(data) != a.data {
			t.Errorf("%q %q %v, want %+v", rest, data, ok, a)
		}
	}
	if rest, data, ok := b.Next(); ok {
		t.Errorf("at the end: %q %q", rest, data)
	}
	for _, bad := range []string{"x", "x 1\n", "x -1\nabc", "x 99999999999999999999\n", " \n", "x 2 3\nab"} {
		if b := AckBundle(bad); len(bad) > 0 {
			if _, _, ok := b.Next(); ok {
				t.Errorf("%q was read", bad)
			}
		}
	}
}

func TestAckBox(t *testing.T) {
	t.Parallel()
	st := ServeStatus{Run: "RUN"}
	tail, ok := strings.CutPrefix("ph.x.ack.RUN.box.tok-1.9.$FI", st.AckSubject())
	if box, rest, found := AckBox(tail); !ok || !found || box != "box" || rest != "tok-1.9.$FI" {
		t.Errorf("%q %q %v", box, rest, found)
	}
	for _, bad := range []string{"", "box", "box.", ".rest"} {
		if _, _, ok := AckBox(bad); ok {
			t.Errorf("%q was read", bad)
		}
	}
}

// FuzzAckBundle reads what anybody on the server may send.
func FuzzAckBundle(f *testing.F) {
	var b AckBundle
	b.Add("run-1", []byte(`{"stream":"S","seq":1}`))
	b.Add("run-2", nil)
	f.Add([]byte(b))
	f.Add([]byte("x 5\nab"))
	f.Fuzz(func(t *testing.T, in []byte) {
		b, size := AckBundle(in), 0
		for {
			rest, data, ok := b.Next()
			if !ok {
				break
			}
			if size += len(rest) + len(data); size > len(in) {
				t.Fatalf("%d bytes out of %d", size, len(in))
			}
			var again AckBundle
			again.Add(rest, data)
			r, d, ok := again.Next()
			if !ok || r != rest || !bytes.Equal(d, data) {
				t.Fatalf("%q %q came back as %q %q, %v", rest, data, r, d, ok)
			}
		}
	})
}
