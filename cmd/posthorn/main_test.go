package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/posthorn/posthorn/cmd/posthorn/internal/cli"
	"github.com/posthorn/posthorn/internal/leaktest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"posthorn": func() { os.Exit(withoutLeaks(cli.Main())) },
		"service":  func() { os.Exit(service()) },
	})
}

// withoutLeaks fails a run that leaves goroutines behind.
func withoutLeaks(code int) int {
	if left := leaktest.Wait(10 * time.Second); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "goroutines are left:\n%s\n", strings.Join(left, "\n\n"))
		return 99
	}
	return code
}

// bound is how long a script waits for something to come true.
const bound = 60 * time.Second

// TestScripts runs a script for each command, and for the errors that its user is
// likely to meet. "posthorn" there is the real command, "service" a service with a
// group: see service_test.go. Beside what testscript has, there are
//
//	exits CODE COMMAND ARG...     runs a command that has to end with the code
//	until REGEXP COMMAND ARG...   runs a command until what it prints matches
//	served VAR FILE               waits for a file and puts its text into a variable
//	health CODE REGEXP            asks for the health that $SERVE names, the JSON that serve prints
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(e *testscript.Env) error {
			e.Setenv("POSTHORN_URL", "")
			e.Setenv("POSTHORN_TOKEN", "")
			e.Setenv("GORACE", "atexit_sleep_ms=0") // or each command takes a second more with the race detector
			e.Setenv("TOMORROW", time.Now().Add(24*time.Hour).UTC().Format(time.RFC3339))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "until": until, "served": served, "health": health},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARG...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if exit, ok := err.(*exec.ExitError); ok {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if want, err := strconv.Atoi(args[0]); err != nil || code != want {
		ts.Fatalf("exit code %d, wanted %s", code, args[0])
	}
}

func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until REGEXP COMMAND ARG...")
	}
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && want.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Since(began) > bound {
			ts.Fatalf("not within %v: %s (%v)", bound, args[0], err)
		}
	}
}

func served(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: served VAR FILE")
	}
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(ts.MkAbs(args[1]))
		if err == nil && len(text) > 0 {
			ts.Setenv(args[0], strings.TrimSpace(string(text)))
			return
		}
		if time.Since(began) > bound {
			ts.Fatalf("not within %v: %s: %v", bound, args[1], err)
		}
	}
}

func health(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: health CODE REGEXP")
	}
	var serve struct{ Health string }
	ts.Check(json.Unmarshal([]byte(ts.Getenv("SERVE")), &serve))
	resp, err := http.Get(serve.Health)
	ts.Check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	if got := strconv.Itoa(resp.StatusCode); got != args[0] || !regexp.MustCompile("(?m)"+args[1]).Match(body) {
		ts.Fatalf("%s: %s", got, body)
	}
	http.DefaultClient.CloseIdleConnections()
}
