package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
)

// most is how many calls share a transaction.
const most = 512

var errClosed = errors.New("the database is closed")

// A committer runs the transactions of all callers on one connection. Those that
// come while one commits go into the next one together, so that 200 handlers
// wait for one sync of the disk and not for 200.
type committer struct {
	conn  *sql.Conn
	tx    *Tx
	jobs  chan *job
	stop  chan struct{} // closed by close
	done  chan struct{} // closed when the loop has ended
	close func() error
}

type job struct {
	fn  func(*Tx) error
	err chan error
}

func newCommitter(conn *sql.Conn) *committer {
	c := &committer{
		conn: conn,
		tx:   &Tx{conn: conn, stmts: map[string]*sql.Stmt{}},
		jobs: make(chan *job),
		stop: make(chan struct{}),
		done: make(chan struct{}),
	}
	c.close = sync.OnceValue(func() error {
		close(c.stop)
		<-c.done
		return errors.Join(c.tx.close(), conn.Close())
	})
	go c.loop()
	return c
}

func (c *committer) do(ctx context.Context, fn func(*Tx) error) error {
	j := &job{fn: fn, err: make(chan error, 1)}
	select {
	case c.jobs <- j:
		// fn may be running from here on, and it writes to what its caller
		// declared, so the caller stays.
		return <-j.err
	case <-c.stop:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *committer) loop() {
	defer close(c.done)
	for {
		select {
		case j := <-c.jobs:
			c.commit(c.gather(j))
		case <-c.stop:
			return
		}
	}
}

// gather takes who is waiting already; it waits for nobody.
func (c *committer) gather(first *job) []*job {
	jobs := []*job{first}
	for len(jobs) < most {
		select {
		case j := <-c.jobs:
			jobs = append(jobs, j)
		default:
			return jobs
		}
	}
	return jobs
}

// commit runs the jobs in one transaction. When that fails, each is run in one of
// its own, so that a job fails by its own fault only.
func (c *committer) commit(jobs []*job) {
	err := c.run(jobs)
	if err != nil && len(jobs) > 1 {
		for _, j := range jobs {
			j.err <- c.run([]*job{j})
		}
		return
	}
	for _, j := range jobs {
		j.err <- err
	}
}

func (c *committer) run(jobs []*job) (err error) {
	if err := c.tx.Exec("begin immediate"); err != nil {
		return err
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in a transaction: %v", p)
		}
		if err != nil {
			err = errors.Join(err, c.tx.Exec("rollback"))
		}
	}()
	for _, j := range jobs {
		if err := j.fn(c.tx); err != nil {
			return err
		}
	}
	return c.tx.Exec("commit")
}

// A Tx is a transaction that is under way. It belongs to the function it is
// handed to, and to the goroutine that runs it.
type Tx struct {
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
}

// Exec runs a statement. Each text is prepared once and kept, so values belong
// into args and not into the text.
func (t *Tx) Exec(query string, args ...any) error {
	s, err := t.prepare(query)
	if err != nil {
		return err
	}
	if _, err := s.Exec(args...); err != nil {
		return fmt.Errorf("%s: %w", query, err)
	}
	return nil
}

// Get runs a query for one row and reads its columns into dest. The error is
// sql.ErrNoRows when there is no row.
func (t *Tx) Get(query string, args []any, dest ...any) error {
	s, err := t.prepare(query)
	if err != nil {
		return err
	}
	if err := s.QueryRow(args...).Scan(dest...); err != nil {
		return fmt.Errorf("%s: %w", query, err)
	}
	return nil
}

// Each runs a query and calls fn with each row's Scan.
func (t *Tx) Each(query string, args []any, fn func(scan func(...any) error) error) (err error) {
	s, err := t.prepare(query)
	if err != nil {
		return err
	}
	rows, err := s.Query(args...)
	if err != nil {
		return fmt.Errorf("%s: %w", query, err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := fn(rows.Scan); err != nil {
			return fmt.Errorf("%s: %w", query, err)
		}
	}
	return rows.Err()
}

func (t *Tx) prepare(query string) (*sql.Stmt, error) {
	if s := t.stmts[query]; s != nil {
		return s, nil
	}
	s, err := t.conn.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, fmt.Errorf("prepare %s: %w", query, err)
	}
	t.stmts[query] = s
	return s, nil
}

func (t *Tx) close() error {
	var errs []error
	for _, s := range t.stmts {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}
