// Package boltfile looks at a bbolt file before bbolt does, which answers some bad pages by ending the process from a goroutine of
// its own. It owns the file's format and no file: it must not know what is kept in one, and writes nothing. The event log, the
// leader's store and the agent's local state ask it before they open theirs. Its functions may be called by several goroutines, for
// a file that nobody has open for writing.
package boltfile
