package leader

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

// Errors that callers decide by.
var (
	// ErrNoCoordinator says that nothing was proposed, since no coordinator could be found in time. It is safe to try again.
	ErrNoCoordinator = errors.New("no coordinator")
	// ErrUnknownOutcome says that the proposal may or may not take effect, now or later. Only a command with Once, or one
	// that is harmless twice, may be tried again.
	ErrUnknownOutcome = errors.New("outcome unknown")
	// ErrStuck ends Run when Raft's own loop has hung in the disk for so long that only a new process helps.
	ErrStuck = errors.New("raft hangs in the disk")
)

// Config is what a node is and what it stands on.
type Config struct {
	Self    Self
	Dir     string      // the raft/ folder; unused by edge nodes
	Ran     bool        // this node has run before: Raft's files are not yet to be made, they are lost where there are none
	Timing  ring.Timing // until the ring's settings are known
	Log     zerolog.Logger
	Streams Streams // unused by edge nodes
	Caller  Caller
	Ports   Ports
	Clock   Clock // nil: the machine's clocks, see SystemClock
	// Snapshots says when the log is cut.
	Snapshots Snapshots
	Faults    Faults
}

// Snapshots says when a state is written down and the log behind it cut. Fields that are zero have the defaults named.
type Snapshots struct {
	Entries  uint64        // after so many: 8192
	Bytes    int64         // or after so many bytes of them, of which as many may stay behind it: 64 MiB
	Trailing uint64        // so many stay behind it, for followers that are a little late: 1024
	Every    time.Duration // how often is looked: 30 s
}

func (s *Snapshots) fill() {
	if s.Entries == 0 {
		s.Entries = 8192
	}
	if s.Bytes == 0 {
		s.Bytes = 64 << 20
	}
	if s.Trailing == 0 {
		s.Trailing = 1024
	}
	if s.Every == 0 {
		s.Every = 30 * time.Second
	}
}

// check expects filled fields.
func (s Snapshots) check() error {
	switch {
	case s.Every < 5*time.Millisecond: // the library's own limit
		return fmt.Errorf("leader config: snapshots every %s: at least 5ms", s.Every)
	case s.Bytes < 0:
		return fmt.Errorf("leader config: snapshots after %d bytes: at least 1", s.Bytes)
	case s.Trailing > s.Entries:
		return fmt.Errorf("leader config: %d entries stay behind a snapshot, more than the %d after which it is taken", s.Trailing, s.Entries)
	}
	return nil
}

// Self is who the node is.
type Self struct {
	Node  id.Node
	Boot  id.Boot
	Class id.Class
}

// Caller calls other nodes. An error of Call may mean that the call never arrived or that only its answer is lost. One that
// has a method NotAllowed() which says true means that the other node does not serve the method for nodes of this class; one
// with a method Unsent() which says true, that the call has surely not arrived.
type Caller interface {
	// Call sends in as JSON and reads the answer into out.
	Call(ctx context.Context, n id.Node, method string, in, out any) error
	// CallRaw sends and returns bytes as they are.
	CallRaw(ctx context.Context, n id.Node, method string, in []byte) ([]byte, error)
}

// Ports is what the rest of the agent tells the leader and is told. Every field may be nil but Seeds, for nodes that are
// not voters.
type Ports struct {
	// Seeds are the core nodes that the mesh knows: whom to ask for the coordinator.
	Seeds func() []id.Node
	// Likely are those of them that seem to be there, for whoever asks one after the other; nil means that nobody knows.
	Likely func() []id.Node
	// Replica says how far this node's copy of the event log is on disk.
	Replica ReplicaGate
	// Placed is told, in order, of the records that each applied entry placed. It must not block. A snapshot that was
	// installed is told by a nil slice; head is the end of the log afterwards.
	Placed func(records []state.Placed, head ring.LogHead)
	// Vet says why an event must not be placed ("" = it may): the catalogue's verdict on a draft's bytes.
	Vet func(draft []byte) string
	// Introduce proposes the node's Report. It is called when the coordinator does not know this boot. It may block.
	Introduce func(ctx context.Context)
	// Reach tells what can be said of a node without its own word.
	Reach Reach
	// Complete says whether the event replica of a node has everything up to the log's head; without it a node becomes no
	// voter. Nil means that it always is.
	Complete func(ctx context.Context, n id.Node) bool
	// Singletons are the cluster-scope daemons that are to be placed.
	Singletons func() []Singleton
	// Lead runs while this node is the coordinator.
	Lead func(ctx context.Context)
}

// ReplicaGate is this node's copy of the event log.
type ReplicaGate interface {
	// Durable is the highest seq up to which every record is on disk.
	Durable() uint64
}

// Reach is the coordinator's evidence about a node besides its reports.
type Reach interface {
	// GossipStatus is what gossip says; "" when it says nothing.
	GossipStatus(n id.Node) ring.Status
	// DialBack tries to reach the node.
	DialBack(ctx context.Context, n id.Node) error
}

// Faults are openings for tests; the zero value is none.
type Faults struct {
	// WrapStore stands between Raft and the store.
	WrapStore func(Logs) Logs
	// Canary replaces the write and fsync that probes the disk.
	Canary func() error
	// HearBarred takes calls of Raft from nodes that are shut out.
	HearBarred bool
	prove      func(*raft.Raft) error // a round, instead of asking the voters
	late       bool                   // see contacts
	unsigned   bool                   // see signs
	// strictBallot leaves it to the library alone who may stand for election.
	strictBallot bool
	// keepOverBoots leaves a node's assignments to its new boot, under their epochs.
	keepOverBoots bool
}

// Refused is the state machine's answer to a command that must not be.
type Refused struct {
	Code    string // a state.Code
	Message string
}

func (r *Refused) Error() string { return fmt.Sprintf("%s: %s", r.Code, r.Message) }

// Freshness says what a view is worth.
type Freshness struct {
	Index uint64
	// AsOf is when a coordinator last confirmed the view; zero if none has since this start.
	AsOf        time.Time
	Coordinator id.Node // as far as known
	Known       bool    // false: a restarted node that has heard no coordinator yet
}

func (c Config) check() error {
	switch {
	case c.Self.Node == "" || c.Self.Boot == "":
		return errors.New("leader config: node and boot id must be set")
	case c.Self.Class != id.Core && c.Self.Class != id.Edge:
		return fmt.Errorf("leader config: class %q", c.Self.Class)
	case c.Caller == nil:
		return errors.New("leader config: no caller")
	case c.Self.Class == id.Core && (c.Dir == "" || c.Streams == nil):
		return errors.New("leader config: a core node needs a folder and streams")
	}
	return c.Snapshots.check()
}
