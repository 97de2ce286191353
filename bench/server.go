package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A brokerKind is what a contender works with.
type brokerKind string

const (
	brokerNATS     brokerKind = "nats"           // a NATS server with its defaults: it writes to the disk every two minutes
	brokerAlways   brokerKind = "nats-always"    // one that syncs each message
	brokerServe    brokerKind = "posthorn serve" // one sync for all who wait
	brokerEmbedded brokerKind = "embedded"       // the same within the client process
	brokerNone     brokerKind = "none"
)

// A server is a process of its own, on loopback and a port that the system chose.
type server struct {
	url   string
	pid   int
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended; err is why
	err   error
}

// serverWait bounds how long a server may take to start and to end.
const serverWait = 60 * time.Second

// start starts a server on a folder, which may hold the store of another run.
func (b *binaries) start(ctx context.Context, kind brokerKind, dir string) (*server, error) {
	switch kind {
	case brokerServe:
		return b.startServe(ctx, dir)
	default:
		return b.startNATS(ctx, kind, dir)
	}
}

func (b *binaries) startNATS(ctx context.Context, kind brokerKind, dir string) (*server, error) {
	sync := ""
	if kind == brokerAlways {
		sync = ", sync_interval: always"
	}
	conf := filepath.Join(dir, "nats.conf")
	text := fmt.Sprintf("listen: \"127.0.0.1:-1\"\nports_file_dir: %q\njetstream { store_dir: %q%s }\n", dir, filepath.Join(dir, "store"), sync)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	s, err := launch(exec.Command(b.nats, "-c", conf, "-l", filepath.Join(dir, "log")))
	if err != nil {
		return nil, err
	}
	ports := filepath.Join(dir, fmt.Sprintf("nats-server_%d.ports", s.pid))
	return s.ready(ctx, filepath.Join(dir, "log"), func() error {
		text, err := os.ReadFile(ports)
		if err != nil {
			return err
		}
		var at struct{ NATS []string }
		if err := json.Unmarshal(text, &at); err != nil {
			return err
		}
		if len(at.NATS) == 0 {
			return errors.New("it names no port")
		}
		s.url = at.NATS[0]
		return nil
	})
}

const serveToken = "bench"

func (b *binaries) startServe(ctx context.Context, dir string) (*server, error) {
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(b.posthorn, "serve", "--dir", filepath.Join(dir, "store"), "--addr", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), "POSTHORN_TOKEN="+serveToken)
	cmd.Stdout, cmd.Stderr = log, log
	s, err := launch(cmd)
	if err != nil {
		return nil, err
	}
	return s.ready(ctx, log.Name(), func() error {
		text, err := os.ReadFile(filepath.Join(dir, "store", "posthorn.url"))
		if err != nil {
			return err
		}
		s.url = strings.Replace(strings.TrimSpace(string(text)), "nats://", "nats://"+serveToken+"@", 1)
		return nil
	})
}

func launch(cmd *exec.Cmd) (*server, error) {
	endWithUs(cmd)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &server{cmd: cmd, pid: cmd.Process.Pid, ended: make(chan struct{})}
	go func() {
		s.err = cmd.Wait()
		close(s.ended)
	}()
	return s, nil
}

// ready waits until the server says where it is and JetStream answers.
func (s *server) ready(ctx context.Context, log string, find func() error) (*server, error) {
	ctx, cancel := context.WithTimeout(ctx, serverWait)
	defer cancel()
	var err error
	for {
		if err = find(); err == nil {
			if err = s.answers(ctx); err == nil {
				return s, nil
			}
		}
		select {
		case <-time.After(2 * time.Millisecond):
			continue
		case <-s.ended:
			text, _ := os.ReadFile(log)
			return nil, fmt.Errorf("the server ended at once: %v\n%s", s.err, text)
		case <-ctx.Done():
			s.stop()
			return nil, fmt.Errorf("the server is not ready: %w: %w", ctx.Err(), err)
		}
	}
}

func (s *server) answers(ctx context.Context) error {
	nc, err := nats.Connect(s.url)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err = js.AccountInfo(ctx)
	return err
}

// stop ends the process by its id, and waits for its end.
func (s *server) stop() {
	_ = s.cmd.Process.Signal(os.Interrupt)
	select {
	case <-s.ended:
	case <-time.After(serverWait):
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
}
