// Posthorn shows what flows over a bus and mends what failed; its command serve is
// a broker for other processes.
package main

import (
	"os"

	"github.com/posthorn/posthorn/cmd/posthorn/internal/cli"
)

func main() { os.Exit(cli.Main()) }
