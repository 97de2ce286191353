package embedded

import (
	"fmt"
	"log/slog"
	"strings"
	"syscall"
)

// A logger passes on what the server warns of.
type logger struct {
	h   *host
	log *slog.Logger
}

func (l *logger) Noticef(string, ...any) {}
func (l *logger) Debugf(string, ...any)  {}
func (l *logger) Tracef(string, ...any)  {}

func (l *logger) Warnf(format string, args ...any) {
	l.log.Warn("embedded server: "+fmt.Sprintf(format, args...), "dir", l.h.dir)
}

func (l *logger) Fatalf(format string, args ...any) { l.Errorf(format, args...) }

// Errorf is also how we learn that a write has failed for want of room: the
// server tells nobody else, and the stream stores nothing from then on.
func (l *logger) Errorf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	l.log.Error("embedded server: "+text, "dir", l.h.dir)
	if strings.Contains(text, syscall.ENOSPC.Error()) || strings.Contains(text, syscall.EDQUOT.Error()) {
		l.h.space.writeFailed()
	}
}
