package posthorn

import "time"

// AuditEvery has tests not wait for minutes.
func AuditEvery(d time.Duration) Option {
	return option(func(o *options) { o.auditEvery = d })
}
