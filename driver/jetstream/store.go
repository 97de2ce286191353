package jetstream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/posthorn/posthorn/driver"
)

// A storeRecord tells stores apart: it is written once, when a store is new.
type storeRecord struct {
	format
	ID   string    `json:"id"`
	Made time.Time `json:"made"`
}

func (n names) store() string { return n.subjects + ".s.store" }

// openStore makes the state stream if the store is new, and learns which store it
// is.
func (d *jsDriver) openStore(ctx context.Context) error {
	want := d.stateConfig()
	info, err := d.streamInfo(ctx, want.Name)
	if errors.Is(err, driver.ErrNotFound) {
		if err := d.mustBeNew(ctx); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	info, _, err = d.openStream(ctx, want)
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.replicas = max(info.Config.Replicas, 1)
	d.mu.Unlock()
	r, err := updateRecord(ctx, d, d.names.store(), func(r *storeRecord, exists bool) (bool, error) {
		if !exists {
			*r = storeRecord{format: format{stateFormat}, ID: rand.Text(), Made: d.env.Now().UTC()}
		}
		return !exists, nil
	})
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.storeID = r.ID
	d.mu.Unlock()
	return d.syncs.wait(ctx)
}

// mustBeNew refuses to begin with an empty record of positions beside streams
// that hold events: all groups would be new.
func (d *jsDriver) mustBeNew(ctx context.Context) error {
	all, err := d.streamNames(ctx)
	if err != nil {
		if errors.Is(err, driver.ErrDenied) {
			return nil // who may not look will not be allowed to create either
		}
		return err
	}
	for _, name := range all {
		_, partition := d.names.parsePartition(name)
		if !partition && !strings.HasPrefix(name, d.names.streams+"-L-") {
			continue
		}
		if _, err := d.streamInfo(ctx, d.names.state()); !errors.Is(err, driver.ErrNotFound) {
			return err // it was being made by somebody else
		}
		return fmt.Errorf("stream %s is gone from %s, though %s and others stand: without it each group would be new and begin anywhere; "+
			"restore it from a copy, or delete the other streams (%s-T-..., %s-L-...) to begin anew: %w",
			d.names.state(), d.opts.Store, name, d.names.streams, d.names.streams, driver.ErrMismatch)
	}
	return nil
}

// checkStore finds out whether the server still has the store that was opened.
// ErrMismatch says that it has not; from then on everything is refused, until it
// has again.
func (d *jsDriver) checkStore(ctx context.Context) error {
	ctx = context.WithValue(ctx, pastGate{}, true)
	var r storeRecord
	_, err := d.getRecordNow(ctx, d.names.store(), &r)
	if err != nil && !errors.Is(err, driver.ErrNotFound) {
		return err
	}
	d.mu.Lock()
	id := d.storeID
	d.mu.Unlock()
	if id == "" { // being opened
		return nil
	}
	if r.ID == id {
		d.setForeign(nil)
		d.alarms.clear("store_changed", d.opts.Store, "the store that was opened is there again")
		return nil
	}
	found := "an id of " + r.ID
	if r.ID == "" {
		found = "no store of ours"
	}
	err = fmt.Errorf("the server at %s has %s, and the store that was opened has the id %s: these are two clusters, or %s was deleted or replaced: "+
		"nothing is published or handled; see to the servers in the URL, or restore the stream, or restart this service to use what is there now: %w",
		d.opts.Store, found, id, d.names.state(), driver.ErrMismatch)
	d.setForeign(err)
	d.alarms.raise("store_changed", d.opts.Store, err.Error())
	return err
}

func (d *jsDriver) setForeign(err error) {
	d.mu.Lock()
	d.foreign = err
	d.mu.Unlock()
}
