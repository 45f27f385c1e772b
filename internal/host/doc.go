// Package host reads the machine: processor, memory, disk, fsync and graphics cards.
//
// It owns how a figure is read on Linux and macOS and when it is unknown: a reading that failed is nil, never zero. It
// knows nothing of rings. A Reader may be used from several goroutines; each Sample takes up to a few hundred milliseconds
// (half a minute where the driver of graphics cards hangs) and obeys its context.
package host
