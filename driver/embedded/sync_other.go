//go:build !linux

package embedded

import "os"

// syncAlways makes the server sync each message by itself.
const syncAlways = true

func syncStore(*os.File) error { return nil }
