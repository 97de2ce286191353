package child

import "syscall"

// attributes put a child into a process group of its own, and have the system end
// it when its parent dies without having done so.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
