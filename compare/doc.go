// Package compare runs what is known to go wrong in message libraries against
// Watermill and against Posthorn, on the same NATS server. A test passes when
// Posthorn behaves as promised and Watermill, in the version of go.mod and with the
// settings that the test names, does not: a case that Watermill passes proves
// nothing. docs/compared.md tells what was seen.
package compare
