package jetstream

import (
	"context"

	"github.com/posthorn/posthorn/driver"
)

// Group asks the leader: who was told of a newer record must not get an older one.
func (d *jsDriver) Group(ctx context.Context, name string) (driver.GroupSpec, error) {
	if err := d.usable(); err != nil {
		return driver.GroupSpec{}, err
	}
	var r groupRecord
	rev, err := d.getRecordNow(ctx, d.names.group(name), &r)
	if err == nil && rev == 0 {
		err = noGroup(name)
	}
	return r.Spec, err
}

func (d *jsDriver) PauseGroup(ctx context.Context, name, why string) (driver.GroupSpec, error) {
	if err := d.usable(); err != nil {
		return driver.GroupSpec{}, err
	}
	r, err := updateRecord(ctx, d, d.names.group(name), func(r *groupRecord, exists bool) (bool, error) {
		if !exists {
			return false, noGroup(name)
		}
		if r.Spec.Paused = why; why == "" {
			r.Spec.Resumes++
		}
		return true, nil
	})
	if err != nil {
		return r.Spec, err
	}
	d.announce(name, "")
	return r.Spec, d.syncs.wait(ctx)
}

// NudgeGroup need not be durable: after a power cut there is no holder left to be
// told.
func (d *jsDriver) NudgeGroup(ctx context.Context, name string) error {
	if err := d.usable(); err != nil {
		return err
	}
	_, err := updateRecord(ctx, d, d.names.group(name), func(r *groupRecord, exists bool) (bool, error) {
		if !exists {
			return false, noGroup(name)
		}
		r.Spec.Nudges++
		return true, nil
	})
	d.announce(name, "")
	return err
}
