//go:build unix && !linux

package processes

const idleEnv = "POSTHORN_TEST_IDLE"

func runIdle(string) int { return 2 }
