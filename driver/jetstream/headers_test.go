package jetstream

import (
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
)

func FuzzHeaders(f *testing.F) {
	f.Add("id", "source", "type", "key", "Tenant", "value")
	f.Add("%zz", "\"", "é", " ", "x", "50%")
	f.Fuzz(func(t *testing.T, id, source, typ, key, name, value string) {
		for _, s := range []string{id, source, typ, key, value} {
			if !utf8.ValidString(s) {
				t.Skip("the core lets no such value through")
			}
		}
		if id == "" || source == "" || typ == "" {
			t.Skip("nor that")
		}
		m := driver.Message{ID: id, Source: source, Type: typ, Key: key, ContentType: "a/b"}
		if value != "" {
			m.Attrs = []driver.Attr{{Name: "dataschema", Value: value}}
		}
		h := newHeaderMap().encode(&m)
		for n, vs := range h {
			if strings.ContainsAny(n+vs[0], "\r\n\x00 \"") {
				t.Errorf("header %q: %q", n, vs)
			}
		}
		var got driver.Message
		if err := decode(h, &got); err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%+v becomes %v becomes %+v, %v", m, h, got, err)
		}
	})
}

// FuzzDecode: nothing that comes from outside ends more than its own message.
func FuzzDecode(f *testing.F) {
	f.Add("ce-type", "x", "CE-ID", "%")
	f.Add("Ce-Type", "", "content-type", "application/cloudevents+json")
	f.Fuzz(func(t *testing.T, n1, v1, n2, v2 string) {
		var m driver.Message
		_ = decode(nats.Header{n1: {v1}, n2: {v2, v1}, "empty": nil}, &m)
		if m.Type == "" && m.ID != "" {
			if _, ok := (nats.Header{n1: {v1}})["ce-type"]; !ok && !strings.EqualFold(n1, "ce-type") && !strings.EqualFold(n2, "ce-type") {
				t.Errorf("%+v", m)
			}
		}
		var e driver.Entry
		_ = parseEntry(v1, &e)
		_, _ = parseReply(v2)
		_ = replySequence(v2)
	})
}

func TestDecodeDialects(t *testing.T) {
	t.Parallel()
	want := driver.Message{ID: "1", Source: "/s", Type: "t", Key: "k", ContentType: "application/json"}
	for name, c := range map[string]struct {
		h   nats.Header
		m   driver.Message
		bad string
	}{
		"ours":     {nats.Header{"ce-specversion": {"1.0"}, "ce-id": {"1"}, "ce-source": {"/s"}, "ce-type": {"t"}, "ce-subject": {"k"}, "ce-datacontenttype": {"application/json"}}, want, ""},
		"any case": {nats.Header{"Ce-Specversion": {"1.0"}, "CE-ID": {"1"}, "cE-source": {"/s"}, "Ce-Type": {"t"}, "Ce-Subject": {"k"}, "Content-Type": {"application/json"}}, want, ""},
		"values that are not encoded": {
			nats.Header{"ce-specversion": {"1.0"}, "ce-id": {"100% ü"}, "ce-source": {"a b%2"}, "ce-type": {"t"}, "content-type": {"x/y"}},
			driver.Message{ID: "100% ü", Source: "a b%2", Type: "t", ContentType: "x/y"}, "",
		},
		"old version": {nats.Header{"ce-specversion": {"0.3"}, "ce-id": {"1"}, "ce-source": {"s"}, "ce-type": {"t"}}, driver.Message{ID: "1", Source: "s", Type: "t"}, `specversion "0.3"`},
		"no id":       {nats.Header{"ce-specversion": {"1.0"}, "ce-source": {"s"}, "ce-type": {"t"}}, driver.Message{Source: "s", Type: "t"}, "no id"},
		"not UTF-8":   {nats.Header{"ce-specversion": {"1.0"}, "ce-id": {"%FF"}, "ce-source": {"s"}, "ce-type": {"t"}}, driver.Message{ID: "\uFFFD", Source: "s", Type: "t"}, `"id" is not UTF-8`},
		"two ids":     {nats.Header{"ce-specversion": {"1.0"}, "ce-id": {"1", "2"}, "ce-source": {"s"}, "ce-type": {"t"}}, driver.Message{ID: "1", Source: "s", Type: "t"}, "2 times"},
		"foreign":     {nats.Header{"ce-id": {"a%20b"}, "Content-Type": {"application/cloudevents+json"}, "Nats-Msg-Id": {"x"}}, driver.Message{ContentType: "application/cloudevents+json", Headers: []driver.Attr{{Name: "ce-id", Value: "a%20b"}}}, ""},
		"none":        {nil, driver.Message{}, ""},
	} {
		var m driver.Message
		err := decode(c.h, &m)
		if !reflect.DeepEqual(m, c.m) {
			t.Errorf("%s: got %+v, want %+v", name, m, c.m)
		}
		if (err != nil) != (c.bad != "") || err != nil && !strings.Contains(err.Error(), c.bad) {
			t.Errorf("%s: %v, want %q", name, err, c.bad)
		}
	}
}

func TestParseReply(t *testing.T) {
	t.Parallel()
	want := replyInfo{stream: 22, consumer: 33, stored: 44}
	for _, s := range []string{
		"$JS.ACK.S.C.1.22.33.44.5",
		"$JS.ACK.domain.acc.S.C.1.22.33.44.5",
		"$JS.ACK.domain.acc.S.C.1.22.33.44.5.R",
	} {
		got, ok := parseReply(s)
		if !ok || got != want {
			t.Errorf("%s: %+v", s, got)
		}
	}
	for _, s := range []string{"", "$JS.ACK.S.C", "$JS.ACK.S.C.1.x.33.44.5", "$JS.ACK.S.C.1.22.33.44.5.6"} {
		if _, ok := parseReply(s); ok {
			t.Errorf("%q was accepted", s)
		}
	}
}
