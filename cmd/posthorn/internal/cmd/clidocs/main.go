// Clidocs writes docs/cli.md: every command of posthorn, from its own help.
package main

//go:generate go run . -root ../../../../..

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/posthorn/posthorn/cmd/posthorn/internal/cli"
)

func main() {
	root := flag.String("root", ".", "the folder of the repository")
	flag.Parse()
	if err := os.WriteFile(filepath.Join(*root, "docs", "cli.md"), Page(), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "clidocs:", err)
		os.Exit(1)
	}
}

// Page makes docs/cli.md from the commands.
func Page() []byte {
	root := cli.Tree()
	var b bytes.Buffer
	b.WriteString("<!-- Made from the commands by cmd/posthorn/internal/cmd/clidocs. To change it, change their help and run: make generate -->\n\n# The command posthorn\n\n")
	about, _, _ := strings.Cut(root.Long, "\n\nExit codes:")
	text(&b, about)
	all := commands(root)
	for _, c := range all {
		path := strings.TrimPrefix(c.CommandPath(), "posthorn ")
		fmt.Fprintf(&b, "- [%s](#%s): %s\n", path, slug("posthorn "+path), c.Short)
	}
	b.WriteString("\n## Exit codes\n\n| code | what it says |\n| --- | --- |\n")
	for code, what := range cli.ExitCodes {
		fmt.Fprintf(&b, "| %d | %s |\n", code, what)
	}
	b.WriteString("\n## Flags of every command\n\n")
	flags(&b, root.PersistentFlags())
	for _, c := range all {
		command(&b, c)
	}
	return b.Bytes()
}

// commands lists all commands below one, by their names.
func commands(c *cobra.Command) []*cobra.Command {
	var all []*cobra.Command
	for _, sub := range c.Commands() {
		if sub.Name() == "help" {
			continue
		}
		all = append(append(all, sub), commands(sub)...)
	}
	return all
}

func slug(heading string) string { return strings.ReplaceAll(heading, " ", "-") }

func command(b *bytes.Buffer, c *cobra.Command) {
	fmt.Fprintf(b, "\n## %s\n\n", c.CommandPath())
	fence(b, strings.TrimSuffix(c.UseLine(), " [flags]"))
	text(b, c.Long)
	if c.LocalNonPersistentFlags().HasFlags() {
		flags(b, c.LocalNonPersistentFlags())
		b.WriteString("\n")
	}
	b.WriteString("For example:\n\n")
	fence(b, unindent(c.Example))
	b.Truncate(b.Len() - 1)
}

// text writes help as Markdown: what is indented there stands as it is.
func text(b *bytes.Buffer, help string) {
	for part := range strings.SplitSeq(help, "\n\n") {
		if strings.HasPrefix(part, "  ") {
			fence(b, unindent(part))
			continue
		}
		b.WriteString(strings.ReplaceAll(part, "\n", " ") + "\n\n")
	}
}

func unindent(s string) string {
	return strings.TrimPrefix(strings.ReplaceAll(s, "\n  ", "\n"), "  ")
}

func fence(b *bytes.Buffer, s string) { b.WriteString("```text\n" + s + "\n```\n\n") }

func flags(b *bytes.Buffer, set *pflag.FlagSet) {
	b.WriteString("| flag | default | what it says |\n| --- | --- | --- |\n")
	set.VisitAll(func(f *pflag.Flag) {
		if f.Name == "help" {
			return
		}
		def := f.DefValue
		switch def {
		case "", "false", "0", "0s", "[]":
			def = ""
		default:
			def = "`" + def + "`"
		}
		fmt.Fprintf(b, "| `--%s` | %s | %s |\n", f.Name, def, strings.ReplaceAll(f.Usage, "|", `\|`))
	})
}
