//go:build unix && !netbsd && !openbsd && !solaris && !illumos && !aix && !dragonfly

package embedded

import (
	"os"
	"syscall"
)

// diskSpace returns the bytes that are free to us and all there are.
func diskSpace(dir *os.File) (free, total uint64, ok bool) {
	var st syscall.Statfs_t
	if err := syscall.Fstatfs(int(dir.Fd()), &st); err != nil {
		return 0, 0, false
	}
	return uint64(st.Bavail) * uint64(st.Bsize), st.Blocks * uint64(st.Bsize), true
}
