package leader

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/internal/id"
)

// finder knows, or finds out, who coordinates.
type finder struct {
	n       *Node
	mu      sync.Mutex
	known   remote
	since   time.Time             // when known was found out
	asked   time.Time             // when the others were last asked
	lost    time.Time             // since when none of them could say; zero: one could
	vain    bool                  // the last answer was of a coordinator, or of a way to it, that had just failed
	doubted map[id.Node]time.Time // nodes that could not be reached
	strayed map[id.Node]time.Time // nodes that could, but by way of which the coordinator could not
	count   uint64                // of what was found
	open    *question             // that the others are being asked, or nil
}

// question is one round of asking the others, for all who want to know meanwhile.
type question struct {
	done chan struct{} // closed when what follows is set
	r    remote
	ok   bool
	cut  bool // whoever asked went away before the end
}

const doubtFor = 10 * time.Second

// find returns the coordinator: as Raft says, as remembered, or as the core nodes answer when asked at the same time.
func (f *finder) find(ctx context.Context) (remote, bool) {
	if s := f.n.seat.Load(); s != nil {
		if _, leader := s.raft.LeaderWithID(); leader != "" && id.Node(leader) != f.n.cfg.Self.Node && !f.doubts(id.Node(leader)) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.lost = time.Time{}
			return remote{n: f.n, node: id.Node(leader), found: f.count}, true
		}
	}
	for {
		f.mu.Lock()
		known, good, q, mine := f.look()
		f.mu.Unlock()
		if q == nil {
			return known, good
		}
		if mine {
			f.pose(ctx, q)
			return q.r, q.ok
		}
		select {
		case <-q.done:
			if !q.cut {
				return q.r, q.ok
			}
		case <-ctx.Done():
			return remote{}, false
		}
	}
}

// look is what is known, whether that is good, and if there is something to find out, the question for it, and whether the caller
// is to pose it. Called with mu held.
func (f *finder) look() (known remote, good bool, q *question, mine bool) {
	// A voter relays to whoever coordinates by now, so that a roundabout way never fails for being out of date.
	stale := f.known.via != "" && time.Since(f.since) >= doubtFor
	switch good = f.known.node != "" && !stale; {
	case good:
	case f.open != nil:
		q = f.open
	case time.Since(f.asked) >= f.pause():
		q, mine = &question{done: make(chan struct{})}, true
		f.open, f.asked = q, time.Now()
	}
	return f.known, good, q, mine
}

// pose asks the others and hands what they say to all who wait for it.
func (f *finder) pose(ctx context.Context, q *question) {
	r, ok := f.ask(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case ok:
		f.count++
		r.found = f.count
		f.known, f.since, f.lost = r, time.Now(), time.Time{}
		f.vain = lately(f.doubted, r.node) || lately(f.strayed, r.via)
	case f.lost.IsZero():
		f.lost = time.Now()
	}
	q.r, q.ok, q.cut = r, ok, !ok && ctx.Err() != nil
	f.open = nil
	close(q.done)
}

// pause is how long the others are left alone after a question that none of them could answer: not at all in the second that
// an election takes, but a node that is cut off or shut out has every caller here ask them, for ever. Those that still name a
// coordinator that has just died are given a moment too: each caller here has it refused at once, and would ask again. Called with
// mu held.
func (f *finder) pause() time.Duration {
	switch {
	case !f.lost.IsZero():
		return min(time.Since(f.lost)/10, askPause)
	case f.vain:
		return vainPause
	}
	return 0
}

// doubts says whether a node could not be reached a moment ago.
func (f *finder) doubts(n id.Node) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return lately(f.doubted, n)
}

// strays says whether a node could be reached a moment ago, and the coordinator not through it. That is no word on the node itself,
// which may be the next coordinator.
func (f *finder) strays(n id.Node) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return lately(f.strayed, n)
}

func lately(book map[id.Node]time.Time, n id.Node) bool {
	at, in := book[n]
	return in && time.Since(at) < doubtFor
}

// by is the node that is called.
func (r remote) by() id.Node {
	if r.via != "" {
		return r.via
	}
	return r.node
}

// doubt forgets a coordinator that does not answer as one. One that could not be reached is asked through others for a
// while. A call that was under way already when the same way was found anew tells nothing new.
func (f *finder) doubt(r remote, err error) {
	if errors.As(err, new(*Refused)) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if same := f.known.node == r.node && f.known.via == r.via; same {
		if f.known.found > r.found {
			return
		}
		f.known = remote{}
	}
	if f.doubted == nil {
		f.doubted, f.strayed = make(map[id.Node]time.Time), make(map[id.Node]time.Time)
	}
	switch {
	case errors.Is(err, ErrUnknownOutcome) || errors.Is(err, errUnsent):
		f.doubted[r.by()] = time.Now()
	case r.via != "" && errors.Is(err, ErrNoCoordinator):
		f.strayed[r.via] = time.Now() // it is not asked before others that know of a coordinator
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

// answer is a node's word on who coordinates.
type answer struct {
	by id.Node
	whoAnswer
	doubted bool
	strayed bool // it names another one to whom it leads nowhere
}

// better says whether an answer is to be gone by rather than another one: the newest term, told by a node that has not just
// failed, which may answer what is short and nothing else, and by the coordinator itself if it can be.
func (a answer) better(b answer) bool {
	switch {
	case a.Coordinator == "" || b.Coordinator == "":
		return a.Coordinator != ""
	case a.Term != b.Term:
		return a.Term > b.Term
	case a.doubted != b.doubted:
		return b.doubted
	case a.strayed != b.strayed:
		return b.strayed
	}
	return a.itself() && !b.itself()
}

func (a answer) itself() bool { return a.by == a.Coordinator }

// ask asks all core nodes at once and believes the newest term; it returns with the first that says that it
// coordinates itself, or when all have answered. A coordinator that has not answered itself is reached through who named it.
func (f *finder) ask(ctx context.Context) (remote, bool) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	seeds := f.seeds()
	answers := make(chan answer, len(seeds))
	for _, s := range seeds {
		go func() {
			a, err := f.n.askWho(ctx, s)
			if err != nil || a.Coordinator == f.n.cfg.Self.Node {
				a = whoAnswer{}
			}
			answers <- answer{s, a, f.doubts(s), a.Coordinator != s && f.strays(s)}
		}()
	}
	var best answer
	for range seeds {
		if a := <-answers; a.better(best) {
			if best = a; a.itself() && !a.doubted {
				break
			}
		}
	}
	if best.Coordinator == "" {
		return remote{}, false
	}
	r := remote{n: f.n, node: best.Coordinator}
	// Who has no seat only remembers where it found one, and relays nothing.
	if !best.itself() && (best.Term > 0 || !slices.Contains(seeds, best.Coordinator)) {
		r.via = best.by
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
