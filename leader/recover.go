package leader

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

const (
	logEndTimeout   = 3 * time.Second // for what another core node answers about itself
	recoverPatience = 15 * time.Second
	// termStride is how far the term of a recovered log is above the one before, and as much again by chance: no voter of the
	// old generation, wherever it is, has an entry of that term, so that the library finds no end in its log that fits and
	// sends it the whole state.
	termStride = 1 << 20
	// generationsMissed is how many recoveries this node may have slept through. Who tells of more is not believed: there is
	// a last generation.
	generationsMissed = 64
)

// logEnd is how far a core node's log reaches, and whether it knows a way on.
type logEnd struct {
	Index       uint64  `json:"index"`
	Term        uint64  `json:"term"` // of the entry at Index
	Coordinator id.Node `json:"coordinator,omitempty"`
	Recovering  bool    `json:"recovering,omitempty"`
	Opening     bool    `json:"opening,omitempty"` // nothing can be said of the log now
}

// newer compares ends of logs as an election does.
func (s logEnd) newer(than logEnd) bool {
	return cmp.Or(cmp.Compare(s.Term, than.Term), cmp.Compare(s.Index, than.Index)) > 0
}

func (n *Node) logEnd() logEnd {
	s := n.seat.Load()
	st := logEnd{Coordinator: n.who().Coordinator, Recovering: n.recovering.Load(), Opening: s == nil}
	if s != nil {
		// The library has no other way to say it. An empty log has term 0.
		stats := s.raft.Stats()
		st.Index, _ = strconv.ParseUint(stats["last_log_index"], 10, 64)
		st.Term, _ = strconv.ParseUint(stats["last_log_term"], 10, 64)
		// A log that does not go on from the snapshot was cleared for it, whatever its term was: the library still tells of its end.
		kept, err := s.snaps.List()
		st.Opening = err != nil
		if len(kept) > 0 && (kept[0].Index >= st.Index || kept[0].Term > st.Term) {
			st.Index, st.Term = kept[0].Index, kept[0].Term
		}
	}
	return st
}

// recoverCall is a recovery that was looked at and may be.
type recoverCall struct {
	lost []id.Node
	done chan error
}

// Recover makes a ring that has lost the majority of its voters for good decide again: this node becomes its only voter, with
// the log as it has it, under a new generation, and takes others in as a young ring does. The voters named are shut out for
// good; all that do not answer must be named, none that answers may be. It is refused while there is a coordinator or while
// enough voters answer to elect one, and where another node that answers has a newer log. Run must be running.
//
// What only lost voters had of the log is lost with them; what its publishers still keep they publish again.
func (n *Node) Recover(ctx context.Context, lost []id.Node) (generation uint64, err error) {
	s := n.seat.Load()
	switch {
	case n.cfg.Self.Class != id.Core:
		return 0, refuseRecovery("an edge node has no log to go on with")
	case n.recovering.Load(): // before what that makes of the seat is looked at
		return 0, refuseRecovery("a recovery is under way here")
	case s == nil || n.behind.Load() > 0:
		return 0, refuseRecovery("this node's own log is not whole")
	case s.raft.LastIndex() == 0:
		return 0, refuseRecovery("this node has no log yet")
	case !n.recovering.CompareAndSwap(false, true):
		return 0, refuseRecovery("a recovery is under way here")
	}
	under := false // it is still under way when this returns
	defer func() {
		if !under {
			n.recovering.Store(false)
		}
	}()
	servers := configuration(s.raft)
	if !slices.ContainsFunc(servers, func(v raft.Server) bool { return id.Node(v.ID) == n.cfg.Self.Node }) {
		return 0, refuseRecovery("this node was taken out of those that decide: its log may be old")
	}
	servers = n.couldDecide(servers)
	if err := mayRecover(n.cfg.Self.Node, servers, n.logEnd(), n.logEnds(ctx, servers), lost, n.nameOf); err != nil {
		return 0, err
	}
	call := recoverCall{lost, make(chan error, 1)}
	select {
	case n.recoveries <- call:
	case <-n.ended:
		return 0, ErrNoCoordinator
	case <-ctx.Done():
		return 0, fmt.Errorf("%w: %w", ErrNoCoordinator, ctx.Err())
	}
	select {
	case err = <-call.done:
	case <-n.ended:
		err = ErrUnknownOutcome
	case <-ctx.Done(): // a full disk has the files wait for space
		// Others that look must go on hearing of it: without its seat this node seems to have no log.
		under = true
		n.begin(func() {
			select {
			case <-call.done:
			case <-n.ended:
			}
			n.recovering.Store(false)
		})
		err = fmt.Errorf("%w: the recovery is under way: %w", ErrUnknownOutcome, ctx.Err())
	}
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, recoverPatience)
	defer cancel()
	for n.term.Load() == nil {
		if !sleep(ctx, retryPause) {
			return 0, fmt.Errorf("%w: the ring was recovered, but this node does not coordinate yet", ErrUnknownOutcome)
		}
	}
	return n.machine.View().Generation(), nil
}

func refuseRecovery(format string, args ...any) error {
	return &Refused{Code: string(state.CodeRefused), Message: fmt.Sprintf(format, args...)}
}

func (n *Node) nameOf(node id.Node) string {
	if m, ok := n.machine.View().Member(node); ok && m.Name != "" {
		return m.Name
	}
	return string(node)
}

// couldDecide adds to a configuration, which may be of long ago, the core nodes of the roster.
func (n *Node) couldDecide(servers []raft.Server) []raft.Server {
	for m := range n.machine.View().Members() {
		seated := slices.ContainsFunc(servers, func(v raft.Server) bool { return id.Node(v.ID) == m.ID })
		if m.Class == id.Core && m.Live() && !seated {
			servers = append(servers, raft.Server{ID: raft.ServerID(m.ID), Suffrage: raft.Nonvoter})
		}
	}
	return servers
}

// logEnds asks all other nodes. Who does not answer is left out.
func (n *Node) logEnds(ctx context.Context, servers []raft.Server) map[id.Node]logEnd {
	ctx, cancel := context.WithTimeout(ctx, logEndTimeout)
	defer cancel()
	out := make(map[id.Node]logEnd)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, v := range servers {
		node := id.Node(v.ID)
		if node == n.cfg.Self.Node {
			continue
		}
		wg.Go(func() {
			var st logEnd
			b, err := n.cfg.Caller.CallRaw(ctx, node, methodLogEnd, nil)
			if err == nil {
				if b, err = open1(b); err == nil {
					err = json.Unmarshal(b, &st)
				}
			}
			if err != nil {
				n.log.Info().Err(err).Str("peer", string(node)).Msg("a recovery looks: this node does not answer")
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out[node] = st
		})
	}
	wg.Wait()
	return out
}

// newestKnown is the newest generation that any member knows. This node may have been off while the ring was recovered by others
// that are lost since, of which an edge node has heard: a generation must not be begun twice.
func (n *Node) newestKnown(ctx context.Context, s *state.State) uint64 {
	ctx, cancel := context.WithTimeout(ctx, logEndTimeout)
	defer cancel()
	newest := s.Generation()
	limit := newest + generationsMissed
	var mu sync.Mutex
	var wg sync.WaitGroup
	for m := range s.Members() {
		if m.ID == n.cfg.Self.Node || m.Revoked || m.Status == ring.Left {
			continue
		}
		wg.Go(func() {
			a, err := n.askWho(ctx, m.ID)
			if err != nil || a.Generation > limit {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			newest = max(newest, a.Generation)
		})
	}
	wg.Wait()
	return newest
}

// mayRecover says why a recovery must not be, or nil.
func mayRecover(self id.Node, servers []raft.Server, own logEnd, others map[id.Node]logEnd, lost []id.Node, name func(id.Node) string) error {
	if own.Coordinator != "" {
		return refuseRecovery("%s coordinates the ring", name(own.Coordinator))
	}
	voters, here := 0, 0
	var missing []string
	for _, v := range servers {
		node := id.Node(v.ID)
		st, answers := others[node]
		if v.Suffrage == raft.Voter {
			voters++
			switch {
			case node == self || answers:
				here++
			case !slices.Contains(lost, node):
				missing = append(missing, name(node))
			}
		}
		switch {
		case st.Coordinator != "":
			return refuseRecovery("%s says that %s coordinates the ring", name(node), name(st.Coordinator))
		case st.Recovering:
			return refuseRecovery("%s is recovering the ring at this moment", name(node))
		case st.Opening:
			return refuseRecovery("%s answers, but cannot say yet how far its log reaches", name(node))
		case answers && st.newer(own):
			return refuseRecovery("%s answers and has a newer log than this node: recover there", name(node))
		}
	}
	if here > voters/2 {
		return refuseRecovery("%d of %d voters answer, enough to elect a coordinator: wait for one", here, voters)
	}
	for _, node := range lost {
		_, answers := others[node]
		seated := slices.ContainsFunc(servers, func(v raft.Server) bool { return id.Node(v.ID) == node })
		switch {
		case node == self || answers:
			return refuseRecovery("%s answers: it is not lost", name(node))
		case !seated:
			return refuseRecovery("%s does not vote: shut it out with force-leave once there is a coordinator", name(node))
		}
	}
	if len(missing) > 0 {
		return refuseRecovery("%s: no answer. Voters that come back must be waited for; name those that are lost for good", strings.Join(missing, ", "))
	}
	return nil
}

// succeed puts a seat with this node as its only voter in the place of the one that there is. Whatever its error, the files
// are those of before or those of after, and a seat is taken on them.
func (n *Node) succeed(ctx context.Context, lost []id.Node) error {
	if s := n.seat.Swap(nil); s != nil {
		n.loseTerm()
		if err := s.close(closePatience); errors.Is(err, ErrStuck) {
			n.fail(err)
			return err
		}
	}
	err := n.rewrite(ctx, lost)
	s, opened := n.openSeat(false)
	if opened != nil {
		opened = fmt.Errorf("open raft after a recovery: %w", opened)
		n.fail(opened)
		return errors.Join(err, opened)
	}
	if !n.sit(s) {
		return ErrUnknownOutcome
	}
	if err == nil {
		n.log.Warn().Strs("shut_out", idStrings(lost)).Uint64("generation", n.machine.View().Generation()).
			Msg("the ring was recovered: this node is its only voter")
	}
	return wrap("recover the ring", err)
}

func idStrings(nodes []id.Node) []string {
	out := make([]string, len(nodes))
	for i, n := range nodes {
		out[i] = string(n)
	}
	return out
}
