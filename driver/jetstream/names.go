package jetstream

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/posthorn/posthorn/driver"
)

// names makes the names of streams, consumers and subjects. Those of different
// instances never meet.
type names struct{ streams, subjects string }

func newNames(instance string) names {
	if instance == "" {
		return names{"PH", "ph"}
	}
	return names{"PH-" + encodeName(instance), "ph-" + encodeName(instance)}
}

func (n names) state() string            { return n.streams + "-STATE" }
func (n names) stateSubjects() string    { return n.subjects + ".s.>" }
func (n names) topic(name string) string { return n.subjects + ".s.topic." + encodeName(name) }
func (n names) topics() string           { return n.subjects + ".s.topic.*" }
func (n names) group(name string) string { return n.subjects + ".s.group." + encodeName(name) }
func (n names) groups() string           { return n.subjects + ".s.group.*" }

// at is the subject of a group's checkpoint record.
func (n names) at(group string, p driver.Partition) string {
	return fmt.Sprintf("%s.s.at.%s.%s.%d", n.subjects, encodeName(group), encodeName(p.Topic), p.N)
}

// allAts matches the records of a group on all topics.
func (n names) allAts(group string) string {
	return n.subjects + ".s.at." + encodeName(group) + ".>"
}

// ats matches the records of a group on a topic.
func (n names) ats(group, topic string) string {
	return fmt.Sprintf("%s.s.at.%s.%s.*", n.subjects, encodeName(group), encodeName(topic))
}

// parseAt reverses at.
func (n names) parseAt(subject string) (driver.Partition, bool) {
	s, ok := strings.CutPrefix(subject, n.subjects+".s.at.")
	f := strings.Split(s, ".")
	if !ok || len(f) != 3 {
		return driver.Partition{}, false
	}
	topic, ok := decodeName(f[1])
	no, number := parseNumber(f[2], 31)
	return driver.Partition{Topic: topic, N: int(no)}, ok && number
}

// member is the subject of a member's record.
func (n names) member(group, id string) string {
	return n.subjects + ".s.member." + encodeName(group) + "." + encodeName(id)
}

// members matches the records of a group's members.
func (n names) members(group string) string {
	return n.subjects + ".s.member." + encodeName(group) + ".*"
}

// allMembers matches the records of all groups' members.
func (n names) allMembers() string { return n.subjects + ".s.member.>" }

// parseMember reverses member, for a group's own.
func (n names) parseMember(group, subject string) (id string, ok bool) {
	s, ok := strings.CutPrefix(subject, n.subjects+".s.member."+encodeName(group)+".")
	if !ok {
		return "", false
	}
	return decodeName(s)
}

// news is where those who have changed something of a group say so. No stream
// keeps it.
func (n names) news(group string) string { return n.subjects + ".n." + encodeName(group) }

func (n names) partition(p driver.Partition) string {
	return fmt.Sprintf("%s-T-%s-%d", n.streams, encodeName(p.Topic), p.N)
}

func (n names) partitionSubject(p driver.Partition) string {
	return fmt.Sprintf("%s.t.%s.%d", n.subjects, encodeName(p.Topic), p.N)
}

// parsePartition reverses partition.
func (n names) parsePartition(stream string) (driver.Partition, bool) {
	s, ok := strings.CutPrefix(stream, n.streams+"-T-")
	i := strings.LastIndexByte(s, '-')
	if !ok || i < 0 {
		return driver.Partition{}, false
	}
	topic, ok := decodeName(s[:i])
	no, number := parseNumber(s[i+1:], 31)
	return driver.Partition{Topic: topic, N: int(no)}, ok && number
}

func (n names) lane(group string) string { return n.streams + "-L-" + encodeName(group) }

func (n names) laneSubjects(group string) string {
	return n.subjects + ".l." + encodeName(group) + ".>"
}

// lanePrefix begins the subjects of all entries of a partition's lane.
func (n names) lanePrefix(group string, p driver.Partition) string {
	return fmt.Sprintf("%s.l.%s.%s.%d.", n.subjects, encodeName(group), encodeName(p.Topic), p.N)
}

// fence is the subject of the message in a group's lane stream that all writes
// of a tenure are held against. No topic's name has upper case.
func (n names) fence(group string, p driver.Partition) string {
	return fmt.Sprintf("%s.l.%s.FENCE.%s.%d", n.subjects, encodeName(group), encodeName(p.Topic), p.N)
}

// consumer is the name of a tenure's consumer.
func (n names) consumer(group string, fence uint64) string {
	return encodeName(group) + "-" + strconv.FormatUint(fence, 10)
}

// parseConsumer reverses consumer.
func (n names) parseConsumer(name string) (group string, fence uint64, ok bool) {
	i := strings.LastIndexByte(name, '-')
	if i < 0 {
		return "", 0, false
	}
	group, ok = decodeName(name[:i])
	fence, number := parseNumber(name[i+1:], 64)
	return group, fence, ok && number
}

// parseNumber reads a number as names have it: there is one way to write each.
func parseNumber(s string, bits int) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, bits)
	return n, err == nil && strconv.FormatUint(n, 10) == s
}

const hexDigits = "0123456789abcdef"

// encodeName makes a token of a name: of a subject, a stream, a directory that
// may not care for case. Dots, which our names have and tokens must not, become
// '+'; what our grammar does not have is escaped.
func encodeName(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case plainName(c):
			b.WriteByte(c)
		case c == '.':
			b.WriteByte('+')
		default:
			b.WriteByte('%')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		}
	}
	return b.String()
}

func plainName(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// decodeName reverses encodeName. It refuses what encodeName never makes.
func decodeName(s string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case plainName(c):
			b.WriteByte(c)
		case c == '+':
			b.WriteByte('.')
		case c == '%' && i+2 < len(s):
			hi, lo := strings.IndexByte(hexDigits, s[i+1]), strings.IndexByte(hexDigits, s[i+2])
			if hi < 0 || lo < 0 {
				return "", false
			}
			b.WriteByte(byte(hi<<4 | lo))
			i += 2
		default:
			return "", false
		}
	}
	return b.String(), encodeName(b.String()) == s
}
