package posthorn_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
)

func stateOf(p posthorn.Provisioned, kind, name string) posthorn.ProvisionState {
	for _, t := range p {
		if t.Kind == kind && t.Name == name {
			return t.State
		}
	}
	return ""
}

func TestProvision(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	bus := testBus(t)
	topic := posthorn.DefineTopic("order", posthorn.TopicConfig{Partitions: 3})
	placed := posthorn.Define[string]("order.placed", posthorn.In(topic))
	g := bus.Group("inventory", posthorn.GroupConfig{})
	placed.Handle(g, func(context.Context, *posthorn.Event[string]) error { return nil })

	plan, err := bus.Plan(ctx)
	if err != nil || stateOf(plan, "topic", "order") != posthorn.ProvisionMissing || stateOf(plan, "group", "inventory") != posthorn.ProvisionMissing || !plan.Missing() {
		t.Errorf("%+v, %v", plan, err)
	}
	if len(plan) != 2 || len(plan[0].Needs) == 0 {
		t.Errorf("nothing is needed: %+v", plan)
	}
	if topics, _ := bus.Topics(ctx); len(topics) != 0 {
		t.Errorf("a plan has made %v", topics)
	}
	made, err := bus.Provision(ctx)
	if err != nil || stateOf(made, "topic", "order") != posthorn.ProvisionMade || stateOf(made, "group", "inventory") != posthorn.ProvisionMade || made.Missing() {
		t.Errorf("%+v, %v", made, err)
	}
	topics, err := bus.Topics(ctx)
	if err != nil || len(topics) != 1 || topics[0].Settings.Partitions != 3 {
		t.Errorf("%+v, %v", topics, err)
	}
	again, err := bus.Provision(ctx, g, topic, placed)
	if err != nil || stateOf(again, "topic", "order") != posthorn.ProvisionStands || stateOf(again, "group", "inventory") != posthorn.ProvisionStands {
		t.Errorf("%+v, %v", again, err)
	}
	// What is provisioned is kept for the group before any member starts.
	must(placed.Publish(ctx, bus, "x"))
	if lag, err := bus.Lag(ctx, "inventory"); err != nil || lag != 1 {
		t.Errorf("lag %d, %v", lag, err)
	}
}

func TestProvisionDiffers(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	bus := testBus(t)
	declare := func(topic posthorn.TopicConfig, types ...string) posthorn.Declaration {
		return posthorn.Declaration{
			Topics: []posthorn.TopicDeclaration{{Name: "order", TopicConfig: topic}},
			Groups: []posthorn.GroupDeclaration{{Name: "g", Types: types}},
		}
	}
	if _, err := bus.Provision(ctx, declare(posthorn.TopicConfig{Keep: time.Hour}, "order.placed", "order.paid")); err != nil {
		t.Fatal(err)
	}
	p, err := bus.Provision(ctx, declare(posthorn.TopicConfig{Keep: 2 * time.Hour}, "order.new"))
	wantError(t, err, posthorn.CodeConflict, "Keep", "2h0m0s", "1h0m0s")
	if stateOf(p, "topic", "order") != posthorn.ProvisionRefused || stateOf(p, "group", "g") != posthorn.ProvisionMissing {
		t.Errorf("something was made though something is refused: %+v", p)
	}
	p, err = bus.Provision(ctx, declare(posthorn.TopicConfig{Keep: time.Minute}, "order.placed"))
	if err != nil {
		t.Fatal(err)
	}
	for _, thing := range p {
		notes := strings.Join(thing.Notes, "\n")
		switch {
		case thing.State != posthorn.ProvisionStands:
			t.Errorf("%+v", thing)
		case thing.Kind == "topic" && !strings.Contains(notes, "1m0s"), thing.Kind == "group" && !strings.Contains(notes, "order.paid"):
			t.Errorf("the difference is not told: %+v", thing)
		}
	}
	p, err = bus.Provision(ctx, declare(posthorn.TopicConfig{}, "order.placed", "order.paid", "order.new"))
	if err != nil || stateOf(p, "group", "g") != posthorn.ProvisionMade || stateOf(p, "topic", "order") != posthorn.ProvisionStands {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestParseDeclaration(t *testing.T) {
	t.Parallel()
	d, err := posthorn.ParseDeclaration([]byte(`{
	"topics": [{"name": "order", "partitions": 4, "keep": "7d", "max_bytes": 1000, "replicas": 1, "dedup": "2m", "unordered": true},
	           {"name": "warehouse", "types": ["stock.short"]}],
	"groups": [{"name": "inventory", "types": ["order.placed", "stock.short"], "start": "now"}]
}`))
	if err != nil {
		t.Fatal(err)
	}
	want := posthorn.TopicConfig{Partitions: 4, Keep: 7 * 24 * time.Hour, MaxBytes: 1000, Replicas: 1, Dedup: 2 * time.Minute, Unordered: true}
	if len(d.Topics) != 2 || d.Topics[0].TopicConfig != want || len(d.Groups) != 1 || d.Groups[0].Start != posthorn.FromNow() {
		t.Errorf("%+v", d)
	}
	bus := testBus(t)
	if _, err := bus.Provision(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	g, err := bus.GroupStatus(t.Context(), "inventory")
	if err != nil || len(g.Types["warehouse"]) != 1 || len(g.Types["order"]) != 1 {
		t.Errorf("%+v, %v", g, err)
	}
	for name, c := range map[string]struct {
		json  string
		words []string
	}{
		"unknown name": {"{\n\"topics\": [{\"name\": \"a\", \"partition\": 3}]}", []string{"line 2", `"partition"`}},
		"no JSON":      {"{\n\n\"topics\": [", []string{"line 3"}},
		"kind":         {`{"topics": [{"name": "a", "partitions": "3"}]}`, []string{"partitions"}},
		"duration":     {`{"topics": [{"name": "a", "keep": "7 days"}]}`, []string{"7 days", "7d"}},
		"number":       {`{"topics": [{"name": "a", "keep": 7}]}`, []string{"7d"}},
		"start":        {`{"groups": [{"name": "g", "types": ["a.b"], "start": "yesterday"}]}`, []string{`"g"`, "yesterday", "beginning"}},
		"behind":       {`{} {}`, []string{"follows"}},
		"empty":        {``, []string{"line 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := posthorn.ParseDeclaration([]byte(c.json))
			wantError(t, err, posthorn.CodeInvalid, c.words...)
		})
	}
}

func TestProvisionRefuses(t *testing.T) {
	t.Parallel()
	bus := testBus(t)
	bad := posthorn.Define[string]("Order")
	for _, c := range []struct {
		what  posthorn.Declared
		code  posthorn.Code
		words []string
	}{
		{nil, posthorn.CodeInvalid, []string{"nil"}},
		{bad, posthorn.CodeInvalid, []string{"Order"}},
		{bus.Group("empty", posthorn.GroupConfig{}), posthorn.CodeInvalid, []string{"no handler"}},
		{posthorn.DefineTopic("t", posthorn.TopicConfig{Partitions: -1}), posthorn.CodeInvalid, []string{"Partitions"}},
		{posthorn.Declaration{Groups: []posthorn.GroupDeclaration{{Name: "g"}}}, posthorn.CodeInvalid, []string{"without event types"}},
		{posthorn.Declaration{Groups: []posthorn.GroupDeclaration{{Name: "_g", Types: []string{"a.b"}}}}, posthorn.CodeInvalid, []string{"_g"}},
		{posthorn.Declaration{Topics: []posthorn.TopicDeclaration{{Name: "a", Types: []string{"x.y"}}, {Name: "b", Types: []string{"x.y"}}}}, posthorn.CodeConflict, []string{"x.y"}},
	} {
		_, err := bus.Provision(t.Context(), c.what)
		wantError(t, err, c.code, c.words...)
	}
}

// A declaration from outside is read or refused.
func FuzzParseDeclaration(f *testing.F) {
	f.Add([]byte(`{"topics": [{"name": "order", "keep": "7d", "types": ["a.b"]}], "groups": [{"name": "g", "types": ["a.b"], "start": "now"}]}`))
	f.Add([]byte(`{"topics": [{"keep": 1}]}`))
	f.Add([]byte("{\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := posthorn.ParseDeclaration(text)
		if err != nil && posthorn.CodeOf(err) != posthorn.CodeInvalid {
			t.Errorf("%q: %v", text, err)
		}
		for _, topic := range d.Topics {
			if topic.Keep < 0 && err == nil && !strings.Contains(string(text), "-") {
				t.Errorf("%q: kept for %v", text, topic.Keep)
			}
		}
	})
}
