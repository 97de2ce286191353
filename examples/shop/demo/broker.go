package demo

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/posthorn/posthorn/examples/shop/internal/child"
)

// A Broker starts a program that serves a bus, in a directory and as a child of
// this process. What the program says on its standard error goes to log.
type Broker func(ctx context.Context, dir string, log io.Writer) (*Served, error)

// A Served is a bus that a child of this process serves.
type Served struct {
	URL     string
	Name    string // of the program
	Process *child.Process
	Note    string // what is to be known of it, if anything
}

// storeDir is the store of the embedded broker, in the directory of the shop.
const storeDir = "bus"

// Serve is the command "posthorn serve" of the binary at path. It serves the store
// that a run on embedded: has left in the same directory.
func Serve(path string) Broker {
	return func(ctx context.Context, dir string, log io.Writer) (*Served, error) {
		_, token, err := writeToken(dir)
		if err != nil {
			return nil, err
		}
		said := make(chan string, 1)
		cmd := exec.Command(path, "serve", "--json", "--dir", filepath.Join(dir, storeDir), "--addr", "127.0.0.1:0", "--token-file", token)
		p, err := child.Start("serve", cmd, func(line string) {
			var at struct{ URL string }
			if json.Unmarshal([]byte(line), &at) == nil && at.URL != "" {
				select {
				case said <- at.URL:
				default: // it is known
				}
			}
		}, log)
		if err != nil {
			return nil, err
		}
		at, err := await(ctx, p, func() (string, error) {
			select {
			case at := <-said:
				return at, nil
			default:
				return "", nil
			}
		})
		if err != nil {
			return nil, err
		}
		return &Served{URL: at, Name: "posthorn serve", Process: p}, nil
	}
}

// NATS is a NATS server, the binary nats-server at path. One server alone confirms
// an event when it has it and writes it to the disk some time later, and Posthorn
// wants that to be asked for by name.
func NATS(path string) Broker {
	return func(ctx context.Context, dir string, log io.Writer) (*Served, error) {
		secret, token, err := writeToken(dir)
		if err != nil {
			return nil, err
		}
		home := filepath.Join(dir, "nats")
		if err := os.MkdirAll(home, 0o700); err != nil {
			return nil, fmt.Errorf("make the NATS server's directory: %w", err)
		}
		config := filepath.Join(home, "server.conf")
		text := fmt.Sprintf("listen: \"127.0.0.1:-1\"\nports_file_dir: %q\njetstream { store_dir: %q }\nauthorization { token: %q }\n", home, home, secret)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return nil, fmt.Errorf("write the NATS server's configuration: %w", err)
		}
		p, err := child.Start("nats", exec.Command(path, "-c", config), nil, warnings{log})
		if err != nil {
			return nil, err
		}
		at, err := await(ctx, p, func() (string, error) { return readPorts(home, p.ID()) })
		if err != nil {
			return nil, err
		}
		query := url.Values{"token-file": {token}, "durability": {"server"}}
		return &Served{URL: at + "?" + query.Encode(), Name: "nats-server", Process: p,
			Note: "one NATS server alone confirms an event before it is on the disk; durability=server in the URL asks for that by name"}, nil
	}
}

// warnings leave out what a NATS server says for information. It gets a line at a
// time.
type warnings struct{ to io.Writer }

func (w warnings) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte(" [INF] ")) {
		return len(line), nil
	}
	return w.to.Write(line)
}

// readPorts reads the file in which a NATS server says where it listens, when
// there is one.
func readPorts(dir string, process int) (string, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*_"+strconv.Itoa(process)+".ports"))
	if err != nil || len(paths) == 0 {
		return "", err
	}
	text, err := os.ReadFile(paths[0])
	if err != nil {
		return "", err
	}
	var ports struct {
		NATS []string `json:"nats"`
	}
	if json.Unmarshal(text, &ports) != nil || len(ports.NATS) == 0 {
		return "", nil // it is being written
	}
	return strings.TrimSuffix(ports.NATS[0], "/"), nil
}

// writeToken makes a token for the clients of this run, and the file it is in.
func writeToken(dir string) (secret, file string, err error) {
	secret, file = rand.Text(), filepath.Join(dir, "token")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		return "", "", fmt.Errorf("write the broker's token: %w", err)
	}
	return secret, file, nil
}

// patience is how long a child may take to start.
const patience = time.Minute

// await looks from time to time where a broker listens. A broker that does not
// come so far is ended.
func await(ctx context.Context, p *child.Process, look func() (string, error)) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("the broker has not said in %v where it listens", patience))
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-p.Ended():
			return "", p.Why()
		case <-ctx.Done():
			return "", errors.Join(context.Cause(ctx), p.Kill())
		}
		at, err := look()
		if err != nil {
			return "", errors.Join(err, p.Kill())
		}
		if at != "" {
			return at, nil
		}
	}
}
