package driver

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"sync"
)

// An Opener opens the broker that a URL names. It checks every part of the URL
// and refuses, with ErrInvalid, a parameter that it does not know.
type Opener func(ctx context.Context, u *url.URL, env Env) (Driver, error)

var (
	openersMu sync.RWMutex
	openers   = map[string]Opener{}
)

// Register makes a driver available for URLs of a scheme. It is meant for init
// functions and panics when a scheme is registered twice.
func Register(scheme string, open Opener) {
	openersMu.Lock()
	defer openersMu.Unlock()
	if _, ok := openers[scheme]; ok {
		panic(fmt.Sprintf("driver: scheme %q is registered twice", scheme))
	}
	openers[scheme] = open
}

// Lookup returns the opener of a scheme.
func Lookup(scheme string) (Opener, bool) {
	openersMu.RLock()
	defer openersMu.RUnlock()
	o, ok := openers[scheme]
	return o, ok
}

// Schemes returns all registered schemes, sorted.
func Schemes() []string {
	openersMu.RLock()
	defer openersMu.RUnlock()
	var s []string
	for scheme := range openers {
		s = append(s, scheme)
	}
	slices.Sort(s)
	return s
}
