//go:build unix

package natstest

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds each wait for a server.
const patience = 60 * time.Second

// Options say how a server is started.
type Options struct {
	// NoJetStream leaves it out.
	NoJetStream bool
	// Config is added to the server's configuration file: users, tls and the like.
	Config string
}

// A Server is a process of its own.
type Server struct {
	t       testing.TB
	dir     string // store, configuration, log
	port    int
	monitor int
	cluster int // its size, 0 for none

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{}
}

// Start starts a server, which ends with the test, and waits until it is ready.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	s := newServer(t, freePorts(t, 2))
	s.configure(o, "")
	s.Launch()
	s.WaitReady()
	return s
}

func newServer(t testing.TB, ports []int) *Server {
	return &Server{t: t, dir: t.TempDir(), port: ports[0], monitor: ports[1]}
}

// configure writes the configuration file.
func (s *Server) configure(o Options, cluster string) {
	s.t.Helper()
	c := fmt.Sprintf("server_name: n%d\nlisten: 127.0.0.1:%d\nhttp: 127.0.0.1:%d\n", s.port, s.port, s.monitor)
	if !o.NoJetStream {
		c += fmt.Sprintf("jetstream { store_dir: %q }\n", filepath.Join(s.dir, "store"))
	}
	if err := os.WriteFile(s.file("conf"), []byte(c+cluster+o.Config+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *Server) file(name string) string { return filepath.Join(s.dir, name) }

// Launch starts the process and does not wait: the servers of a cluster are ready
// when enough of them are there.
func (s *Server) Launch() {
	s.t.Helper()
	path, err := binary()
	if err != nil {
		s.t.Fatalf("building the NATS server: %v", err)
	}
	cmd := exec.Command(path, "-c", s.file("conf"), "-l", s.file("log"))
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	s.mu.Lock()
	first := s.cmd == nil
	s.cmd, s.ended = cmd, ended
	s.mu.Unlock()
	if first {
		s.t.Cleanup(s.end)
	}
}

// end is the end of the test.
func (s *Server) end() {
	s.Kill()
	if s.t.Failed() {
		if log, err := os.ReadFile(s.file("log")); err == nil {
			lines := strings.Split(strings.TrimSpace(string(log)), "\n")
			s.t.Logf("the end of the log of the NATS server at %s:\n%s", s.Addr(), strings.Join(lines[max(0, len(lines)-20):], "\n"))
		}
	}
}

// Addr is host:port.
func (s *Server) Addr() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

// URL opens the server, without anything that says who asks.
func (s *Server) URL() string { return "nats://" + s.Addr() }

// Dir is where the server keeps its store, in the folder store.
func (s *Server) Dir() string { return s.dir }

// PID is the number of the process that runs or ran last.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cmd.Process.Pid
}

func (s *Server) signal(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.ended:
		return
	default:
	}
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Logf("signal %v to the NATS server %d: %v", sig, s.cmd.Process.Pid, err)
	}
}

func (s *Server) wait() {
	s.mu.Lock()
	ended := s.ended
	s.mu.Unlock()
	<-ended
}

// Kill ends the process as a crash does, and waits for its end.
func (s *Server) Kill() {
	s.signal(syscall.SIGKILL)
	s.wait()
}

// Shutdown ends the process cleanly, and waits for its end.
func (s *Server) Shutdown() {
	s.signal(syscall.SIGTERM)
	s.wait()
}

// Stop stops the process and waits until it is: its connections stand and nothing
// answers, until Continue.
func (s *Server) Stop() {
	s.t.Helper()
	s.signal(syscall.SIGSTOP)
	var state []byte
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		var err error
		if state, err = exec.Command("ps", "-o", "state=", "-p", fmt.Sprint(s.PID())).Output(); err == nil && strings.HasPrefix(strings.TrimSpace(string(state)), "T") {
			return
		}
	}
	s.t.Fatalf("the NATS server %d does not stop: its state is %q", s.PID(), state)
}

// Continue goes on after Stop.
func (s *Server) Continue() { s.signal(syscall.SIGCONT) }

// Restart starts the process again, on the same store and port, after Kill or
// Shutdown, and waits until it is ready.
func (s *Server) Restart() {
	s.t.Helper()
	s.Launch()
	s.WaitReady()
}

// Reconfigure is Restart with other options.
func (s *Server) Reconfigure(o Options) {
	s.t.Helper()
	s.configure(o, "")
	s.Restart()
}

var client = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// get asks the server's monitoring.
func (s *Server) get(path string, into any) error {
	resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/%s", s.monitor, path))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// WaitReady waits until the server says that it is well, and, in a cluster, knows
// all others and their leader.
func (s *Server) WaitReady() {
	s.t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = s.ready(); err == nil {
			return
		}
		select {
		case <-s.ended:
			log, _ := os.ReadFile(s.file("log"))
			s.t.Fatalf("the NATS server at %s has ended:\n%s", s.Addr(), log)
		default:
		}
	}
	s.t.Fatalf("the NATS server at %s is not ready: %v", s.Addr(), err)
}

func (s *Server) ready() error {
	var health struct{ Status string }
	if err := s.get("healthz", &health); err != nil {
		return err
	}
	if s.cluster == 0 {
		return nil
	}
	var jsz struct {
		Meta struct {
			Leader string `json:"leader"`
			Size   int    `json:"cluster_size"`
		} `json:"meta_cluster"`
	}
	if err := s.get("jsz", &jsz); err != nil {
		return err
	}
	if jsz.Meta.Leader == "" || jsz.Meta.Size != s.cluster {
		return fmt.Errorf("%d of %d servers, leader %q", jsz.Meta.Size, s.cluster, jsz.Meta.Leader)
	}
	return nil
}

// A Cluster is several servers that keep their streams together.
type Cluster struct{ Servers []*Server }

// StartCluster starts n servers and waits until they are one cluster.
func StartCluster(t testing.TB, n int, o Options) *Cluster {
	t.Helper()
	ports := freePorts(t, 3*n)
	var routes []string
	for i := range n {
		routes = append(routes, fmt.Sprintf("nats-route://127.0.0.1:%d", ports[3*i+2]))
	}
	c := &Cluster{}
	for i := range n {
		s := newServer(t, ports[3*i:])
		s.cluster = n
		s.configure(o, fmt.Sprintf("cluster { name: test, listen: 127.0.0.1:%d, routes: [%s], no_advertise: true }\n", ports[3*i+2], strings.Join(routes, ", ")))
		c.Servers = append(c.Servers, s)
		s.Launch()
	}
	c.WaitReady()
	return c
}

// WaitReady waits for all servers.
func (c *Cluster) WaitReady() {
	for _, s := range c.Servers {
		s.t.Helper()
		s.WaitReady()
	}
}

// URL names all servers.
func (c *Cluster) URL() string {
	var all []string
	for _, s := range c.Servers {
		all = append(all, s.Addr())
	}
	return "nats://" + strings.Join(all, ",")
}

// Leader is the server that leads a stream of the default account.
func (c *Cluster) Leader(stream string) *Server {
	c.Servers[0].t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		for _, s := range c.Servers {
			var jsz struct {
				Accounts []struct {
					Streams []struct {
						Name    string
						Cluster struct{ Leader string }
					} `json:"stream_detail"`
				} `json:"account_details"`
			}
			if s.get("jsz?streams=1", &jsz) != nil {
				continue
			}
			for _, a := range jsz.Accounts {
				for _, st := range a.Streams {
					if st.Name == stream && st.Cluster.Leader == fmt.Sprintf("n%d", s.port) {
						return s
					}
				}
			}
		}
	}
	c.Servers[0].t.Fatalf("stream %s has no leader", stream)
	return nil
}

// freePorts finds ports that nobody listens on. Another process may take one
// before the server does; the server then says so.
func freePorts(t testing.TB, n int) []int {
	t.Helper()
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}
