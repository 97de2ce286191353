package posthorn

import "sync/atomic"

// Stats counts what a bus has done since it was opened.
type Stats struct {
	Published  int64 // events confirmed as stored
	Delayed    int64 // of those, the ones that are published later
	Moved      int64 // delayed events that this bus has published when they were due
	NotStored  int64 // events that were refused
	Unknown    int64 // events whose outcome is unknown
	Alarms     int64 // alarms raised
	Started    int64 // starts of handlers
	Handled    int64 // deliveries that a handler settled with nil
	Retried    int64 // attempts that failed and are to be repeated, in memory or late
	Late       int64 // of those, the ones that went through the lane
	Dead       int64 // dead letters, quarantined ones among them
	Quarantine int64 // dead letters for killing their process
	Skipped    int64 // deliveries outside of a subscription, or skipped by a handler
	Expired    int64 // deliveries that were past their expiry
	Parked     int64 // deliveries that went to the lane behind others of their key
	Abandoned  int64 // handlers that ignored their deadline
}

type counters struct {
	published, notStored, unknown, alarms         atomic.Int64
	delayed, moved                                atomic.Int64
	started, handled, retried, late, dead         atomic.Int64
	quarantine, skipped, expired, parked, abandon atomic.Int64
}

// Stats returns the counts of this bus, all of its groups together.
func (b *Bus) Stats() Stats {
	c := &b.count
	return Stats{
		Published:  c.published.Load(),
		Delayed:    c.delayed.Load(),
		Moved:      c.moved.Load(),
		NotStored:  c.notStored.Load(),
		Unknown:    c.unknown.Load(),
		Alarms:     c.alarms.Load(),
		Started:    c.started.Load(),
		Handled:    c.handled.Load(),
		Retried:    c.retried.Load(),
		Late:       c.late.Load(),
		Dead:       c.dead.Load(),
		Quarantine: c.quarantine.Load(),
		Skipped:    c.skipped.Load(),
		Expired:    c.expired.Load(),
		Parked:     c.parked.Load(),
		Abandoned:  c.abandon.Load(),
	}
}

// groupCounts is what the engine sees of the counters.
type groupCounts counters

func (c *groupCounts) Started()      { c.started.Add(1) }
func (c *groupCounts) Handled(n int) { c.handled.Add(int64(n)) }
func (c *groupCounts) Retried(late bool) {
	c.retried.Add(1)
	if late {
		c.late.Add(1)
	}
}
func (c *groupCounts) Dead(quarantined bool) {
	c.dead.Add(1)
	if quarantined {
		c.quarantine.Add(1)
	}
}
func (c *groupCounts) Skipped(n int) { c.skipped.Add(int64(n)) }
func (c *groupCounts) Expired()      { c.expired.Add(1) }
func (c *groupCounts) Parked()       { c.parked.Add(1) }
func (c *groupCounts) Abandoned()    { c.abandon.Add(1) }
