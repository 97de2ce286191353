package posthorn

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// CloudEvents attributes beside those that each event has. correlationid and
// causationid are extensions of ours, the others are registered ones.
const (
	attrCorrelation = "correlationid"
	attrCausation   = "causationid"
	attrSchema      = "dataschema"
	attrVersion     = "schemaversion"
	attrExpiry      = "expirytime"
)

// readMeta reads what a message carries into Meta.
func readMeta(m *driver.Message, into *Meta) {
	into.ID, into.Source, into.Type, into.Key, into.ContentType = m.ID, m.Source, m.Type, m.Key, m.ContentType
	into.SchemaVersion = 1
	into.CorrelationID = m.ID
	into.Time, _ = time.Parse(time.RFC3339Nano, m.Time)
	for _, a := range m.Attrs {
		switch a.Name {
		case attrCorrelation:
			into.CorrelationID = a.Value
		case attrCausation:
			into.CausationID = a.Value
		case attrSchema:
			into.Schema = a.Value
		case attrVersion:
			if n, err := strconv.Atoi(a.Value); err == nil && n > 0 {
				into.SchemaVersion = n
			}
		case attrExpiry:
			into.Expires, _ = time.Parse(time.RFC3339Nano, a.Value)
		}
	}
	if len(m.Headers) > 0 {
		into.Headers = make(map[string]string, len(m.Headers))
		for _, h := range m.Headers {
			into.Headers[h.Name] = h.Value
		}
	}
}

// structured reads a message that is a CloudEvents JSON object: by its content
// type, or by its looks when it says nothing about itself. ok is false when
// it is something else.
func structured(m *driver.Message) (ok bool, err error) {
	media := mediaType(m.ContentType)
	named := media == "application/cloudevents+json"
	if !named && (media != "" && media != "application/json" || m.Type != "" || !looksLikeEvent(m.Body)) {
		return false, nil
	}
	var fields map[string]json.RawMessage
	if jsonDepth(m.Body) > maxJSONDepth {
		err = fmt.Errorf("CloudEvents JSON is nested deeper than %d", maxJSONDepth)
	} else if err = json.Unmarshal(m.Body, &fields); err != nil {
		err = fmt.Errorf("CloudEvents JSON: %w", err)
	}
	switch {
	case err != nil && !named:
		return false, nil
	case err != nil:
		return true, err
	}
	for _, required := range []string{"specversion", "id", "source", "type"} {
		if _, has := fields[required]; !has {
			if !named {
				return false, nil
			}
			return true, fmt.Errorf("CloudEvents JSON: the attribute %s is missing", required)
		}
	}
	return true, fromStructured(fields, m)
}

// looksLikeEvent is a cheap look before the body is decoded.
func looksLikeEvent(body []byte) bool {
	return len(body) > 2 && body[0] == '{' && strings.Contains(string(body[:min(len(body), 4096)]), `"specversion"`)
}

func fromStructured(fields map[string]json.RawMessage, m *driver.Message) error {
	e := driver.Message{Headers: m.Headers}
	seen := make(map[string]bool, len(fields))
	for field, raw := range fields {
		if field == "data" || field == "data_base64" {
			continue
		}
		name := strings.ToLower(field) // as attributes are read in binary mode
		if name == "" || seen[name] {
			return fmt.Errorf("CloudEvents JSON: attribute %q has no name, or one that is there in other letters, too", field)
		}
		seen[name] = true
		value, err := attrValue(raw)
		if err != nil {
			return fmt.Errorf("CloudEvents JSON: attribute %s: %w", name, err)
		}
		switch name {
		case "specversion":
			if value != "1.0" && value != "0.3" {
				return fmt.Errorf("CloudEvents JSON: specversion %q is not known", value)
			}
		case "id":
			e.ID = value
		case "source":
			e.Source = value
		case "type":
			e.Type = value
		case "subject":
			e.Key = value
		case "time":
			e.Time = value
		case "datacontenttype":
			e.ContentType = value
		default:
			e.Attrs = append(e.Attrs, driver.Attr{Name: name, Value: value})
		}
	}
	for name, value := range map[string]string{"id": e.ID, "source": e.Source, "type": e.Type} {
		if value == "" {
			return fmt.Errorf("CloudEvents JSON: the attribute %s is empty", name)
		}
	}
	if err := structuredData(fields, &e); err != nil {
		return err
	}
	*m = e
	return nil
}

func structuredData(fields map[string]json.RawMessage, e *driver.Message) error {
	if raw, ok := fields["data_base64"]; ok {
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return fmt.Errorf("CloudEvents JSON: data_base64: %w", err)
		}
		body, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			return fmt.Errorf("CloudEvents JSON: data_base64: %w", err)
		}
		e.Body = body
		return nil
	}
	raw := fields["data"]
	if e.ContentType == "" {
		e.ContentType = JSON.ContentType()
	}
	// JSON data stands as it is; data of another type is a JSON string.
	if !JSON.Accepts(mediaType(e.ContentType)) {
		var s string
		if json.Unmarshal(raw, &s) == nil {
			e.Body = []byte(s)
			return nil
		}
	}
	e.Body = raw
	return nil
}

// attrValue reads an attribute, which JSON may hold as a string, number or truth.
func attrValue(raw json.RawMessage) (string, error) {
	if len(raw) > 0 && raw[0] == '"' {
		var s string
		err := json.Unmarshal(raw, &s)
		return s, err
	}
	s := string(raw)
	if s == "null" {
		return "", nil
	}
	if len(raw) > 0 && (raw[0] == '{' || raw[0] == '[') {
		return "", fmt.Errorf("it is neither a string nor a number nor a boolean")
	}
	return s, nil
}

type correlationKey struct{}

// ContextWithCorrelation returns a context whose correlation id is given to the
// events that are published with it, outside of handlers. It is for events
// that are published on behalf of a request that has an id already.
func ContextWithCorrelation(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, correlationKey{}, id)
}

func correlationOf(ctx context.Context) string {
	id, _ := ctx.Value(correlationKey{}).(string)
	return id
}
