package jetstream

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/posthorn/posthorn/driver"
)

const (
	defaultPort    = "4222"
	maxReplicas    = 5
	maxInstance    = 24
	durabilityName = "server"
)

// A target is what a URL says.
type target struct {
	scheme string
	hosts  []string // with ports
	tls    bool     // whether the server asks for it or not

	// How we say who we are, one of them or none.
	user, password string
	token          string
	tokenFile      string
	creds          string
	nkey           string

	ca, cert, key string // files

	instance string
	lease    time.Duration // 0: not said
	replicas int           // 0: not said
	single   bool          // durability=server
}

// params are the parameters of a URL. What one says that the rest of the URL says
// too is found by check.
var params = map[string]func(t *target, value string) error{
	"creds":      file(func(t *target) *string { return &t.creds }),
	"nkey":       file(func(t *target) *string { return &t.nkey }),
	"token-file": file(func(t *target) *string { return &t.tokenFile }),
	"ca":         file(func(t *target) *string { return &t.ca }),
	"cert":       file(func(t *target) *string { return &t.cert }),
	"key":        file(func(t *target) *string { return &t.key }),
	"instance":   setInstance,
	"lease": func(t *target, v string) (err error) {
		t.lease, err = parseLease(v)
		return err
	},
	"replicas": func(t *target, v string) (err error) {
		if t.replicas, err = strconv.Atoi(v); err != nil || t.replicas < 1 || t.replicas > maxReplicas {
			return fmt.Errorf("it is a number from 1 to %d", maxReplicas)
		}
		return nil
	},
	"durability": func(t *target, v string) error {
		t.single = v == durabilityName
		if !t.single {
			return fmt.Errorf("its only value is %q", durabilityName)
		}
		return nil
	},
}

// file is a parameter that names a file. Its value may be a secret by mistake,
// so that no error shows it.
func file(field func(*target) *string) func(*target, string) error {
	return func(t *target, v string) error {
		if v == "" {
			return errors.New("it is the path of a file")
		}
		*field(t) = v
		return nil
	}
}

var instanceGrammar = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)*$`)

func setInstance(t *target, v string) error {
	if len(v) > maxInstance || !instanceGrammar.MatchString(v) {
		return fmt.Errorf("it has up to %d of the characters a-z, 0-9, '.', '_' and '-'", maxInstance)
	}
	t.instance = v
	return nil
}

func parseLease(v string) (time.Duration, error) {
	d, err := time.ParseDuration(v)
	if err != nil || d < MinLease {
		return 0, fmt.Errorf("it is a duration of at least %v, such as 10s", MinLease)
	}
	return d, nil
}

// parseTarget reads a URL. Its errors show no user, password, token or path.
func parseTarget(u *url.URL) (*target, error) {
	t := &target{scheme: u.Scheme, tls: u.Scheme == SchemeTLS}
	err := t.parse(u)
	if err == nil {
		err = t.check()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", u.Scheme, err, driver.ErrInvalid)
	}
	return t, nil
}

func (t *target) parse(u *url.URL) error {
	switch {
	case u.Opaque != "" || u.Host == "":
		return fmt.Errorf("the URL names no server: write %s://host:%s", u.Scheme, defaultPort)
	case u.Path != "" && u.Path != "/":
		return errors.New("the URL has a path behind the server, and there is nothing that it could mean; " +
			"a '/' in a user name, password or token is written %2F")
	case u.Fragment != "":
		return errors.New("the URL has a fragment; a '#' in a user name, password or token is written %23")
	}
	if u.User != nil {
		if pw, ok := u.User.Password(); ok {
			t.user, t.password = u.User.Username(), pw
		} else {
			t.token = u.User.Username()
		}
	}
	for host := range strings.SplitSeq(u.Host, ",") {
		h, err := hostPort(host)
		if err != nil {
			return err
		}
		t.hosts = append(t.hosts, h)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return errors.New("what stands behind the '?' cannot be read: it is name=value, with a '&' between two")
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		set, ok := params[name]
		switch {
		case strings.Contains(name, "@"):
			return errors.New("the URL has a '@' behind a '?': a '?' in a user name, password or token is written %3F")
		case !ok:
			return fmt.Errorf("there is no parameter %q; there are %s", name, strings.Join(slices.Sorted(maps.Keys(params)), ", "))
		case len(query[name]) > 1:
			return fmt.Errorf("parameter %q is there %d times", name, len(query[name]))
		}
		if err := set(t, query[name][0]); err != nil {
			return fmt.Errorf("parameter %q: %w", name, err)
		}
	}
	return nil
}

// hostPort adds the port that is not said.
func hostPort(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port, err = net.SplitHostPort(strings.TrimSuffix(s, ":") + ":" + defaultPort)
	}
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 || host == "" || strings.ContainsAny(host, " \t@/") {
		return "", fmt.Errorf("%q is no server: write host:%s, and a comma between two", s, defaultPort)
	}
	return net.JoinHostPort(host, port), nil
}

func (t *target) check() error {
	var ways []string
	for name, there := range map[string]bool{
		"user and password": t.user != "" || t.password != "", "a token": t.token != "", "token-file": t.tokenFile != "",
		"creds": t.creds != "", "nkey": t.nkey != "",
	} {
		if there {
			ways = append(ways, name)
		}
	}
	slices.Sort(ways)
	switch {
	case len(ways) > 1:
		return fmt.Errorf("the URL says who we are more than once: %s; one of them is enough", strings.Join(ways, ", "))
	case (t.cert == "") != (t.key == ""):
		return errors.New(`parameters "cert" and "key" come together: a certificate and the key that belongs to it`)
	case t.replicas == 1 && !t.single:
		return fmt.Errorf(`parameter "replicas": one copy is not durable: what was confirmed can be lost with a power cut; `+
			`ask for two or more, or add durability=%s`, durabilityName)
	}
	return nil
}

// store is what alarms and errors call the broker.
func (t *target) store() string { return t.scheme + "://" + strings.Join(t.hosts, ",") }

// fileError says what is wrong with a parameter's file. The path is shown only
// when there is such a file: otherwise it may be the secret itself.
func fileError(param, path string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	if _, serr := os.Stat(path); serr != nil {
		dir, _ := os.Getwd()
		return fmt.Errorf("parameter %q names a file that does not exist or cannot be reached (%w); a relative path begins at %s", param, err, dir)
	}
	return fmt.Errorf("parameter %q, file %s: %w", param, path, err)
}
