package driver

import "errors"

// What an error of a driver means. Drivers wrap them with what they know.
var (
	// ErrUnavailable: the broker cannot be reached or does not answer now.
	ErrUnavailable = errors.New("broker unavailable")
	// ErrNotNow, beside ErrUnavailable: it is expected to pass soon by itself, as
	// when a cluster chooses a leader or a connection is made anew. Messages that
	// are not stored for this reason the core hands over again, until their deadline.
	ErrNotNow = errors.New("not at this moment")
	// ErrNotFound: a topic, group, directory or record does not exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict: an entry has another revision than the one named.
	ErrConflict = errors.New("changed by somebody else")
	// ErrLost: the tenure has ended.
	ErrLost = errors.New("partition lost")
	// ErrSubscription: the group's subscription has grown; see Tenure.Checkpoint.
	ErrSubscription = errors.New("subscription has grown")
	// ErrTooLarge: the broker takes no message of this size.
	ErrTooLarge = errors.New("message too large")
	// ErrNoSpace: the broker has no room left on its disk.
	ErrNoSpace = errors.New("no space left")
	// ErrTopicFull: the topic has reached its declared size.
	ErrTopicFull = errors.New("topic full")
	// ErrDenied: the broker or the file system refuses the right to do it.
	ErrDenied = errors.New("permission denied")
	// ErrLocked: another process holds what only one may hold.
	ErrLocked = errors.New("held by another process")
	// ErrMismatch: what stands on the broker is not what was declared.
	ErrMismatch = errors.New("not as declared")
	// ErrInvalid: a URL, an option or a name is not acceptable.
	ErrInvalid = errors.New("invalid")
	// ErrClosed: the driver has been closed.
	ErrClosed = errors.New("closed")
)
