// Package leadertest is a ring of leader nodes in one process, over an in-memory network whose links can be cut, held and
// slowed one way, with real Raft, real files and a clock of its own for leases. It is made for testing/synctest: everything
// waits on channels and timers only, so that minutes of fake time pass in milliseconds.
//
// It owns the network and the nodes' life. It must not know the mesh. A Ring belongs to the test that made it; its methods
// may be called by any goroutine of that test.
package leadertest
