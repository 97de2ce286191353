package posthorn

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Declaration says which topics and groups are to stand on a broker, for
// [Bus.Provision]. [ParseDeclaration] reads it from JSON.
type Declaration struct {
	Topics []TopicDeclaration
	Groups []GroupDeclaration
}

// A TopicDeclaration declares a topic.
type TopicDeclaration struct {
	Name string
	TopicConfig
	// Types are the event types that are stored in it though their names say
	// another topic, as [In] says it in code.
	Types []string
}

// A GroupDeclaration declares a group.
type GroupDeclaration struct {
	Name string
	// Types are the event types that it subscribes to.
	Types []string
	// Start is where it begins in a topic that is new to it.
	Start Start
}

// ParseDeclaration reads a declaration from JSON:
//
//	{
//	  "topics": [
//	    {"name": "order", "partitions": 8, "keep": "7d", "max_bytes": 0, "replicas": 3, "dedup": "2m", "unordered": false, "strict_order": false},
//	    {"name": "warehouse", "types": ["stock.short"]}
//	  ],
//	  "groups": [
//	    {"name": "inventory", "types": ["order.placed", "stock.short"], "start": "beginning"}
//	  ]
//	}
//
// What is left out is left to the default. A duration is a number with a unit, ns,
// us, ms, s, m, h or d; a start is "beginning", "now" or a time in RFC 3339. A name
// that it does not know is an error.
func ParseDeclaration(data []byte) (Declaration, error) {
	var file struct {
		Topics []topicJSON `json:"topics"`
		Groups []groupJSON `json:"groups"`
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	err := dec.Decode(&file)
	if err == nil && dec.Decode(new(json.RawMessage)) != io.EOF {
		err = errors.New("something follows behind the JSON object")
	}
	if err != nil {
		return Declaration{}, &Error{Code: CodeInvalid, Text: fmt.Sprintf("the declaration, line %d", lineOf(data, dec, err)), Err: err}
	}
	var d Declaration
	for _, t := range file.Topics {
		d.Topics = append(d.Topics, TopicDeclaration{Name: t.Name, Types: t.Types, TopicConfig: TopicConfig{
			Partitions: t.Partitions, Unordered: t.Unordered, StrictOrder: t.Strict, Keep: time.Duration(t.Keep), MaxBytes: t.MaxBytes, Replicas: t.Replicas, Dedup: time.Duration(t.Dedup)}})
	}
	for _, g := range file.Groups {
		start, err := ParseStart(g.Start)
		if err != nil {
			return d, &Error{Code: CodeInvalid, Text: fmt.Sprintf("the declaration, group %q", g.Name), Err: err}
		}
		d.Groups = append(d.Groups, GroupDeclaration{Name: g.Name, Types: g.Types, Start: start})
	}
	return d, nil
}

// lineOf is where reading ended, from 1.
func lineOf(data []byte, dec *json.Decoder, err error) int {
	at := dec.InputOffset()
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		at = syntax.Offset
	case errors.As(err, &kind):
		at = kind.Offset
	case errors.Is(err, io.ErrUnexpectedEOF):
		at = int64(len(data))
	}
	return 1 + bytes.Count(data[:min(int(at), len(data))], []byte("\n"))
}

type topicJSON struct {
	Name       string       `json:"name"`
	Partitions int          `json:"partitions"`
	Unordered  bool         `json:"unordered"`
	Strict     bool         `json:"strict_order"`
	Keep       jsonDuration `json:"keep"`
	MaxBytes   int64        `json:"max_bytes"`
	Replicas   int          `json:"replicas"`
	Dedup      jsonDuration `json:"dedup"`
	Types      []string     `json:"types"`
}

type groupJSON struct {
	Name  string   `json:"name"`
	Types []string `json:"types"`
	Start string   `json:"start"`
}

type jsonDuration time.Duration

func (d *jsonDuration) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("%s is no duration; write it like \"12h\" or \"7d\"", data)
	}
	v, err := parseDuration(s)
	*d = jsonDuration(v)
	return err
}

// parseDuration also takes days.
func parseDuration(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 && n <= 100_000 {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is no duration; write it like \"12h\" or \"7d\"", s)
	}
	return d, nil
}

// ParseStart reads a start: "beginning", "now", or a time in RFC 3339; "" is the
// beginning.
func ParseStart(s string) (Start, error) {
	switch s {
	case "", "beginning":
		return FromBeginning(), nil
	case "now":
		return FromNow(), nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return Start{}, errorf(CodeInvalid, "%q is no start; it is beginning, now, or a time such as 2026-01-31T15:04:05Z", s)
	}
	return FromTime(t), nil
}

// into adds what is declared to a provisioning.
func (d Declaration) into(p *provisioning) error {
	at := map[string]*Topic{} // of types
	for _, t := range d.Topics {
		topic := DefineTopic(t.Name, t.TopicConfig)
		if err := p.topic(topic); err != nil {
			return err
		}
		for _, name := range t.Types {
			if err := checkName("event type", name, maxTypeName); err != nil {
				return err
			}
			if o := at[name]; o != nil && o.name != t.Name {
				return errorf(CodeConflict, "event type %q is declared in two topics, %q and %q", name, o.name, t.Name)
			}
			at[name] = topic
		}
	}
	for _, g := range d.Groups {
		if err := checkName("group", g.Name, maxGroupName); err != nil {
			return err
		}
		if len(g.Types) == 0 {
			return errorf(CodeInvalid, "group %q is declared without event types", g.Name)
		}
		for _, name := range g.Types {
			if err := checkName("event type", name, maxTypeName); err != nil {
				return err
			}
			topic := at[name]
			if topic == nil {
				topic = p.known(topicOf(name))
			}
			if err := p.subscribe(g.Name, topic, name, g.Start); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *Topic) into(p *provisioning) error {
	if t == nil {
		return errorf(CodeInvalid, "provision: a topic is nil")
	}
	return p.topic(t)
}

func (t *EventType[T]) into(p *provisioning) error {
	if t == nil {
		return errorf(CodeInvalid, "provision: an event type is nil")
	}
	return p.eventType(t.def)
}

func (g *Group) into(p *provisioning) error {
	if g == nil {
		return errorf(CodeInvalid, "provision: a group is nil")
	}
	g.mu.Lock()
	handlers, err := slices.Clone(g.handlers), g.err
	g.mu.Unlock()
	switch {
	case err != nil:
		return err
	case len(handlers) == 0:
		return errorf(CodeInvalid, "provision: group %q has no handler; give it one with EventType.Handle before", g.name)
	}
	for _, h := range handlers {
		if err := p.eventType(h.def); err != nil {
			return err
		}
		if err := p.subscribe(g.name, h.def.topic, h.def.name, g.cfg.Start); err != nil {
			return err
		}
	}
	return nil
}
