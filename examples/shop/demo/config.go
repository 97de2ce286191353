package demo

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"time"

	"github.com/posthorn/posthorn/examples/shop/order"
)

// A Config configures a run. A zero field means the default, where one is named.
type Config struct {
	// URL is the bus. Default: embedded:, in Dir.
	URL string
	// Dir holds the databases.
	Dir string
	// Keep says that later runs may go on in Dir. Less fails on purpose then.
	Keep bool
	// Data is the file of orders, .csv or .csv.gz.
	Data string
	// Out gets the progress and the table.
	Out io.Writer
	// Every is how often progress is printed. Default 1 s.
	Every time.Duration
	// Patience is for how long nothing may move before the run is given up.
	// Default 1 min.
	Patience time.Duration
	// Log gets what the buses log.
	Log *slog.Logger
	// Serve, when set, is called with the running order service after the table is
	// printed, and ends the run when it returns. It does not go with Apart.
	Serve func(context.Context, *order.Service) error

	// Apart, when set, runs the services in processes of their own: it returns the
	// command that calls [RunService] with this name and configuration.
	Apart func(name string, cfg Config) *exec.Cmd
	// Broker, when set, starts what serves the bus; it takes the place of URL.
	Broker Broker
	// Err gets what these processes write to their standard error. Default:
	// os.Stderr.
	Err io.Writer
	// Hurry is closed when children that are asked to end are to be killed.
	Hurry <-chan struct{}
	// Kill names services that are killed in the middle, one after the other, and
	// started again. It goes with Apart.
	Kill []string

	seen func(Progress, services) // for tests: is called with each progress
}

func (cfg Config) defaults() Config {
	if cfg.URL == "" && cfg.Broker == nil {
		cfg.URL = "embedded:" + cfg.Dir + "/" + storeDir
	}
	if cfg.Every == 0 {
		cfg.Every = time.Second
	}
	if cfg.Patience == 0 {
		cfg.Patience = time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Err == nil {
		cfg.Err = os.Stderr
	}
	return cfg
}
