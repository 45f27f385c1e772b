package leader

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/leader/state"
)

// fsm feeds the machine with what Raft commits.
type fsm struct {
	n       *Node
	closing <-chan struct{} // closed when the seat ends
}

// Apply answers with a state.Result. An entry that this binary does not understand ends the goroutine that applies, and
// with it Run: everything after it would be applied to a state that is no longer the others'.
func (f fsm) Apply(l *raft.Log) any {
	before := f.n.machine.View()
	res, placed, err := f.n.machine.Apply(l.Index, l.Data)
	if errors.Is(err, state.ErrReplayed) {
		// The log was wiped and comes again from its start; the state is ahead of it and committed.
		return state.Result{}
	}
	if err != nil {
		f.n.fail(fmt.Errorf("apply entry %d: %w", l.Index, err))
		runtime.Goexit()
	}
	f.n.noteTiming(before)
	if len(placed) > 0 && f.n.cfg.Ports.Placed != nil {
		f.n.cfg.Ports.Placed(placed, f.n.machine.View().LogHead())
	}
	f.n.changed.tell()
	return res
}

// StoreConfiguration is told of each committed configuration.
func (f fsm) StoreConfiguration(_ uint64, c raft.Configuration) { f.n.agreed.Store(&c) }

// Snapshot refuses while leases under a former timing may run: a snapshot does not tell of that timing, and who starts from it
// could coordinate before they are over. The entry of the change does.
func (f fsm) Snapshot() (raft.FSMSnapshot, error) {
	s := f.n.machine.View()
	if former := f.n.former.Load(); former != nil && time.Now().Before(*former) {
		f.n.log.Debug().Time("until", *former).Msg("no snapshot yet: leases under the former timing may run")
		return nil, raft.ErrNothingNewToSnapshot
	}
	if f.n.DiskBad() {
		f.n.log.Debug().Msg("no snapshot yet: the disk is bad")
		return nil, raft.ErrNothingNewToSnapshot
	}
	restored := f.n.restored.Load()
	return snapshot{f.n, s, func() error { return f.over(restored) }}, nil
}

// over says why a snapshot that was begun when so many others had been taken over is to be given up, or nil. With one taken over
// meanwhile the library would go by the older one again, and take its log for shorter than it is.
func (f fsm) over(restored uint64) error {
	select {
	case <-f.closing:
		return raft.ErrRaftShutdown
	default:
	}
	if f.n.restored.Load() != restored {
		return errors.New("a snapshot was taken over meanwhile")
	}
	return nil
}

// Restore installs a snapshot. An older state than the present one is let go by: see Apply. One of a former generation is
// refused: it can only come from who was left behind by a recovery.
func (f fsm) Restore(r io.ReadCloser) error {
	f.n.restored.Add(1)
	s, err := state.ReadSnapshot(r)
	if err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	now := f.n.machine.View()
	if s.Generation() < now.Generation() {
		return fmt.Errorf("snapshot of generation %d: this node is in %d", s.Generation(), now.Generation())
	}
	f.n.takenOver(s, now)
	if s.Generation() == now.Generation() && s.Index() <= now.Index() {
		return nil
	}
	f.n.machine.Restore(s)
	f.n.noteTiming(now)
	if f.n.cfg.Ports.Placed != nil {
		f.n.cfg.Ports.Placed(nil, s.LogHead())
	}
	f.n.changed.tell()
	return nil
}

// takenOver has the seat begin anew where the library cannot go on from the snapshot that it takes over: it clears the log, but
// goes by its end until it starts again, and is sent the same snapshot for ever. That is so where the log was longer than what
// the snapshot holds: after a recovery, or where the answer to what followed an earlier snapshot was lost; and where it was as
// long, since its last entry may be of another term. No call is taken meanwhile, or what it brings would be the next such log.
func (n *Node) takenOver(s, before *state.State) {
	seat := n.seat.Load()
	if seat == nil { // a seat is being opened, on nothing else
		return
	}
	// Without the snapshots that were taken over before: behind those nothing is left.
	end, _ := strconv.ParseUint(seat.raft.Stats()["last_log_index"], 10, 64) // the library has no other way to say it
	if s.Generation() == before.Generation() && end < s.Index() {
		return
	}
	seat.trans.over.Store(true)
	select {
	case n.overtaken <- struct{}{}:
	default:
	}
}

// snapshot is a state that is to be written down.
type snapshot struct {
	n    *Node
	s    *state.State
	over func() error
}

// Persist waits until the events are in this node's copy of the log, on disk: a snapshot holds only the log's head, and the entries
// that hold the events are cut away behind it.
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	err := s.n.replicated(s.s.LogHead().Seq, replicaPatience, s.over)
	if err == nil {
		err = wrap("write snapshot", state.WriteSnapshot(sink, s.s))
	}
	if err == nil {
		err = s.over()
	}
	if err != nil {
		return errors.Join(err, discard(sink, s.n.cfg.Dir))
	}
	return sink.Close()
}

// discard removes what was written of a snapshot; the library leaves it where its last bytes cannot be written.
func discard(sink raft.SnapshotSink, dir string) error {
	return errors.Join(sink.Cancel(), os.RemoveAll(filepath.Join(dir, snapshotFolder, sink.ID()+".tmp")))
}

func (snapshot) Release() {}
