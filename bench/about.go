package main

import (
	"fmt"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// about says where and of what figures are, a line each.
func about(l *lab, s *settings) []string {
	cpus := "cores"
	if runtime.NumCPU() == 1 {
		cpus = "core"
	}
	lines := []string{
		fmt.Sprintf("taken on %s, %d rounds", time.Now().UTC().Format(time.DateOnly), l.rounds),
		fmt.Sprintf("machine: %d %s (%s), shared by server, client and harness; the brokers store on %s", runtime.NumCPU(), cpus, system(), fileSystem(l.dir)),
		fmt.Sprintf("%s, GOMAXPROCS and GOGC at their defaults", runtime.Version()),
		"nats-server " + lastWord(l.bin.nats, "--version"),
	}
	if commit, err := exec.Command("git", "-C", s.root, "rev-parse", "--short", "HEAD").Output(); err == nil {
		lines = append(lines, "Posthorn at commit "+strings.TrimSpace(string(commit)))
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			switch dep.Path {
			case "github.com/nats-io/nats.go", "github.com/ThreeDotsLabs/watermill", "github.com/ThreeDotsLabs/watermill-nats/v2":
				lines = append(lines, strings.TrimPrefix(dep.Path, "github.com/")+" "+strings.TrimPrefix(dep.Version, "v"))
			}
		}
	}
	return lines
}
