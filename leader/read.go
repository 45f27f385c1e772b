package leader

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/leader/state"
)

// View is this node's copy of the state, as new as it happens to be; an edge node's copy has the settings, roster,
// revocations, assignments, switches and names only. It never blocks.
func (n *Node) View() *state.State { return n.machine.View() }

// Freshness says what a View is worth that is taken after it.
func (n *Node) Freshness() Freshness {
	f := n.freshness()
	f.Index = n.machine.View().Index() // last: an older index would pass for as new as the rest says
	return f
}

func (n *Node) freshness() (f Freshness) {
	if n.cfg.Self.Class != id.Core {
		f.AsOf, f.Coordinator = n.copied.last()
		f.Known = !f.AsOf.IsZero()
		return f
	}
	if n.term.Load() != nil {
		f.AsOf, f.Coordinator, f.Known = time.Now(), n.cfg.Self.Node, true
		return f
	}
	s := n.seat.Load()
	if s == nil {
		return f
	}
	applied := s.raft.AppliedIndex()
	at := s.trans.told.asOf(applied)
	if at.IsZero() || !s.caughtUp(applied, n.machine) {
		return f
	}
	f.AsOf = at
	if _, leader := s.raft.LeaderWithID(); id.Node(leader) != n.cfg.Self.Node {
		f.Coordinator = id.Node(leader)
	}
	f.Known = true
	return f
}

// caughtUp says whether the view has what Raft has applied. After a start the library counts thousands of entries as applied that
// still wait for the state machine, and until they are through the view is a part of the state that there never was; later on they
// are a few, and it is only a moment old.
func (s *seat) caughtUp(applied uint64, m *state.Machine) bool {
	if s.whole.Load() {
		return true
	}
	first, err := s.store.FirstIndex()
	for i := applied; err == nil && 0 < first && first <= i; i-- {
		var l raft.Log
		if err = s.store.GetLog(i, &l); err == nil && l.Type == raft.LogCommand { // others do not come to the machine
			if m.View().Index() < i {
				return false
			}
			break
		}
	}
	if err != nil && !errors.Is(err, raft.ErrLogNotFound) {
		return false
	}
	s.whole.Store(true) // also where the log was cut: then it was applied
	return true
}

// Changes returns a channel that is closed when the view has changed after the call.
func (n *Node) Changes() <-chan struct{} { return n.changed.wait() }

// stateMoment tells which of two states is newer: not the index alone, which begins lower again where a recovery went on with a
// shorter log. Generation 0 is also that of builds which do not tell: the mesh has seen to it that it is this node's.
type stateMoment struct {
	Generation uint64 `json:"generation,omitempty"`
	Index      uint64 `json:"index"`
}

func momentOf(s *state.State) stateMoment { return stateMoment{s.Generation(), s.Index()} }

func (m stateMoment) before(o stateMoment) bool {
	if o.Generation == 0 {
		return m.Index < o.Index
	}
	return m.Generation < o.Generation || m.Generation == o.Generation && m.Index < o.Index
}

// reached waits until the view is at least as new as m and returns it.
func (n *Node) reached(ctx context.Context, m stateMoment) (*state.State, error) {
	for {
		more := n.changed.wait()
		if s := n.machine.View(); !momentOf(s).before(m) {
			return s, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for index %d of generation %d: %w", m.Index, m.Generation, ctx.Err())
		}
	}
}

// readCall is empty from versions that know no zipped answer.
type readCall struct {
	Zip bool `json:"zip,omitempty"` // the state may come zipped
}

// readAnswer is where the coordinator is once it has proved that it coordinates; an edge node gets the state itself.
type readAnswer struct {
	stateMoment
	Snapshot []byte `json:"snapshot,omitempty"`
	Zipped   []byte `json:"zipped,omitempty"` // Snapshot by gzip, a fifth of it
}

// state is the state that an answer carries, or nil.
func (a readAnswer) state() (*state.State, error) {
	switch {
	case len(a.Zipped) > 0:
		z, err := gzip.NewReader(bytes.NewReader(a.Zipped))
		if err != nil {
			return nil, fmt.Errorf("unzip state: %w", err)
		}
		return state.ReadSnapshot(z)
	case len(a.Snapshot) > 0:
		return state.ReadSnapshot(bytes.NewReader(a.Snapshot))
	}
	return nil, nil
}

// Read returns a view that is at least as new as the ring's state when it was called: the coordinator proves that it
// still is, and this node waits for what was applied there. On an edge node the whole state comes over the wire.
func (n *Node) Read(ctx context.Context) (*state.State, error) {
	caller, limit := ctx, callTimeout
	if n.cfg.Self.Class != id.Core {
		limit = wholeTimeout
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	var s *state.State
	var at stateMoment
	err := n.atCoordinator(ctx, func(ctx context.Context, t *term) error {
		err := t.proof.now(ctx, true)
		s = n.machine.View()
		return err
	}, func(_ context.Context, r remote) error {
		in, err := json.Marshal(readCall{Zip: true})
		if err != nil {
			return fmt.Errorf("encode call: %w", err)
		}
		// A coordinator was found: what it sends may take longer than one is looked for.
		b, err := r.within(caller, limit, methodRead, in)
		if err != nil {
			return err
		}
		var a readAnswer
		if err := json.Unmarshal(b, &a); err != nil {
			return fmt.Errorf("decode answer: %w", err)
		}
		at = a.stateMoment
		s, err = a.state()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	if s != nil {
		return s, nil
	}
	return n.reached(ctx, at)
}

const (
	// wholeReads is how many edge nodes are handed the whole state at a time: tens of MB each in a large ring, in memory, and
	// on the link over which followers are fed.
	wholeReads = 2
	// wholeTimeout is for one attempt at it: with the most artifacts that a state holds it is 140 MB, which take seconds to
	// write and to read, and some 25 MB to carry when they are zipped. An answer of more than 64 MiB would not arrive at all.
	wholeTimeout = time.Minute
)

func serveRead(ctx context.Context, t *term, from id.Node, in []byte) ([]byte, error) {
	var c readCall
	if len(in) > 0 {
		if err := json.Unmarshal(in, &c); err != nil {
			return nil, &Refused{Code: string(state.CodeInvalid), Message: fmt.Sprintf("decode call: %v", err)}
		}
	}
	if err := t.proof.now(ctx, true); err != nil {
		return nil, err
	}
	s := t.n.machine.View()
	a := readAnswer{stateMoment: momentOf(s)}
	if m, ok := s.Member(from); ok && m.Class != id.Core {
		select {
		case t.n.whole <- struct{}{}:
			defer func() { <-t.n.whole }()
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: too many read the whole state: %w", ErrNoCoordinator, ctx.Err())
		}
		if err := a.carry(s, c.Zip); err != nil {
			return nil, err
		}
	}
	return json.Marshal(a)
}

// carry puts the whole state into an answer.
func (a *readAnswer) carry(s *state.State, zip bool) error {
	var b bytes.Buffer
	if !zip {
		err := state.WriteSnapshot(&b, s)
		a.Snapshot = b.Bytes()
		return err
	}
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		return fmt.Errorf("zip state: %w", err)
	}
	if err := errors.Join(state.WriteSnapshot(z, s), z.Close()); err != nil {
		return fmt.Errorf("zip state: %w", err)
	}
	a.Zipped = b.Bytes()
	return nil
}

// Confirm returns nil once a coordinator has proved, after the call, that it is one. Unlike Read it costs a node without the
// whole state a few bytes.
func (n *Node) Confirm(ctx context.Context) error {
	_, _, err := n.Origin(ctx, "")
	return wrap("confirm that there is a coordinator", err)
}

// Stats is what `ringagent leader` shows.
type Stats struct {
	Coordinator      *id.Node  `json:"coordinator"` // null without quorum
	Term             uint64    `json:"term"`
	Voters           []id.Node `json:"voters"`
	Nonvoters        []id.Node `json:"nonvoters"`
	Quorum           int       `json:"quorum"`
	AliveVoters      int       `json:"alive_voters"`
	FailureTolerance int       `json:"failure_tolerance"`
	CommitIndex      uint64    `json:"commit_index"`
}

// Stats is this node's view of the Raft group; what it cannot know itself (edge nodes, and who is alive) is the
// coordinator's, see AskStats.
func (n *Node) Stats() Stats {
	st := Stats{Voters: []id.Node{}, Nonvoters: []id.Node{}}
	w := n.who()
	st.Term = w.Term
	if w.Coordinator != "" {
		st.Coordinator = &w.Coordinator
	}
	s := n.seat.Load()
	if s == nil {
		return st
	}
	st.CommitIndex = s.raft.CommitIndex()
	view := n.machine.View()
	servers := configuration(s.raft)
	if c := n.agreed.Load(); c != nil && n.term.Load() != nil {
		servers = c.Servers // Raft goes by its newest entry at once; what may yet be taken back is not to be relied on
	}
	for _, v := range servers {
		node := id.Node(v.ID)
		if v.Suffrage != raft.Voter {
			st.Nonvoters = append(st.Nonvoters, node)
			continue
		}
		st.Voters = append(st.Voters, node)
		if t := n.term.Load(); t != nil {
			if t.silence(node) < n.times().Lease {
				st.AliveVoters++
			}
		} else if m, ok := view.Member(node); ok && m.Live() {
			st.AliveVoters++
		}
	}
	st.Quorum = len(st.Voters)/2 + 1
	st.FailureTolerance = max(0, st.AliveVoters-st.Quorum)
	return st
}

func serveStats(_ context.Context, t *term, _ id.Node, _ []byte) ([]byte, error) {
	return json.Marshal(t.n.Stats())
}

// AskStats is the coordinator's Stats, or this node's own when there is no coordinator within ctx.
func (n *Node) AskStats(ctx context.Context) Stats {
	if n.term.Load() != nil {
		return n.Stats()
	}
	if r, ok := n.finder.find(ctx); ok {
		if b, err := r.raw(ctx, methodStats, nil); err == nil {
			var st Stats
			if json.Unmarshal(b, &st) == nil {
				return st
			}
		}
	}
	return n.Stats()
}

// Digest is a state's digest at an index.
type Digest struct {
	Index  uint64 `json:"index"`
	Digest string `json:"digest"`
}

// Digest is the digest of this node's state and the index that it is of. Voters' digests are equal at equal index.
func (n *Node) Digest() Digest {
	s := n.machine.View()
	return Digest{s.Index(), state.Digest(s)}
}

// DigestOf asks a core node for its state's digest as soon as it has reached index of this node's generation.
func (n *Node) DigestOf(ctx context.Context, node id.Node, index uint64) (Digest, error) {
	in, err := json.Marshal(stateMoment{n.machine.View().Generation(), index})
	if err != nil {
		return Digest{}, fmt.Errorf("encode call: %w", err)
	}
	b, err := n.cfg.Caller.CallRaw(ctx, node, methodDigest, in)
	if err == nil {
		b, err = open1(b)
	}
	var d Digest
	if err == nil {
		err = json.Unmarshal(b, &d)
	}
	return d, wrap("ask for digest", err)
}

func (n *Node) serveDigest(ctx context.Context, _ id.Node, in []byte) ([]byte, error) {
	var c stateMoment
	if err := json.Unmarshal(in, &c); err != nil {
		return nil, fmt.Errorf("decode call: %w", err)
	}
	if _, err := n.reached(ctx, c); err != nil {
		return nil, err
	}
	return json.Marshal(n.Digest())
}

// Coordinates says that this node coordinates, as far as it knows.
func (n *Node) Coordinates() bool { return n.term.Load() != nil }
