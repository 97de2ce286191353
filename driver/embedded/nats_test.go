//go:build unix

package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/embedded/natstest"
)

// Bad days with a server that stands elsewhere. Each is an error or an alarm that
// names the thing and the remedy.

const hush = "hush-this-is-a-secret" // planted; nothing may show it

func TestServerAwayAtStart(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	away := l.Addr().String()
	_ = l.Close()
	_, err = tryDial(t, "nats://u:"+hush+"@"+away+"?durability=server")
	wantErr(t, err, driver.ErrUnavailable, away, "start it", "refused")
	noSecret(t, err)

	l, err = net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begun := time.Now()
	_, err = tryDialCtx(ctx, t, "nats://"+l.Addr().String())
	wantErr(t, err, driver.ErrUnavailable, l.Addr().String())
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("with a context of 300 ms it took %v", took)
	}
}

// pretend listens and has say answer each connection. It returns the address.
func pretend(t *testing.T, say func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			say(c)
			_ = c.Close()
		}
	}()
	return l.Addr().String()
}

func TestNoNATSServer(t *testing.T) {
	t.Parallel()
	addr := pretend(t, func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) })
	_, err := tryDial(t, "nats://"+addr)
	wantErr(t, err, driver.ErrUnavailable, "no NATS server", addr)
}

func TestServerTooOld(t *testing.T) {
	t.Parallel()
	addr := pretend(t, func(c net.Conn) {
		_, _ = c.Write([]byte(`INFO {"server_id":"x","version":"2.10.7","max_payload":1048576,"headers":true,"proto":1}` + "\r\nPONG\r\n"))
		_, _ = io.Copy(io.Discard, c)
	})
	_, err := tryDial(t, "nats://"+addr)
	wantErr(t, err, driver.ErrMismatch, "2.10.7", "2.14", "docs/nats.md", "update")
}

func TestNoJetStream(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Options{NoJetStream: true})
	_, err := tryDial(t, s.URL()+"?durability=server")
	wantErr(t, err, driver.ErrUnavailable, s.Addr(), "-js")

	s = natstest.Start(t, natstest.Options{Config: `accounts { A { users [{user: a, password: a}] }, B { jetstream: enabled, users [{user: b, password: b}] } }`})
	_, err = tryDial(t, strings.Replace(s.URL(), "://", "://a:a@", 1)+"?durability=server")
	wantErr(t, err, driver.ErrUnavailable, "account")
	dial(t, strings.Replace(s.URL(), "://", "://b:b@", 1)+"?durability=server")
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	seed := func() (text, public string) {
		k, err := nkeys.CreateUser()
		if err != nil {
			t.Fatal(err)
		}
		s, _ := k.Seed()
		public, _ = k.PublicKey()
		return string(s), public
	}
	seed1, public1 := seed()
	seed2, _ := seed()
	users := natstest.Start(t, natstest.Options{Config: fmt.Sprintf(
		`authorization { users [ {user: ann, password: %q}, {nkey: %s} ] }`, hush, public1)})
	token := natstest.Start(t, natstest.Options{Config: fmt.Sprintf(`authorization { token: %q }`, hush)})
	both := users.Addr() + "," + freeAddr(t) // one that is away must not hide the reason

	for _, c := range []struct {
		what, url string
		ok        bool
		words     []string
	}{
		{"user and password", "nats://ann:" + hush + "@" + users.Addr(), true, nil},
		{"a wrong password", "nats://ann:" + hush + "x@" + users.Addr(), false, []string{"ann", users.Addr(), "password"}},
		{"a wrong password, two servers", "nats://ann:" + hush + "x@" + both, false, []string{"ann", users.Addr(), "password"}},
		{"nobody", "nats://" + users.Addr(), false, []string{"without a name"}},
		{"nkey", "nats://" + users.Addr() + "?nkey=" + file("seed1", seed1), true, nil},
		{"a wrong nkey", "nats://" + users.Addr() + "?nkey=" + file("seed2", seed2), false, []string{`"nkey"`}},
		{"token", "nats://" + hush + "@" + token.Addr(), true, nil},
		{"token in a file", "nats://" + token.Addr() + "?token-file=" + file("token", hush+"\n"), true, nil},
		{"a wrong token", "nats://" + hush + "x@" + token.Addr(), false, []string{"token in the URL"}},
		{"a wrong token in a file", "nats://" + token.Addr() + "?token-file=" + file("token2", hush+"x"), false, []string{`"token-file"`}},
	} {
		u := c.url + "?durability=server"
		if strings.Contains(c.url, "?") {
			u = c.url + "&durability=server"
		}
		b, err := tryDial(t, u)
		switch {
		case c.ok && err != nil:
			t.Errorf("%s: %v", c.what, err)
		case c.ok:
			b.close()
		default:
			wantErr(t, err, driver.ErrDenied, c.words...)
			noSecret(t, err, seed1, seed2)
		}
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// noSecret searches an error for what was planted.
func noSecret(t *testing.T, err error, others ...string) {
	t.Helper()
	for _, s := range append(others, hush) {
		if strings.Contains(err.Error(), s) {
			t.Errorf("the error shows a secret: %v", err)
		}
	}
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	a, stranger := newAuthority(t, "ours"), newAuthority(t, "strangers")
	later := time.Now().Add(time.Hour)
	cert, key := a.issue("server", "127.0.0.1", later)
	clientCert, clientKey := a.issue("client", "client", later)
	otherCert, otherKey := stranger.issue("client", "client", later)
	conf := func(cert, key, more string) natstest.Options {
		return natstest.Options{Config: fmt.Sprintf("tls { cert_file: %q, key_file: %q, %s }", cert, key, more)}
	}
	plain := natstest.Start(t, natstest.Options{})
	once := natstest.Start(t, conf(cert, key, ""))
	mutual := natstest.Start(t, conf(cert, key, fmt.Sprintf("ca_file: %q, verify: true", a.file)))
	misnamed, misnamedKey := a.issue("misnamed", "127.0.0.2", later)
	wrongName := natstest.Start(t, conf(misnamed, misnamedKey, ""))
	expired, expiredKey := a.issue("expired", "127.0.0.1", time.Now().Add(-time.Hour))
	tooLate := natstest.Start(t, conf(expired, expiredKey, ""))

	for _, c := range []struct {
		what, url string
		words     []string // nil: it opens
	}{
		{"tls: with the authority", "tls://" + once.Addr() + "?ca=" + a.file, nil},
		{"nats: with the authority", "nats://" + once.Addr() + "?ca=" + a.file, nil},
		{"both certificates", "tls://" + mutual.Addr() + "?ca=" + a.file + "&cert=" + clientCert + "&key=" + clientKey, nil},
		{"an authority that nobody knows", "tls://" + once.Addr(), []string{"signed by nobody we trust", `"ca"`}},
		{"the same, because the server asks for it", "nats://" + once.Addr(), []string{"signed by nobody we trust", `"ca"`}},
		{"another authority", "tls://" + once.Addr() + "?ca=" + stranger.file, []string{"signed by nobody we trust", `"ca"`}},
		{"a certificate for another name", "tls://" + wrongName.Addr() + "?ca=" + a.file, []string{"another name", "127.0.0.2"}},
		{"one that has expired", "tls://" + tooLate.Addr() + "?ca=" + a.file, []string{"expired", "renewed"}},
		{"none of our own", "tls://" + mutual.Addr() + "?ca=" + a.file, []string{"our certificate", `"cert"`, `"key"`}},
		{"one of our own by a stranger", "tls://" + mutual.Addr() + "?ca=" + a.file + "&cert=" + otherCert + "&key=" + otherKey, []string{"our certificate", `"cert"`}},
		{"no TLS there", "tls://" + plain.Addr(), []string{"does not offer TLS", "nats://"}},
	} {
		b, err := tryDial(t, c.url+map[bool]string{true: "&", false: "?"}[strings.Contains(c.url, "?")]+"durability=server")
		switch {
		case c.words == nil && err != nil:
			t.Errorf("%s: %v", c.what, err)
		case c.words == nil:
			b.close()
		case err == nil:
			t.Errorf("%s: it was opened", c.what)
		default:
			wantErr(t, err, driver.ErrDenied, c.words...)
		}
	}
}

func TestNoCopies(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Options{})
	_, err := tryDial(t, s.URL())
	wantErr(t, err, driver.ErrMismatch, s.Addr(), "one copy", "durability=server", "cluster of three", "posthorn serve")
	_, err = tryDial(t, s.URL()+"?replicas=3")
	wantErr(t, err, driver.ErrMismatch, "replicas", "3")
	b := dial(t, s.URL()+"?durability=server")
	if names := b.streams(s.URL()); !slices.Equal(names, []string{"PH-STATE"}) {
		t.Errorf("a refused opening has left %v", names)
	}
	_, err = tryDial(t, s.URL()) // what stands has one copy
	wantErr(t, err, driver.ErrMismatch, "PH-STATE", "--replicas=3", "durability=server")
	_, err = b.EnsureTopic(t.Context(), driver.TopicSpec{Name: "order", Hash: driver.HashFNV1a, Partitions: 1, Replicas: 3})
	wantErr(t, err, driver.ErrMismatch, "order", "3 replicas", "Replicas of the topic")
	b.topic("order", 1)
	b.mustPublish(order0, event("a", "k"))
}

// streams lists what stands on the server.
func (b *bed) streams(url string, opts ...nats.Option) []string {
	b.t.Helper()
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		b.t.Fatal(err)
	}
	defer nc.Close()
	js, err := nc.JetStream()
	if err != nil {
		b.t.Fatal(err)
	}
	var all []string
	for name := range js.StreamNames() {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// raw is a connection for what an administrator, or somebody else, may do.
func raw(t *testing.T, url string) nats.JetStreamContext {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// served starts a NATS server and opens it with these further parameters. It has
// topic order of one partition, and group g on it.
func served(t *testing.T, params string) (*natstest.Server, nats.JetStreamContext, *bed) {
	t.Helper()
	s := natstest.Start(t, natstest.Options{})
	b := dial(t, s.URL()+"?durability=server"+params)
	b.topic("order", 1)
	b.group("g", driver.StartAt{}, "order")
	return s, raw(t, s.URL()), b
}

func TestForeignStreams(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Options{})
	js := raw(t, s.URL())
	add := func(name, subject string) {
		t.Helper()
		if _, err := js.AddStream(&nats.StreamConfig{Name: name, Subjects: []string{subject}}); err != nil {
			t.Fatal(err)
		}
	}
	add("PH-x-STATE", "weather.>")
	_, err := tryDial(t, s.URL()+"?durability=server&instance=x")
	wantErr(t, err, driver.ErrMismatch, "PH-x-STATE", "weather.>", "instance=NAME")
	add("weather", "ph-y.s.wind")
	_, err = tryDial(t, s.URL()+"?durability=server&instance=y")
	wantErr(t, err, driver.ErrMismatch, "PH-y-STATE", "ph-y.s.>", "instance=NAME")

	b := dial(t, s.URL()+"?durability=server")
	add("PH-T-order-0", "orders")
	_, err = b.EnsureTopic(t.Context(), driver.TopicSpec{Name: "order", Hash: driver.HashFNV1a, Partitions: 1})
	wantErr(t, err, driver.ErrMismatch, "PH-T-order-0", "[orders]")
	add("PH-L-g", "lanes")
	b.topic("stock", 1)
	_, err = b.EnsureGroup(t.Context(), driver.GroupSpec{Name: "g", Types: map[string][]string{"stock": {"stock.x"}}})
	wantErr(t, err, driver.ErrMismatch, "PH-L-g", "[lanes]")
}

func TestAuditOfAServer(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.Options{})
	js := raw(t, s.URL())
	b := dial(t, s.URL()+"?durability=server")
	b.topic("order", 2)
	b.topic("stock", 1)
	b.group("g", driver.StartAt{}, "order", "stock")
	b.mustPublish(order0, events("a", 10)...)
	b.audit()
	if len(b.alarms) > 0 {
		t.Fatalf("alarms without a reason: %+v", b.alarms)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	change := func(stream string, f func(c *nats.StreamConfig)) {
		t.Helper()
		info, err := js.StreamInfo(stream)
		must(err)
		f(&info.Config)
		_, err = js.UpdateStream(&info.Config)
		must(err)
	}
	must(js.DeleteMsg("PH-T-order-0", 5))
	change("PH-T-order-1", func(c *nats.StreamConfig) { c.MaxAge = time.Hour })
	change("PH-L-g", func(c *nats.StreamConfig) { c.Subjects = append(c.Subjects, "weather") })
	must(js.DeleteStream("PH-T-stock-0"))
	must(js.PurgeStream("PH-STATE", &nats.StreamPurgeRequest{Subject: "ph.s.at.g.order.1"}))
	b.audit()
	for thing, want := range map[string][]string{
		"PH-T-order-0": {"messages_missing", "1 are missing"},
		"PH-T-order-1": {"stream_changed", "max_age", "1h0m0s"},
		"PH-L-g":       {"stream_changed", "weather"},
		"PH-T-stock-0": {"stream_missing", "restore"},
		"g at order/1": {"position_missing", "ph.s.at.g.order.1"},
	} {
		a, ok := b.alarmOf(want[0], thing)
		if !ok {
			t.Errorf("no alarm %s of %s", want[0], thing)
		}
		for _, w := range want[1:] {
			if !strings.Contains(a.Text, w) {
				t.Errorf("%s of %s does not say %q: %s", a.Code, thing, w, a.Text)
			}
		}
	}
	n := len(b.alarms)
	b.audit()
	if len(b.alarms) != n {
		t.Errorf("alarms are told twice: %+v", b.alarms[n:])
	}
	change("PH-T-order-1", func(c *nats.StreamConfig) { c.MaxAge = 0 })
	change("PH-L-g", func(c *nats.StreamConfig) { c.Subjects = c.Subjects[:1] })
	b.audit()
	for _, a := range b.alarms[n:] {
		if a.Code != "stream_changed" || !a.Cleared {
			t.Errorf("after it was mended: %+v", a)
		}
	}
	if len(b.alarms) != n+2 {
		t.Errorf("two alarms were to be cleared: %+v", b.alarms[n:])
	}
}

func TestStreamDeletedBehindOurBack(t *testing.T) {
	t.Parallel()
	s, js, b := served(t, "&lease=1s")
	b.mustPublish(order0, events("a", 10)...)
	m, _ := b.join("g", "order")
	tn := m.next(t)
	fetch(t, tn, 10)
	if err := tn.Checkpoint(t.Context(), driver.Checkpoint{Floor: 10, Mark: 10}); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream("PH-T-order-0"); err != nil {
		t.Fatal(err)
	}
	o := b.publish(order0, event("lost", "k"))[0]
	if o.State != driver.NotStored || !strings.Contains(o.Err.Error(), "PH-T-order-0") {
		t.Errorf("publishing: %+v", o)
	}
	eventually(t, "the alarm", func() bool { _, ok := b.alarmOf("stream_missing", "PH-T-order-0"); return ok })
	if names := b.streams(s.URL()); slices.Contains(names, "PH-T-order-0") {
		t.Errorf("it was made anew in silence: %v", names)
	}
	// Another start makes it anew, and says so. Who holds the partition here must
	// not wait for what comes after the old end.
	second := dial(t, s.URL()+"?durability=server&lease=1s")
	second.topic("order", 1)
	if _, ok := second.alarmOf("messages_missing", "PH-T-order-0"); !ok {
		t.Errorf("no alarm of the loss: %+v", second.alarms)
	}
	second.mustPublish(order0, events("b", 3)...)
	for seen := ""; !strings.Contains(seen, "b2"); {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		into := make([]driver.Delivery, 10)
		n, err := tn.Fetch(ctx, into, 1<<20)
		cancel()
		if errors.Is(err, driver.ErrLost) {
			tn = m.next(t)
		}
		seen += ids(into[:n])
	}
}

func TestRecordsDeletedBehindOurBack(t *testing.T) {
	t.Parallel()
	s, js, b := served(t, "")
	if err := js.DeleteStream("PH-STATE"); err != nil {
		t.Fatal(err)
	}
	if err := b.Audit(t.Context()); !errors.Is(err, driver.ErrMismatch) {
		t.Errorf("audit: %v", err)
	}
	if a, ok := b.alarm("store_changed"); !ok || !strings.Contains(a.Text, "PH-STATE") {
		t.Errorf("alarms: %+v", b.alarms)
	}
	wantErr(t, b.publish(order0, event("a", "k"))[0].Err, driver.ErrMismatch, "PH-STATE")
	_, err := tryDial(t, s.URL()+"?durability=server")
	wantErr(t, err, driver.ErrMismatch, "PH-STATE is gone", "PH-", "restore")
}

// Two clusters behind one name: the second one answers when the first is away.
func TestTwoClusters(t *testing.T) {
	t.Parallel()
	s, _, b := served(t, "&lease=1s")
	b.mustPublish(order0, events("a", 3)...)
	s.Kill()
	store := filepath.Join(s.Dir(), "store")
	if err := os.Rename(store, store+".away"); err != nil {
		t.Fatal(err)
	}
	s.Restart() // an empty one
	eventually(t, "the alarm", func() bool { _, ok := b.alarm("store_changed"); return ok })
	o := b.publish(order0, event("x", "k"))[0]
	wantErr(t, o.Err, driver.ErrMismatch, s.Addr(), "two clusters")
	wantErr(t, b.Health(t.Context()), driver.ErrMismatch, "two clusters")
	if names := b.streams(s.URL()); len(names) > 0 {
		t.Errorf("something was made on the stranger: %v", names)
	}
	s.Kill()
	if err := os.RemoveAll(store); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(store+".away", store); err != nil {
		t.Fatal(err)
	}
	s.Restart()
	eventually(t, "health", func() bool { return b.Health(t.Context()) == nil })
	b.mustPublish(order0, event("y", "k"))
	if got := lastOf(t, s.URL(), "PH-T-order-0"); got != 4 {
		t.Errorf("there are %d messages, want 4", got)
	}
}

func lastOf(t *testing.T, url, stream string) uint64 {
	t.Helper()
	info, err := raw(t, url).StreamInfo(stream)
	if err != nil {
		t.Fatal(err)
	}
	return info.State.LastSeq
}

func TestServerGoesAwayAndComesBack(t *testing.T) {
	t.Parallel()
	s, _, b := served(t, "")
	b.mustPublish(order0, events("a", 3)...)
	tn, _ := b.tenure("g", "order")
	fetch(t, tn, 3)

	s.Stop() // what is under way hangs
	under := make(chan driver.Outcome, 1)
	go func() { under <- b.publishBy(15*time.Second, order0, event("under", "k"))[0] }()
	time.Sleep(50 * time.Millisecond) // it is sent then, as a rule; it holds either way
	s.Kill()
	begun := time.Now()
	if o := <-under; o.State == driver.Stored {
		t.Errorf("under way when the server died: %+v", o)
	}
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("it was known after %v only", took)
	}
	wantErr(t, b.Health(t.Context()), driver.ErrUnavailable, s.Addr())
	wantErr(t, b.publishBy(200*time.Millisecond, order0, event("no", "k"))[0].Err, driver.ErrUnavailable, s.Addr())
	eventually(t, "the alarm", func() bool {
		a, ok := b.alarm("broker_away")
		return ok && strings.Contains(a.Text, s.Addr())
	})
	patient := make(chan driver.Outcome, 1)
	go func() { patient <- b.publish(order0, event("patient", "k"))[0] }()
	s.Restart()
	if o := <-patient; o.State != driver.Stored {
		t.Errorf("who waited: %+v", o)
	}
	eventually(t, "the end of the alarm", func() bool { a, ok := b.alarmOf("broker_away", s.URL()); return ok && a.Cleared })
	if got := ids(fetch(t, tn, 1)); !strings.Contains("under patient", got) {
		t.Errorf("fetched %s", got)
	}
}

// A missing right is an answer at once, which names it.
func TestMissingRights(t *testing.T) {
	t.Parallel()
	rights := func(deny string) natstest.Options {
		return natstest.Options{Config: `
			accounts { A { jetstream: enabled, users [
				{user: root, password: root},
				{user: ann, password: ann, permissions: { ` + deny + ` }},
			] } }`}
	}
	as := func(s *natstest.Server, user string) string {
		return fmt.Sprintf("nats://%s:%s@%s?durability=server", user, user, s.Addr())
	}
	quick := func(what string, f func() error, words ...string) {
		t.Helper()
		begun := time.Now()
		err := f()
		wantErr(t, err, driver.ErrDenied, words...)
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("%s: it took %v", what, took)
		}
	}
	t.Run("to create", func(t *testing.T) {
		s := natstest.Start(t, rights(`publish: {deny: ["$JS.API.STREAM.CREATE.>"]}`))
		quick("open", func() error { _, err := tryDial(t, as(s, "ann")); return err },
			"$JS.API.STREAM.CREATE.PH-STATE", `"subjects":["ph.s.>"]`, "have somebody create it")
		dial(t, as(s, "root")).topic("order", 1)
		b := dial(t, as(s, "ann"))
		b.topic("order", 1)
		b.mustPublish(order0, event("a", "k"))
		quick("topic", func() error {
			_, err := b.EnsureTopic(t.Context(), driver.TopicSpec{Name: "stock", Hash: driver.HashFNV1a, Partitions: 1})
			return err
		}, "PH-T-stock-0", "ph.t.stock.0", "$JS.API.STREAM.CREATE.PH-T-stock-0")
	})
	t.Run("to publish", func(t *testing.T) {
		s := natstest.Start(t, rights(`publish: {deny: ["ph.t.order.>", "ph.x.>"]}`))
		b := dial(t, as(s, "ann"))
		b.topic("order", 1)
		begun := time.Now()
		for _, o := range b.publish(order0, events("a", 3)...) {
			wantErr(t, o.Err, driver.ErrDenied, "ph.t.order.0", "allow")
			if o.State != driver.NotStored {
				t.Errorf("%+v", o)
			}
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
	})
	t.Run("to read", func(t *testing.T) {
		s := natstest.Start(t, rights(`publish: {deny: ["$JS.API.CONSUMER.MSG.NEXT.>"]}`))
		b := dial(t, as(s, "ann"))
		b.topic("order", 1)
		b.mustPublish(order0, event("a", "k"))
		root := dial(t, as(s, "root"))
		root.group("g", driver.StartAt{}, "order")
		tn, _ := b.tenure("g", "order")
		quick("fetch", func() error { _, err := tn.Fetch(t.Context(), make([]driver.Delivery, 1), 1<<20); return err },
			"$JS.API.CONSUMER.MSG.NEXT.PH-T-order-0")
	})
	t.Run("to write into a lane", func(t *testing.T) {
		s := natstest.Start(t, rights(`publish: {deny: ["ph.l.g.order.>"]}`))
		b := dial(t, as(s, "ann"))
		b.topic("order", 1)
		b.group("g", driver.StartAt{}, "order")
		entry := &driver.Entry{Name: driver.EntryName("k", 1, "s", "i"), State: driver.Dead, Key: "k", Msg: event("a", "k")}
		quick("apply", func() error { return b.Lane("g", order0).Apply(t.Context(), []driver.LaneOp{{Entry: entry}}) }, "ph.l.g.order.0.")
	})
	t.Run("to subscribe", func(t *testing.T) {
		s := natstest.Start(t, rights(`subscribe: {deny: ["_INBOX.>"]}`))
		quick("open", func() error { _, err := tryDial(t, as(s, "ann")); return err }, "_INBOX.>")
	})
	t.Run("at all", func(t *testing.T) {
		s := natstest.Start(t, rights(`publish: {allow: ["weather.>"]}`))
		quick("open", func() error { _, err := tryDial(t, as(s, "ann")); return err }, "$JS.API.STREAM.INFO.PH-STATE")
	})
}

func TestClusterCopies(t *testing.T) {
	t.Parallel()
	c := natstest.StartCluster(t, 3, natstest.Options{})
	b := dial(t, c.URL())
	b.topic("order", 1)
	js := raw(t, c.URL())
	for _, name := range []string{"PH-STATE", "PH-T-order-0"} {
		info, err := js.StreamInfo(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Config.Replicas != 3 {
			t.Errorf("%s has %d replicas", name, info.Config.Replicas)
		}
	}
	_, err := tryDial(t, c.URL()+"?replicas=5&instance=x")
	wantErr(t, err, driver.ErrMismatch, "PH-x-STATE", "5 replicas", "replicas=N")
	_, err = b.EnsureTopic(t.Context(), driver.TopicSpec{Name: "many", Hash: driver.HashFNV1a, Partitions: 1, Replicas: 5})
	wantErr(t, err, driver.ErrMismatch, "many", "5 replicas", "Replicas of the topic")
	_, err = b.EnsureTopic(t.Context(), driver.TopicSpec{Name: "one", Hash: driver.HashFNV1a, Partitions: 1, Replicas: 1})
	wantErr(t, err, driver.ErrMismatch, "PH-T-one-0", "one copy", "durability=server")

	two := dial(t, c.URL()+"?replicas=2&instance=two")
	two.topic("order", 1)
	if info, err := js.StreamInfo("PH-two-T-order-0"); err != nil || info.Config.Replicas != 2 {
		t.Errorf("%+v, %v", info, err)
	}
	info, err := js.StreamInfo("PH-T-order-0")
	if err != nil {
		t.Fatal(err)
	}
	info.Config.Replicas = 1
	if _, err := js.UpdateStream(&info.Config); err != nil {
		t.Fatal(err)
	}
	b.audit()
	if a, ok := b.alarmOf("replicas_missing", "PH-T-order-0"); !ok || !strings.Contains(a.Text, "--replicas=3") {
		t.Errorf("alarms: %+v", b.alarms)
	}
	fresh := dial(t, c.URL())
	_, err = fresh.EnsureTopic(t.Context(), driver.TopicSpec{Name: "order", Hash: driver.HashFNV1a, Partitions: 1})
	wantErr(t, err, driver.ErrMismatch, "PH-T-order-0", "one copy")
}

// One after the other, the server that leads the partition is killed under load:
// nothing that was confirmed is lost, and what is not known is said to be.
func TestClusterLosesItsLeaders(t *testing.T) {
	t.Parallel()
	c := natstest.StartCluster(t, 3, natstest.Options{})
	b := dial(t, c.URL()+"?lease=2s")
	b.topic("order", 1)
	b.group("g", driver.StartAt{}, "order")
	m, _ := b.join("g", "order")
	tn := m.next(t)
	confirmed := map[string]bool{}
	publish := func(id string) {
		if o := b.publishBy(5*time.Second, order0, event(id, "k"))[0]; o.State == driver.Stored {
			confirmed[id] = true
		}
	}
	for round := range 3 {
		leader := c.Leader("PH-T-order-0")
		killed := false
		for i, goal := 0, len(confirmed)+20; len(confirmed) < goal; i++ {
			if len(confirmed) == goal-10 && !killed {
				leader.Kill()
				killed = true
			}
			publish(fmt.Sprintf("%d-%d", round, i))
		}
		leader.Restart()
		c.WaitReady()
	}
	for !confirmed["end"] {
		publish("end")
	}
	for len(confirmed) > 0 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		into := make([]driver.Delivery, 100)
		n, err := tn.Fetch(ctx, into, 1<<20)
		cancel()
		if errors.Is(err, driver.ErrLost) {
			tn = m.next(t)
		}
		end := false
		for _, d := range into[:n] {
			delete(confirmed, d.Msg.ID)
			end = end || d.Msg.ID == "end"
		}
		if end && len(confirmed) > 0 {
			t.Fatalf("confirmed and lost: %v", confirmed)
		}
	}
}

// Two of three servers gone: nothing is confirmed, and it goes on when they are back.
func TestClusterWithoutMajority(t *testing.T) {
	t.Parallel()
	c := natstest.StartCluster(t, 3, natstest.Options{})
	b := dial(t, c.URL())
	b.topic("order", 1)
	b.mustPublish(order0, event("a", "k"))
	for _, s := range c.Servers[:2] {
		s.Kill()
	}
	o := b.publishBy(3*time.Second, order0, event("b", "k"))[0]
	if o.State == driver.Stored {
		t.Errorf("one server of three has confirmed: %+v", o)
	}
	wantErr(t, o.Err, driver.ErrUnavailable)
	for _, s := range c.Servers[:2] {
		s.Launch()
	}
	c.WaitReady()
	eventually(t, "publishing", func() bool { return b.publishBy(5*time.Second, order0, event("c", "k"))[0].State == driver.Stored })
}
