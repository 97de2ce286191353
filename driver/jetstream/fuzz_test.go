package jetstream

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
)

// onWire writes headers as the client does, and says false where it refuses to.
func onWire(h nats.Header) ([]byte, bool) {
	var b bytes.Buffer
	b.WriteString("NATS/1.0\r\n")
	for name, values := range h {
		for i := range len(name) {
			if c := name[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("\"()/,:;<=>?@[\\]{}", c) >= 0 {
				return nil, false
			}
		}
		if name == "" {
			return nil, false
		}
		for _, v := range values {
			b.WriteString(name + ": " + strings.NewReplacer("\r", " ", "\n", " ").Replace(strings.Trim(v, " \t\r\n")) + "\r\n")
		}
	}
	b.WriteString("\r\n")
	return b.Bytes(), true
}

// FuzzWire takes what stands in front of a body. Whatever it is, it must be possible
// to keep the message in a lane, and it must come out of there as it went in: a
// message that cannot be put there stands in the way of its partition for good.
func FuzzWire(f *testing.F) {
	for _, s := range []string{
		"ce-specversion: 1.0\r\nce-id: 1\r\nce-source: /s\r\nce-type: t\r\nce-subject: k\r\nTenant: 7\r\n",
		"CE-ID: %zz\r\nce-id: 2\r\nCe-Type: \r\n", "a b: c\r\n", "ce-my attribute: x\r\nce-type: t\r\nce-id: 1\r\nce-source: s\r\nce-specversion: 1.0\r\n",
		"Straße: 1\r\nX(y): 2\r\n", "content-type: application/cloudevents+json\r\n", "Posthorn-Entry: 1 2 3 4 = =\r\nNats-Msg-Id: 1\r\n",
		"Posthorn-Name-61: b\r\n", "Posthorn-Name-: b\r\nposthorn-name-zz: c\r\n", "ce-: x\r\nce-type: %FF\r\n", "x:\ra\r\n", "X: y\r\nx: z\r\n",
		"ce-type: t\r\nCE-ID: \r\nCe-Id: 1\r\nce-foo: 1\r\ncE-foo: 2\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, block []byte) {
		h, err := nats.DecodeHeadersMsg(slices.Concat([]byte("NATS/1.0\r\n"), block, []byte("\r\n\r\n")))
		if err != nil {
			t.Skip("the client hands out no such message")
		}
		var m driver.Message
		bad := decode(h, &m)
		for range 3 {
			var same driver.Message
			if err := decode(h, &same); fmt.Sprint(err) != fmt.Sprint(bad) || !reflect.DeepEqual(same, m) {
				t.Fatalf("%q is read as %+v, %v, and as %+v, %v", h, m, bad, same, err)
			}
		}
		if size := m.Size(); size > 3*len(block)+100 { // a byte that is no UTF-8 becomes three
			t.Errorf("%d bytes of headers become %d", len(block), size)
		}
		e := newHeaderMap()
		wire, ok := onWire(e.encode(&m))
		if !ok {
			t.Fatalf("the client refuses to send %q, which came as %q", e.h, h)
		}
		if e.size < len(wire)-2 {
			t.Errorf("%d bytes are taken for %d", len(wire), e.size)
		}
		again, err := nats.DecodeHeadersMsg(wire)
		if err != nil {
			t.Fatalf("%q: %v", wire, err)
		}
		var got driver.Message
		err = decode(again, &got)
		if bad == nil && err != nil {
			t.Errorf("%q became bad on its way: %v", wire, err)
		}
		for _, m := range []*driver.Message{&m, &got} {
			trimAll(m)
		}
		if !reflect.DeepEqual(got, m) {
			t.Errorf("%q\nis read as %+v\nafter a lane as %+v", h, m, got)
		}
	})
}

// trimAll takes away what the client does not keep: white space around values, and
// line ends in them.
func trimAll(m *driver.Message) {
	clean := func(s *string) {
		*s = strings.NewReplacer("\r", " ", "\n", " ").Replace(strings.Trim(*s, " \t\r\n"))
	}
	if m.Type == "" {
		clean(&m.ContentType)
	}
	for i := range m.Headers {
		clean(&m.Headers[i].Value)
	}
	// Empty attributes say nothing, and are not written.
	m.Attrs = slices.DeleteFunc(m.Attrs, func(a driver.Attr) bool { return a.Value == "" })
	if len(m.Attrs) == 0 {
		m.Attrs = nil
	}
}

// FuzzEntry: the header of a lane entry comes back as it was written, and one from
// outside is read as what it says, or not at all.
func FuzzEntry(f *testing.F) {
	f.Add(uint8(1), int64(1_700_000_000_000_000_000), uint64(7), "k", []byte(`{"v":1}`), "1 1 0 7 =aw =e30")
	f.Add(uint8(255), int64(0), uint64(0), "", []byte(nil), "1 255 0 0 = =")
	f.Add(uint8(3), int64(-1), ^uint64(0), "\xff\x00 ", []byte{0}, "1 3 -5 18446744073709551615 = ==")
	f.Add(uint8(3), int64(1), uint64(1), "k", []byte("x"), "1 +3 01 007 aw aw")
	f.Fuzz(func(t *testing.T, state uint8, due int64, order uint64, key string, head []byte, text string) {
		e := driver.Entry{State: driver.EntryState(state), Order: order, Key: key}
		if due != 0 {
			e.Due = time.Unix(0, due)
		}
		if len(head) > 0 {
			e.Head = head
		}
		var got driver.Entry
		if err := parseEntry(formatEntry(&e), &got); err != nil || !reflect.DeepEqual(got, e) {
			t.Errorf("%+v is written as %q and read as %+v, %v", e, formatEntry(&e), got, err)
		}
		var out driver.Entry
		if err := parseEntry(text, &out); err != nil {
			if !reflect.DeepEqual(out, driver.Entry{}) {
				t.Errorf("%q cannot be read, and yet says %+v", text, out)
			}
			return
		}
		if len(out.Key)+len(out.Head) > len(text) {
			t.Errorf("%d bytes become %d", len(text), len(out.Key)+len(out.Head))
		}
		var back driver.Entry
		if err := parseEntry(formatEntry(&out), &back); err != nil || !reflect.DeepEqual(back, out) {
			t.Errorf("%q is read as %+v, written, and read as %+v, %v", text, out, back, err)
		}
	})
}

// FuzzForeignNames: a stream, consumer or subject that somebody else has made is
// taken for one of ours only if we would have called it so.
func FuzzForeignNames(f *testing.F) {
	for _, s := range []string{"PH-T-order-0", "PH-T-order-00", "PH-T-a--1", "PH-T-a-+1", "PH-T-a-18446744073709551615", "ph.s.at.g.order.3", "ph.s.at.g.order.-3", "ph.s.member.g.m1", "g-7", "g-007", "a+b-18446744073709551616"} {
		f.Add(s, "g")
	}
	f.Fuzz(func(t *testing.T, s, group string) {
		n := newNames("")
		if p, ok := n.parsePartition(s); ok && n.partition(p) != s {
			t.Errorf("stream %q is taken for %q", s, n.partition(p))
		}
		if p, ok := n.parseAt(s); ok {
			if g, found := decodeName(strings.Split(s, ".")[3]); found && n.at(g, p) != s {
				t.Errorf("record %q is taken for %q", s, n.at(g, p))
			}
		}
		if id, ok := n.parseMember(group, s); ok && n.member(group, id) != s {
			t.Errorf("record %q is taken for %q", s, n.member(group, id))
		}
		if g, fence, ok := n.parseConsumer(s); ok && n.consumer(g, fence) != s {
			t.Errorf("consumer %q is taken for %q", s, n.consumer(g, fence))
		}
	})
}

// FuzzStateRecord: what cannot be read is refused, and what can be read stays the
// same when it is written.
func FuzzStateRecord(f *testing.F) {
	f.Add([]byte(`{"format":1,"fence":3,"floor":7,"mark":90,"finished":"AQI=","made":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte(`{"format":1,"spec":{"Name":"g","Types":{"order":["order.placed"]}},"grew":{"order":2}}`))
	f.Add([]byte(`{"format":2}`))
	f.Add([]byte(`{"format":1,"floor":-1}`))
	f.Add([]byte(`{"FORMAT":1,"lease":1e999}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, empty := range []func() any{
			func() any { return new(position) }, func() any { return new(topicRecord) }, func() any { return new(groupRecord) },
			func() any { return new(memberRecord) }, func() any { return new(fenceRecord) },
		} {
			r := empty()
			if decodeRecord("a.record", data, r) != nil {
				continue
			}
			once, err := json.Marshal(r)
			if err != nil {
				t.Fatalf("%T %+v cannot be written: %v", r, r, err)
			}
			again := empty()
			if err := decodeRecord("a.record", once, again); err != nil {
				t.Fatalf("%T: %s is written as %s and refused: %v", r, data, once, err)
			}
			if twice, _ := json.Marshal(again); !bytes.Equal(once, twice) {
				t.Errorf("%T: %s, then %s", r, once, twice)
			}
		}
	})
}

// FuzzTarget: a URL is read or refused, and what is wrong with it is said without
// what may be a secret.
func FuzzTarget(f *testing.F) {
	for _, s := range []string{
		"nats://h", "tls://u:SESAME@a,b:1?lease=1s", "nats://SESAME@[::1]:4222/", "nats://h?creds=SESAME&nkey=x", "nats://SESAME", "nats://SESAME/a@h",
		"nats:SESAME", "nats://h#SESAME", "nats://h?token=SESAME", "nats://u:SESAME@h:0", "nats://h?replicas=9&durability=SESAME", "nats://h?lease=SESAME", "nats://h?%zz",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := url.Parse(raw)
		if err != nil {
			t.Skip("the core lets no such URL through")
		}
		target, err := parseTarget(u)
		if err != nil {
			secrets := []string{u.Fragment, u.Query().Get("token"), u.Query().Get("creds")}
			if u.User != nil {
				pw, _ := u.User.Password()
				secrets = append(secrets, pw)
			}
			for _, s := range secrets {
				if len(s) > 5 && strings.Contains(s, "SESAME") && strings.Contains(err.Error(), s) {
					t.Errorf("%q: %v", raw, err)
				}
			}
			return
		}
		if len(target.hosts) == 0 || target.replicas < 0 || target.replicas > maxReplicas || target.lease != 0 && target.lease < MinLease {
			t.Errorf("%q is read as %+v", raw, target)
		}
		for _, h := range target.hosts {
			again, err := url.Parse("nats://" + h)
			if err != nil {
				t.Errorf("%q names the host %q, and nobody can connect to that: %v", raw, h, err)
				continue
			}
			if n, err := strconv.ParseUint(again.Port(), 10, 16); err != nil || n == 0 {
				t.Errorf("%q names the host %q", raw, h)
			}
		}
	})
}

// FuzzServeAnswers: what comes from something that says that it is a posthorn serve
// is read or refused.
func FuzzServeAnswers(f *testing.F) {
	f.Add([]byte(`{"format":1,"version":"v1","run":"r","serial":3,"barrier":true,"lease":1000}`))
	f.Add([]byte(`{"synced":true,"status":{"format":1,"run":"r"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, empty := range []func() any{func() any { return new(ServeStatus) }, func() any { return new(SyncReply) }, func() any { return new(SyncRequest) }} {
			v, again := empty(), empty()
			if json.Unmarshal(data, v) != nil {
				continue
			}
			text, err := json.Marshal(v)
			if err != nil || json.Unmarshal(text, again) != nil || !reflect.DeepEqual(v, again) {
				t.Errorf("%s is read as %+v, written as %s, %v, read as %+v", data, v, text, err, again)
			}
		}
	})
}
