package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// binaries are the programs that are run or looked at, by their paths.
type binaries struct {
	nats     string // the NATS server, in the version of go.mod
	posthorn string // cmd/posthorn
	hello    string // examples/hello: a bus with the embedded driver
	ours     string // a bus with the driver for NATS servers
	raw      string // the raw client alone
}

// build builds all of them into dir. root is the folder of the repository.
func build(ctx context.Context, root, dir string) (*binaries, error) {
	b := &binaries{}
	for _, p := range []struct {
		into        *string
		name        string
		module, pkg string
	}{
		{&b.nats, "nats-server", "bench", "github.com/nats-io/nats-server/v2"},
		{&b.posthorn, "posthorn", "cmd/posthorn", "."},
		{&b.hello, "hello", "examples", "./hello"},
		{&b.ours, "size-posthorn", "bench", "./size/posthorn"},
		{&b.raw, "size-raw", "bench", "./size/raw"},
	} {
		*p.into = filepath.Join(dir, p.name)
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", *p.into, p.pkg)
		cmd.Dir = filepath.Join(root, filepath.FromSlash(p.module))
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build %s: %w\n%s", p.name, err, out)
		}
	}
	return b, nil
}

// version is what a program says to --version or the like, its last word.
func lastWord(path string, args ...string) string {
	out, err := exec.Command(path, args...).Output()
	words := strings.Fields(string(out))
	if err != nil || len(words) == 0 {
		return "of an unknown version"
	}
	return strings.TrimPrefix(words[len(words)-1], "v")
}

func fileSize(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
