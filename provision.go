package posthorn

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/posthorn/posthorn/driver"
)

// A Declared says what is to stand on a broker: a *[Topic], an *[EventType], for
// its topic, a *[Group], with all of its subscriptions, or a [Declaration].
type Declared interface {
	into(p *provisioning) error
}

// A Provisioned says how what was declared stands on the broker.
type Provisioned []ProvisionedThing

// A ProvisionedThing is a topic or a group that was declared.
type ProvisionedThing struct {
	Kind  string // "topic" or "group"
	Name  string
	State ProvisionState
	// Notes say what is to be made of it, and where it differs from what was
	// declared.
	Notes []string
	// Needs is what an administrator has to make on the broker where the right to
	// make it is missing. It is empty for what stands.
	Needs []Need
}

// A Need is something that has to be made on the broker.
type Need struct {
	Kind, Name, Why string
	// Settings is what it is made with, as JSON in the form that the broker's own
	// tools take.
	Settings []byte
}

// A ProvisionState says what became of a declared thing.
type ProvisionState string

const (
	// ProvisionStands: it stands as declared, or differs in what is only noted.
	ProvisionStands ProvisionState = "stands"
	// ProvisionMissing: it does not stand, or lacks subscriptions.
	ProvisionMissing ProvisionState = "missing"
	// ProvisionMade: it was made, or given the subscriptions that it lacked.
	ProvisionMade ProvisionState = "made"
	// ProvisionRefused: what stands gives less than what is declared, and is not
	// changed.
	ProvisionRefused ProvisionState = "refused"
)

// Missing tells whether anything that was declared does not stand.
func (p Provisioned) Missing() bool {
	return slices.ContainsFunc(p, func(t ProvisionedThing) bool { return t.State == ProvisionMissing })
}

// Provision makes the topics and groups that are declared, as far as they do not
// stand, and says of each how it stands. Without arguments it is all that the bus
// knows of: the groups of [Bus.Group] with their handlers. A group that is made
// here is registered: what is published from then on is kept for it, though no
// member has started.
//
// What stands is not changed. When it gives less than what is declared, nothing is
// made and the error has CodeConflict; other differences are noted. When the right
// to make something is missing, the error has CodeDenied and names what an
// administrator has to make, and Needs has its settings.
func (b *Bus) Provision(ctx context.Context, declared ...Declared) (Provisioned, error) {
	p, err := b.compare(ctx, declared)
	if err != nil {
		return p.things, err
	}
	for i := range p.things {
		if p.things[i].State != ProvisionMissing {
			continue
		}
		if err := p.make(ctx, &p.things[i]); err != nil {
			return p.things, p.denied(err)
		}
		p.things[i].State, p.things[i].Needs = ProvisionMade, nil
	}
	return p.things, nil
}

// Plan says what [Bus.Provision] would do, and makes nothing.
func (b *Bus) Plan(ctx context.Context, declared ...Declared) (Provisioned, error) {
	p, err := b.compare(ctx, declared)
	return p.things, err
}

// A provisioning is one call of Provision or Plan.
type provisioning struct {
	bus    *Bus
	topics map[string]*Topic
	groups map[string]*driver.GroupSpec
	things Provisioned
}

func (p *provisioning) topic(t *Topic) error {
	if t.err != nil {
		return t.err
	}
	old := p.topics[t.name]
	if old != nil && old.cfg != t.cfg && old.cfg != (TopicConfig{}) && t.cfg != (TopicConfig{}) {
		return errorf(CodeConflict, "topic %q is declared twice, with different settings", t.name)
	}
	if old == nil || old.cfg == (TopicConfig{}) {
		p.topics[t.name] = t
	}
	return nil
}

// known returns a topic that was declared, or one with the defaults.
func (p *provisioning) known(name string) *Topic {
	if t := p.topics[name]; t != nil {
		return t
	}
	return DefineTopic(name, TopicConfig{})
}

func (p *provisioning) eventType(d *typeDef) error {
	if d.err != nil {
		return d.err
	}
	return p.topic(d.topic)
}

func (p *provisioning) subscribe(group string, t *Topic, name string, start Start) error {
	if err := p.topic(t); err != nil {
		return err
	}
	if err := p.bus.canStart("provision group", group, start); err != nil {
		return err
	}
	g := p.groups[group]
	if g == nil {
		g = &driver.GroupSpec{Name: group, Types: map[string][]string{}, Start: start.driver()}
		p.groups[group] = g
	}
	if g.Start != start.driver() {
		return errorf(CodeConflict, "group %q is declared twice, with different starts", group)
	}
	if !slices.Contains(g.Types[t.name], name) {
		g.Types[t.name] = append(g.Types[t.name], name)
		slices.Sort(g.Types[t.name])
	}
	return nil
}

// compare holds all that is declared against what stands.
func (b *Bus) compare(ctx context.Context, declared []Declared) (*provisioning, error) {
	p := &provisioning{bus: b, topics: map[string]*Topic{}, groups: map[string]*driver.GroupSpec{}}
	if len(declared) == 0 {
		groups, err := b.allGroups()
		if err != nil {
			return p, err
		}
		for _, g := range groups {
			declared = append(declared, g)
		}
	}
	for _, d := range declared {
		if d == nil {
			return p, errorf(CodeInvalid, "provision: what is declared is nil")
		}
		if err := d.into(p); err != nil {
			return p, err
		}
	}
	topics, err := b.drv.Topics(ctx)
	if err != nil {
		return p, wrapf(err, "provision: list the topics")
	}
	groups, err := b.drv.Groups(ctx)
	if err != nil {
		return p, wrapf(err, "provision: list the groups")
	}
	var refused error
	for _, name := range sorted(p.topics) {
		thing, err := p.compareTopic(p.topics[name], topics)
		p.things, refused = append(p.things, thing), firstError(refused, err)
	}
	for _, name := range sorted(p.groups) {
		p.things = append(p.things, compareGroup(p.groups[name], groups))
	}
	if err := p.needs(ctx); err != nil {
		return p, err
	}
	return p, refused
}

func sorted[V any](m map[string]V) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (p *provisioning) compareTopic(t *Topic, all []driver.TopicSpec) (ProvisionedThing, error) {
	thing := ProvisionedThing{Kind: "topic", Name: t.name, State: ProvisionMissing}
	i := slices.IndexFunc(all, func(s driver.TopicSpec) bool { return s.Name == t.name })
	if i < 0 {
		s := t.spec()
		thing.Notes = []string{fmt.Sprintf("%d partitions, kept for %v", s.Partitions, s.Keep)}
		return thing, nil
	}
	warnings, err := t.compare(all[i])
	if err != nil {
		thing.State, thing.Notes = ProvisionRefused, []string{err.Text}
		return thing, err
	}
	thing.State, thing.Notes = ProvisionStands, warnings
	return thing, nil
}

func compareGroup(want *driver.GroupSpec, all []driver.GroupSpec) ProvisionedThing {
	thing := ProvisionedThing{Kind: "group", Name: want.Name, State: ProvisionStands}
	i := slices.IndexFunc(all, func(s driver.GroupSpec) bool { return s.Name == want.Name })
	var stands driver.GroupSpec
	if i >= 0 {
		stands = all[i]
	}
	var lacks, more []string
	for topic, types := range want.Types {
		for _, t := range types {
			if !slices.Contains(stands.Types[topic], t) {
				lacks = append(lacks, t)
			}
		}
	}
	for topic, types := range stands.Types {
		for _, t := range types {
			if !slices.Contains(want.Types[topic], t) {
				more = append(more, t)
			}
		}
	}
	slices.Sort(lacks)
	slices.Sort(more)
	if len(lacks) > 0 {
		thing.State, thing.Notes = ProvisionMissing, []string{"subscribes to " + strings.Join(lacks, ", ")}
	}
	if len(more) > 0 {
		thing.Notes = append(thing.Notes, fmt.Sprintf("is subscribed to %s too, which is not declared; to end that: bus.Unsubscribe, or posthorn groups unsubscribe %s %s",
			strings.Join(more, ", "), want.Name, strings.Join(more, " ")))
	}
	return thing
}

// needs asks the driver what would be made.
func (p *provisioning) needs(ctx context.Context) error {
	for i := range p.things {
		thing := &p.things[i]
		if thing.State != ProvisionMissing {
			continue
		}
		var topics []driver.TopicSpec
		var groups []driver.GroupSpec
		if thing.Kind == "topic" {
			topics = append(topics, p.topics[thing.Name].spec())
		} else {
			groups = append(groups, *p.groups[thing.Name])
		}
		planned, err := p.bus.drv.Plan(ctx, topics, groups)
		if err != nil {
			return wrapf(err, "provision %s %q", thing.Kind, thing.Name)
		}
		for _, n := range planned {
			thing.Needs = append(thing.Needs, Need{Kind: n.Kind, Name: n.Name, Why: n.Why, Settings: n.Settings})
		}
	}
	return nil
}

func (p *provisioning) make(ctx context.Context, thing *ProvisionedThing) error {
	if thing.Kind == "topic" {
		if _, err := p.bus.openTopic(ctx, p.topics[thing.Name]); err != nil {
			return wrapf(err, "provision topic %q", thing.Name)
		}
		return nil
	}
	if _, err := p.bus.ensureGroup(ctx, *p.groups[thing.Name]); err != nil {
		return wrapf(err, "provision group %q", thing.Name)
	}
	return nil
}

// denied says what has to be made by somebody who may.
func (p *provisioning) denied(err error) error {
	if !errors.Is(err, driver.ErrDenied) {
		return err
	}
	var names []string
	for _, t := range p.things {
		if t.State != ProvisionMissing {
			continue
		}
		for _, n := range t.Needs {
			if name := n.Kind + " " + n.Name; !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return &Error{Code: CodeDenied, Text: "provision: the right to make what is missing is not given here; have an administrator make " +
		strings.Join(names, ", ") + ", with the settings that bus.Plan and posthorn provision --check show", Err: err}
}
