// Package doctest holds tests of what no package can test by itself: that links,
// commands and code in the documents are true, and that the root module stays
// light.
package doctest
