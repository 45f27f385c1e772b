package leader

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// growth counts what the log has grown by since it was last cut for that, and tells when it is much.
type growth struct {
	entries, bytes atomic.Int64
	limit          atomic.Int64  // bytes; 0 = nothing is told
	over           chan struct{} // holds a value once there are more than limit
}

func newGrowth() *growth { return &growth{over: make(chan struct{}, 1)} }

// add counts entries with so many bytes of data.
func (g *growth) add(entries, bytes int64) {
	g.entries.Add(entries)
	if limit := g.limit.Load(); g.bytes.Add(bytes) >= limit && limit > 0 {
		select {
		case g.over <- struct{}{}:
		default:
		}
	}
}

// next sets the limit for what comes. What was told while the log was being cut is of what is gone by now.
func (g *growth) next(limit int64) {
	g.limit.Store(max(limit, 1))
	select {
	case <-g.over:
	default:
	}
	g.add(0, 0)
}

// keepShort has the log cut once it has grown by bytes, for as long as the seat lives; by number of entries the library does it
// itself. Every node sees to its own: one that a coordinator is far from reaching keeps no less.
func (n *Node) keepShort(s *seat) {
	for {
		s.store.grown.next(n.growthLimit(s))
		select {
		case <-s.store.grown.over:
		case <-s.lost:
			return
		}
		entries, bytes := s.store.grown.entries.Load(), s.store.grown.bytes.Load()
		switch err := n.cut(s, trailing(n.cfg.Snapshots, entries, bytes)); {
		case err == nil:
			s.store.grown.entries.Add(-entries)
			s.store.grown.bytes.Add(-bytes)
			continue
		case s.raft.State() == raft.Shutdown:
			return
		default: // the library has warned of what is worth it
			n.log.Debug().Err(err).Int64("bytes", bytes).Msg("the raft log is not cut yet")
		}
		select {
		case <-time.After(n.cfg.Snapshots.Every):
		case <-s.lost:
			return
		}
	}
}

// growthLimit is after how many bytes the log is cut: what is written for that, a snapshot, is not to be more than half of what
// the log itself takes.
func (n *Node) growthLimit(s *seat) int64 {
	limit := n.cfg.Snapshots.Bytes
	kept, err := s.snaps.List()
	if err != nil {
		n.log.Warn().Err(err).Msg("the size of the last snapshot is unknown")
		return limit
	}
	if len(kept) > 0 {
		limit = max(limit, 2*kept[0].Size)
	}
	return limit
}

// trailing is how many entries stay behind a snapshot that is taken after so many with so many bytes: of large ones fewer.
func trailing(s Snapshots, entries, bytes int64) uint64 {
	fit := float64(s.Bytes) * float64(entries) / float64(bytes)
	return max(1, uint64(min(fit, float64(s.Trailing))))
}

// cut takes a snapshot and has the library leave so many entries behind it.
func (n *Node) cut(s *seat, stay uint64) error {
	if err := n.setTrailing(s, stay); err != nil {
		return err
	}
	err := s.raft.Snapshot().Error()
	return errors.Join(err, n.setTrailing(s, n.cfg.Snapshots.Trailing))
}

func (n *Node) setTrailing(s *seat, entries uint64) error {
	n.standing.Lock() // campaign reads and changes the same settings
	defer n.standing.Unlock()
	c := s.raft.ReloadableConfig()
	c.TrailingLogs = entries
	return wrap("set what stays behind a snapshot", s.raft.ReloadConfig(c))
}

const (
	// replicaPatience is how long a snapshot waits until this node's copy of the event log is on disk. Under load it is always
	// some milliseconds behind; one that is broken is not waited for.
	replicaPatience = 10 * time.Second
	replicaPoll     = 20 * time.Millisecond
)

// replicated returns once this node's copy of the event log is on disk up to seq, or with an error when patience or, as over says,
// what it is wanted for has ended.
func (n *Node) replicated(seq uint64, patience time.Duration, over func() error) error {
	gate := n.cfg.Ports.Replica
	if gate == nil {
		return nil
	}
	late := time.After(patience)
	for gate.Durable() < seq {
		select {
		case <-time.After(replicaPoll):
		case <-late:
			return fmt.Errorf("this node's copy of the event log ends at %d on disk, and %d are needed", gate.Durable(), seq)
		}
		if err := over(); err != nil {
			return err
		}
	}
	return nil
}
