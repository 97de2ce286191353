package posthorn

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/posthorn/posthorn/driver"
)

// FuzzStructured: a body that says that it is an event is read as a whole one, or not
// at all, and takes no more memory than it has bytes.
func FuzzStructured(f *testing.F) {
	const whole = `{"specversion":"1.0","id":"1","source":"/s","type":"order.placed","subject":"k","time":"2026-01-02T03:04:05Z","traceparent":"00-1","data":{"a":1}}`
	for _, body := range []string{
		whole, strings.Replace(whole, `"id":"1"`, `"id":""`, 1), strings.Replace(whole, `"id":"1"`, `"id":1,"ID":2`, 1),
		strings.Replace(whole, `"data":{"a":1}`, `"datacontenttype":"text/plain","data":"x"`, 1), strings.Replace(whole, `"data":{"a":1}`, `"data_base64":"AAE="`, 1),
		strings.Replace(whole, `"data":{"a":1}`, `"data_base64":7`, 1), strings.Replace(whole, `"traceparent"`, `""`, 1), strings.Replace(whole, `"00-1"`, `{}`, 1),
		strings.Replace(whole, `"type":"order.placed"`, `"type":null`, 1), strings.Replace(whole, "1.0", "7", 1), strings.Repeat("[", 100), `{"specversion":"1.0"}`, "{", "null", "",
	} {
		f.Add("application/cloudevents+json", []byte(body))
		f.Add("", []byte(body))
	}
	f.Add("application/cloudevents+json; charset=utf-8", []byte(whole))
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		m := driver.Message{ContentType: contentType, Body: body}
		ok, err := structured(&m)
		if !ok && err != nil {
			t.Fatalf("it is something else, and yet %v", err)
		}
		if !ok || err != nil {
			if m.ContentType != contentType || !bytes.Equal(m.Body, body) || m.Type != "" || m.ID != "" || m.Attrs != nil {
				t.Fatalf("ok %v, %v, and yet it was changed: %+v", ok, err, m)
			}
			return
		}
		if m.ID == "" || m.Source == "" || m.Type == "" {
			t.Errorf("an event without an attribute that each has: %+v", m)
		}
		if size := m.Size(); size > 3*len(body)+len("application/json") { // a byte that is no UTF-8 becomes three
			t.Errorf("%d bytes become %d", len(body), size)
		}
		seen := map[string]bool{}
		for _, a := range m.Attrs {
			switch {
			case a.Name == "" || a.Name != strings.ToLower(a.Name) || seen[a.Name]:
				t.Errorf("attribute %q, in %+v", a.Name, m.Attrs)
			case !utf8.ValidString(a.Name + a.Value):
				t.Errorf("attribute %q is %q", a.Name, a.Value)
			}
			seen[a.Name] = true
		}
		var meta Meta
		readMeta(&m, &meta)
		if meta.ID != m.ID || meta.SchemaVersion < 1 || meta.CorrelationID == "" {
			t.Errorf("%+v is read as %+v", m, meta)
		}
	})
}

// FuzzJSONDepth: what is deeper than the limit is never taken for flat.
func FuzzJSONDepth(f *testing.F) {
	for _, s := range []string{`{"a":[{}]}`, `"[\"[["`, `["\\"]`, `{"a\\":"[","b":[[]]}`, "[[[", `"\u005b"`, "1E1000"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if !json.Valid(data) {
			return // the decoder refuses it, wherever it stops
		}
		depth, most := 0, 0
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.UseNumber()
		for {
			token, err := dec.Token()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			switch token {
			case json.Delim('['), json.Delim('{'):
				depth++
				most = max(most, depth)
			case json.Delim(']'), json.Delim('}'):
				depth--
			}
		}
		if got := jsonDepth(data); got != most {
			t.Errorf("%q is %d deep, not %d", data, most, got)
		}
	})
}

// FuzzURL: whatever stands in front of an '@' is shown nowhere, neither in the redacted
// URL nor in an error, wherever the rest of it puts it.
func FuzzURL(f *testing.F) {
	for _, s := range [][2]string{{"user:", "host:4222"}, {"", "a,b:1,c?lease=1s"}, {"u:%40", "#x@h/"}, {"u:a/b", "h"}, {"u:12?", "h"}, {"u:12#", "h"}, {"u:[", "[::1%zz"}, {"12/", "h?token=x"}, {"h?lease=1s&", "h"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		const secret = "SESAME5417"
		for _, p := range plainParams {
			if strings.Contains(strings.ToLower(before), p) {
				return // a parameter that may be shown
			}
		}
		if strings.ContainsAny(before, "?") && strings.ContainsAny(before, "=%+") {
			return // nor is it the beginning of a password, where it is a parameter's value
		}
		raw := "nats://" + before + secret + "@" + after
		u, err := parseURL(raw)
		if err != nil {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%q: %v", raw, err)
			}
			return
		}
		if _, has := u.User.Password(); has && strings.Contains(u.User.Username(), secret) {
			return // the name of a user
		}
		if shown := redact(u); strings.Contains(shown, secret) {
			t.Errorf("%q is shown as %q", raw, shown)
		}
		if _, err := opener(u); err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%q: %v", raw, err)
		}
	})
}
