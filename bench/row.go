package main

// A row is one piece of work that several contenders do, in turn, in each round.
type row struct {
	id      string
	section *section
	what    string
	entries []entry
	claims  []claim
	long    bool // only in a long run
	extra   bool // only when it is asked for by name: it is no part of the figures
	once    bool // one round shows all
}

// An entry is a contender, and how it does the work.
type entry struct {
	name string
	task task
	// broker names one that is kept while rows need it; "" is a fresh one for each
	// measurement.
	broker string
	fill   *task // what waits there
	// restart has the server start anew once it is filled.
	restart bool
	// binary is the program whose size is all there is to measure.
	binary func(*binaries) string
}

// A claim is a figure that is compared: with another entry's, or with an ideal.
type claim struct {
	id      string // in the file of stored ratios
	of      string // an entry of the row
	against string // another one; "": ideal
	ideal   float64
	what    string // of the ideal
	metric  *metric
	above   bool    // what counts is by how much it is above, not the ratio
	bar     float64 // 0: it is stated only
	// unsteady ones differ by more than the tolerance from run to run: they are not
	// stored, and not compared with what was.
	unsteady bool
}

// lower tells whether a lower figure is the better one.
func (c *claim) lower() bool { return c.metric.lower }

// reached tells whether a figure is as good as the bar.
func (c *claim) reached(v float64) bool {
	if c.lower() {
		return v <= c.bar
	}
	return v >= c.bar
}

// A section of the page.
type section struct {
	title   string
	text    string
	metrics []*metric
}

// A result is what was measured of a row: by entry, a measure for each round.
type result struct {
	row      *row
	measures map[string][]measure
}

// values are an entry's, a round each. They are nil when it could not be measured.
func (r *result) values(entry string, m *metric) []float64 {
	var v []float64
	for i := range r.measures[entry] {
		x := m.of(&r.measures[entry][i])
		if x == 0 {
			return nil
		}
		v = append(v, x)
	}
	return v
}

// claimed compares, round by round: what changes from one round to the next has then
// changed for both.
func (r *result) claimed(c *claim) (s spread, ok bool) {
	of := r.values(c.of, c.metric)
	against := r.values(c.against, c.metric)
	var v []float64
	for i := range of {
		switch {
		case c.against == "":
			v = append(v, of[i]/c.ideal)
		case i >= len(against):
			return spread{}, false
		case c.above:
			v = append(v, of[i]-against[i])
		default:
			v = append(v, of[i]/against[i])
		}
	}
	return spreadOf(v), len(v) > 0
}
