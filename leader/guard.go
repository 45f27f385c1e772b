package leader

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// guard stands between the library and the store. Where the library would panic on a store's error (a committed entry
// that cannot be read, a term that cannot be written), it keeps the process alive: the rest of the agent must go on,
// report the fault and give the voter's place back.
//
// A bad entry ends the library's goroutine that met it (its deferred calls run, so that it can still be shut down) and
// poisons the store: nothing is written any more, so that no vote is cast and no entry acknowledged. A full disk makes
// the write of a term wait until there is space, which makes the voter mute but not wrong.
type guard struct {
	store   Logs
	bad     func(error) // told once, in a goroutine of its own
	once    sync.Once
	poison  atomic.Pointer[error]
	closing chan struct{}
	born    time.Time
	busy    atomic.Int64 // when the running write of Raft's loop began, nanoseconds after born; 0 = none runs
	tries   atomic.Int64 // when its running attempt began; 0 = none runs, or it waits for space
}

// Logs is what the library needs of a store; Faults.WrapStore may put a slower or a broken one in place.
type Logs interface {
	raft.LogStore
	raft.StableStore
	IsMonotonic() bool
}

const fullDiskRetry = 500 * time.Millisecond

func newGuard(s Logs, bad func(error)) *guard {
	return &guard{store: s, bad: bad, closing: make(chan struct{}), born: time.Now()}
}

// stalled is how long the write in which Raft's loop is has been running; 0 when it is in none.
func (g *guard) stalled() time.Duration { return g.since(&g.busy) }

// stuck is how long the disk has been at one attempt of that write; 0 while it waits for space, which may take days.
func (g *guard) stuck() time.Duration { return g.since(&g.tries) }

func (g *guard) since(began *atomic.Int64) time.Duration {
	if t := began.Load(); t != 0 {
		return time.Since(g.born) - time.Duration(t)
	}
	return 0
}

func (g *guard) stopwatch(began *atomic.Int64) func() {
	began.Store(max(1, int64(time.Since(g.born))))
	return func() { began.Store(0) }
}

func (g *guard) attempt(write func() error) error {
	defer g.stopwatch(&g.tries)()
	return write()
}

func (g *guard) IsMonotonic() bool           { return g.store.IsMonotonic() }
func (g *guard) FirstIndex() (uint64, error) { return g.store.FirstIndex() }
func (g *guard) LastIndex() (uint64, error)  { return g.store.LastIndex() }

func (g *guard) GetLog(index uint64, l *raft.Log) error {
	err := g.store.GetLog(index, l)
	if errors.Is(err, bbolterrors.ErrDatabaseNotOpen) {
		runtime.Goexit() // all is over already, and the library would panic
	}
	return g.check(err)
}

func (g *guard) StoreLog(l *raft.Log) error { return g.StoreLogs([]*raft.Log{l}) }

func (g *guard) StoreLogs(l []*raft.Log) error {
	if err := g.poison.Load(); err != nil {
		return *err
	}
	defer g.stopwatch(&g.busy)()
	return g.attempt(func() error { return g.store.StoreLogs(l) })
}

func (g *guard) DeleteRange(lo, hi uint64) error {
	if err := g.poison.Load(); err != nil {
		return *err
	}
	return g.store.DeleteRange(lo, hi)
}

func (g *guard) Set(k, v []byte) error {
	return g.persist(func() error { return g.store.Set(k, v) }, false)
}

func (g *guard) SetUint64(k []byte, v uint64) error {
	return g.persist(func() error { return g.store.SetUint64(k, v) }, true)
}

func (g *guard) Get(k []byte) ([]byte, error) {
	v, err := g.store.Get(k)
	return v, g.check(err)
}

func (g *guard) GetUint64(k []byte) (uint64, error) {
	v, err := g.store.GetUint64(k)
	return v, g.check(err)
}

// persist writes term or vote. Only numbers are retried: the library panics when a term cannot be written, but takes an
// error for a vote.
func (g *guard) persist(write func() error, retry bool) error {
	defer g.stopwatch(&g.busy)()
	for {
		if err := g.poison.Load(); err != nil {
			if retry {
				runtime.Goexit()
			}
			return *err
		}
		err := g.attempt(write)
		if err == nil || !retry {
			return err
		}
		if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
			g.report(err)
			runtime.Goexit()
		}
		select {
		case <-g.closing:
			runtime.Goexit()
		case <-time.After(fullDiskRetry):
		}
	}
}

func (g *guard) check(err error) error {
	if !errors.Is(err, ErrCorrupt) {
		return err
	}
	g.report(err)
	runtime.Goexit()
	return err
}

func (g *guard) report(err error) {
	g.once.Do(func() {
		g.poison.Store(&err)
		go g.bad(err)
	})
}

// close lets a write that waits for space go; no call of the library may follow that is to succeed.
func (g *guard) close() { close(g.closing) }
