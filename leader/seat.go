package leader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

const (
	snapshotsKept = 2
	// snapshotFolder is where the library keeps them.
	snapshotFolder = "snapshots"
	// maxAppend bounds one AppendEntries call: 16 entries of at most 256 KiB are 4 MiB, which a follower decodes and
	// writes in one go without growing by more, and which a slow link carries within the transport's deadline.
	maxAppend = 16
	// cachedEntries are kept decoded for followers that are up to date, so that a commit reads nothing from disk.
	cachedEntries = 64
	// commitTimeout is how often an idle coordinator tells the commit index. Each telling costs a voter a decrypted call;
	// at 250 ms (the library draws from one to two times that) an idle voter stays under 0.8 % of a core.
	commitTimeout = 250 * time.Millisecond
)

// seat is one life of Raft on this node: it ends when the node stops, or when its files turn out to be bad, after which
// another one begins with an empty folder.
type seat struct {
	raft   *raft.Raft
	store  *Store
	snaps  raft.SnapshotStore
	guard  *guard
	trans  *Transport
	notify chan bool
	lost   chan struct{} // closed when Raft has ended
	again  chan struct{} // look again whether this node is elected
	whole  atomic.Bool   // see caughtUp

	heartbeat time.Duration // with which it was opened; other times hold from the next start on
}

func raftConfig(self id.Node, t ring.Times, s Snapshots) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(self)
	c.HeartbeatTimeout = t.Heartbeat
	c.ElectionTimeout = t.Heartbeat
	// A coordinator that is not answered gives up a little before others may stand, and no earlier: on a busy machine answers
	// are late, and stepping down costs more than they do. Nothing that is promised rests on this, see proof.
	c.LeaderLeaseTimeout = t.Heartbeat * 4 / 5
	c.CommitTimeout = commitTimeout
	c.MaxAppendEntries = maxAppend
	c.BatchApplyCh = true
	c.SnapshotInterval = s.Every
	c.SnapshotThreshold = s.Entries
	c.TrailingLogs = s.Trailing
	c.NoLegacyTelemetry = true
	return c
}

// openSeat starts Raft on the files in the node's folder. An error that is ErrCorrupt means that they must not be used.
func (n *Node) openSeat(bootstrap bool) (*seat, error) {
	dir := n.cfg.Dir
	behind, err := readMark(dir)
	if err != nil {
		return nil, err
	}
	if bootstrap && behind > 0 {
		return nil, errors.New("bootstrap ring: the folder is that of a voter that was removed from one")
	}
	n.behind.Store(behind)
	store, err := OpenStore(dir)
	if err != nil {
		return nil, err
	}
	if err := store.Verify(); err != nil {
		return nil, errors.Join(fmt.Errorf("check raft store: %w", err), store.Close())
	}
	var logs Logs = store
	if wrap := n.cfg.Faults.WrapStore; wrap != nil {
		logs = wrap(store)
	}
	s := &seat{store: store, notify: make(chan bool, 16), lost: make(chan struct{}), again: make(chan struct{}, 1)}
	s.guard = newGuard(logs, n.spoilt)
	if err := sweep(dir); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	logger := newRaftLogger(n.log)
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, snapshotsKept, logger)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open snapshots: %w", err), store.Close())
	}
	s.snaps = snaps
	if err := tidy(logs, s.guard, snaps); err != nil {
		return nil, errors.Join(fmt.Errorf("tidy raft store: %w", err), store.Close())
	}
	cache, err := raft.NewLogCache(cachedEntries, s.guard)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make log cache: %w", err), store.Close())
	}
	s.trans = newTransport(n.cfg.Self.Node, n.board, n.times().Heartbeat, n.barred, logger)
	s.trans.heard.late = n.cfg.Faults.late
	s.trans.unsigned = n.cfg.Faults.unsigned
	conf := raftConfig(n.cfg.Self.Node, n.times(), n.cfg.Snapshots)
	s.heartbeat = n.times().Heartbeat
	s.trans.ballot.self, s.trans.ballot.silence = n.cfg.Self.Node, s.heartbeat*3/5
	s.trans.ballot.busy = func() bool { return s.guard.stalled() > 0 }
	s.trans.ballot.off = n.cfg.Faults.strictBallot
	if behind > 0 { // from the first moment on: the library reads its configuration before this node can say anything
		conf.HeartbeatTimeout, conf.ElectionTimeout = never, never
	}
	conf.Logger = logger
	conf.NotifyCh = s.notify
	if bootstrap {
		if err := cutOff(store, snaps); err != nil {
			return nil, errors.Join(fmt.Errorf("bootstrap ring: %w", err), s.trans.Close(), store.Close())
		}
		err = raft.BootstrapCluster(conf, cache, s.guard, snaps, s.trans, raft.Configuration{Servers: []raft.Server{server(n.cfg.Self.Node)}})
		if err != nil && !errors.Is(err, raft.ErrCantBootstrap) { // there is a ring already: the last start got that far
			return nil, errors.Join(fmt.Errorf("bootstrap ring: %w", err), s.trans.Close(), store.Close())
		}
	}
	s.raft, err = startRaft(conf, fsm{n, s.guard.closing}, cache, s.guard, snaps, s.trans)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start raft: %w", err), s.trans.Close(), store.Close())
	}
	s.trans.ballot.raft.Store(s.raft)
	go n.watchLeadership(s)
	go n.keepShort(s)
	return s, nil
}

// barred says that a node is shut out of the ring.
func (n *Node) barred(peer id.Node) bool {
	return n.machine.View().IsRevoked(peer) && !n.cfg.Faults.HearBarred
}

// sweep removes snapshots that were never written to their end. The library leaves them, and tells of each at every look.
func sweep(dir string) error {
	dir = filepath.Join(dir, snapshotFolder)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".tmp") {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return wrap("remove unfinished snapshots", err)
}

// tidy clears a log that ends before the newest snapshot, or in an older term than it and so does not go on from it: a
// recovery, or the taking over of a snapshot, ended between the two. What would be stored next would leave a hole behind it, or
// never fit. The guard only writes: it would end the goroutine that reads a bad entry. A log that begins behind it lacks something.
func tidy(logs, guarded raft.LogStore, snaps raft.SnapshotStore) error {
	last, err := logs.LastIndex()
	if err != nil {
		return fmt.Errorf("find last entry: %w", err)
	}
	kept, err := snaps.List()
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	if last == 0 {
		return nil
	}
	first, err := logs.FirstIndex()
	if err != nil {
		return fmt.Errorf("find first entry: %w", err)
	}
	var newest raft.SnapshotMeta
	if len(kept) > 0 {
		newest = *kept[0]
	}
	if first > newest.Index+1 { // the library would panic
		return fmt.Errorf("entries %d to %d are missing between the newest snapshot and the log: %w", newest.Index+1, first-1, ErrCorrupt)
	}
	var end raft.Log
	if err := logs.GetLog(last, &end); err != nil {
		return fmt.Errorf("read last entry: %w", err)
	}
	if last >= newest.Index && end.Term >= newest.Term {
		return nil
	}
	return clearLog(guarded)
}

// cutOff undoes a ring's first start that ended between the two writes with which the library begins, its term and its first
// entry. Left so, the library takes the ring for one that exists, of which it knows no voter, and never elects any.
func cutOff(store *Store, snaps raft.SnapshotStore) error {
	term, err := store.GetUint64(keyTerm)
	if err != nil || term != 1 { // of a new store there is an error
		return nil
	}
	vote, err := store.GetUint64(keyVoteTerm)
	if err == nil && vote > 0 {
		return nil
	}
	last, err := store.LastIndex()
	if err != nil || last > 0 {
		return err
	}
	if kept, err := snaps.List(); err != nil || len(kept) > 0 {
		return err
	}
	return store.SetUint64(keyTerm, 0)
}

// startRaft runs NewRaft in a goroutine of its own, since the guard ends the goroutine that meets a bad entry.
func startRaft(c *raft.Config, f raft.FSM, l raft.LogStore, st raft.StableStore, sn raft.SnapshotStore, t raft.Transport) (*raft.Raft, error) {
	var r *raft.Raft
	err := error(ErrCorrupt)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r, err = raft.NewRaft(c, f, l, st, sn, t)
	}()
	<-done
	return r, err
}

func server(n id.Node) raft.Server {
	return raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(n), Address: raft.ServerAddress(n)}
}

// close ends Raft and closes the files; it is called once. A main loop that hangs in the disk is not waited for longer
// than patience; the files are then closed once it has ended.
func (s *seat) close(patience time.Duration) error {
	s.settle()
	s.guard.close()
	s.trans.letGo()
	down := s.raft.Shutdown()
	ended := make(chan error, 1)
	go func() { // after patience, too: what the store has begun ends with it
		err := down.Error()
		ended <- errors.Join(err, s.trans.Close(), s.store.Close())
	}()
	defer close(s.lost)
	select {
	case err := <-ended:
		return err
	case <-time.After(patience):
	}
	err := s.trans.Close() // Raft may be waiting for a call to a voter that is gone
	select {
	case end := <-ended:
		return errors.Join(end, err)
	case <-time.After(patience):
		return errors.Join(ErrStuck, err)
	}
}

// transfer hands the office to a voter that has answered a moment ago; "" is for whichever is furthest, or for one of those
// that do answer where not all do. The library would also choose one that is gone, and wait for it.
func (s *seat) transfer(to id.Node) error {
	others := slices.DeleteFunc(voters(s.raft), func(n id.Node) bool { return n == s.trans.self })
	here := s.trans.here(others)
	switch {
	case to != "" && !slices.Contains(here, to):
		return &Refused{Code: string(state.CodeRefused), Message: fmt.Sprintf("%s does not answer, so nothing is handed over", to)}
	case to == "" && len(others) == 0:
		return &Refused{Code: string(state.CodeRefused), Message: "there is no other voter to hand over to"}
	case to == "" && len(here) == 0:
		return &Refused{Code: string(state.CodeRefused), Message: "no other voter answers, so nothing is handed over"}
	case to == "" && len(here) == len(others):
		return s.raft.LeadershipTransfer().Error()
	case to == "":
		to = here[0]
	}
	return s.raft.LeadershipTransferToServer(raft.ServerID(to), raft.ServerAddress(to)).Error()
}

// settle lets a coordinator's state machine come to the end of what was committed: the library forgets to answer the
// futures of entries that it has committed but not applied when it shuts down.
func (s *seat) settle() {
	if s.raft.State() != raft.Leader {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.raft.Barrier(100 * time.Millisecond).Error() // best effort
	}()
	select {
	case <-done:
	case <-time.After(300 * time.Millisecond):
	}
}

// finish lets the library's loop come to the end of the call in which it is, but no longer than patience: what a snapshot that
// is being taken over makes needless must be cleared.
func (s *seat) finish(patience time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.raft.VerifyLeader().Error() // answered by that loop, whatever it says
	}()
	select {
	case <-done:
	case <-time.After(patience):
	}
}

// wipe removes a seat's files, for a voter that must not trust them any more.
func wipe(dir string) error {
	for _, name := range []string{storeFile, journalFolder, snapshotFolder} {
		// One after the other, also on disk: without raft.db its journal is nobody's, but not the other way round.
		if err := errors.Join(os.RemoveAll(filepath.Join(dir, name)), syncDir(dir)); err != nil {
			return fmt.Errorf("wipe raft folder: %w", err)
		}
	}
	return nil
}
