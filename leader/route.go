package leader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/leader/state"
)

const (
	askTimeout  = time.Second     // for "who coordinates?"
	askPause    = 2 * time.Second // at most, from one such question to the next
	callTimeout = 5 * time.Second // for one attempt at the coordinator; commits take milliseconds
)

// remote is a coordinator on another node, reached directly or through a voter.
type remote struct {
	n    *Node
	node id.Node
	via  id.Node // "" = directly
}

// errElsewhere is the answer of a node that does not coordinate: nothing was done.
var errElsewhere = errors.New("not the coordinator")

// raw calls the coordinator. Errors are told apart by what may have happened: *Refused and ErrNoCoordinator, nothing;
// ErrUnknownOutcome, anything.
func (r remote) raw(ctx context.Context, method string, in []byte) ([]byte, error) {
	return r.within(ctx, callTimeout, method, in)
}

// within is raw with a time of its own.
func (r remote) within(ctx context.Context, limit time.Duration, method string, in []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	to := r.node
	if r.via != "" {
		b, err := json.Marshal(relayed{Method: method, Body: in})
		if err != nil {
			return nil, fmt.Errorf("wrap call: %w", err)
		}
		to, method, in = r.via, methodRelay, b
	}
	out, err := r.n.cfg.Caller.CallRaw(ctx, to, method, in)
	if err != nil {
		var refusal interface{ NotAllowed() bool }
		if errors.As(err, &refusal) && refusal.NotAllowed() {
			return nil, &Refused{Code: string(state.CodeUnauth), Message: err.Error()}
		}
		return nil, fmt.Errorf("call %s at %s: %w: %w", method, to, ErrUnknownOutcome, err)
	}
	return open1(out)
}

// Every answer of a handler begins with one byte: what follows is the answer, or why there is none.
const (
	answerOK        = 0
	answerElsewhere = 1
	answerUnknown   = 2
	answerRefused   = 3
	answerError     = 4
)

func open1(b []byte) ([]byte, error) {
	if len(b) == 0 {
		return nil, fmt.Errorf("%w: empty answer", ErrUnknownOutcome)
	}
	rest := b[1:]
	switch b[0] {
	case answerOK:
		return rest, nil
	case answerElsewhere:
		return nil, fmt.Errorf("%w: %w: %s", ErrNoCoordinator, errElsewhere, rest)
	case answerUnknown:
		return nil, fmt.Errorf("%w: %s", ErrUnknownOutcome, rest)
	case answerRefused:
		var r Refused
		if err := json.Unmarshal(rest, &r); err != nil {
			return nil, fmt.Errorf("decode refusal: %w", err)
		}
		return nil, &r
	}
	return nil, fmt.Errorf("the coordinator answers: %s", rest)
}

// seal1 is the answer of a handler that ended with b or err.
func seal1(b []byte, err error) []byte {
	var refused *Refused
	switch {
	case err == nil:
		return append([]byte{answerOK}, b...)
	case errors.Is(err, ErrNoCoordinator):
		return append([]byte{answerElsewhere}, err.Error()...)
	case errors.Is(err, ErrUnknownOutcome):
		return append([]byte{answerUnknown}, err.Error()...)
	case errors.As(err, &refused):
		j, _ := json.Marshal(refused) // two strings: cannot fail
		return append([]byte{answerRefused}, j...)
	}
	return append([]byte{answerError}, err.Error()...)
}

// atCoordinator runs here if this node coordinates, or else there for the coordinator's node. What was surely not done is
// tried again until ctx ends; the last error is then ErrNoCoordinator.
func (n *Node) atCoordinator(ctx context.Context, here func(context.Context, *term) error, there func(context.Context, remote) error) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	for {
		var err error
		if t := n.term.Load(); t != nil {
			err = here(ctx, t)
		} else if r, ok := n.finder.find(ctx); ok {
			if err = there(ctx, r); err != nil {
				n.finder.doubt(r, err)
			}
		} else {
			err = ErrNoCoordinator
		}
		if !errors.Is(err, ErrNoCoordinator) {
			return err
		}
		if !sleep(ctx, retryPause) {
			return fmt.Errorf("%w: %w", err, ctx.Err())
		}
	}
}

// toCoordinator is atCoordinator for methods in JSON. An unknown outcome is not tried again.
func (n *Node) toCoordinator(ctx context.Context, method string, in, out any, here func(context.Context, *term) error) error {
	return n.atCoordinator(ctx, here, func(ctx context.Context, r remote) error {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode call: %w", err)
		}
		if b, err = r.raw(ctx, method, b); err != nil || out == nil {
			return err
		}
		return wrap("decode answer", json.Unmarshal(b, out))
	})
}

// finder knows, or finds out, who coordinates.
type finder struct {
	n       *Node
	mu      sync.Mutex
	known   remote
	since   time.Time             // when known was found out
	asked   time.Time             // when the others were last asked
	lost    time.Time             // since when none of them could say; zero: one could
	doubted map[id.Node]time.Time // nodes that could not be reached directly
}

const doubtFor = 10 * time.Second

// find returns the coordinator: as Raft says, as remembered, or as the core nodes answer when asked at the same time.
func (f *finder) find(ctx context.Context) (remote, bool) {
	if s := f.n.seat.Load(); s != nil {
		if _, leader := s.raft.LeaderWithID(); leader != "" && id.Node(leader) != f.n.cfg.Self.Node {
			f.mu.Lock()
			f.lost = time.Time{}
			f.mu.Unlock()
			return f.way(id.Node(leader), f.seeds()), true
		}
	}
	f.mu.Lock()
	known := f.known
	// A voter relays to whoever coordinates by now, so that a roundabout way never fails for being out of date.
	stale := known.via != "" && time.Since(f.since) >= doubtFor
	good := known.node != "" && !stale
	soon := !good && time.Since(f.asked) < f.pause()
	if !good && !soon {
		f.asked = time.Now()
	}
	f.mu.Unlock()
	if good || soon {
		return known, good
	}
	r, ok := f.ask(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case ok:
		f.known, f.since, f.lost = r, time.Now(), time.Time{}
	case f.lost.IsZero():
		f.lost = time.Now()
	}
	return r, ok
}

// pause is how long the others are left alone after a question that none of them could answer: not at all in the second that
// an election takes, but a node that is cut off or shut out has every caller here ask them, for ever. Called with mu held.
func (f *finder) pause() time.Duration {
	if f.lost.IsZero() {
		return 0
	}
	return min(time.Since(f.lost)/10, askPause)
}

// way is direct, or through another core node while the direct way is in doubt.
func (f *finder) way(to id.Node, seeds []id.Node) remote {
	f.mu.Lock()
	at, bad := f.doubted[to]
	f.mu.Unlock()
	r := remote{n: f.n, node: to}
	if bad && time.Since(at) < doubtFor {
		for _, s := range seeds {
			f.mu.Lock()
			at, bad := f.doubted[s]
			f.mu.Unlock()
			if s != to && (!bad || time.Since(at) >= doubtFor) {
				r.via = s
				break
			}
		}
	}
	return r
}

// doubt forgets a coordinator that does not answer as one. One that could not be reached is asked through others for a
// while.
func (f *finder) doubt(r remote, err error) {
	if errors.As(err, new(*Refused)) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known = remote{}
	if errors.Is(err, ErrUnknownOutcome) {
		if f.doubted == nil {
			f.doubted = make(map[id.Node]time.Time)
		}
		bad := r.node
		if r.via != "" {
			bad = r.via
		}
		f.doubted[bad] = time.Now()
	}
}

// seeds are the core nodes of the roster and those that the mesh knows, without this one.
func (f *finder) seeds() []id.Node {
	var out []id.Node
	for m := range f.n.machine.View().Members() {
		if m.Class == id.Core && m.Live() {
			out = append(out, m.ID)
		}
	}
	if f.n.cfg.Ports.Seeds != nil {
		out = append(out, f.n.cfg.Ports.Seeds()...)
	}
	slices.Sort(out)
	out = slices.Compact(out)
	return slices.DeleteFunc(out, func(n id.Node) bool { return n == f.n.cfg.Self.Node })
}

// likely are those of the seeds that seem to be there.
func (f *finder) likely() []id.Node {
	if f.n.cfg.Ports.Likely == nil {
		return f.seeds()
	}
	return slices.DeleteFunc(f.n.cfg.Ports.Likely(), func(n id.Node) bool { return n == f.n.cfg.Self.Node })
}

// whoAnswer is what a node knows of the coordinator.
type whoAnswer struct {
	Coordinator id.Node `json:"coordinator,omitempty"`
	Term        uint64  `json:"term"`
	Generation  uint64  `json:"generation,omitempty"` // of the ring, as that node knows it
}

// ask asks all core nodes at once and believes the newest term; it returns with the first that names a coordinator which
// is itself, or when all have answered.
func (f *finder) ask(ctx context.Context) (remote, bool) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	seeds := f.seeds()
	type told struct {
		by id.Node
		whoAnswer
	}
	answers := make(chan told, len(seeds))
	for _, s := range seeds {
		go func() {
			a, err := f.n.askWho(ctx, s)
			if err != nil {
				a = whoAnswer{}
			}
			answers <- told{s, a}
		}()
	}
	var best told
	for range seeds {
		a := <-answers
		if a.Coordinator != "" && a.Coordinator != f.n.cfg.Self.Node && (best.Coordinator == "" || a.Term > best.Term) {
			best = a
			if a.by == a.Coordinator {
				break
			}
		}
	}
	if best.Coordinator == "" {
		return remote{}, false
	}
	r := f.way(best.Coordinator, seeds)
	if r.via == "" && best.by != best.Coordinator && !slices.Contains(seeds, best.Coordinator) {
		r.via = best.by // nobody here has heard of that node
	}
	return r, true
}

func (n *Node) askWho(ctx context.Context, node id.Node) (a whoAnswer, err error) {
	b, err := n.cfg.Caller.CallRaw(ctx, node, methodWho, nil)
	if err == nil {
		b, err = open1(b)
	}
	if err == nil {
		err = json.Unmarshal(b, &a)
	}
	return a, wrap("ask who coordinates", err)
}

// who is this node's own knowledge.
func (n *Node) who() whoAnswer {
	a := n.knows()
	a.Generation = n.machine.View().Generation()
	return a
}

func (n *Node) knows() whoAnswer {
	if t := n.term.Load(); t != nil {
		return whoAnswer{Coordinator: n.cfg.Self.Node, Term: t.number}
	}
	if s := n.seat.Load(); s != nil {
		if _, leader := s.raft.LeaderWithID(); leader != "" && (id.Node(leader) != n.cfg.Self.Node || s.raft.State() == raft.Leader) {
			return whoAnswer{Coordinator: id.Node(leader), Term: s.raft.CurrentTerm()}
		}
		return whoAnswer{Term: s.raft.CurrentTerm()}
	}
	n.finder.mu.Lock()
	defer n.finder.mu.Unlock()
	return whoAnswer{Coordinator: n.finder.known.node}
}
