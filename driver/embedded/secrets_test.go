//go:build unix

package embedded_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver/embedded/natstest"
)

// A lockedBuffer collects a log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Nothing that a bus says of itself shows a password or a token.
func TestNothingShowsSecrets(t *testing.T) {
	t.Parallel()
	users := natstest.Start(t, natstest.Options{Config: fmt.Sprintf(`authorization { users [ {user: ann, password: %q} ] }`, hush)})
	token := natstest.Start(t, natstest.Options{Config: fmt.Sprintf(`authorization { token: %q }`, hush)})
	for _, c := range []struct {
		url string
		s   *natstest.Server
	}{
		{"nats://ann:" + hush + "@" + users.Addr(), users},
		{"nats://" + hush + "@" + token.Addr(), token},
	} {
		var log lockedBuffer
		alarms := make(chan posthorn.Alarm, 100)
		opts := []posthorn.Option{
			posthorn.Service("test"), posthorn.Logger(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))),
			posthorn.OnAlarm(func(a posthorn.Alarm) { alarms <- a }),
		}
		bus, err := posthorn.Open(t.Context(), c.url+"?durability=server", opts...)
		if err != nil {
			t.Fatal(err)
		}
		described, err := bus.Describe(t.Context())
		if err != nil {
			t.Error(err)
		}
		said := []string{fmt.Sprintf("%+v", described)}
		c.s.Kill()
		for a := range alarms {
			said = append(said, fmt.Sprintf("%+v", a))
			if a.Code == "broker_away" {
				break
			}
		}
		said = append(said, fmt.Sprintf("%+v", bus.Health(t.Context())), fmt.Sprint(stepTaken.Publish(t.Context(), bus, step{Key: "k"})))
		if err := bus.Close(t.Context()); err != nil {
			t.Error(err)
		}
		_, err = posthorn.Open(t.Context(), c.url+"?durability=server", opts...)
		said = append(said, err.Error())
		_, err = posthorn.Open(t.Context(), c.url+"?token="+hush, opts...)
		said = append(said, err.Error())
		c.s.Restart()
		_, err = posthorn.Open(t.Context(), strings.Replace(c.url, hush, hush+"x", 1), opts...)
		said = append(said, err.Error(), log.String())
		for _, text := range said {
			if strings.Contains(text, hush) {
				t.Errorf("a secret shows: %s", text)
			}
		}
	}
}
