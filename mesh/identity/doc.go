// Package identity makes and reads what a node proves itself with: the ring's certificate authority, the node's key and
// short-lived certificate, and join tokens.
//
// It owns the syntax of certificates and tokens and the files under <data-dir>/tls. It must not know who is in the roster,
// how many uses a token has left, or how bytes travel: package mesh asks others for those. It is called by mesh and, for
// `init`, by the command line. Values are immutable after construction but for Credentials, which is safe for
// concurrent use.
package identity
