//go:build !linux

package main

import (
	"os/exec"
	"runtime"
	"time"
)

// What Linux tells of processes is not known elsewhere: the figures that need it
// are left out.

func cpuTime(int) time.Duration { return 0 }
func resident(int) int64        { return 0 }
func endWithUs(*exec.Cmd)       {}
func settleDisk(string) error   { return nil }
func fileSystem(string) string  { return "an unknown file system" }
func system() string            { return runtime.GOOS }

type sleeper struct{}

func newSleeper() sleeper         { return sleeper{} }
func (sleeper) until(t time.Time) { time.Sleep(time.Until(t)) }
func (sleeper) close()            {}
