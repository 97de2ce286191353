package posthorn

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"time"
)

// newID returns a UUIDv7 (RFC 9562): 48 bits of milliseconds, then random bits.
func newID(now time.Time) string {
	var u [16]byte
	rand.Read(u[6:])
	ms := uint64(now.UnixMilli())
	binary.BigEndian.PutUint32(u[0:4], uint32(ms>>16))
	binary.BigEndian.PutUint16(u[4:6], uint16(ms))
	return formatUUID(u, 7)
}

// deriveID returns a UUIDv8 (RFC 9562) of a SHA-256 over what makes an event
// that a handler publishes the same one when the handler runs again.
func deriveID(source, eventID, group, typeName, nth string) string {
	h := sha256.New()
	for _, s := range []string{source, eventID, group, typeName, nth} {
		h.Write([]byte(strconv.Itoa(len(s))))
		h.Write([]byte{':'})
		h.Write([]byte(s))
	}
	return formatUUID([16]byte(h.Sum(nil)[:16]), 8)
}

func formatUUID(u [16]byte, version byte) string {
	u[6] = u[6]&0x0f | version<<4
	u[8] = u[8]&0x3f | 0x80
	var b [36]byte
	hex.Encode(b[0:8], u[0:4])
	hex.Encode(b[9:13], u[4:6])
	hex.Encode(b[14:18], u[6:8])
	hex.Encode(b[19:23], u[8:10])
	hex.Encode(b[24:36], u[10:16])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}
