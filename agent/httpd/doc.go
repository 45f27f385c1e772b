// Package httpd answers HTTP for an agent: on its Unix socket, in the clear on loopback, and over TLS elsewhere.
//
// It owns who may ask what (the socket's file mode, free reading on loopback, the bearer token), every limit (body, header,
// time, connections, requests at once: a full house turns out whoever waits, never an operator who asks), the form of errors, and the difference between a process that lives and a node that is ready. It
// does not know what the answers mean: the agent hands in routes. A Server may serve several listeners at once; handlers
// run concurrently.
package httpd
