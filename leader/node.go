package leader

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

// closePatience is how long Close waits for a Raft loop that hangs in the disk.
const closePatience = 5 * time.Second

// Node is this machine's part in what the ring decides. A core node runs Raft, as voter or not as the coordinator wishes;
// an edge node keeps a copy of what it needs.
type Node struct {
	cfg     Config
	log     zerolog.Logger
	machine *state.Machine
	board   *switchboard // nil on edge nodes
	changed bell         // rung after each change of the machine's view
	finder  finder
	holder  *Holder
	copied  pulled // an edge node's freshness
	served  excerpts
	whole   chan struct{} // has room for wholeReads

	// former is when the last lease that was answered under a former timing is over.
	former atomic.Pointer[time.Time]

	seat   atomic.Pointer[seat] // nil on edge nodes, and while a bad one is being replaced
	term   atomic.Pointer[term] // nil unless this node coordinates
	office sync.Mutex           // held while that begins or ends
	idle   atomic.Bool          // the disk is bad: do not campaign
	// standing makes one step of a change of idle and of what follows from it for elections.
	standing sync.Mutex
	damage   atomic.Pointer[damage] // see Damage
	// behind is up to which index this node must read before it may stand for election, as on disk; 0 = it may.
	behind atomic.Uint64
	markMu sync.Mutex // held while that changes
	// recovering is set while this node looks whether it may recover the ring, and does.
	recovering atomic.Bool
	recoveries chan recoverCall
	restored   atomic.Uint64 // how many snapshots were taken over
	overtaken  chan struct{} // a snapshot was taken over behind which the seat must begin anew
	// agreed is the newest configuration that was committed, exact while this node coordinates.
	agreed atomic.Pointer[raft.Configuration]

	failed chan error // the first error that ends Run
	bad    chan error // a seat's files are bad
	ended  chan struct{}
	runs   chan struct{} // closed once Run has been called
	once   sync.Once     // of runs
	wg     sync.WaitGroup

	mu       sync.Mutex
	closing  bool // nothing is begun any more
	closed   chan struct{}
	closeErr error // set before closed is closed
}

// Bootstrap makes this node a ring of one: its only voter. It fails if the folder holds Raft files already. The ring's
// first commands (settings, the node's own enrolment) are then proposed like any other.
func Bootstrap(c Config) (*Node, error) { return open(c, true) }

// Open takes up what the folder holds; with an empty one the node waits for a coordinator to add it. Raft listens from
// here on, but nothing is proposed, placed or probed before Run.
func Open(c Config) (*Node, error) { return open(c, false) }

func open(c Config, bootstrap bool) (*Node, error) {
	c.Snapshots.fill()
	if err := c.check(); err != nil {
		return nil, err
	}
	if c.Clock == nil {
		c.Clock = SystemClock()
	}
	n := &Node{
		cfg: c, log: c.Log.With().Str("component", "leader").Logger(), machine: state.New(),
		failed: make(chan error, 1), bad: make(chan error, 1), ended: make(chan struct{}), runs: make(chan struct{}),
		closed: make(chan struct{}), whole: make(chan struct{}, wholeReads), recoveries: make(chan recoverCall),
		overtaken: make(chan struct{}, 1),
	}
	if c.Faults.keepOverBoots {
		n.machine.KeepOverBoots()
	}
	n.finder.n = n
	n.served.n = n
	n.holder = newHolder(n)
	if c.Self.Class != id.Core {
		if bootstrap {
			return nil, errors.New("bootstrap ring: an edge node cannot vote")
		}
		return n, nil
	}
	n.board = newSwitchboard(c.Streams)
	go n.board.run()
	s, err := n.openFirst(bootstrap)
	switch {
	case errors.Is(err, ErrCorrupt) && !bootstrap:
		n.damaged(err)
		n.bad <- err // Run gives the place back
	case err != nil:
		return nil, err
	default:
		n.seat.Store(s)
	}
	return n, nil
}

// openFirst opens the seat of a start. A voter without its files has forgotten whom it gave its vote and what it acknowledged:
// with empty ones it could help to elect somebody who lacks what was committed.
func (n *Node) openFirst(bootstrap bool) (*seat, error) {
	if _, err := os.Stat(filepath.Join(n.cfg.Dir, storeFile)); n.cfg.Ran && !bootstrap && errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(n.cfg.Dir, 0o700); err != nil { // for what is written down on the way back
			return nil, fmt.Errorf("make raft folder: %w", err)
		}
		return nil, fmt.Errorf("%s is gone: %w", storeFile, ErrCorrupt)
	}
	return n.openSeat(bootstrap)
}

type damage struct {
	since time.Time
	cause error
}

// damaged writes down what is wrong with this voter's files.
func (n *Node) damaged(cause error) {
	n.damage.Store(&damage{time.Now(), cause})
	n.log.Error().Err(cause).Str("dir", n.cfg.Dir).Msg("this voter's files cannot be used: it takes no part until the ring has taken its place back")
}

// Damage is what is wrong with this voter's files, and since when, while it waits for the ring to take its place back, or nil. A ring
// whose only voter it was has nobody who could.
func (n *Node) Damage() (since time.Time, cause error) {
	if d := n.damage.Load(); d != nil {
		return d.since, d.cause
	}
	return time.Time{}, nil
}

// Run does the node's standing work until ctx ends: it renews what it holds, copies what it needs, watches the disk, and
// coordinates while it is elected. On the way out it hands the coordinatorship over. It returns nil when ctx ended, or the
// error for which the process should end.
func (n *Node) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	n.once.Do(func() { close(n.runs) })
	go func() { // Close ends Run too
		select {
		case <-n.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	n.begin(func() { n.holder.run(ctx) })
	if n.cfg.Self.Class == id.Core {
		n.begin(func() { n.watchDisk(ctx) })
		n.begin(func() { n.mendSeats(ctx) })
	} else {
		n.begin(func() { n.pull(ctx) })
	}
	var err error
	select {
	case <-ctx.Done():
		select {
		case <-n.ended:
		default:
			n.handOver()
		}
	case err = <-n.failed:
	}
	cancel()
	return errors.Join(err, n.Close())
}

// Close ends Raft and closes its files. It is called by Run, and must be called if Run never was.
func (n *Node) Close() error {
	n.mu.Lock()
	first := !n.closing
	n.closing = true
	n.mu.Unlock()
	if first {
		close(n.ended)
		n.loseTerm()
		if s := n.seat.Swap(nil); s != nil {
			n.closeErr = s.close(closePatience)
		}
		n.wg.Wait()
		close(n.closed)
	}
	<-n.closed
	return n.closeErr
}

// begin runs f in a goroutine that Close waits for; once that waits nothing begins.
func (n *Node) begin(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closing {
		n.wg.Go(f)
	}
}

// fail ends Run with err. The first one counts.
func (n *Node) fail(err error) {
	n.log.Error().Err(err).Msg("the node cannot go on")
	select {
	case n.failed <- err:
	default:
	}
}

// handOver gives the coordinatorship to another voter, if there is one; best effort, bounded by Raft's election timeout.
func (n *Node) handOver() {
	s := n.seat.Load()
	if s == nil || s.raft.State() != raft.Leader || len(voters(s.raft)) < 2 {
		return
	}
	done := make(chan error, 1)
	go func() { done <- s.transfer("") }()
	select {
	case err := <-done:
		if err != nil {
			n.log.Info().Err(err).Msg("the coordinatorship was not handed over")
		}
	case <-time.After(2 * n.times().Heartbeat):
	}
}

// Transfer hands the coordinatorship to a voter, or with "" to the one that is furthest. On another node than the
// coordinator it asks the coordinator to.
func (n *Node) Transfer(ctx context.Context, to id.Node) error {
	return n.toCoordinator(ctx, methodTransfer, transferCall{To: to}, nil, func(context.Context, *term) error {
		return n.transfer(to)
	})
}

func (n *Node) transfer(to id.Node) error {
	s := n.seat.Load()
	if s == nil {
		return ErrNoCoordinator
	}
	if to == n.cfg.Self.Node {
		return nil
	}
	if to != "" && !votes(s.raft, to) {
		return &Refused{Code: string(state.CodeInvalid), Message: fmt.Sprintf("%s is no voter", to)}
	}
	return wrap("hand over", s.transfer(to))
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// times are the timeouts in force.
func (n *Node) times() ring.Times {
	if s, v := n.machine.View().Settings(); v > 0 {
		return s.Timing.Times()
	}
	return n.cfg.Timing.Times()
}

// Self is who the node is.
func (n *Node) Self() Self { return n.cfg.Self }

// Holder is what this node holds of singletons.
func (n *Node) Holder() *Holder { return n.holder }

func configuration(r *raft.Raft) []raft.Server {
	f := r.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	return f.Configuration().Servers
}

func voters(r *raft.Raft) []id.Node { return votersOf(configuration(r)) }

func votersOf(servers []raft.Server) []id.Node {
	var out []id.Node
	for _, s := range servers {
		if s.Suffrage == raft.Voter {
			out = append(out, id.Node(s.ID))
		}
	}
	return out
}

func votes(r *raft.Raft, n id.Node) bool {
	for _, v := range voters(r) {
		if v == n {
			return true
		}
	}
	return false
}
