package jetstream

import (
	"encoding/json"
	"testing"
)

// The quick way says the same as the other one, or nothing.
func FuzzPlainAck(f *testing.F) {
	for _, s := range []string{
		`{"stream":"PH-T-order-0","seq":17}`, `{"stream":"S","seq":9,"batch":"a-1","count":3}`, `{"stream":"S","seq":9,"duplicate":true}`,
		`{"stream":"S","seq":0}`, `{"stream":"S","seq":}`, `{"stream":"S","seq":1`, `{"error":{"code":503},"stream":"S","seq":1}`,
		`{"stream":"S","seq":9,"domain":"d","batch":"a-1","count":3}`, `{"stream":"S","seq":123456789012345678901}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, ok := plainAck([]byte(s))
		var want pubAck
		if err := json.Unmarshal([]byte(s), &want); err != nil || !ok {
			return // no answer of a server's
		}
		if a != want {
			t.Errorf("%s is read as %+v, it says %+v", s, a, want)
		}
	})
}

func TestPlainAck(t *testing.T) {
	for s, want := range map[string]pubAck{
		`{"stream":"PH-T-order-0","seq":17}`:             {Seq: 17},
		`{"stream":"S","seq":9,"batch":"a-1","count":3}`: {Seq: 9, Count: 3},
	} {
		if got, ok := plainAck([]byte(s)); !ok || got != want {
			t.Errorf("%s is read as %+v, %v", s, got, ok)
		}
	}
	if _, ok := plainAck([]byte(`{"stream":"S","seq":9,"duplicate":true}`)); ok {
		t.Error("it says nothing of copies")
	}
}
