package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

const counterTable = `create table if not exists counter (name text primary key, n int not null);`

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path, counterTable)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func count(tx *Tx) (string, error) {
	var n string
	err := tx.Get("insert into counter values ('a', 1) on conflict do update set n = n + 1 returning n", nil, &n)
	return n, err
}

func counted(t *testing.T, s *Store) int {
	t.Helper()
	var n int
	if err := s.DB().QueryRow("select coalesce(max(n), 0) from counter").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a folder, 100% new?", "state.db")
	s := open(t, path)
	for range 3 {
		note, err := s.Once(t.Context(), "event-1", count)
		if err != nil || note != "1" {
			t.Fatalf("Once = %q, %v; want the first note", note, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	if note, err := s.Once(t.Context(), "event-1", count); err != nil || note != "1" {
		t.Fatalf("Once = %q, %v after opening again", note, err)
	}
	if n := counted(t, s); n != 1 {
		t.Errorf("the effect happened %d times", n)
	}
}

func TestConcurrentCallers(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	fail := errors.New("no")
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			err := s.Do(t.Context(), func(tx *Tx) error {
				if _, err := count(tx); err != nil {
					return err
				}
				switch i % 30 {
				case 7:
					return fail
				case 8:
					panic("no")
				}
				return nil
			})
			switch {
			case i%30 == 7 && !errors.Is(err, fail):
				t.Errorf("caller %d: %v, want its own error", i, err)
			case i%30 == 8 && err == nil:
				t.Errorf("caller %d: no error of its panic", i)
			case i%30 != 7 && i%30 != 8 && err != nil:
				t.Errorf("caller %d fails for another: %v", i, err)
			}
		})
	}
	wg.Wait()
	if n := counted(t, s); n != 280 {
		t.Errorf("%d effects, want those of the 280 that succeeded", n)
	}
}

func TestClosed(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Do(t.Context(), func(*Tx) error { return nil }); !errors.Is(err, errClosed) {
		t.Errorf("Do on a closed store: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	open(t, filepath.Join(t.TempDir(), "state.db"))
	if _, err := Open(ended, filepath.Join(t.TempDir(), "state.db"), ""); err == nil {
		t.Error("Open with an ended context: no error")
	}
}

// TestRead reads beside the writer, and nothing before there is something.
func TestRead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	if db, err := Read(t.Context(), path); db != nil || err != nil {
		t.Fatalf("no file: %v, %v", db, err)
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil { // made, and its service killed
		t.Fatal(err)
	}
	if db, err := Read(t.Context(), path); db != nil || err != nil {
		t.Fatalf("no tables: %v, %v", db, err)
	}
	s := open(t, path)
	db, err := Read(t.Context(), path)
	if err != nil || db == nil {
		t.Fatalf("%v, %v", db, err)
	}
	defer db.Close()
	for want := 1; want < 4; want++ {
		if err := s.Do(t.Context(), func(tx *Tx) error { _, err := count(tx); return err }); err != nil {
			t.Fatal(err)
		}
		var n int
		if err := db.QueryRow("select n from counter").Scan(&n); err != nil || n != want {
			t.Errorf("read %d, %v; want %d", n, err, want)
		}
	}
	if _, err := db.Exec("delete from counter"); err == nil {
		t.Error("it can be written to")
	}
}

func TestGetWithoutRow(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	err := s.Do(t.Context(), func(tx *Tx) error {
		var n int
		return tx.Get("select n from counter where name = ?", []any{"b"}, &n)
	})
	if !errors.Is(err, sql.ErrNoRows) {
		t.Errorf("Get = %v, want sql.ErrNoRows", err)
	}
}

func BenchmarkOnce(b *testing.B) {
	s, err := Open(b.Context(), filepath.Join(b.TempDir(), "state.db"), counterTable)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	b.SetParallelism(128)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Once(b.Context(), rand.Text(), count); err != nil {
				b.Fatal(err)
			}
		}
	})
}
