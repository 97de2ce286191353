// Package driver is the seam between Posthorn and a broker.
//
// Users never see it: they open a bus by URL and hold a *posthorn.Bus. A broker
// is joined to Posthorn by implementing [Driver] and registering the scheme of
// its URLs, as database/sql does it:
//
//	func init() { driver.Register("memory", open) }
//
// # Who owns what
//
// The core owns all that must be the same everywhere: encoding, batching,
// limits, scheduling per key, attempts and retries, what a lane entry says,
// timeouts, drain, retention. A driver owns what differs from broker to broker:
// to store a batch durably and say of each message whether it is stored, to give
// partitions to members behind a fence, to hand out deliveries, to record how far
// a group has come, to keep lanes, to create topology and describe it.
//
// A driver retries nothing by itself: it does not know whether a repetition
// would break an order. What it cannot do it declares in [Caps]; the core then
// refuses what needs it, and the suite in package drivertest holds the driver to
// all the rest.
package driver

import (
	"context"
	"log/slog"
	"math/bits"
	"time"
)

// An Env is what the core lends to a driver for as long as it is open.
type Env struct {
	// Service is the name of the service that opened the bus.
	Service string
	// Member names this opening of the bus among all others, in records and for
	// people: service, host, process and something random.
	Member string
	// Log is never nil.
	Log *slog.Logger
	// Alarm raises or clears an alarm. It never blocks and is never nil.
	Alarm func(Alarm)
	// Now is the wall clock. It is never nil. It is for what is told to people or
	// compared with times that others have written. How long something takes, a
	// lease above all, is measured with a monotonic clock, which Now need not have.
	Now func() time.Time
}

// An Alarm is something that a person must know of. The core turns it into an
// error log, a reason of ill health, a counter and a call of the user's hook.
type Alarm struct {
	// Code names the kind of alarm, "sync_failed".
	Code string
	// Thing names what it is about: a topic, a group, a directory.
	Thing string
	// Text says what happened, what it means and what to do.
	Text string
	// Cleared ends the alarm of the same Code and Thing instead of raising it.
	Cleared bool
}

// Caps says what a driver can do. It does not change after the driver was opened.
type Caps struct {
	// Queue tells which shape of source the driver offers. False is a log: a
	// partition is read in order and a [Checkpoint] says how far. True is a
	// queue: each delivery is settled by itself with [Tenure.Settle].
	Queue bool
	// DedupWindow is for how long a repeated message id on one topic is
	// recognised by default. Zero: a repeated id is stored again.
	DedupWindow time.Duration
	// ReadFrom tells whether a new group may begin at the start of what is kept
	// or at a time. Without it a group can only begin with what comes next.
	ReadFrom bool
	// CheckpointBytes bounds Checkpoint.Finished, a bit a position, and so the window.
	CheckpointBytes int
	// MaxMessage is the largest message that the broker stores, in bytes,
	// attributes, headers and body together.
	MaxMessage int
	// Missing maps what the driver cannot do to the reason. The keys begin with
	// the promise concerned, "P2 beginning". The suite prints it.
	Missing map[string]string
}

// A Driver is an open broker. All methods may be called concurrently.
//
// Everything that creates or changes something is durable when it returns nil.
// Errors wrap one of the sentinel errors of this package where one fits.
type Driver interface {
	Caps() Caps

	// EnsureTopic creates the topic unless it exists and returns it as it
	// stands. It never changes a topic that exists: the core compares.
	EnsureTopic(ctx context.Context, want TopicSpec) (stands TopicSpec, err error)

	// Topics returns all topics, as they stand. It creates and opens nothing.
	Topics(ctx context.Context) ([]TopicSpec, error)

	// Plan lists what EnsureTopic and EnsureGroup make on the broker for these, for
	// an administrator who makes it by hand. It asks the broker nothing that would
	// need the right to make it.
	Plan(ctx context.Context, topics []TopicSpec, groups []GroupSpec) ([]Planned, error)

	// Extents tells what each partition of a topic holds, by number. A topic that
	// does not exist is ErrNotFound.
	Extents(ctx context.Context, topic string) ([]Extent, error)

	// EnsureGroup registers the group unless it is, adds the topics and types
	// that it lacks, and returns it as it stands. The topics must exist. A topic
	// that is new to the group begins where want.Start says, in each partition,
	// from this call on: what is published after it returns is the group's.
	//
	// Types that are new to a topic which the group has already are the group's
	// for what is published after it returns, too, though members may be at work
	// that do not know of them: a [Tenure.Checkpoint] that was taken without them
	// is refused from then on, with [ErrSubscription].
	EnsureGroup(ctx context.Context, want GroupSpec) (stands GroupSpec, err error)

	// DropTypes removes types from the group's recorded subscription. A topic
	// without types leaves the group, with its positions. Lanes stay.
	DropTypes(ctx context.Context, group string, types []string) error

	// Groups returns all registered groups.
	Groups(ctx context.Context) ([]GroupSpec, error)

	// Group returns one group's record as it stands now, or ErrNotFound.
	Group(ctx context.Context, name string) (GroupSpec, error)

	// PauseGroup writes into the group's record that its members start no
	// handler, and why, or with an empty reason that they go on: then Resumes
	// counts one more, also when the record had no reason.
	PauseGroup(ctx context.Context, name, why string) (GroupSpec, error)

	// NudgeGroup counts one more in Nudges of the group's record, so that its
	// members look into the lanes that they hold for what was put from outside.
	NudgeGroup(ctx context.Context, name string) error

	// ResetGroup sets the group's position, in each partition of the topics, to
	// where start says. Its members lose these partitions, with ErrLost, and
	// take them again. Lanes stay.
	ResetGroup(ctx context.Context, name string, topics []string, start StartAt) error

	// RemoveGroup removes the group with its positions and its lanes, dead
	// letters among them. Members that are at work lose their partitions, and
	// their Join ends with ErrNotFound. A group that does not exist is
	// ErrNotFound.
	RemoveGroup(ctx context.Context, name string) error

	// Append stores a batch in one partition, in its order, and after all that
	// earlier calls for the partition have stored. It may return at once; it
	// blocks while the driver has as much under way as it wants. done is called
	// exactly once, on any goroutine, with one outcome a message, and does not
	// block. Until then msgs and all they point to belong to the driver.
	//
	// An outcome is Stored only when the message is held as durably as the
	// broker can be told to. When the deadline passes first, what is not known
	// to be stored is Unknown, or NotStored where it was surely not sent.
	Append(p Partition, msgs []Message, deadline time.Time, done func([]Outcome))

	// Ready tells whether an Append for the partition, of a usual size, would return at
	// once now: then callers hand over what they publish by themselves.
	Ready(p Partition) bool

	// Join makes this process a member of the group. It returns when ctx has
	// ended, or with the error that ended the membership. It asks m.Subscribed
	// which topics the member can take, and calls m.Assigned for each partition
	// of theirs that the member gets. The core has released all tenures when it
	// ends ctx.
	//
	// The members that can take a topic divide its partitions, each about its
	// share, and shed with m.Revoke what is more than that when somebody joins.
	// A partition is taken from a member that has not released it only after
	// that member has been silent for its lease, measured on the monotonic
	// clock of who takes it, while the broker answered.
	Join(ctx context.Context, group string, m Member) error

	// Members returns the members of a group that are known, without joining it.
	Members(ctx context.Context, group string) ([]MemberInfo, error)

	// Positions tells where the group stands in each partition of its topics,
	// without joining it.
	Positions(ctx context.Context, group string) ([]Position, error)

	// Read returns up to limit messages of a partition that stand above a
	// position, in order, for people who look and for nobody's progress. It
	// returns at once, with none at the end. Without bodies it may leave them
	// out. It serves logs and whatever keeps its messages; a broker that does not
	// returns an error that wraps [errors.ErrUnsupported].
	Read(ctx context.Context, p Partition, above uint64, limit int, bodies bool) ([]Delivery, error)

	// ReadFrom returns the position before the first message that was stored at
	// or after a time, for Read.
	ReadFrom(ctx context.Context, p Partition, t time.Time) (above uint64, err error)

	// Trim deletes what lies below a position (exclusive) and was stored before
	// a time; a zero time means whatever its age. The core has made sure that
	// every group has settled it. It returns how many messages went.
	Trim(ctx context.Context, p Partition, below uint64, before time.Time) (int64, error)

	// Lane gives access to a lane from outside a tenure.
	Lane(group string, p Partition) Lane

	// Describe lists what the driver has set up on the broker, and why.
	Describe(ctx context.Context) ([]Thing, error)

	// Health returns nil when the broker can be reached and stores messages.
	Health(ctx context.Context) error

	// Audit looks for what has changed behind our back: messages, streams,
	// records and settings that are gone or are not as they were made. It raises
	// an alarm for each, and clears those that are mended. The core calls it from
	// time to time. The error is for what could not be looked at.
	Audit(ctx context.Context) error

	// Close ends the driver. The core has left all groups. Appends that are
	// under way complete first, as far as ctx allows.
	Close(ctx context.Context) error
}

// A Member is the engine's side of a membership. The driver calls its methods
// one at a time for one partition.
type Member interface {
	// Subscribed tells the group's record and returns the topics whose partitions
	// the member can take from now on. It is called before the first Assigned,
	// again when the record has changed, and always before a tenure is assigned
	// whose partition has been told of a newer record. Partitions of other topics
	// are revoked. It does not block.
	Subscribed(spec GroupSpec) (topics []string)
	// Status is what the member tells of itself, for [Driver.Members]. It does not
	// block.
	Status() Status
	// Assigned hands over a partition. It returns at once.
	Assigned(t Tenure)
	// Revoke asks for a partition back. It returns when the tenure has been
	// released, or when ctx ends.
	Revoke(ctx context.Context, t Tenure)
	// Lost says that a tenure has ended without being released: no handler of
	// it starts any more, and nothing of it is settled.
	Lost(t Tenure, err error)
}

// A Tenure is one holder's time on a partition and its lane. A write after the
// broker has given the partition to somebody else fails with [ErrLost]; it is
// the broker that refuses it, not a clock.
type Tenure interface {
	Partition() Partition

	// Fence is higher than the fence of any earlier tenure of the partition in
	// this group.
	Fence() uint64

	// Start is the checkpoint that the last holder left. With a log the first
	// Fetch begins after its Floor.
	Start() Checkpoint

	// StartBy is the time after which no handler may be started, as a reading
	// with a monotonic clock; zero when the tenure cannot lapse.
	StartBy() time.Time

	// Fetch waits until there is at least one delivery and fills into with what
	// is there, in order, about maxBytes of bodies and at least one. It is
	// called by one goroutine. What it returns stays untouched until it is
	// settled or lies below the floor. An error ends the tenure if it is
	// ErrLost; after any other one the core waits and calls again.
	Fetch(ctx context.Context, into []Delivery, maxBytes int) (int, error)

	// Checkpoint records how far the holder is. Log only. It is called by one
	// goroutine. The record never passes what is durably stored: where messages
	// can be read before they are durable, Checkpoint waits for that first.
	//
	// ErrSubscription: types have been added to the group's record since the last
	// call, or since the tenure was assigned; nothing was recorded, and c may pass
	// over messages of these types. The core asks for the record, corrects c, and
	// calls again.
	Checkpoint(ctx context.Context, c Checkpoint) error

	// Settle settles deliveries. Queue only. It is called by one goroutine.
	Settle(ctx context.Context, s []Settlement) error

	// Lane is the partition's lane, for the holder.
	Lane() Lane

	// Release ends the tenure: c is recorded, all that is not settled becomes
	// available to the next holder at once, and in the partition's order. After
	// ErrSubscription the tenure goes on, as with Checkpoint.
	Release(ctx context.Context, c Checkpoint) error
}

// A Lane is a group's own durable store beside one partition: what is due
// later, parked behind another message of its key, or dead. All methods may be
// called concurrently; two calls that touch the same name are not.
//
// There are two views of it. A tenure's is fenced: every change is refused with
// ErrLost, by the broker, once the partition has been given to somebody else; the
// holder is then the only one who changes entries, so that LaneOp.Entry.Rev need
// not be compared. From outside nothing is fenced and Rev decides; who edits
// there changes entries in state Dead only, which the holder leaves alone, and
// those that were put from outside. The holder takes up what was made Due or
// Discarded there when it takes the lane over, and soon after a
// [Driver.NudgeGroup].
type Lane interface {
	// Scan walks over all entries in the order of their names, without bodies.
	// It begins behind the name after ("" is the start) and returns up to max
	// entries and the name to go on behind, which is "" at the end.
	Scan(ctx context.Context, after string, max int) (entries []Entry, next string, err error)

	// Get returns the entries of these names, with bodies. What does not exist
	// is left out.
	Get(ctx context.Context, names []string) ([]Entry, error)

	// Parked returns up to max entries of a key that are in state Parked and
	// whose Order is above after, by Order, with bodies.
	Parked(ctx context.Context, key string, after uint64, max int) ([]Entry, error)

	// Watch calls f for each entry that stands, then once with an Entry without a
	// name, then for each entry that is put from then on, by anybody, until ctx
	// ends. Entries have no bodies. An entry that is put twice in a row may be
	// told once; one that is deleted is not told. It mends itself when the broker
	// was away. f is called by one goroutine.
	Watch(ctx context.Context, f func(Entry)) error

	// Apply carries out operations in their order. Each is atomic, the batch is
	// not. It sets Err of each operation that failed and Rev of each entry that
	// it put, and returns the first Err. What it stored is durable when it
	// returns, except for entries in state Boot, which have to outlive the
	// process only.
	Apply(ctx context.Context, ops []LaneOp) error
}

// A LaneOp puts an entry, replacing it whole, or deletes it.
type LaneOp struct {
	// Entry is the entry to put or delete. From outside of a tenure, Rev 0 in a
	// put means that no entry of the name may exist; any other value, that the
	// entry still has this revision. A delete with Rev 0 deletes whatever
	// stands, and succeeds if nothing does; with another value it is for that
	// revision alone. ErrConflict says that it is not so. In a tenure Rev says
	// nothing.
	Entry  *Entry
	Delete bool
	// Err is set by Apply.
	Err error
}

// A Partition is a share of a topic's keys.
type Partition struct {
	Topic string
	N     int // from 0
}

// An Attr is a CloudEvents attribute or a header, without the broker's prefix
// and escapes.
type Attr struct{ Name, Value string }

// A Message is an event on its way. The fields that every event has are the
// CloudEvents attributes id, source, type, subject, time and datacontenttype;
// specversion is 1.0 and the driver's to write. A message with an empty Type has
// no CloudEvents attributes: it is foreign.
type Message struct {
	ID          string
	Source      string
	Type        string
	Key         string // subject
	Time        string // RFC 3339
	ContentType string
	Attrs       []Attr // the other CloudEvents attributes, names in lower case
	Headers     []Attr // the user's own headers
	Body        []byte
}

// Size is the length of all that a message carries, in bytes, without what the
// broker adds.
func (m *Message) Size() int {
	n := len(m.ID) + len(m.Source) + len(m.Type) + len(m.Key) + len(m.Time) + len(m.ContentType) + len(m.Body)
	for _, a := range m.Attrs {
		n += len(a.Name) + len(a.Value)
	}
	for _, a := range m.Headers {
		n += len(a.Name) + len(a.Value)
	}
	return n
}

// A StoreState says what became of a message that was published.
type StoreState uint8

const (
	// Unknown: it may have been stored. Sent again with the same id it is
	// stored once, within the broker's de-duplication window.
	Unknown StoreState = iota
	// Stored durably.
	Stored
	// NotStored, and never will be by that call.
	NotStored
)

// An Outcome is what became of one message of an Append.
type Outcome struct {
	State StoreState
	Pos   uint64 // where it is stored; 0 when that is not known
	Dup   bool   // it stands there since an earlier Append
	Err   error  // nil only when Stored
}

// A Delivery is a message as it is handed out.
type Delivery struct {
	// Pos is the position in a log, above all that were handed out before in
	// this tenure; in a queue it is a handle for Settle.
	Pos uint64
	// Stored is the broker's time of storing, zero if it has none.
	Stored time.Time
	// Again says that a queue may have handed it out before.
	Again bool
	Msg   Message
	// Bad says why the attributes could not be read. Msg then holds what could.
	Bad error
}

// A Settlement settles a delivery of a queue.
type Settlement struct {
	Pos uint64
	// GiveBack makes it available again, in its old place, instead of ending it.
	GiveBack bool
}

// A Checkpoint is how far a group has come in a partition of a log.
type Checkpoint struct {
	// Floor: all at or below it are settled.
	Floor uint64
	// Mark: nothing above it was ever started. It is raised before, a window at
	// a time.
	Mark uint64
	// Finished tells which positions above the floor are settled: a bit each from
	// Floor+1 on, the least significant first.
	Finished []byte
	// Clean says that nothing was being handled when this was recorded. Only
	// Release records it.
	Clean bool
}

// Lag is how many of the positions up to last are not settled, when those below
// first do not exist.
func (c *Checkpoint) Lag(first, last uint64) int64 {
	above := max(c.Floor+1, first)
	if above > last {
		return 0
	}
	lag := int64(last - above + 1)
	for i, b := range c.Finished {
		for ; b != 0; b &= b - 1 {
			if pos := c.Floor + 1 + uint64(i*8+bits.TrailingZeros8(b)); pos >= above && pos <= last {
				lag--
			}
		}
	}
	return lag
}

// An EntryState is what a lane holds an entry for.
type EntryState uint8

const (
	// Due entries are handled again at their time.
	Due EntryState = iota + 1
	// Parked entries wait behind others of their key.
	Parked
	// Dead entries are dead letters.
	Dead
	// Boot entries count the starts of a message that may have killed its
	// process. They have no message.
	Boot
	// Discarded entries were dead letters that somebody has discarded. They have no
	// body. The holder deletes them.
	Discarded
	// Note entries say what somebody has done to dead letters. The holder leaves
	// them alone.
	Note
)

func (s EntryState) String() string {
	switch s {
	case Due:
		return "due"
	case Parked:
		return "parked"
	case Dead:
		return "dead"
	case Boot:
		return "boot"
	case Discarded:
		return "discarded"
	case Note:
		return "note"
	}
	return "unknown"
}

// An Entry is what a lane holds.
type Entry struct {
	// Name is unique for ever in the lane: see [EntryName].
	Name  string
	State EntryState
	// Due is when a Due entry is to be handled.
	Due time.Time
	Key string
	// Order is the entry's place among those of its key.
	Order uint64
	// Rev is the revision that stands.
	Rev uint64
	// Head is the core's record: attempts, errors, times.
	Head []byte
	Msg  Message
}

// A TopicSpec is a topic's settings as they are stored on the broker.
type TopicSpec struct {
	Name       string        `json:"name"`
	Hash       string        `json:"hash"` // of keys to partitions: see [PartitionOf]
	Partitions int           `json:"partitions"`
	Replicas   int           `json:"replicas"` // 0: as many as the broker has, up to three
	Unordered  bool          `json:"unordered,omitempty"`
	Strict     bool          `json:"strict,omitempty"`    // groups handle it in strict order
	Keep       time.Duration `json:"keep"`                // how long what is settled is kept at least
	MaxBytes   int64         `json:"max_bytes,omitempty"` // 0: no cap
	Dedup      time.Duration `json:"dedup,omitempty"`     // de-duplication window; 0: the driver's
}

// A StartAt says where a topic begins for a group that is new to it.
type StartAt struct {
	Now  bool      `json:"now,omitempty"` // with what is published next
	Time time.Time `json:"time,omitzero"` // with what was stored at this time; zero and not Now: with the first that is kept
}

// A GroupSpec is a group's record.
type GroupSpec struct {
	Name string `json:"name"`
	// Types maps each topic to the event types that the group subscribes to.
	Types map[string][]string `json:"types"`
	// Start is used for the topics that are new to the group.
	Start StartAt `json:"-"`
	// Paused says why no member starts a handler. Empty: they do.
	Paused string `json:"paused,omitempty"`
	// Resumes counts how often the group was resumed.
	Resumes int `json:"resumes,omitempty"`
	// Nudges counts how often its members were to look into their lanes.
	Nudges int `json:"nudges,omitempty"`
	// Version counts the changes of Types.
	Version int `json:"version"`
}

// A Position is where a group stands in a partition.
type Position struct {
	Partition
	First uint64 // the first message that is kept, or Last+1
	Last  uint64 // the last message that was stored
	Floor uint64 // see Checkpoint
	Lag   int64  // messages above the floor that are not settled
	Fence uint64
	// Begin is where the group began or was last reset to: what stands at or below
	// it came before. Log only, as are Mark and Finished: see Checkpoint.
	Begin    uint64
	Mark     uint64
	Finished []byte
	// Member holds it, or held it and has not released it; empty for none.
	Member string
}

// A MemberInfo is a member as others see it.
type MemberInfo struct {
	Name    string
	Service string
	Topics  []string // that it can take
	Lease   time.Duration
	Started time.Time // by its wall clock
	Beat    time.Time // its last sign of life, by the broker's clock
	Status  Status
}

// A Status is what a member tells of itself.
type Status struct {
	InFlight int       `json:"in_flight"`         // handlers that run
	Retrying int       `json:"retrying"`          // messages that have failed and wait for their next attempt
	Parked   int       `json:"parked"`            // messages that wait in lanes behind others of their key
	Paused   string    `json:"paused,omitempty"`  // why it starts nothing
	Lacks    []string  `json:"lacks,omitempty"`   // recorded types that it has no handler for
	Blocked  []Blocked `json:"blocked,omitempty"` // what holds partitions back, the longest first, a few
}

// A Blocked is a message that holds the floor of a partition back.
type Blocked struct {
	Topic    string        `json:"topic"`
	N        int           `json:"partition"`
	Pos      uint64        `json:"position"`
	ID       string        `json:"id"`
	Type     string        `json:"type"`
	Key      string        `json:"key"`
	For      time.Duration `json:"for"` // since it came in
	Attempts int           `json:"attempts"`
	Why      string        `json:"why"` // "being handled", "waits for its next attempt", ...
}

// An Extent is what a partition holds.
type Extent struct {
	First uint64 // the first message that is kept, or Last+1
	Last  uint64 // the last message that was stored
	Bytes int64  // about what it takes on the broker; -1 when the broker does not say
}

// A Planned is something that a driver would set up on the broker.
type Planned struct {
	Thing
	// Settings is what an administrator makes it with, as JSON in the form that the
	// broker's own tools take; nil when there is nothing to make by hand.
	Settings []byte
}

// A Thing is something that a driver has set up on the broker.
type Thing struct {
	Kind string // "stream"
	Name string
	Why  string
}
