package order

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/examples/shop/internal/service"
	"github.com/posthorn/posthorn/examples/shop/internal/store"
)

// A Config configures the service. A zero field means the default.
type Config struct {
	// Database is the path of the service's SQLite file.
	Database string
	// Resend is how often orders that could not be published are tried again.
	// Default 1 s.
	Resend time.Duration
	// Middleware wraps the service's handlers.
	Middleware []posthorn.Middleware
	// Log is where the service logs. Default: slog.Default().
	Log *slog.Logger
}

// A Service takes orders. Its methods are safe for concurrent use.
type Service struct {
	service.Base
	cfg   Config
	bus   *posthorn.Bus
	store *store.Store

	publishing sync.Mutex
	stop       context.CancelFunc // ends resend
	resending  sync.WaitGroup
}

// Group is the name of the service's group on the bus.
const Group = "order"

// Open opens the service's database and declares its handlers.
func Open(ctx context.Context, bus *posthorn.Bus, cfg Config) (*Service, error) {
	if cfg.Resend == 0 {
		cfg.Resend = time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	st, err := store.Open(ctx, cfg.Database, schema)
	if err != nil {
		return nil, err
	}
	group := bus.Group(Group, posthorn.GroupConfig{Concurrency: 128, Middleware: cfg.Middleware})
	s := &Service{Base: service.New(group, st), cfg: cfg, bus: bus, store: st, stop: func() {}}
	s.listen(group)
	return s, nil
}

// Start begins to handle events and to publish what is left from an earlier run.
func (s *Service) Start(ctx context.Context) error {
	if err := s.Base.Start(ctx); err != nil {
		return err
	}
	resend, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	s.resending.Go(func() { s.resend(resend) })
	return nil
}

// Stop lets handlers that run finish and handles no more events.
func (s *Service) Stop(ctx context.Context) error {
	s.stop()
	s.resending.Wait()
	return s.Base.Stop(ctx)
}
