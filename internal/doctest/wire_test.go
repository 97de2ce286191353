package doctest

import (
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/posthorn/posthorn/driver"
)

// The table of hashes in docs/wire.md is what others test their publishers with.
func TestHashTable(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root(t), "docs", "wire.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| `([0-9a-f]{16})` \\| (\\d+) \\| (\\d+) \\| (\\d+) \\|$").FindAllStringSubmatch(string(page), -1)
	if len(rows) < 5 {
		t.Fatalf("the table has %d rows of the known form", len(rows))
	}
	for _, r := range rows {
		h := fnv.New64a()
		h.Write([]byte(r[1]))
		want := fmt.Sprintf("%016x", h.Sum64())
		if r[2] != want {
			t.Errorf("hash of %q: the page says %s, it is %s", r[1], r[2], want)
		}
		for i, n := range []int{4, 8, 12} {
			if got := fmt.Sprint(driver.PartitionOf(r[1], n)); r[3+i] != got {
				t.Errorf("partition of %q of %d: the page says %s, it is %s", r[1], n, r[3+i], got)
			}
		}
	}
}
