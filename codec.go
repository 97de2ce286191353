package posthorn

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"google.golang.org/protobuf/proto"
)

// A Codec turns the data of events into bytes and back. Implementations are safe
// for concurrent use.
type Codec interface {
	// ContentType is the media type that Marshal writes.
	ContentType() string
	// Accepts tells whether Unmarshal reads a media type, which comes without
	// parameters and in lower case, or "" when the event names none.
	Accepts(mediaType string) bool
	// Marshal encodes v, which is the T of an EventType[T].
	Marshal(v any) ([]byte, error)
	// Unmarshal decodes into v, a pointer to a zero T. It does not keep data.
	Unmarshal(data []byte, v any) error
}

// JSON is the codec of event types that name none: encoding/json.
var JSON Codec = jsonCodec{}

type jsonCodec struct{}

func (jsonCodec) ContentType() string { return "application/json" }
func (jsonCodec) Accepts(m string) bool {
	return m == "" || m == "application/json" || m == "text/json" || strings.HasSuffix(m, "+json")
}
func (jsonCodec) Marshal(v any) ([]byte, error) { return json.Marshal(v) }
func (jsonCodec) Unmarshal(data []byte, v any) error {
	if d := jsonDepth(data); d > maxJSONDepth {
		return fmt.Errorf("JSON is nested deeper than %d", maxJSONDepth)
	}
	return json.Unmarshal(data, v)
}

// maxJSONDepth bounds the nesting that is decoded (the standard library stops
// at 10,000, by when much memory is gone).
const maxJSONDepth = 64

func jsonDepth(data []byte) int {
	depth, most, inString := 0, 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			depth++
			most = max(most, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return most
}

// Protobuf is the codec of event types whose T is a generated message pointer,
// such as *orderpb.Placed.
var Protobuf Codec = protoCodec{}

type protoCodec struct{}

func (protoCodec) ContentType() string { return "application/protobuf" }
func (protoCodec) Accepts(m string) bool {
	return m == "" || m == "application/protobuf" || m == "application/x-protobuf" || m == "application/vnd.google.protobuf"
}

func (protoCodec) Marshal(v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no protobuf message; define the event type with the pointer to one", v)
	}
	return proto.Marshal(m)
}

func (protoCodec) Unmarshal(data []byte, v any) error {
	target := reflect.ValueOf(v)
	if target.Kind() == reflect.Pointer && target.Elem().Kind() == reflect.Pointer {
		m := reflect.New(target.Elem().Type().Elem())
		if pm, ok := m.Interface().(proto.Message); ok {
			if err := proto.Unmarshal(data, pm); err != nil {
				return err
			}
			target.Elem().Set(m)
			return nil
		}
	}
	return fmt.Errorf("%T is no pointer to a protobuf message; define the event type with the pointer to one", v)
}

// mediaType is a content type without its parameters, in lower case.
func mediaType(contentType string) string {
	if i := strings.IndexByte(contentType, ';'); i >= 0 {
		contentType = contentType[:i]
	}
	return strings.ToLower(strings.TrimSpace(contentType))
}

// rawCodec is that of data which is bytes.
type rawCodec struct{}

func (rawCodec) ContentType() string   { return "application/octet-stream" }
func (rawCodec) Accepts(m string) bool { return true }
func (rawCodec) Marshal(v any) ([]byte, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("%T is no []byte", v)
	}
	return b, nil
}
func (rawCodec) Unmarshal(data []byte, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("%T is no *[]byte", v)
	}
	*b = append((*b)[:0], data...)
	return nil
}
