package jetstream

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"github.com/posthorn/posthorn/driver"
)

// On the wire an event is a CloudEvent in binary mode, as the NATS binding has
// it: attributes are headers with the prefix ce-, their values percent-encoded;
// other headers and the body are as they are.

const (
	attrPrefix        = "ce-"
	specVersion       = "1.0"
	headerMsgID       = "Nats-Msg-Id"
	headerContentType = "content-type"
)

// The headers that nearly every event has.
const (
	fieldMsgID = iota
	fieldVersion
	fieldID
	fieldSource
	fieldType
	fieldSubject
	fieldTime
	fieldContentType
	fields
)

var fieldNames = [fields]string{headerMsgID, "ce-specversion", "ce-id", "ce-source", "ce-type", "ce-subject", "ce-time", "ce-datacontenttype"}

// A headerMap encodes messages one after the other, into one map. What nearly every
// event has stays in it, and only the values change.
type headerMap struct {
	h      nats.Header
	size   int            // on the wire
	field  [fields]string // the values of h's slices
	in     [fields]bool   // it is in h
	others []string       // what else is in h
	values []string       // of these
}

func newHeaderMap() *headerMap { return &headerMap{h: nats.Header{}} }

// encode returns the headers of a message. They stay as they are until the next
// call, and are not to be changed.
func (e *headerMap) encode(m *driver.Message) nats.Header {
	for _, name := range e.others {
		delete(e.h, name)
		if i := slices.Index(fieldNames[:], name); i >= 0 {
			e.in[i] = false
		}
	}
	e.others = e.others[:0]
	e.values = slices.Grow(e.values[:0], 1+len(m.Attrs)+len(m.Headers))
	e.size = len("NATS/1.0\r\n\r\n")
	if isForeign(m) {
		for i := range e.field {
			e.set(i, "")
		}
		e.put(headerContentType, m.ContentType)
	} else {
		e.event(m)
	}
	for i := range m.Headers {
		e.add(m.Headers[i].Name, m.Headers[i].Value)
	}
	return e.h
}

// isForeign tells whether a message has no attributes at all.
func isForeign(m *driver.Message) bool {
	return m.Type == "" && m.ID == "" && m.Source == "" && m.Key == "" && m.Time == "" && len(m.Attrs) == 0
}

// anew is encode for who changes the map.
func (e *headerMap) anew(m *driver.Message) nats.Header {
	clear(e.h)
	e.in, e.others = [fields]bool{}, e.others[:0]
	return e.encode(m)
}

func (e *headerMap) event(m *driver.Message) {
	e.set(fieldMsgID, messageID(m))
	e.set(fieldVersion, specVersion)
	e.set(fieldID, escape(m.ID))
	e.set(fieldSource, escape(m.Source))
	e.set(fieldType, escape(m.Type))
	if m.Type == "" { // it says that it is an event, and is kept as that
		e.add("ce-type", "")
	}
	e.set(fieldSubject, escape(m.Key))
	e.set(fieldTime, escape(m.Time))
	e.set(fieldContentType, escape(m.ContentType))
	for i := range m.Attrs {
		e.put(attrHeader(m.Attrs[i].Name), escape(m.Attrs[i].Value))
	}
}

// set sets one of the usual headers, or takes it out when there is nothing to say.
func (e *headerMap) set(i int, value string) {
	e.field[i] = value
	switch name := fieldNames[i]; {
	case value == "" && !e.in[i]:
	case value == "":
		delete(e.h, name)
		e.in[i] = false
	default:
		e.count(name, value)
		if !e.in[i] {
			e.h[name], e.in[i] = e.field[i:i+1:i+1], true
		}
	}
}

func (e *headerMap) count(name, value string) { e.size += len(name) + len(value) + len(": \r\n") }

// attrHeader is prefix and name, for the usual names without an allocation.
func attrHeader(name string) string {
	switch name {
	case "traceparent":
		return "ce-traceparent"
	case "tracestate":
		return "ce-tracestate"
	case "correlationid":
		return "ce-correlationid"
	case "causationid":
		return "ce-causationid"
	case "expirytime":
		return "ce-expirytime"
	case "schemaversion":
		return "ce-schemaversion"
	case "dataschema":
		return "ce-dataschema"
	case "partitionkey":
		return "ce-partitionkey"
	}
	return attrPrefix + name
}

// put sets another header, unless there is nothing to say.
func (e *headerMap) put(name, value string) {
	if value == "" {
		return
	}
	delete(e.h, wireName(name))
	e.add(name, value)
}

// add adds a header, beside those of its name that there are.
func (e *headerMap) add(name, value string) {
	name = wireName(name)
	e.count(name, value)
	if have, ok := e.h[name]; ok {
		e.h[name] = append(have, value)
		e.others = append(e.others, name) // whose it was: its slice is another one now
		return
	}
	n := len(e.values)
	e.values = append(e.values, value)
	e.h[name] = e.values[n : n+1 : n+1]
	e.others = append(e.others, name)
}

// namePrefix begins the name of a header in whose own name is what the client refuses
// to send: what follows is that name in hexadecimal. Others send such names, and an
// event in structured mode may bring them: what cannot be handled must fit into a lane.
const namePrefix = "Posthorn-Name-"

func wireName(name string) string {
	for i := range len(name) {
		if !plainHeader[name[i]] {
			return namePrefix + hex.EncodeToString([]byte(name))
		}
	}
	return name
}

// ownName reverses wireName.
func ownName(name string) string {
	if len(name) > len(namePrefix) && name[:len(namePrefix)] == namePrefix {
		if own, err := hex.DecodeString(name[len(namePrefix):]); err == nil {
			return string(own)
		}
	}
	return name
}

// plainHeader says which bytes the client sends in the name of a header.
var plainHeader = func() (plain [256]bool) {
	for c := '!'; c <= '~'; c++ {
		plain[c] = !strings.ContainsRune("\"()/,:;<=>?@[\\]{}", c)
	}
	return plain
}()

// wireSize is what headers take on the wire.
func wireSize(h nats.Header) int {
	n := len("NATS/1.0\r\n\r\n")
	for name, values := range h {
		for _, v := range values {
			n += len(name) + len(v) + len(": \r\n")
		}
	}
	return n
}

// messageID is what the server knows an event by for its de-duplication: ids are
// unique in their source only.
func messageID(m *driver.Message) string {
	var buf [160]byte
	b := append(buf[:0], m.Source...)
	b = append(b, 0)
	b = append(b, m.ID...)
	sum := sha256.Sum256(b)
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// escape percent-encodes what the binding asks for: space, quote, percent and
// all that is not printable ASCII.
func escape(s string) string {
	n := 0
	for i := range len(s) {
		if escapes[s[i]] {
			n++
		}
	}
	if n == 0 {
		return s
	}
	b := make([]byte, 0, len(s)+2*n)
	for i := range len(s) {
		if c := s[i]; escapes[c] {
			b = append(b, '%', "0123456789ABCDEF"[c>>4], "0123456789ABCDEF"[c&15])
		} else {
			b = append(b, c)
		}
	}
	return string(b)
}

// escapes says which bytes these are.
var escapes = func() (must [256]bool) {
	for c := range must {
		must[c] = c <= ' ' || c == '"' || c == '%' || c >= 0x7f
	}
	return must
}()

// unescape reverses escape. What is no escape stays as it is: some writers do
// not encode values at all.
func unescape(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hi, lo := hexValue(s[i+1]), hexValue(s[i+2])
			if hi >= 0 && lo >= 0 {
				b = append(b, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

func hexValue(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// decode reads headers into a message. It reads names without regard to case.
// A message without a type is foreign: it keeps its headers as they are. An
// error says what is wrong with one that has a type; m then holds what could be
// read.
func decode(h nats.Header, m *driver.Message) error {
	if len(h) == 0 {
		return nil
	}
	if !isEvent(h) {
		decodeForeign(h, m)
		return nil
	}
	r := headerReader{m: m}
	if r.usual(h) < len(h) {
		for name, values := range h {
			if len(values) != 1 || !isUsual(name) {
				r.read(name, values)
			}
		}
	}
	if m.ContentType == "" {
		m.ContentType = r.plainType
	}
	r.sortAttrs()
	sortHeaders(m.Headers)
	return r.check()
}

func isEvent(h nats.Header) bool {
	if _, ok := h["ce-type"]; ok {
		return true
	}
	for name := range h {
		if len(name) == len("ce-type") && strings.EqualFold(name, "ce-type") {
			return true
		}
	}
	return false
}

func decodeForeign(h nats.Header, m *driver.Message) {
	for name, values := range h {
		switch name = ownName(name); {
		case isServers(name) || strings.EqualFold(name, headerEntry):
		case strings.EqualFold(name, headerContentType):
			m.ContentType = first(values)
		default:
			for _, v := range values {
				m.Headers = append(m.Headers, driver.Attr{Name: name, Value: v})
			}
		}
	}
	sortHeaders(m.Headers)
}

// isServers tells whether a header is the broker's own.
func isServers(name string) bool { return len(name) > 5 && strings.EqualFold(name[:5], "nats-") }

type headerReader struct {
	m         *driver.Message
	version   string
	plainType string
	seen      [fields]bool
	errs      []error
}

// usual reads the headers that nearly each event has, as they are written here, and
// returns how many there were. One that is there more than once is left to read.
func (r *headerReader) usual(h nats.Header) (n int) {
	m := r.m
	n = r.take(h, fieldVersion, &r.version) + r.take(h, fieldID, &m.ID) + r.take(h, fieldSource, &m.Source) +
		r.take(h, fieldType, &m.Type) + r.take(h, fieldSubject, &m.Key) + r.take(h, fieldTime, &m.Time) +
		r.take(h, fieldContentType, &m.ContentType)
	if len(h[headerMsgID]) == 1 {
		n++
	}
	return n
}

func (r *headerReader) take(h nats.Header, field int, into *string) int {
	name := fieldNames[field]
	values := h[name]
	if len(values) != 1 {
		return 0
	}
	v := values[0]
	for i := range len(v) {
		if v[i] == '%' || v[i] >= utf8.RuneSelf {
			r.attr(name[len(attrPrefix):], unescape(v))
			return 1
		}
	}
	*into = v
	r.seen[field] = true
	return 1
}

func isUsual(name string) bool { return slices.Contains(fieldNames[:], name) }

func (r *headerReader) read(name string, values []string) {
	name = ownName(name)
	if len(name) > 3 && (name[:3] == attrPrefix || strings.EqualFold(name[:3], attrPrefix)) {
		if len(values) > 1 {
			r.errs = append(r.errs, fmt.Errorf("header %q is there %d times", name, len(values)))
		}
		r.attr(strings.ToLower(name[3:]), unescape(first(values)))
		return
	}
	switch {
	case isServers(name) || strings.EqualFold(name, headerEntry):
	case strings.EqualFold(name, headerContentType):
		r.plainType = first(values)
	default:
		for _, v := range values {
			r.m.Headers = append(r.m.Headers, driver.Attr{Name: name, Value: v})
		}
	}
}

func (r *headerReader) attr(name, value string) {
	if !utf8.ValidString(value) {
		r.errs = append(r.errs, fmt.Errorf("attribute %q is not UTF-8", name))
		value = strings.ToValidUTF8(value, "\uFFFD")
	}
	switch name {
	case "specversion":
		r.once(fieldVersion, &r.version, value)
	case "id":
		r.once(fieldID, &r.m.ID, value)
	case "source":
		r.once(fieldSource, &r.m.Source, value)
	case "type":
		r.once(fieldType, &r.m.Type, value)
	case "subject":
		r.once(fieldSubject, &r.m.Key, value)
	case "time":
		r.once(fieldTime, &r.m.Time, value)
	case "datacontenttype":
		r.once(fieldContentType, &r.m.ContentType, value)
	default:
		r.m.Attrs = append(r.m.Attrs, driver.Attr{Name: name, Value: value})
	}
}

// once sets an attribute. Of one that is there again, in other letters, one value is
// taken, the same at each reading.
func (r *headerReader) once(field int, into *string, value string) {
	if r.seen[field] {
		r.errs = append(r.errs, fmt.Errorf("attribute %q is there more than once", fieldNames[field][len(attrPrefix):]))
		value = min(*into, value)
	}
	*into = value
	r.seen[field] = true
}

// check says what an event must have and lacks.
func (r *headerReader) check() error {
	if r.version != specVersion {
		r.errs = append(r.errs, fmt.Errorf("specversion %q is not %s", r.version, specVersion))
	}
	if r.m.Type == "" {
		r.errs = append(r.errs, errors.New("the type is empty"))
	}
	if r.m.ID == "" {
		r.errs = append(r.errs, errors.New("there is no id"))
	}
	if r.m.Source == "" {
		r.errs = append(r.errs, errors.New("there is no source"))
	}
	if len(r.errs) == 0 {
		return nil
	}
	slices.SortFunc(r.errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return fmt.Errorf("not a CloudEvent: %w", errors.Join(r.errs...))
}

// sortAttrs gives what came out of a map an order, and leaves one of each name.
func (r *headerReader) sortAttrs() {
	a := r.m.Attrs
	if len(a) < 2 {
		return
	}
	slices.SortFunc(a, func(x, y driver.Attr) int {
		return cmp.Or(strings.Compare(x.Name, y.Name), strings.Compare(x.Value, y.Value))
	})
	r.m.Attrs = slices.CompactFunc(a, func(x, y driver.Attr) bool {
		if x.Name == y.Name {
			r.errs = append(r.errs, fmt.Errorf("attribute %q is there more than once", x.Name))
		}
		return x.Name == y.Name
	})
}

// sortHeaders gives what came out of a map an order.
func sortHeaders(a []driver.Attr) {
	if len(a) > 1 {
		slices.SortStableFunc(a, func(x, y driver.Attr) int { return strings.Compare(x.Name, y.Name) })
	}
}
