package posthorn

import (
	"time"

	"github.com/posthorn/posthorn/driver"
)

// Defaults of a topic that is created without saying otherwise.
const (
	DefaultPartitions = 8
	DefaultKeep       = 7 * 24 * time.Hour
)

// maxPartitions keeps a mistake from creating thousands of streams or queues.
const maxPartitions = 256

// A TopicConfig holds the settings of a topic. A zero field leaves the setting
// to the default when the topic is created, and to what stands when it exists.
//
// The settings are stored on the broker when the topic is first used and are not
// changed by code after that: what is stored wins. A declaration that asks for
// more than what is stored gives (a longer Keep, more replicas, order where there
// is none, another number of partitions) is refused with CodeConflict; one that
// asks for less is met by a warning in the log.
type TopicConfig struct {
	// Partitions is into how many shares keys are divided: as many members of a
	// group can work on the topic at a time. Default 8, at most 256. It does not
	// bound how many handlers run.
	Partitions int
	// Unordered gives up the order of events of one key, for topics where it
	// means nothing. Keys are still allowed. Default: false, events of one key are
	// handled in order.
	Unordered bool
	// StrictOrder has the events of one key wait behind one of them that has failed,
	// for every group: until a late attempt handles it, or until the dead letter that
	// it has become is replayed and handled, or discarded. Default: false, a failed
	// event comes late and the others of its key go on. A group can ask for it by
	// itself: see GroupConfig.
	StrictOrder bool
	// Keep is for how long events stay readable after they were stored, even
	// when all groups have settled them. Default 7 days. What a registered group
	// has not settled is kept beyond that.
	Keep time.Duration
	// MaxBytes caps what the topic holds on the broker, in bytes. At the cap,
	// what all groups have settled is deleted first, even before Keep; when that
	// is not enough, publishing is refused with CodeTopicFull. Default 0: no cap.
	MaxBytes int64
	// Replicas is on how many nodes of a cluster the topic is stored. Default:
	// as many as there are, up to 3.
	Replicas int
	// Dedup is for how long the broker recognises an id that is published again.
	// Ids of that time stand in the broker's memory. Default: the broker's,
	// 2 minutes on JetStream.
	Dedup time.Duration
}

// A Topic is where event types of one subject are stored, in the order of their
// keys. Topics are made by [DefineTopic] and are values that several services
// share; nothing happens on a broker before the topic is used.
type Topic struct {
	name string
	cfg  TopicConfig
	err  *Error
}

// DefineTopic declares a topic. It never fails: what is wrong with the name or
// the settings comes out of the first use, as an error with CodeInvalid.
func DefineTopic(name string, cfg TopicConfig) *Topic {
	t := &Topic{name: name, cfg: cfg}
	t.err = checkTopic(name, cfg)
	return t
}

// Name returns the name of the topic.
func (t *Topic) Name() string { return t.name }

func checkTopic(name string, c TopicConfig) *Error {
	if err := checkName("topic", name, maxTopicName); err != nil {
		return err
	}
	switch {
	case c.Partitions < 0 || c.Partitions > maxPartitions:
		return errorf(CodeInvalid, "topic %q: Partitions is %d; 1 to %d are allowed", name, c.Partitions, maxPartitions)
	case c.StrictOrder && c.Unordered:
		return errorf(CodeInvalid, "topic %q: StrictOrder and Unordered are both asked for; leave one of them out", name)
	case c.Keep < 0:
		return errorf(CodeInvalid, "topic %q: Keep is %v; it cannot be negative", name, c.Keep)
	case c.MaxBytes < 0:
		return errorf(CodeInvalid, "topic %q: MaxBytes is %d; it cannot be negative", name, c.MaxBytes)
	case c.Replicas < 0 || c.Replicas > 5:
		return errorf(CodeInvalid, "topic %q: Replicas is %d; 1 to 5 are allowed", name, c.Replicas)
	case c.Dedup < 0:
		return errorf(CodeInvalid, "topic %q: Dedup is %v; it cannot be negative", name, c.Dedup)
	}
	return nil
}

// spec is what the topic is created with.
func (t *Topic) spec() driver.TopicSpec {
	s := driver.TopicSpec{
		Name:       t.name,
		Hash:       driver.HashFNV1a,
		Partitions: t.cfg.Partitions,
		Replicas:   t.cfg.Replicas,
		Unordered:  t.cfg.Unordered,
		Strict:     t.cfg.StrictOrder,
		Keep:       t.cfg.Keep,
		MaxBytes:   t.cfg.MaxBytes,
		Dedup:      t.cfg.Dedup,
	}
	if s.Partitions == 0 {
		s.Partitions = DefaultPartitions
	}
	if s.Keep == 0 {
		s.Keep = DefaultKeep
	}
	return s
}

// compare holds the declaration against what stands on the broker. It returns
// an error where what stands gives less than what is declared, and else what is
// worth a warning.
func (t *Topic) compare(stands driver.TopicSpec) (warnings []string, err *Error) {
	refuse := func(what string, declared, stored any) *Error {
		return errorf(CodeConflict, "topic %q: %s is declared as %v, but the topic was created with %v, and code does not change a topic that exists; "+
			"declare %v, or use a new topic name and move its consumers", t.name, what, declared, stored, stored)
	}
	if stands.Hash != driver.HashFNV1a {
		return nil, errorf(CodeUnsupported, "topic %q: its keys are hashed by %q, which this version does not know; update Posthorn", t.name, stands.Hash)
	}
	c := t.cfg
	switch {
	case c.Partitions != 0 && c.Partitions != stands.Partitions:
		return nil, refuse("Partitions", c.Partitions, stands.Partitions)
	case c != (TopicConfig{}) && !c.Unordered && stands.Unordered:
		return nil, refuse("Unordered", false, true)
	case c.StrictOrder && !stands.Strict:
		return nil, errorf(CodeConflict, "topic %q: StrictOrder is declared, but the topic was created without it, and code does not change a topic that exists; "+
			"ask for it in each group instead, by GroupConfig.StrictOrder", t.name)
	case c.Keep > stands.Keep:
		return nil, refuse("Keep", c.Keep, stands.Keep)
	case c.Replicas > stands.Replicas && stands.Replicas != 0:
		return nil, refuse("Replicas", c.Replicas, stands.Replicas)
	case c.MaxBytes > stands.MaxBytes && stands.MaxBytes != 0:
		return nil, refuse("MaxBytes", c.MaxBytes, stands.MaxBytes)
	case c.Dedup > stands.Dedup && stands.Dedup != 0:
		return nil, refuse("Dedup", c.Dedup, stands.Dedup)
	}
	differs := func(what string, declared, stored any) {
		warnings = append(warnings, errorf(CodeConflict, "topic %q: %s is declared as %v, but %v is stored and stands", t.name, what, declared, stored).Text)
	}
	if c.Unordered && !stands.Unordered {
		differs("Unordered", true, false)
	}
	if c.Keep != 0 && c.Keep < stands.Keep {
		differs("Keep", c.Keep, stands.Keep)
	}
	if c.Replicas != 0 && c.Replicas < stands.Replicas {
		differs("Replicas", c.Replicas, stands.Replicas)
	}
	if c.MaxBytes != stands.MaxBytes && (c.MaxBytes != 0) {
		differs("MaxBytes", c.MaxBytes, stands.MaxBytes)
	}
	if c.Dedup != 0 && c.Dedup < stands.Dedup {
		differs("Dedup", c.Dedup, stands.Dedup)
	}
	return warnings, nil
}
