package drivertest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/posthorn/posthorn"
)

var randomCases = []Case{
	{Name: "random/stops", Promise: "L O A U", Doc: "random outcomes, keys, windows and clean restarts: the log keeps the promises, and nothing is repeated", run: func(r *rig) { random(r, false) }},
	{Name: "random/kills", Promise: "L O A U", Doc: "random outcomes, keys, windows and kills: the log keeps the promises", run: func(r *rig) { random(r, true) }},
}

// A fate is what a handler does with an item, and how the item has to end.
type fate uint8

const (
	fateOK fate = iota
	fateFails
	fatePanics
	fateWaits
	fatePermanent
	fateNever
)

// fateOf draws the fate of an item, the same at each attempt.
func fateOf(seed uint64, n int) (fate, int) {
	rnd := rand.New(rand.NewPCG(seed, uint64(n)))
	until := 2 + rnd.IntN(4)
	switch p := rnd.IntN(100); {
	case p < 76:
		return fateOK, 1
	case p < 86:
		return fateFails, until
	case p < 90:
		return fatePanics, until
	case p < 94:
		return fateWaits, until
	case p < 97:
		return fatePermanent, 0
	}
	return fateNever, 0
}

func (r *rig) fated(ctx context.Context, e *posthorn.Event[item]) error {
	if n := e.Data.N % 8; n < 3 {
		time.Sleep(time.Duration(n) * 150 * time.Microsecond)
	}
	switch f, until := fateOf(r.seed, e.Data.N); {
	case f == fatePermanent:
		return posthorn.Permanent(errHandler)
	case f == fateNever, f == fateFails && e.Attempt < until:
		return errHandler
	case f == fatePanics && e.Attempt < until:
		panic("on purpose")
	case f == fateWaits && e.Attempt < until:
		return posthorn.RetryAfter(errHandler, 3*time.Millisecond)
	}
	return ctx.Err()
}

func random(r *rig, kills bool) {
	rounds, batches := 5, 12
	if testing.Short() || r.broken != nil {
		rounds, batches = 3, 8
	}
	made := r.kind(r.topic("random", 1+r.rnd.IntN(4)), "made")
	all := keys(4 + r.rnd.IntN(20))
	cfgs := map[string]posthorn.GroupConfig{}
	for _, g := range []string{"g1", "g2"} {
		cfg := quick()
		cfg.Concurrency = 1 + r.rnd.IntN(12)
		cfg.Window = 8 << r.rnd.IntN(6)
		cfg.Retry.Attempts = 1 + r.rnd.IntN(3)
		cfg.Retry.Late = 6 - cfg.Retry.Attempts
		cfg.Boots = 1000 // who was in flight at a kill is not to be quarantined here
		cfgs[g] = cfg
	}
	for range rounds {
		n := r.open()
		for g, cfg := range cfgs {
			n.listen(g, cfg, r.fated, made)
		}
		published := make(chan struct{})
		sizes := make([]int, batches)
		for i := range sizes {
			sizes[i] = 1 + r.rnd.IntN(60)
		}
		hot := all[r.rnd.IntN(len(all))]
		pick := rand.New(rand.NewPCG(r.seed, uint64(n.n)+1<<40))
		go func() {
			defer close(published)
			for _, size := range sizes {
				items := r.items(size, all...)
				for i := range items {
					if items[i].K = all[pick.IntN(len(all))]; pick.IntN(3) == 0 {
						items[i].K = hot
					}
				}
				if n.tryPublish(made, items...) != nil {
					return
				}
			}
		}()
		if !kills {
			<-published
			n.close()
			continue
		}
		least := r.log.count(opEffect, "g1") + r.rnd.IntN(150)
		r.eventually("there is work under way", func() bool {
			select {
			case <-published:
				return true
			default:
				return r.log.count(opEffect, "g1") >= least
			}
		})
		n.cutOff()
		<-published
		n.bury()
	}
	n := r.open()
	for g, cfg := range cfgs {
		n.listen(g, cfg, r.fated, made)
	}
	for g := range cfgs {
		n.ended(g)
		n.settled(g)
		r.checkFates(g, kills)
	}
}

func (r *rig) checkFates(group string, kills bool) {
	r.Helper()
	dead, done := r.log.items(opDead, group), r.log.items(opEffect, group)
	bad := 0
	for _, o := range r.log.of(opConfirmed, "") {
		f, _ := fateOf(r.seed, o.n)
		wantDead := f == fatePermanent || f == fateNever
		what := ""
		switch {
		case wantDead && done[o.n] > 0:
			what = "has an effect and was to be a dead letter"
		case !wantDead && dead[o.n] > 0:
			what = "is a dead letter and was to have an effect"
		case dead[o.n] > 1:
			what = fmt.Sprintf("is %d dead letters", dead[o.n])
		case !kills && done[o.n] > 1:
			what = fmt.Sprintf("has %d effects without a kill", done[o.n])
		}
		if what != "" {
			if bad++; bad <= 5 {
				r.Errorf("group %s: item %d (key %s, id %s) %s", group, o.n, o.key, o.id, what)
			}
		}
	}
}
