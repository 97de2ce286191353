package cli

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/embedded"
)

// Health is 503 with the reasons while an alarm stands.
func TestHealth(t *testing.T) {
	s := &serving{app: &app{out: t.Output(), diag: t.Output()}, dir: t.TempDir(), healthAddr: "127.0.0.1:0", standing: map[[2]string]driver.Alarm{}}
	env := driver.Env{Service: "test", Member: "test", Log: slog.New(slog.DiscardHandler), Now: time.Now, Alarm: func(driver.Alarm) {}}
	var err error
	if s.server, err = embedded.Serve(t.Context(), s.dir, embedded.ServeOptions{Addr: "127.0.0.1:0", Token: "a-token-of-the-test"}, env); err != nil {
		t.Fatal(err)
	}
	stop, at, err := s.serveHealth()
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	get := func() (int, healthJSON) {
		t.Helper()
		resp, err := http.Get(at)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		defer http.DefaultClient.CloseIdleConnections()
		var h healthJSON
		if err := json.NewDecoder(resp.Body).Decode(&h); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, h
	}
	if code, h := get(); code != 200 || !h.OK || len(h.Reasons) != 0 {
		t.Errorf("%d, %+v", code, h)
	}
	log := slog.New(slog.DiscardHandler)
	s.alarm(log, driver.Alarm{Code: "sync_failed", Thing: "disk", Text: "it is broken"})
	if code, h := get(); code != 503 || h.OK || len(h.Reasons) != 1 || h.Reasons[0].Code != "sync_failed" {
		t.Errorf("with an alarm: %d, %+v", code, h)
	}
	s.alarm(log, driver.Alarm{Code: "sync_failed", Thing: "disk", Cleared: true})
	if code, _ := get(); code != 200 {
		t.Errorf("after the alarm: %d", code)
	}
	if err := s.server.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if code, h := get(); code != 503 || len(h.Reasons) != 1 || !strings.Contains(h.Reasons[0].Text, "closed") {
		t.Errorf("of a closed server: %d, %+v", code, h)
	}
}
