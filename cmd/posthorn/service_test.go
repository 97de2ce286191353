package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/posthorn/posthorn"
)

// service is a service with one group, for scripts. Its handler does what the data
// says: {"do":"fail"} fails, "die" gives up, "hold" runs until the file that "until"
// names exists, "mend" gives up until then. It stops on SIGTERM; with -once it stops as soon as nothing is left
// to handle.
func service() int {
	url := flag.String("url", os.Getenv("POSTHORN_URL"), "the broker")
	group := flag.String("group", "inventory", "the group")
	types := flag.String("types", "order.placed", "what it handles, with commas between")
	once := flag.Bool("once", false, "stop when nothing is left")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, *url, *group, strings.Split(*types, ","), *once); err != nil {
		fmt.Fprintln(os.Stderr, "service:", err)
		return 1
	}
	return 0
}

func serve(ctx context.Context, url, group string, types []string, once bool) error {
	bus, err := posthorn.Open(ctx, url, posthorn.Service("shop"), posthorn.Logger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	defer bus.Close(context.Background())
	g := bus.Group(group, posthorn.GroupConfig{Retry: posthorn.Retry{Attempts: posthorn.None, LateDelay: time.Hour}})
	for _, name := range types {
		g.HandleRaw(name, handle)
	}
	if err := g.Start(ctx); err != nil {
		return err
	}
	for {
		lag, err := bus.Lag(ctx, group)
		if once && err == nil && lag == 0 {
			break
		}
		select {
		case <-time.After(20 * time.Millisecond):
			continue
		case <-ctx.Done():
		}
		break
	}
	return bus.Close(context.Background())
}

func handle(ctx context.Context, d *posthorn.Delivery) error {
	var say struct{ Do, Until string }
	if err := json.Unmarshal(d.Data, &say); err != nil {
		return nil // numbers and the like ask for nothing
	}
	switch say.Do {
	case "fail":
		return errors.New("the till is shut")
	case "die":
		return posthorn.Permanent(errors.New("no such order"))
	case "mend":
		if _, err := os.Stat(say.Until); err != nil {
			return posthorn.Permanent(errors.New("no such order"))
		}
	case "hold":
		for {
			if _, err := os.Stat(say.Until); err == nil {
				return nil
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}
