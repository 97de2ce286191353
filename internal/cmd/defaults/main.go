// Defaults writes docs/defaults.md: a table of every default, made from the
// constants Default* and from the comments of the fields and options that they
// belong to. It refuses a comment that says another default than the constant.
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
		err = os.WriteFile(filepath.Join(*root, "docs", "defaults.md"), page, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "defaults:", err)
		os.Exit(1)
	}
}
