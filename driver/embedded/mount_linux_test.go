package embedded_test

import (
	"errors"
	"os"
	"syscall"
	"testing"
	"time"
)

// mount mounts a small file system for the test and returns its directory. Where
// that is not allowed it returns "", after saying so loudly; on CI that fails.
func mount(t *testing.T, kind, options string) string {
	t.Helper()
	dir := t.TempDir()
	var flags uintptr
	if options == "ro" {
		flags, options = syscall.MS_RDONLY, ""
	}
	if err := syscall.Mount("posthorn-test", dir, kind, flags, options); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("CI must be able to mount a %s: %v", kind, err)
		}
		t.Logf("NOT TESTED: a %s cannot be mounted here: %v", kind, err)
		return ""
	}
	t.Cleanup(func() {
		err := syscall.Unmount(dir, 0)
		// A process that another test has forked holds our open files until it has
		// loaded its program.
		for range 1000 {
			if !errors.Is(err, syscall.EBUSY) {
				break
			}
			time.Sleep(10 * time.Millisecond)
			err = syscall.Unmount(dir, 0)
		}
		if err != nil {
			t.Errorf("unmounting %s: %v", dir, err)
		}
	})
	return dir
}
