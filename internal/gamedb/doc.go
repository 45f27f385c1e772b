// Package gamedb reads and writes the SQLite files in which finished games live: the file a playing process appends to,
// the game packs that travel between nodes, and the merged database of one config. It is the only package that imports
// the SQLite driver.
//
// It owns the table layout (schema version 18 of the system this one replaces), the meaning of "finished", the content hash
// of a game, and every safety rule about opening a database: no code here or elsewhere may open a live database file by
// other means than SQLite, because closing any descriptor of it drops the locks of the whole process where only POSIX
// locks exist. Where the kernel has locks that belong to the open file, this package turns them on before the first open.
//
// It knows nothing of nodes, artifacts or the rules of a game. Columns it has never heard of travel along unread,
// tables of other names stay behind; values are kept with the storage class in which they were found, which is why most
// columns have no declared type.
//
// Many packs become one by Join, which loses no game of any or fails; Holds compares what it made with each of them, game by game,
// before that is deleted.
//
// Beside games it keeps ledgers: which pack of a config has a game first, so that a game in several packs counts once.
//
// Who calls it: the built-in workload (writing and exporting), the sync daemons through an adapter (finding, packing and
// merging), and the check of incoming files. Files from elsewhere are treated as hostile: see Verify.
//
// Concurrency: every function opens its own connection and may be called from any goroutine; a Writer is safe for
// concurrent use. Other processes may write to a file that Finished, Read, Count or Pack reads.
package gamedb
