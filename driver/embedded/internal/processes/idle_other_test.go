//go:build unix && !linux

package processes

const idleEnv = "POSTHORN_TEST_IDLE"

func runIdle(string) int { return 2 }

const memoryEnv = "POSTHORN_TEST_MEMORY"

func runMemory(string) int { return 2 }
