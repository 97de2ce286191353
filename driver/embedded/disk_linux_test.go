package embedded_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A disk is a file that a child process mounts as an ext4, in a mount namespace of
// its own and by a loop device that goes with its last mount: however the child
// ends, nothing is left mounted.
type disk struct {
	dir   string // the tests' files, which are not on the disk
	image string
	mnt   string
}

// newDisk makes a disk, or skips the test where that cannot be done.
func newDisk(t *testing.T) *disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a power cut can be tried by root only, who may mount an ext4 and shut it down")
	}
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		if mkfs = "/usr/sbin/mkfs.ext4"; !isFile(mkfs) {
			t.Skip("a power cut cannot be tried without mkfs.ext4")
		}
	}
	if !isFile("/dev/loop-control") {
		t.Skip("a power cut cannot be tried without loop devices: there is no /dev/loop-control")
	}
	dir := t.TempDir()
	d := &disk{dir: dir, image: filepath.Join(dir, "image"), mnt: filepath.Join(dir, "mnt")}
	if err := os.Mkdir(d.mnt, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.image, 2<<30); err != nil { // it takes what is written to it
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs, "-q", "-F", d.image).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", mkfs, err, out)
	}
	return d
}

func isFile(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

const cannotMount = "cannot mount: "

// A diskChild is a process that has the disk mounted.
type diskChild struct {
	t    *testing.T
	disk *disk
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
	loop string // the device
}

// child runs a test of this binary in a process that has the disk mounted. The test
// begins with mountDisk.
func (d *disk) child(t *testing.T, test, role string, env ...string) *diskChild {
	t.Helper()
	c := &diskChild{t: t, disk: d, cmd: exec.Command(os.Args[0], "-test.run=^"+test+"$", "-test.v=false")}
	c.cmd.Env = append(append(os.Environ(), childEnv+"="+role, dirEnv+"="+d.dir), env...)
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); errors.Is(err, syscall.EPERM) {
		t.Skipf("a power cut cannot be tried without a mount namespace: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewScanner(out)
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
		c.released()
	})
	line := c.read("")
	if why, ok := strings.CutPrefix(line, cannotMount); ok {
		t.Skipf("a power cut cannot be tried where no ext4 can be mounted by a loop device: %s", why)
	}
	if _, err := fmt.Sscanf(line, "mounted %s", &c.loop); err != nil {
		t.Fatalf("the child says %q", line)
	}
	return c
}

// read returns the child's next line that begins so.
func (c *diskChild) read(prefix string) string {
	c.t.Helper()
	for c.out.Scan() {
		if line := c.out.Text(); strings.HasPrefix(line, prefix) {
			return line
		}
	}
	c.t.Fatalf("the child ended before it said %q: %v", prefix, c.cmd.Wait())
	return ""
}

// wait waits until the child has ended and the disk is free.
func (c *diskChild) wait() error {
	c.t.Helper()
	err := c.cmd.Wait()
	c.released()
	return err
}

// released waits until the kernel has unmounted what the child had mounted.
func (c *diskChild) released() {
	c.t.Helper()
	for end := time.Now().Add(time.Minute); c.loop != ""; time.Sleep(time.Millisecond) {
		file, err := os.ReadFile("/sys/block/" + filepath.Base(c.loop) + "/loop/backing_file")
		if err != nil || strings.TrimSpace(string(file)) != c.disk.image {
			return
		}
		if time.Now().After(end) {
			c.t.Errorf("%s still has %s", c.loop, c.disk.image)
			return
		}
	}
}

// mountDisk mounts the disk in the child. To mount it replays the journal, as after
// any power cut.
func mountDisk(dir string) (mnt string) {
	mnt = filepath.Join(dir, "mnt")
	loop, err := attach(filepath.Join(dir, "image"))
	if err == nil {
		err = syscall.Mount(loop.Name(), mnt, "ext4", 0, "")
		_ = loop.Close()
	}
	if err != nil {
		fmt.Println(cannotMount + err.Error())
		os.Exit(0)
	}
	fmt.Println("mounted", loop.Name())
	return mnt
}

func attach(image string) (loop *os.File, err error) {
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for range 100 { // somebody else may take the free one first
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("no loop device is free: %w", err)
		}
		if loop, err = os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0); err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &unix.LoopConfig{Fd: uint32(f.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}})
		if err == nil {
			return loop, nil
		}
		_ = loop.Close()
		if !errors.Is(err, syscall.EBUSY) {
			return nil, fmt.Errorf("%s: %w", loop.Name(), err)
		}
	}
	return nil, errors.New("no loop device is free for long")
}

// The ways in which a power cut meets ext4.
const (
	goingNow      = 2 // what the journal has not written is lost
	goingWithMeta = 1 // the journal is written, of data what was written before
)

// cutPower shuts the file system down, so that nothing more reaches the disk, and
// ends the process.
func cutPower(mnt string, how uint32) {
	const shutdown = 0x8004587d // EXT4_IOC_SHUTDOWN
	f, err := os.Open(mnt)
	if err == nil {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), shutdown, uintptr(unsafe.Pointer(&how))); errno != 0 {
			err = errno
		}
	}
	if err != nil {
		fmt.Println("not cut:", err)
	} else {
		fmt.Println("cut")
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}
