package processes

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
	"github.com/posthorn/posthorn/driver/embedded/natstest"
)

const (
	idleEnv    = "POSTHORN_TEST_IDLE" // the URL
	idleTopics = 10
)

// runIdle is the main function of a member of a group on ten topics that nobody
// publishes to.
func runIdle(url string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	bus, err := posthorn.Open(ctx, url, posthorn.Service("idle"), posthorn.Logger(slog.New(slog.DiscardHandler)))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	g := bus.Group("idle", posthorn.GroupConfig{})
	for i := range idleTopics {
		g.HandleRaw(fmt.Sprintf("topic%d.made", i), func(context.Context, *posthorn.Delivery) error { return nil })
	}
	if err := g.Start(ctx); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	<-ctx.Done()
	if err := bus.Close(context.Background()); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("stopped: <nil>")
	return 0
}

// BenchmarkIdle tells what three members of a group on 10 topics of 8 partitions
// cost when nothing is published, at the default lease: messages and bytes a
// second at the server, CPU in thousandths of a core, and resident memory.
func BenchmarkIdle(b *testing.B) {
	s := natstest.Start(b, natstest.Options{})
	url := s.URL() + "?durability=server"
	var pids []int
	var members []*process
	for range 3 {
		p := start(b, idleEnv+"="+url)
		p.await(b, "ready")
		members = append(members, p)
		pids = append(pids, p.cmd.Process.Pid)
	}
	time.Sleep(15 * time.Second) // what the start itself costs is not meant
	const window = 30 * time.Second
	before, cpuServer, cpuMembers := s.Traffic(), cpuTime(b, s.PID()), time.Duration(0)
	for _, pid := range pids {
		cpuMembers -= cpuTime(b, pid)
	}
	begun := time.Now()
	time.Sleep(window)
	seconds := time.Since(begun).Seconds()
	after := s.Traffic()
	for _, pid := range pids {
		cpuMembers += cpuTime(b, pid)
	}
	b.ReportMetric(float64(after.InMsgs-before.InMsgs)/seconds, "msgs-in/s")
	b.ReportMetric(float64(after.OutMsgs-before.OutMsgs)/seconds, "msgs-out/s")
	b.ReportMetric(float64(after.InBytes-before.InBytes)/seconds, "bytes-in/s")
	b.ReportMetric(float64(after.OutBytes-before.OutBytes)/seconds, "bytes-out/s")
	b.ReportMetric((cpuTime(b, s.PID())-cpuServer).Seconds()*1000/seconds, "server-mcpu")
	b.ReportMetric(cpuMembers.Seconds()*1000/seconds/float64(len(pids)), "member-mcpu")
	b.ReportMetric(resident(b, s.PID()), "server-MiB")
	b.ReportMetric(resident(b, pids[0]), "member-MiB")
	b.ReportMetric(0, "ns/op")
	for _, p := range members {
		p.signal(b, syscall.SIGTERM)
		p.await(b, "stopped")
	}
}

// cpuTime is what a process has used of the CPU, in user and system mode.
func cpuTime(t testing.TB, pid int) time.Duration {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	var ticks int
	for _, s := range f[11:13] {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100 // USER_HZ
}

// resident is a process's resident memory in MiB.
func resident(t testing.TB, pid int) float64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(data))[1])
	if err != nil {
		t.Fatal(err)
	}
	return float64(pages*os.Getpagesize()) / (1 << 20)
}
