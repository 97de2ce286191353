// Package processes holds the tests of groups whose members are processes of
// their own, on a broker that stands in another one: they join, drain, are killed
// and are stopped and continued, on posthorn serve, on one NATS server and on a
// cluster of three.
package processes
