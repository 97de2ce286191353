//go:build unix

package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// lockDir takes the directory for this process. The lock is the kernel's and
// ends with the process, whatever becomes of the file.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "posthorn.lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		return nil, fmt.Errorf("embedded: directory %s is open in another process%s: close it there, give this one a directory of its own, or serve it to both with posthorn serve: %w",
			dir, holder(path), driver.ErrLocked)
	}
	if err := writePID(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// flock tries for a moment: a process that is being started by this one holds what
// this one has just let go, until it is on its own.
func flock(f *os.File) (err error) {
	for range 30 {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := fmt.Fprintf(f, "%d\n", os.Getpid())
	return err
}

// holder names the process that wrote its number into the file.
func holder(path string) string {
	b, err := os.ReadFile(path)
	if pid := strings.TrimSpace(string(b)); err == nil && pid != "" {
		return fmt.Sprintf(" (pid %s)", pid)
	}
	return ""
}
