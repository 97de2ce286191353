package embedded_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/posthorn/posthorn/driver"
	"github.com/posthorn/posthorn/driver/embedded"
)

// TestDeletedStaysDeleted kills a process after it has replaced and deleted what
// the store holds one of a name of: after a crash the server no longer knows what
// a limit of a stream has removed, only what was deleted.
func TestDeletedStaysDeleted(t *testing.T) {
	if os.Getenv(childEnv) == "delete" {
		deleteAndDie(t, os.Getenv(dirEnv))
		return
	}
	t.Parallel()
	dir := t.TempDir()
	cmd, out := child(t, "TestDeletedStaysDeleted", "delete", dir)
	deleted := false
	for out.Scan() {
		deleted = deleted || out.Text() == "all is deleted"
	}
	_ = cmd.Wait()
	if !deleted {
		t.Fatal("the child has not come to its end")
	}
	b := open(t, dir, embedded.Options{})
	if es := scan(t, b.Lane("g", order0), 10); len(es) > 0 {
		t.Errorf("deleted entries are there again: %+v", es)
	}
	groups, err := b.Groups(t.Context())
	if err != nil || len(groups) != 1 || len(groups[0].Types) != 1 {
		t.Errorf("a group that was removed is there again: %+v, %v", groups, err)
	}
	b.group("g", driver.StartAt{Now: true}, "stock")
	b.group("h", driver.StartAt{Now: true}, "order")
	for _, g := range []string{"g", "h"} {
		ps, err := b.Positions(t.Context(), g)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range ps {
			if (g == "h" || p.Topic == "stock") && (p.Floor != 5 || p.Lag != 0) {
				t.Errorf("group %s begins now, and where it was before: %+v", g, p)
			}
		}
	}
}

func deleteAndDie(t *testing.T, dir string) {
	b := open(t, dir, embedded.Options{})
	for _, topic := range []string{"order", "stock"} {
		b.topic(topic, 1)
		b.mustPublish(driver.Partition{Topic: topic}, events(topic, 5)...)
	}
	b.group("g", driver.StartAt{}, "order")
	b.group("g", driver.StartAt{}, "stock")
	b.group("h", driver.StartAt{}, "order")
	b.group("h", driver.StartAt{}, "stock")
	m, _ := b.join("g", "order", "stock")
	for range 2 {
		tn := m.next(t)
		for floor := range uint64(3) {
			if err := tn.Checkpoint(t.Context(), driver.Checkpoint{Floor: floor, Mark: floor}); err != nil {
				t.Fatal(err)
			}
		}
		for order := range uint64(3) {
			e := entry("k", order, driver.Boot)
			for range order + 1 {
				apply(t, tn.Lane(), put(e))
			}
			apply(t, tn.Lane(), []driver.LaneOp{{Entry: e, Delete: true}})
		}
	}
	out := b.Lane("g", order0)
	e := entry("x", 1, driver.Due)
	apply(t, out, put(e))
	apply(t, out, put(e))
	apply(t, out, []driver.LaneOp{{Entry: e, Delete: true}})
	if err := b.DropTypes(t.Context(), "g", []string{"stock.made"}); err != nil {
		t.Fatal(err)
	}
	if err := b.RemoveGroup(t.Context(), "h"); err != nil {
		t.Fatal(err)
	}
	fmt.Println("all is deleted")
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	_ = self.Kill()
	select {}
}
