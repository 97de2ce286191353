// Errors writes docs/errors.md: a table of all error codes, made from the comments
// of the constants Code* of the root package, and one of all alarms, made from those
// of the constants Alarm* of package driver.
package main

//go:generate go run . -root ../../..

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	root := flag.String("root", ".", "the folder of the repository")
	flag.Parse()
	page, err := Page(*root)
	if err == nil {
		err = os.WriteFile(filepath.Join(*root, "docs", "errors.md"), page, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "errors:", err)
		os.Exit(1)
	}
}
