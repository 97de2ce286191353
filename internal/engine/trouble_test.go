package engine

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/posthorn/posthorn/driver"
)

// A broker that is away is told once a partition, and as an alarm when it goes on;
// what a stop cuts short is no trouble.
func TestTrouble(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	var alarms []driver.Alarm
	g := &Group{log: slog.New(slog.NewTextHandler(&log, nil)), cfg: Config{Name: "g", Alarm: func(a driver.Alarm) { alarms = append(alarms, a) }}}
	tn := &tenure{g: g, name: "partition 0"}
	var stop, stopAll context.CancelFunc
	tn.all, stopAll = context.WithCancel(t.Context())
	tn.ctx, stop = context.WithCancel(tn.all)
	defer stopAll()
	var b backoff
	away := errors.New("it is away")
	for range 10 {
		tn.trouble(&b, "fetch_failed", "messages cannot be fetched", away)
	}
	if n := strings.Count(log.String(), "messages cannot be fetched"); n != 1 || len(alarms) != 1 {
		t.Errorf("%d lines in the log and %d alarms, want one each:\n%s", n, len(alarms), &log)
	}
	log.Reset()
	stop()
	b = backoff{}
	tn.trouble(&b, "fetch_failed", "messages cannot be fetched", context.Canceled)
	if log.Len() > 0 || b.failed > 0 {
		t.Errorf("a stop is told as trouble: %s", &log)
	}
	tn.trouble(&b, "fetch_failed", "messages cannot be fetched", away)
	if log.Len() == 0 {
		t.Error("a failure during a stop is not told")
	}
}

func TestDistinct(t *testing.T) {
	t.Parallel()
	a, b := errors.New("the broker is away"), errors.New("another")
	err := distinct([]error{nil, a, errors.New("the broker is away"), b, nil})
	if !errors.Is(err, a) || !errors.Is(err, b) || err.Error() != "the broker is away\nanother" {
		t.Errorf("%v", err)
	}
	if err := distinct(make([]error, 3)); err != nil {
		t.Errorf("of no errors: %v", err)
	}
}
