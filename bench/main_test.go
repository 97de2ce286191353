package main

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/posthorn/posthorn/internal/leaktest"
)

// mainEnv makes the test binary the program.
const mainEnv = "POSTHORN_BENCH_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(clientEnv) != "" || os.Getenv(mainEnv) != "" {
		main()
		return
	}
	leaktest.Main(m)
}

// TestSmoke has every row do a little: all that was published or waited arrived
// once, which the rows check themselves, and each figure is there.
func TestSmoke(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds servers and starts them some hundred times; go test without -short does")
	}
	// A client with the race detector would wait a second before it ends.
	t.Setenv("GORACE", strings.TrimSpace(os.Getenv("GORACE")+" atexit_sleep_ms=0"))
	s := &settings{root: "..", dir: t.TempDir(), rounds: 1}
	var out strings.Builder
	lab, end, err := s.lab(t.Context(), &out)
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	rows := allRows(0)
	results, err := lab.run(t.Context(), rows)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if len(results) != len(rows) {
		t.Errorf("%d of %d rows were measured", len(results), len(rows))
	}
	for _, r := range results {
		for _, e := range r.row.entries {
			if len(r.measures[e.name]) != 1 {
				t.Errorf("%s, %s: %d measures", r.row.id, e.name, len(r.measures[e.name]))
			}
			m := r.measures[e.name][0]
			if want := e.task.Count * max(1, e.task.Times); e.task.Work == workConsume && m.Total != want {
				t.Errorf("%s, %s: %d of %d were handled", r.row.id, e.name, m.Total, want)
			}
			for _, metric := range r.row.section.metrics {
				if len(r.values(e.name, metric)) == 0 && possible(metric, &e) {
					t.Errorf("%s, %s: there is no figure: %s", r.row.id, e.name, metric.name)
				}
			}
		}
		for i := range r.row.claims {
			if _, ok := r.claimed(&r.row.claims[i]); !ok && runtime.GOOS == "linux" {
				t.Errorf("%s: nothing is known of %s", r.row.id, r.row.claims[i].id)
			}
		}
	}
	left, err := os.ReadDir(lab.dir)
	if err != nil || len(left) > 0 {
		t.Errorf("the brokers left %v, %v", left, err)
	}
}

// possible tells whether a figure can be measured.
func possible(m *metric, e *entry) bool {
	switch m {
	case clientCPU, clientRSS:
		return runtime.GOOS == "linux"
	case serverCPU, serverRSS:
		return runtime.GOOS == "linux" && e.task.Broker != brokerEmbedded && e.task.Broker != brokerNone
	}
	return true
}

// TestNames holds the names of rows and claims apart, and claims to entries that
// there are.
func TestNames(t *testing.T) {
	rows, claims := map[string]bool{}, map[string]bool{}
	for _, r := range allRows(1) {
		if rows[r.id] {
			t.Errorf("two rows are called %s", r.id)
		}
		rows[r.id] = true
		entries := map[string]bool{"": true}
		for _, e := range r.entries {
			if entries[e.name] {
				t.Errorf("%s: two entries are called %q", r.id, e.name)
			}
			entries[e.name] = true
		}
		for _, c := range r.claims {
			if claims[c.id] {
				t.Errorf("two claims are called %s", c.id)
			}
			claims[c.id] = true
			if c.of == "" || !entries[c.of] || !entries[c.against] {
				t.Errorf("%s: %q or %q is no entry", c.id, c.of, c.against)
			}
			if (c.against == "") != (c.ideal > 0) {
				t.Errorf("%s: it is compared with another entry, or with an ideal", c.id)
			}
		}
	}
}

func TestFlags(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"-row nosuch", `no row matches "nosuch"; there are publish-async-256, `},
		{"-row (", "rows: error parsing regexp"},
		{"-rounds 0", "there is at least one round, not 0"},
		{"-store -quick", "the ratios are stored from a whole run only"},
		{"-store -row publish", "the ratios are stored from a whole run only"},
		{"-store -rounds 4", "the ratios are stored from a whole run only"},
		{"-store -check", "the ratios are stored from a whole run only"},
		{"-check -root testdata", "make it with: make bench STORE=1"},
		{"more", `"more" is no flag`},
	} {
		var out strings.Builder
		err := run(t.Context(), strings.Fields(c.args), &out)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.args, err, c.want)
		}
	}
}

func TestTasksThatCannotBeDone(t *testing.T) {
	for in, want := range map[string]string{
		`{"Who":"raw","Work":"juggle"}`:                                                          "raw does not know how to juggle",
		`{"Who":"raw","Work":"publish","Size":5}`:                                                "a body of 5 bytes cannot be made",
		`{"Who":"raw","Work":"publish","Size":100000}`:                                           "a body of 100000 bytes cannot be made",
		`{"Who":"watermill","Work":"consume","Size":"big"}`:                                      "read the task",
		`{"Who":"posthorn","Work":"fill","Size":256,"Broker":"nats","URL":"nats://127.0.0.1:1"}`: "127.0.0.1:1",
	} {
		var out strings.Builder
		if err := clientMain(strings.NewReader(in), &out); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", in, err, want)
		}
		if out.Len() > 0 {
			t.Errorf("%s: a measure all the same: %s", in, out.String())
		}
	}
}

// TestDoubt finds measures that cannot be true.
func TestDoubt(t *testing.T) {
	publish, consume := task{Work: workPublish}, task{Work: workConsume, Count: 10, Times: 2}
	for _, c := range []struct {
		t    *task
		m    measure
		want string
	}{
		{&publish, measure{Total: 7, Stored: 7, Count: 5}, ""},
		{&publish, measure{Total: 7, Stored: 6, Count: 5}, "7 events were confirmed and the broker holds 6"},
		{&publish, measure{Total: 7, Stored: 8, Count: 5}, "7 events were confirmed and the broker holds 8"},
		{&publish, measure{}, "nothing was measured"},
		{&consume, measure{Total: 20, Count: 20}, ""},
		{&consume, measure{Total: 19, Count: 20}, "19 of 20 events were handled"},
	} {
		got := ""
		if err := c.t.doubt(&c.m); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%+v: %q, want %q", c.m, got, c.want)
		}
	}
}
