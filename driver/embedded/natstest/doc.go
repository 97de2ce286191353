// Package natstest runs real NATS servers for tests: processes of their own, built
// from the server's module in the version that package embedded uses, on loopback
// only, which can be killed, stopped, continued and started again.
//
//	s := natstest.Start(t, natstest.Options{})
//	bus, err := posthorn.Open(ctx, s.URL()+"?durability=server")
//
// It is for the tests of this repository and works where there are signals.
package natstest
