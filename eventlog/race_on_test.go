//go:build race

package eventlog

// raceDetector says that the tests run under the race detector. bbolt's own page scan, on a page that is bad, rolls its
// transaction back while its checking goroutine still reads it: a race inside the library, on the way to the panic that
// guard turns into an error. The tests that open thousands of damaged files therefore run without the detector; see the
// Makefile.
const raceDetector = true
