// Package store is what the shop's services keep their state in: one SQLite file
// for each of them, which no other service reads or writes.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// handled is the table of the events that a service has handled. It makes the
// effect of an event that is delivered twice happen once.
const handled = `create table if not exists handled (
	event text primary key, -- the event's id
	note  text not null     -- what its handler left, to be found by its repetition
) without rowid;`

// A Store is a service's SQLite file. Its methods are safe for concurrent use.
type Store struct {
	db     *sql.DB
	writer *committer
}

// Open opens or creates the file and sees to its tables.
func Open(ctx context.Context, path, schema string) (*Store, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of the database: %w", err)
	}
	db, err := sql.Open("sqlite", dsn(path, writing))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	// All of the tables or none: see Read.
	if _, err := db.ExecContext(ctx, "begin immediate; "+handled+schema+" commit;"); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), db.Close())
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), db.Close())
	}
	return &Store{db: db, writer: newCommitter(conn)}, nil
}

// Read opens the file for reading only, beside the service that writes to it,
// wherever that runs. It returns nil as long as the service has not made it.
func Read(ctx context.Context, path string) (*sql.DB, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	db, err := sql.Open("sqlite", dsn(path, reading))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	// No connection stays between two questions: so the service is the last to
	// close the file, and folds its log into it.
	db.SetMaxIdleConns(0)
	var tables int
	if err := db.QueryRowContext(ctx, "select count(*) from sqlite_master").Scan(&tables); err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", path, err), db.Close())
	}
	if tables == 0 {
		return nil, db.Close()
	}
	return db, nil
}

// writing is what each connection of a service needs. A write-ahead log lets
// readers go on beside the writer. An event is settled after its effect is
// committed, so a commit must be on the disk when it returns: synchronous is full.
// Many handlers share a commit, which makes that cheap.
var writing = url.Values{"_pragma": {
	"busy_timeout(10000)",
	"journal_mode(wal)",
	"synchronous(full)",
	"cache_size(-32000)",
	"temp_store(memory)",
}}

var reading = url.Values{"mode": {"ro"}, "_pragma": {"busy_timeout(10000)"}}

func dsn(path string, params url.Values) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	u := url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(path), RawQuery: params.Encode()}
	return u.String()
}

// DB is for reading. Writes go through Do and Once.
func (s *Store) DB() *sql.DB { return s.db }

// Do runs fn in a transaction, and returns when that is on the disk. The
// transaction may be shared with other calls; when one of them fails, the
// others are run again without it, so fn sets all that it leaves behind anew.
// The context bounds only the wait for fn's turn.
func (s *Store) Do(ctx context.Context, fn func(*Tx) error) error {
	return s.writer.do(ctx, fn)
}

// Once is Do for the effect of an event, which happens once however often the
// event is delivered: the event's id is stored in fn's transaction, and a call
// with an id that is there already does not run fn. The note that fn returns is
// stored beside the id; Once returns it the first time and each time after.
func (s *Store) Once(ctx context.Context, event string, fn func(*Tx) (note string, err error)) (note string, err error) {
	err = s.Do(ctx, func(tx *Tx) error {
		note = ""
		switch err := tx.Get("select note from handled where event = ?", []any{event}, &note); {
		case err == nil:
			return nil
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
		n, err := fn(tx)
		if err != nil {
			return err
		}
		note = n
		return tx.Exec("insert into handled (event, note) values (?, ?)", event, note)
	})
	return note, err
}

// Close waits for the transaction that is under way and closes the file.
func (s *Store) Close() error {
	return errors.Join(s.writer.close(), s.db.Close())
}
