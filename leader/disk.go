package leader

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/internal/pace"
)

const (
	canaryEvery = 2 * time.Second
	canaryBytes = 4 << 10
	// stallLimit is how long a write may hang before the office is given up: with one look a second and an election the
	// ring has another coordinator within 15 s of the first hanging write.
	stallLimit = 10 * time.Second
	// stuckLimit is how long Raft's loop may hang before only a new process helps.
	stuckLimit = 2 * time.Minute
	// goodCanaries in a row end the state of a bad disk.
	goodCanaries = 3
	// never is the heartbeat timeout of a node that must not stand for election.
	never = 240 * time.Hour
)

// watchDisk probes the disk under the raft folder with small writes, and looks at the clock of Raft's own. A voter whose
// disk hangs or is full hands the coordinatorship over and does not stand for election until the disk is good again.
func (n *Node) watchDisk(ctx context.Context) {
	probe := n.cfg.Faults.Canary
	if probe == nil {
		probe = func() error { return canary(n.cfg.Dir) }
	}
	results := make(chan error, 1)
	var began time.Time // of the running probe
	var last time.Time
	good := 0
	const every = time.Second
	tick := time.NewTimer(pace.Until(every))
	defer tick.Stop()
	for {
		select {
		case err := <-results:
			began, last = time.Time{}, time.Now()
			if err != nil {
				good = 0
				n.diskBad(fmt.Sprintf("probe failed: %v", err), errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT))
			} else if good++; good >= goodCanaries && n.writeStalled() == 0 {
				n.diskGood()
			}
		case <-tick.C:
			tick.Reset(pace.Until(every))
			if began.IsZero() && time.Since(last) >= canaryEvery {
				began = time.Now()
				go func() { results <- probe() }()
			}
			hangs := n.writeStalled()
			if !began.IsZero() {
				hangs = max(hangs, time.Since(began))
			}
			if hangs >= stallLimit {
				good = 0
				n.diskBad(fmt.Sprintf("a write hangs for %s", hangs.Round(time.Second)), false)
			}
			if n.writeStuck() >= stuckLimit {
				n.fail(fmt.Errorf("%w: a write hangs for %s", ErrStuck, hangs.Round(time.Second)))
			}
		case <-ctx.Done():
			return
		}
	}
}

func (n *Node) writeStalled() time.Duration {
	if s := n.seat.Load(); s != nil {
		return s.guard.stalled()
	}
	return 0
}

// writeStuck is writeStalled without the waiting for space, which ends by itself.
func (n *Node) writeStuck() time.Duration {
	if s := n.seat.Load(); s != nil {
		return s.guard.stuck()
	}
	return 0
}

// canary writes, syncs and removes a small file.
func canary(dir string) error {
	path := filepath.Join(dir, ".canary")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, canaryBytes))
	return errors.Join(err, f.Sync(), f.Close(), os.Remove(path))
}

// diskBad gives the office up. If Raft's loop itself hangs in the disk it cannot; then this node falls silent, since the
// heartbeats of a coordinator that cannot commit would keep the others from electing.
func (n *Node) diskBad(why string, full bool) {
	s := n.seat.Load()
	if s == nil {
		return
	}
	first := n.idle.CompareAndSwap(false, true)
	if first {
		n.log.Error().Str("why", why).Bool("full", full).Msg("the disk is bad: this node hands over and does not stand for election")
	}
	n.abstain(s)
	if len(voters(s.raft)) < 2 {
		return // nobody to hand over to: proposals fail until the disk is good again
	}
	if s.guard.stalled() >= stallLimit {
		n.loseTerm()
		n.board.mute(true)
		return
	}
	if s.raft.State() == raft.Leader && (first || n.term.Load() != nil) {
		go n.handOver()
	}
}

// abstain keeps a node with a bad disk from standing for election, unless it coordinates: the library takes the same timeout
// for the interval of a coordinator's heartbeats, and for how long it refuses every proposal for the sake of a hand-over
// that fails. It is called again whenever the office is won or lost.
func (n *Node) abstain(s *seat) {
	n.standing.Lock()
	defer n.standing.Unlock()
	if n.idle.Load() {
		n.campaign(s, s.raft.State() == raft.Leader)
	}
}

// diskGood takes part again.
func (n *Node) diskGood() {
	n.standing.Lock()
	defer n.standing.Unlock()
	if !n.idle.CompareAndSwap(true, false) {
		return
	}
	n.board.mute(false)
	if s := n.seat.Load(); s != nil {
		n.campaign(s, n.behind.Load() == 0)
		select {
		case s.again <- struct{}{}:
		default:
		}
	}
	n.log.Info().Msg("the disk is good again")
}

// DiskBad says that this node's disk hangs or is full: it takes no part in elections, and should accept nothing that needs
// the disk.
func (n *Node) DiskBad() bool { return n.idle.Load() }

// campaign lets the seat stand for election, or not.
func (n *Node) campaign(s *seat, on bool) {
	c := s.raft.ReloadableConfig()
	t := s.heartbeat
	if !on {
		t = never
	}
	c.HeartbeatTimeout, c.ElectionTimeout = t, t
	if err := s.raft.ReloadConfig(c); err != nil {
		n.log.Warn().Err(err).Msg("raft's timeouts were not changed")
	}
}
