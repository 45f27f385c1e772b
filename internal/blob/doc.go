// Package blob keeps artifacts on the local disk under the name of their SHA-256.
//
// It owns one directory (sha256/<2 hex>/<64 hex>, staging/, partial/) and the place where damaged files are put aside, and
// one promise: a name that exists has the right bytes. Bytes are written under a staging name, hashed, brought to disk,
// renamed, and the directory is brought to disk too; a crash at any point leaves staging files, which the next Open sweeps.
// Files in the store are read-only and may have hard links elsewhere; nobody may write through those.
//
// It knows nothing of other nodes, kinds of artifacts or how long to keep them. Deleting a copy takes a Permit, which only
// the holder of the coordinator's answer can show; nothing here removes a good file on its own.
//
// Who calls it: the agent, which hands it to the daemons and to package transfer through their own small interfaces.
//
// Concurrency: a Store is safe for concurrent use. One process at a time may have a directory open; the agent's lock on its
// data directory sees to that.
package blob
