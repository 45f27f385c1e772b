package leader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

// rewrite makes of the files those of a ring with one voter. Until the library has put the new snapshot in its place nothing
// is changed but the term.
func (n *Node) rewrite(ctx context.Context, lost []id.Node) (err error) {
	store, err := OpenStore(n.cfg.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	var logs Logs = store
	if wrap := n.cfg.Faults.WrapStore; wrap != nil {
		logs = wrap(store)
	}
	logger := newRaftLogger(n.log)
	snaps, err := raft.NewFileSnapshotStoreWithLogger(n.cfg.Dir, snapshotsKept, logger)
	if err != nil {
		return fmt.Errorf("open snapshots: %w", err)
	}
	term, err := logs.GetUint64(keyTerm)
	if err != nil {
		return fmt.Errorf("read term: %w", err)
	}
	term += termStride + rand.Uint64N(termStride)
	if err := logs.SetUint64(keyTerm, term); err != nil {
		return fmt.Errorf("write term: %w", err)
	}
	last, err := endOf(logs, snaps)
	if err != nil {
		return err
	}
	conf := raftConfig(n.cfg.Self.Node, n.times(), n.cfg.Snapshots)
	conf.Logger = logger
	_, trans := raft.NewInmemTransport(raft.ServerAddress(n.cfg.Self.Node)) // only asked how it writes addresses
	return raft.RecoverCluster(conf, &successor{n: n, ctx: ctx, lost: lost, machine: state.New()},
		extended{logs, &raft.Log{Index: last + 1, Term: term, Type: raft.LogNoop}}, logs, snaps, trans,
		raft.Configuration{Servers: []raft.Server{server(n.cfg.Self.Node)}})
}

// endOf is the index at which log and snapshots end.
func endOf(logs raft.LogStore, snaps raft.SnapshotStore) (uint64, error) {
	last, err := logs.LastIndex()
	if err != nil {
		return 0, fmt.Errorf("find last entry: %w", err)
	}
	kept, err := snaps.List()
	if err != nil {
		return 0, fmt.Errorf("list snapshots: %w", err)
	}
	if len(kept) > 0 { // newest first
		last = max(last, kept[0].Index)
	}
	return last, nil
}

// extended is a log with one more entry, which is never stored: the place at which the recovered state stands.
type extended struct {
	raft.LogStore
	end *raft.Log
}

func (e extended) LastIndex() (uint64, error) { return e.end.Index, nil }

func (e extended) GetLog(index uint64, l *raft.Log) error {
	if index == e.end.Index {
		*l = *e.end
		return nil
	}
	return e.LogStore.GetLog(index, l)
}

// DeleteRange empties the log: all of it is behind the new snapshot.
func (e extended) DeleteRange(uint64, uint64) error { return clearLog(e.LogStore) }

func clearLog(logs raft.LogStore) error {
	first, err := logs.FirstIndex()
	if err != nil {
		return fmt.Errorf("find first entry: %w", err)
	}
	last, err := logs.LastIndex()
	if err != nil {
		return fmt.Errorf("find last entry: %w", err)
	}
	if last == 0 {
		return nil
	}
	return wrap("clear log", logs.DeleteRange(first, last))
}

// successor is the state machine of a recovery. It applies the whole log and hands out the first state of the new generation. Every
// event of the log must be in this node's copy of the event log by the time that this counts, since the entries go.
type successor struct {
	n       *Node
	ctx     context.Context //nolint:containedctx // of the one call during which it lives
	lost    []id.Node
	machine *state.Machine
	placed  [][]state.Placed // by the entries of the log, in order
	failed  error
}

// Apply implements raft.FSM.
func (s *successor) Apply(l *raft.Log) any {
	res, placed, err := s.machine.Apply(l.Index, l.Data)
	if err != nil && !errors.Is(err, state.ErrReplayed) && s.failed == nil {
		s.failed = fmt.Errorf("apply entry %d: %w", l.Index, err)
	}
	if len(placed) > 0 {
		s.placed = append(s.placed, placed)
	}
	return res
}

// Snapshot implements raft.FSM.
func (s *successor) Snapshot() (raft.FSMSnapshot, error) {
	if s.failed != nil {
		return nil, s.failed
	}
	head := s.machine.View().LogHead()
	if err := s.machine.Succeed(time.Now(), s.lost, s.n.newestKnown(s.ctx, s.machine.View())); err != nil {
		return nil, fmt.Errorf("begin a generation: %w", err)
	}
	return succession{s, s.machine.View(), head}, nil
}

// succession is the first state of a generation, which is to be written down.
type succession struct {
	from *successor
	s    *state.State
	head ring.LogHead // of the event log that the former generation leaves
}

// Persist puts the events, which nobody may ever have committed, last into this node's copy of the log: a recovery that fails before
// leaves the copy as it was. What the sink then still has to write, a last page and the library's own record, it has room for.
func (s succession) Persist(sink raft.SnapshotSink) error {
	dir := s.from.n.cfg.Dir
	err := reserve(dir)
	if err == nil {
		err = wrap("write snapshot", state.WriteSnapshot(sink, s.s))
	}
	if err == nil {
		err = s.from.keepEvents(s.head)
	}
	if err = errors.Join(err, os.RemoveAll(filepath.Join(dir, reserveFile))); err != nil {
		return errors.Join(err, discard(sink, dir))
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (succession) Release() {}

const (
	reserveFile = "reserve"
	reserved    = 64 << 10
)

// reserve takes room on the disk until reserveFile is removed.
func reserve(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, reserveFile), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("reserve room: %w", err)
	}
	_, err = f.Write(make([]byte, reserved))
	return wrap("reserve room", errors.Join(err, f.Sync(), f.Close()))
}

// placedAtOnce bounds what waits for this node's copy of the event log: what it has no room for it would pull from others, and
// there may be none.
const placedAtOnce = 4 << 20

// keepEvents puts the events of the log into this node's copy and returns once it is on disk up to head.
func (s *successor) keepEvents(head ring.LogHead) error {
	size := 0
	for _, records := range s.placed {
		last := records[len(records)-1]
		if s.n.cfg.Ports.Placed != nil {
			s.n.cfg.Ports.Placed(records, ring.LogHead{Seq: last.Seq, Hash: last.Hash})
		}
		for _, r := range records {
			size += len(r.Bytes)
		}
		if size < placedAtOnce {
			continue
		}
		if err := s.n.replicated(last.Seq, recoverPatience, s.ctx.Err); err != nil {
			return err
		}
		size = 0
	}
	return s.n.replicated(head.Seq, recoverPatience, s.ctx.Err)
}

// Restore implements raft.FSM.
func (s *successor) Restore(r io.ReadCloser) error {
	st, err := state.ReadSnapshot(r)
	if err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	s.machine.Restore(st)
	return nil
}
