// Package transfer moves artifacts between nodes over connections that somebody else makes: protocol ring-blob/1.
//
// It owns the protocol, the list of a file's chunk hashes (its manifest), and the half-fetched files from which an
// interrupted fetch goes on. A chunk is 4 MiB and is compared with the manifest as it arrives; since the manifest comes from
// the same stranger as the chunks, the whole file is hashed once more before it gets its name. Every figure from a peer is
// bounded before anything is allocated for it. A holder that lies, stalls or leaves costs its own turn, never the fetch, and
// the reason is kept.
//
// No peer keeps the streams from the others: it has a share of those of a server, and not all of those by which a client
// fetches. What has a stream keeps it however slow it is: on a slow link everybody is.
//
// A fetch leaves room on the disk to others: it is not begun, and does not go on, where what is still to come would not fit
// beside the rest of the other fetches.
//
// It knows nothing of who holds what or why something is fetched, and it never deletes an artifact.
//
// Who calls it: the agent gives Server.Serve the connections of its port and Client a Dialer from the mesh; daemons reach
// Fetch through an interface of their own.
//
// Concurrency: Server and Client are safe for concurrent use. Serve and Fetch block until their context ends or the work is
// done. Fetches of one artifact at the same time share one stream.
package transfer
