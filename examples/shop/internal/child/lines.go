package child

import (
	"bytes"
	"strings"
	"sync"
)

// maxLine is where a line that does not end is cut.
const maxLine = 64 << 10

// lines hands on whole lines of what is written to it.
type lines struct {
	each func(string)
	rest []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		i := bytes.IndexByte(l.rest, '\n')
		if i < 0 {
			break
		}
		l.each(strings.TrimSuffix(string(l.rest[:i]), "\r"))
		l.rest = l.rest[i+1:]
	}
	if len(l.rest) > maxLine {
		l.flush()
	}
	return len(p), nil
}

// flush hands on what has no end.
func (l *lines) flush() {
	if len(l.rest) > 0 {
		l.each(string(l.rest))
		l.rest = nil
	}
}

// keep is how many lines are kept of what a child says.
const keep = 12

// last keeps the last lines that a child has said, on both of its outputs.
type last struct {
	mu   sync.Mutex
	said []string
}

func (l *last) add(s string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.said) == keep {
		l.said = l.said[1:]
	}
	l.said = append(l.said, s)
}

func (l *last) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for _, s := range l.said {
		b.WriteString("    " + s + "\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}
