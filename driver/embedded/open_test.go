package embedded_test

import (
	"bufio"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/embedded"
)

func openURL(t *testing.T, s string) (driver.Driver, error) {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	opener, ok := driver.Lookup(embedded.Scheme)
	if !ok {
		t.Fatal("the scheme is not registered")
	}
	return opener(t.Context(), u, (&bed{t: t}).env())
}

func TestURLs(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for s, want := range map[string]string{
		"embedded:":                                "posthorn-data",
		"embedded:./a/b":                           "a/b",
		"embedded:rel":                             "rel",
		"embedded:./with%20space":                  "with space",
		"embedded:" + filepath.Join(dir, "abs"):    "abs",
		"embedded://" + filepath.Join(dir, "abs2"): "abs2",
	} {
		d, err := openURL(t, s)
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, want, "jetstream")); err != nil {
			t.Errorf("%s: %v", s, err)
		}
		if err := d.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{"embedded:./a?sync=no", "embedded:?x", "embedded://host/a", "embedded:./a#b", "embedded://u@/a"} {
		_, err := openURL(t, s)
		wantErr(t, err, driver.ErrInvalid, "embedded:./dir")
	}
}

func TestOneServerADirectory(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(b.dir, link); err != nil {
		t.Fatal(err)
	}
	b2 := open(t, link, embedded.Options{})
	b.topic("order", 1)
	b.close()
	b2.topic("order", 1)
	b2.mustPublish(order0, event("a", "k"))
	b2.close()
	_, err := embedded.Connect(t.Context(), b.dir)
	wantErr(t, err, driver.ErrNotFound, b.dir)
	_, err = b2.EnsureTopic(t.Context(), driver.TopicSpec{Name: "late", Partitions: 1})
	wantErr(t, err, driver.ErrClosed)
	if o := b2.publish(order0, event("b", "k"))[0]; o.State != driver.NotStored {
		t.Errorf("%+v", o)
	}
}

// TestAnotherProcess starts itself as the process that holds the directory.
func TestAnotherProcess(t *testing.T) {
	if dir := os.Getenv("EMBEDDED_TEST_HOLD"); dir != "" {
		d, err := embedded.Open(context.Background(), dir, embedded.Options{}, (&bed{t: t}).env())
		fmt.Println("open:", err)
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		if err == nil {
			_ = d.Close(context.Background())
		}
		return
	}
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestAnotherProcess$")
	cmd.Env = append(os.Environ(), "EMBEDDED_TEST_HOLD="+dir)
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "open: <nil>\n" {
		t.Fatal(line, err)
	}
	_, err := embedded.Open(t.Context(), dir, embedded.Options{}, (&bed{t: t}).env())
	wantErr(t, err, driver.ErrLocked, dir, fmt.Sprintf("pid %d", cmd.Process.Pid), "directory of its own")
	_, err = posthorn.Open(t.Context(), "embedded:"+dir, quiet())
	wantCode(t, err, posthorn.CodeLocked, dir, "pid", "directory of its own")
	if err := cmd.Process.Kill(); err != nil { // no chance to clean up
		t.Fatal(err)
	}
	in.Close()
	_ = cmd.Wait()
	open(t, dir, embedded.Options{}).topic("order", 1)
}

func TestDirectoryThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dirs := map[string]string{"a file": file, "below a file": filepath.Join(file, "x"), "of the kernel": "/proc/posthorn"}
	if ro := mount(t, "tmpfs", "ro"); ro != "" {
		dirs["read-only"] = ro
		dirs["below read-only"] = filepath.Join(ro, "x")
	}
	for what, dir := range dirs {
		_, err := embedded.Open(t.Context(), dir, embedded.Options{}, (&bed{t: t}).env())
		if what == "of the kernel" {
			if err == nil || !strings.Contains(err.Error(), dir) {
				t.Errorf("%s: %v", what, err)
			}
			continue
		}
		wantErr(t, err, driver.ErrDenied, dir, "choose another")
	}
	if os.Geteuid() != 0 {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
		_, err := embedded.Open(t.Context(), dir, embedded.Options{}, (&bed{t: t}).env())
		wantErr(t, err, driver.ErrDenied, dir)
	}
}

func TestInterruptedCreation(t *testing.T) {
	t.Parallel()
	b := fresh(t)
	for i := range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Duration(i)*500*time.Microsecond, cancel)
		name := fmt.Sprintf("t%d", i)
		_, _ = b.EnsureTopic(ctx, driver.TopicSpec{Name: name, Partitions: 8})
		cancel()
		b.topic(name, 8)
		for n := range 8 {
			b.mustPublish(driver.Partition{Topic: name, N: n}, event("a", "k"))
		}
	}
	if a, ok := b.alarm("messages_missing"); ok {
		t.Error(a)
	}
}
