package posthorn

import (
	"fmt"
	"strings"

	"github.com/posthorn/posthorn/driver"
)

// Limits of names and headers, so that the longest name that is derived from
// them fits every broker.
const (
	maxTopicName   = 80
	maxTypeName    = 80
	maxGroupName   = 64
	maxServiceName = 64
	maxHeaderName  = 64
	maxHeaderBytes = 8 << 10
)

// checkName holds a name against the grammar that topics, event types, groups
// and services share: [a-z0-9][a-z0-9._-]*, no empty part between dots.
func checkName(what, name string, most int) *Error {
	bad := func(why string) *Error {
		return errorf(CodeInvalid, "%s name %q %s; names are lower-case letters, digits, '.', '_' and '-', "+
			"begin with a letter or digit, have no empty part between dots, and are at most %d bytes long", what, name, why, most)
	}
	switch {
	case name == "":
		return bad("is empty")
	case len(name) > most:
		return bad(fmt.Sprintf("is %d bytes long", len(name)))
	}
	for i := range len(name) {
		c := name[i]
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		switch {
		case alnum:
		case i == 0:
			return bad(fmt.Sprintf("begins with %q", c))
		case c != '.' && c != '_' && c != '-':
			return bad(fmt.Sprintf("holds %q", rune(c)))
		case c == '.' && (name[i-1] == '.' || i == len(name)-1):
			return bad("has an empty part")
		}
	}
	return nil
}

// topicOf is the topic that an event type belongs to unless it says otherwise:
// its name up to the last dot. A version at the end, .v2, does not count.
func topicOf(typeName string) string {
	name := typeName
	if i := strings.LastIndexByte(name, '.'); i >= 0 && isVersion(name[i+1:]) {
		name = name[:i]
	}
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		return name[:i]
	}
	return name
}

func isVersion(s string) bool {
	if len(s) < 2 || s[0] != 'v' {
		return false
	}
	return strings.Trim(s[1:], "0123456789") == ""
}

// checkHeader refuses what brokers or Posthorn itself give a meaning to.
func checkHeader(name, value string) *Error {
	if name == "" || len(name) > maxHeaderName {
		return errorf(CodeInvalid, "header name %q is %d bytes long; 1 to %d are allowed", name, len(name), maxHeaderName)
	}
	for i := range len(name) {
		c := name[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' {
			continue
		}
		return errorf(CodeInvalid, "header name %q holds %q; letters, digits, '-', '_' and '.' are allowed", name, rune(c))
	}
	lower := strings.ToLower(name)
	for _, p := range driver.ReservedHeaders {
		if lower == p || strings.HasSuffix(p, "-") && strings.HasPrefix(lower, p) || strings.HasSuffix(p, "_") && strings.HasPrefix(lower, p) {
			return errorf(CodeInvalid, "header name %q is reserved (%s); choose another one", name, p)
		}
	}
	if strings.ContainsAny(value, "\r\n\x00") {
		return errorf(CodeInvalid, "the value of header %q holds a line break or NUL", name)
	}
	return nil
}
