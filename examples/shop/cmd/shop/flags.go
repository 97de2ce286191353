package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"

	"github.com/posthorn/posthorn/examples/shop/demo"
	"github.com/posthorn/posthorn/examples/shop/points"
)

type flags struct {
	data, dir, url, http string
	verbose              bool

	processes      bool
	posthorn, nats string // programs
	service        string
	keep           bool
	args           []string
}

func parse(args []string) (f flags, err error) {
	f.args = args
	set := flag.NewFlagSet("shop", flag.ContinueOnError)
	set.StringVar(&f.data, "data", "", "the `file` of orders, .csv or .csv.gz (default: "+shipped+")")
	set.StringVar(&f.dir, "dir", "", "the `directory` of the databases and of the broker's store; a run goes on\nwhere an earlier one in it stopped (default: a new one, removed at the end)")
	set.StringVar(&f.url, "url", "", "the `URL` of the bus, such as nats://host:4222, embedded:./bus or memory:\n(default: embedded, in -dir)")
	set.StringVar(&f.http, "http", "", "after the table, serve the order API on this loopback `address`, such as\n127.0.0.1:8080, until Ctrl-C; with -service order, from the start")
	set.BoolVar(&f.verbose, "v", false, "log more than warnings")
	set.BoolVar(&f.processes, "processes", false, "run each service in a process of its own, on one of -posthorn, -nats and -url")
	set.StringVar(&f.posthorn, "posthorn", "", "with -processes: run this `program` posthorn with serve, in a process of its own,\nand the services on it")
	set.StringVar(&f.nats, "nats", "", "with -processes: the same with this `program` nats-server")
	set.StringVar(&f.service, "service", "", "run the service of this `name` alone until SIGTERM or Ctrl-C, on -url, in -dir; it\nis one of "+strings.Join(demo.Names[:], ", ")+", and order imports -data\nwhere that is given")
	set.BoolVar(&f.keep, "keep", false, "with -service: as in a run with -dir, fail less on purpose")
	set.Usage = func() {
		fmt.Fprintln(set.Output(), "The example shop: imports a file of orders and compares the books of its services with it.\n\nUsage: shop [flags]\n\nFlags:")
		set.PrintDefaults()
		fmt.Fprintln(set.Output(), "\nExit status: 0 all equal, 1 not equal or failed, 2 wrong flags, 130 interrupted.\nWith -service: 0 stopped as asked, 1 failed, 2 wrong flags.")
	}
	if err := set.Parse(args); err != nil {
		return f, err
	}
	if set.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", set.Arg(0))
	} else {
		err = f.check()
	}
	if err != nil {
		fmt.Fprintf(set.Output(), "shop: %v; see shop -help\n", err)
	}
	if f.data == "" && f.service == "" {
		f.data = shipped
		if _, missing := os.Stat(shipped); err == nil && missing != nil {
			err = fmt.Errorf("%w; run it in the folder examples of the repository, or name a file by -data", missing)
			fmt.Fprintf(set.Output(), "shop: %v\n", err)
		}
	}
	return f, err
}

// shipped is the file that ships with the shop, from the folder of the examples.
const shipped = "shop/data/online-retail-part.csv.gz"

// check finds flags that do not go together.
func (f *flags) check() error {
	brokers := 0
	for _, s := range []string{f.posthorn, f.nats, f.url} {
		if s != "" {
			brokers++
		}
	}
	inside := f.url == "" || strings.HasPrefix(f.url, "memory:") || strings.HasPrefix(f.url, "embedded:")
	switch {
	case f.http != "" && f.processes:
		return errors.New("-http does not go with -processes; -service order takes it")
	case f.processes && f.service != "":
		return errors.New("-processes runs all services, -service one of them; choose one")
	case (f.posthorn != "" || f.nats != "" || f.keep) && !f.processes && f.service == "":
		return errors.New("-posthorn and -nats go with -processes, -keep with -service")
	case f.processes && brokers != 1:
		return errors.New("-processes needs a broker that all processes reach: one of -posthorn, -nats and -url")
	case (f.processes && f.url != "" || f.service != "") && inside:
		return fmt.Errorf("-url %q: such a bus belongs to one process; write nats://", f.url)
	case f.service != "" && f.dir == "":
		return errors.New("-service needs -dir, for its database")
	case f.dir != "" && strings.HasPrefix(f.url, "memory:"):
		return errors.New("-url memory: forgets at the end what the databases in -dir keep; leave -dir out")
	case f.http != "":
		return loopback(f.http)
	}
	return nil
}

// loopback refuses to serve anybody but this machine: the API asks nobody who
// they are.
func loopback(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("-http %s: %w", addr, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("-http %s: only loopback addresses are served, such as 127.0.0.1:8080", addr)
	}
	return nil
}

// again is the command line that goes on with a run.
func (f *flags) again() string {
	return "go run ./shop/cmd/shop " + strings.Join(f.args, " ")
}

// apart has each service run by this program, in a process of its own. One of them is
// killed on the way, whose books would tell if anything were lost, repeated or turned
// round.
func (f *flags) apart(cfg *demo.Config) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the program that is running: %w", err)
	}
	switch {
	case f.posthorn != "":
		cfg.Broker = demo.Serve(f.posthorn)
	case f.nats != "":
		cfg.Broker = demo.NATS(f.nats)
	}
	cfg.Kill = []string{points.Group}
	cfg.Apart = func(name string, cfg demo.Config) *exec.Cmd {
		args := []string{"-service", name, "-url", cfg.URL, "-dir", cfg.Dir}
		if cfg.Keep {
			args = append(args, "-keep")
		}
		if f.verbose {
			args = append(args, "-v")
		}
		if name == demo.Names[0] {
			args = append(args, "-data", cfg.Data)
		}
		return exec.Command(self, args...)
	}
	return nil
}
