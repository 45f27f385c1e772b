// Package npz writes, reads and checks training sets in NumPy's NPZ format: a zip of .npy members that numpy.load opens.
//
// It owns the file format and nothing of what the arrays mean, except the names that a training set must have (see
// Verify). It never unpickles: an object array is known by its header and by the checksum of its bytes, no more, and cannot
// be read. Files from elsewhere are treated as hostile; every size is bounded before anything is allocated.
//
// Who calls it: the built-in workload (export, training), and the check of incoming files by kind.
//
// Concurrency: a Writer belongs to one goroutine; a Reader may be used by several.
package npz
