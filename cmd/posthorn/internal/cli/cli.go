// Package cli is the command posthorn.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/posthorn/posthorn"
)

// Main runs the command line of the process and returns its exit code.
func Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	return Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}

// Run runs a command line and returns its exit code. What it prints for the caller
// goes to out; errors, warnings and progress go to diag.
func Run(ctx context.Context, args []string, in io.Reader, out, diag io.Writer) int {
	a := &app{in: in, out: out, diag: diag}
	root := a.command()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(diag)
	c, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if !a.ran { // nothing has run yet: it is about the command line itself
		err = usage("%w; usage: %s, or see %s --help", err, c.UseLine(), c.CommandPath())
	}
	fmt.Fprintln(diag, "posthorn: "+oneLine(err))
	return exitCode(err)
}

// Tree returns the commands, for the page of documentation.
func Tree() *cobra.Command { return (&app{}).command() }

// An app is one run.
type app struct {
	in        io.Reader
	out, diag io.Writer
	url       string
	json      bool
	timeout   time.Duration
	ran       bool
}

// Exit codes. docs/cli.md lists them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitUnavailable = 4
	exitDenied      = 5
	exitConflict    = 6
	exitUnknown     = 7
)

// ExitCodes says what each exit code means, from 0 on.
var ExitCodes = []string{
	exitOK:          "done",
	exitFailed:      "failed, for a reason that has no number here",
	exitUsage:       "the command line, a name, a URL or a file cannot be read as it is",
	exitNotFound:    "the topic, group, event, store or file does not exist",
	exitUnavailable: "the broker cannot be reached, or did not answer in time",
	exitDenied:      "the right to do it is missing",
	exitConflict:    "it is at odds with what stands: a group at work, a store that another process has open, a declaration that differs",
	exitUnknown:     "an event may or may not be stored; publish it again with the same id",
}

func exitCode(err error) int {
	var usage *usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	switch posthorn.CodeOf(err) {
	case posthorn.CodeInvalid:
		return exitUsage
	case posthorn.CodeNotFound:
		return exitNotFound
	case posthorn.CodeUnavailable, posthorn.CodeTimeout, posthorn.CodeClosed:
		return exitUnavailable
	case posthorn.CodeDenied:
		return exitDenied
	case posthorn.CodeConflict, posthorn.CodeLocked:
		return exitConflict
	case posthorn.CodeUnknown:
		return exitUnknown
	}
	return exitFailed
}

// A usageError is a command line that cannot be carried out as it is.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usage(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// oneLine is an error's text without our prefix, which Run writes, without line
// breaks, and without what could move a terminal's cursor.
func oneLine(err error) string {
	text := strings.TrimPrefix(err.Error(), "posthorn: ")
	return plain(strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), "; "))
}

const about = `Posthorn shows what flows over a bus and mends what failed.

A command that looks at a broker takes the one that --url names, or the variable
POSTHORN_URL:

  embedded:./dir               a directory that no other process has open
  nats://127.0.0.1:4222        "posthorn serve", or a NATS server or cluster
  tls://nats.example.com:4222  the same, with TLS whether or not the server asks for it

Without either it is embedded:./posthorn-data, if that directory exists. For a
nats or tls URL without credentials, the variable POSTHORN_TOKEN is the token.

What is printed is for people; with --json it is one JSON object a line. Errors go
to standard error, and the exit code says what kind they are.`

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:           "posthorn",
		Short:         "See and operate a Posthorn bus",
		Long:          about + "\n\nExit codes:\n" + exitTable(),
		Args:          noSuchCommand,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(c *cobra.Command, _ []string) error {
			return c.Help()
		},
	}
	f := root.PersistentFlags()
	f.StringVar(&a.url, "url", "", "the broker (default: POSTHORN_URL, then embedded:./posthorn-data if it exists)")
	f.BoolVar(&a.json, "json", false, "print JSON, one object a line")
	f.DurationVar(&a.timeout, "timeout", 10*time.Second, "how long to wait for the broker, for each thing that is asked of it")
	root.CompletionOptions.DisableDefaultCmd = true // ours is completion.go's
	root.AddCommand(a.serve(), a.pub(), a.cancel(), a.tail(), a.topics(), a.groups(), a.dead(), a.why(), a.describe(), a.provision(), a.version(), a.completion())
	a.markRan(root)
	return root
}

// noSuchCommand refuses a word that is no command, and names what it may be meant for.
func noSuchCommand(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	root.SuggestionsMinimumDistance = 2
	if like := root.SuggestionsFor(args[0]); len(like) > 0 {
		return fmt.Errorf("unknown command %q, is it %s", args[0], strings.Join(like, " or "))
	}
	return fmt.Errorf("unknown command %q", args[0])
}

// markRan notes, for each command, that the command line was read: what comes after
// is no mistake in writing it.
func (a *app) markRan(c *cobra.Command) {
	if run := c.RunE; run != nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			a.ran = true
			if a.timeout <= 0 {
				return usage("--timeout is %v; it must be above zero", a.timeout)
			}
			return run(c, args)
		}
	}
	for _, sub := range c.Commands() {
		a.markRan(sub)
	}
}

func exitTable() string {
	var b strings.Builder
	for code, what := range ExitCodes {
		fmt.Fprintf(&b, "  %d  %s\n", code, what)
	}
	return strings.TrimRight(b.String(), "\n")
}
