// Package wire is the one port of a node and the one way to reach another: it listens, tells protocols apart by first byte
// and ALPN, checks who is at the other end, dials, remembers addresses, and closes everything that a revoked node holds.
//
// It owns connections and admission. It must not know what travels in them: gossip, calls, Raft and files are handed over
// as authenticated connections. It is called by package mesh only. Every exported type is safe for concurrent use.
//
// An admitted connection begins with one frame each way inside TLS (see greeting): so a successful Dial means that the
// other side has admitted us, and a refusal arrives with its reason.
package wire
