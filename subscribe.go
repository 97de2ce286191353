package posthorn

import (
	"context"
	"slices"

	"github.com/posthorn/posthorn/driver"
)

// Subscribe starts a group of one handler, for events of one type without a
// definition, and returns when it is registered. It runs until ctx ends or the bus is
// closed, with the defaults of [GroupConfig]: a group that is new begins at the
// beginning of what is kept. The topic is the one that the name says. It is meant for
// the first five minutes and for foreign messages; a group of several types is made by
// [Bus.Group]. A group of the name that this bus has started already is an error with
// CodeConflict.
func (b *Bus) Subscribe(ctx context.Context, name, group string, h Handler, opts ...HandleOption) error {
	g := b.Group(group, GroupConfig{})
	g.HandleRaw(name, h, opts...)
	if err := g.Start(ctx); err != nil {
		return err
	}
	b.work.Add(1)
	go func() {
		defer b.work.Done()
		select {
		case <-ctx.Done():
			if err := g.Stop(context.WithoutCancel(ctx)); err != nil {
				b.log.Error("subscription not stopped cleanly", "group", group, "error", err)
			}
		case <-g.ended:
		}
	}()
	return nil
}

// Unsubscribe removes event types from a group's recorded subscription. Events
// of these types that the group has not handled are skipped and counted from then
// on, also by members that run. A member that has a handler for one of them subscribes
// the group again when it is started. A group or subscription that is not there is an
// error with CodeNotFound.
func (b *Bus) Unsubscribe(ctx context.Context, group string, types ...string) error {
	if err := checkName("group", group, maxGroupName); err != nil {
		return err
	}
	for _, t := range types {
		if err := checkName("event type", t, maxTypeName); err != nil {
			return err
		}
	}
	groups, err := b.drv.Groups(ctx)
	if err != nil {
		return wrapf(err, "unsubscribe group %q", group)
	}
	for _, g := range groups {
		if g.Name != group {
			continue
		}
		for _, t := range types {
			if !slices.Contains(g.Types[topicOfType(g, t)], t) {
				return errorf(CodeNotFound, "group %q is not subscribed to %q; its types are %q", group, t, typesOf(g))
			}
		}
		if err := b.drv.DropTypes(ctx, group, types); err != nil {
			return wrapf(err, "unsubscribe group %q", group)
		}
		return nil
	}
	return errorf(CodeNotFound, "group %q is not registered on this broker", group)
}

// typesOf lists what a group is subscribed to.
func typesOf(g driver.GroupSpec) []string {
	types := []string{}
	for _, t := range g.Types {
		types = append(types, t...)
	}
	slices.Sort(types)
	return types
}

func topicOfType(g driver.GroupSpec, name string) string {
	for topic, types := range g.Types {
		if slices.Contains(types, name) {
			return topic
		}
	}
	return ""
}
