package demo

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/embedded"
)

// runProgram makes this test binary one of the programs that a run in processes
// starts, if its arguments are those of one.
func runProgram(args []string) (status int, ok bool) {
	if len(args) == 0 {
		return 0, false
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch args[0] {
	case "service":
		err = RunService(ctx, args[1], Config{URL: args[2], Dir: args[3], Keep: true, Data: args[4], Out: os.Stdout, Log: quiet})
	case "serve":
		err = serve(ctx, args[1:])
	case "-c":
		err = serveNATS(args)
	case "broken":
		err = errors.New("this service is broken")
	default:
		return 0, false
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3, true
	}
	return 0, true
}

// serve is what `posthorn serve` does.
func serve(ctx context.Context, args []string) error {
	set := flag.NewFlagSet("serve", flag.ContinueOnError)
	dir, addr, file := set.String("dir", "", ""), set.String("addr", "", ""), set.String("token-file", "", "")
	set.Bool("json", false, "")
	if err := set.Parse(args); err != nil {
		return err
	}
	token, err := os.ReadFile(*file)
	if err != nil {
		return err
	}
	s, err := embedded.Serve(ctx, *dir, embedded.ServeOptions{Addr: *addr, Token: strings.TrimSpace(string(token))},
		driver.Env{Service: "serve", Member: "serve", Log: quiet, Now: time.Now, Alarm: func(a driver.Alarm) { fmt.Fprintln(os.Stderr, a.Code, a.Text) }})
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(map[string]string{"url": s.URL() + "?token-file=" + *file}); err != nil {
		return err
	}
	<-ctx.Done()
	return s.Close(context.WithoutCancel(ctx))
}

// serveNATS is what nats-server does.
func serveNATS(args []string) error {
	nothing := func() {}
	opts, err := server.ConfigureOptions(flag.NewFlagSet("nats-server", flag.ContinueOnError), args, nothing, nothing, nothing)
	if err != nil {
		return err
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return err
	}
	s.ConfigureLogger()
	if err := server.Run(s); err != nil {
		return err
	}
	s.WaitForShutdown()
	return nil
}
