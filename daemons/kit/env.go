package kit

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// Env is what one daemon may use. Only New reads it; a daemon keeps the fields that it needs. For a singleton everything
// that has an effect is already fenced with the epoch of this very assignment.
type Env struct {
	Self     Self
	Log      zerolog.Logger
	Now      func() time.Time
	Every    time.Duration // the period in force: Spec.Every or the ring settings
	Settings json.RawMessage
	Progress func() // marks useful progress; the Loop calls it after each good step
	// Trouble tells the supervisor of an error that the daemon itself will retry, for last_error in status. Nil clears it.
	// May be left nil by tests.
	Trouble func(error)
	// Gauge shows a figure of this daemon in the node's metrics, such as unsynced_games. NaN shows none from now on: it is
	// unknown. May be left nil by tests.
	Gauge func(name string, v float64)

	Events  Events
	View    Views
	Effects Effects                           // commands to the replicated state
	Orders  Orders                            // calls to other nodes
	Store   Store                             // artifacts on this node
	Local   Local                             // this daemon's own small durable state on this node
	Jobs    Jobs                              // what runs here
	Letters Letters                           // dead letters of this node and, for the node that runs it, of the singletons
	Peers   Peers                             // the mesh as this node sees it
	Daemons Daemons                           // the supervisor's books
	Host    Host                              // samples of this machine
	Part    func(name string) (Daemon, error) // built-in parts that a Facade runs
	Dirs    Dirs
}

// Self is the node that the daemon runs on.
type Self struct {
	ID    id.Node
	Name  string
	Class id.Class
	Boot  id.Boot
}

// Dirs are the folders of the data dir that daemons may write into.
type Dirs struct {
	Games   string // merged game databases: <config>.db
	Staging string // temporary files; swept at start
	Spool   string
}

// Events publishes and hears events. A publish is durable on this node when it returns.
type Events interface {
	// Publish validates payload against the catalogue, stamps node, daemon and epoch, and returns the event's id.
	Publish(ctx context.Context, t event.Type, payload any, cause string) (string, error)
	// Wake returns a channel that gets a value whenever an event of one of the types is placed in the log; wakes are hints:
	// several may become one. It ends with ctx.
	Wake(ctx context.Context, types ...event.Type) <-chan event.Record
	// Consume runs a durable subscriber until ctx ends: in order, at least once, its cursor local or (for a singleton)
	// replicated under the fence.
	Consume(ctx context.Context, c Consumer) error
}

// Consumer is a durable subscriber.
type Consumer struct {
	Name   string // "" means the daemon's own name
	Types  []event.Type
	Handle func(ctx context.Context, r event.Record) error
	// Gap is told of a stretch that retention has taken before it was delivered; the daemon then reconciles from state.
	Gap func(from, to uint64)
}

// Views reads the replicated state.
type Views interface {
	// Near is the nearest copy, with its age; never blocks.
	Near() View
	// Current is a copy at least as new as the coordinator's state when the call was made. ErrNoCoordinator without quorum.
	// On a rented node what is looked up in it is asked for then, and one that gets no answer looks like one that nobody knows,
	// but for the artifacts named: whether those are known is in the copy, or it is an error.
	Current(ctx context.Context, named ...id.Digest) (View, error)
}

// ErrNoCoordinator says that nothing can be decided now.
var ErrNoCoordinator = errors.New("no coordinator")

// ErrStaleEpoch says that this assignment is over: the daemon must end.
var ErrStaleEpoch = errors.New("stale epoch")

// ErrConflict says that somebody else was first: read again and decide anew.
var ErrConflict = errors.New("conflict")

// ErrNotFound says that what an effect is about is not kept: a work item that finished long ago, for one.
var ErrNotFound = errors.New("not found")

// View is one immutable reading of the replicated state.
type View struct {
	Generation uint64 // of the state: a recovery begins the next one, in which an Index or Seq may stand for something else
	Index      uint64
	AsOf       time.Time // when a coordinator last confirmed it; zero = unknown
	Known      bool      // false: this node has heard no coordinator since it started
	Fleet      Fleet
	Queue      Queue
	Library    Library
	Notes      Notes // of this daemon
	Ring       ring.Settings
	Room       *Room // nil: not known here
	Joins      bool  // packs may be joined; false: some core node does not know how, or it is not known here
}

// Room is how many artifacts the replicated state can still take, of how many in all.
type Room struct {
	Left int `json:"left"`
	Of   int `json:"of"`
}

// Fleet is the roster.
type Fleet interface {
	Members() []ring.Member
	Member(n id.Node) (ring.Member, bool)
	Assignment(daemon string) (ring.Assignment, bool)
}

// Queue is the work queue.
type Queue interface {
	Items(workType string, c id.Config) []ring.WorkItem // kept items in order of creation; "" matches all
	// ByKey also finds an item that finished long ago. Of that only ID, Type, Key, State and Finished are known, and Item does
	// not find it: it can be neither tried again nor cancelled.
	ByKey(key string) (ring.WorkItem, bool)
	Item(workID string) (ring.WorkItem, bool)
}

// Library is what the state knows of artifacts and names.
type Library interface {
	// Artifacts are in order of arrival. On a rented node only ListJoined is known, and of that what this node holds.
	Artifacts(k ring.Kind, c id.Config) []ring.Artifact
	Artifact(d id.Digest) (ring.Artifact, bool)
	Name(key string) (ring.Name, bool)
}

// Notes are the daemon's replicated notes.
type Notes interface {
	Note(key string) (json.RawMessage, bool)
	// Of reads another daemon's note: QUEUE_POPULATOR follows the plan that SELFPLAY_COORDINATOR keeps.
	Of(daemon, key string) (json.RawMessage, bool)
}

// Effects changes the replicated state. Every call returns after the commit; a singleton's calls are refused with
// ErrStaleEpoch once its assignment has moved on.
type Effects interface {
	// Enqueue adds work items; one whose key exists is returned as it stands.
	Enqueue(ctx context.Context, items ...ring.WorkItem) ([]ring.WorkItem, error)
	// Cancel and Retry change an item that is kept; ErrNotFound for any other.
	Cancel(ctx context.Context, workID, reason string) error
	Retry(ctx context.Context, workID string) error
	// AddArtifacts makes bytes known; AddReceipts states that this node holds them.
	AddArtifacts(ctx context.Context, as ...ring.Artifact) error
	AddReceipts(ctx context.Context, ds ...id.Digest) error
	// StateRepeats says which games of packs were counted with older packs already.
	StateRepeats(ctx context.Context, rs ...ring.Repeat) error
	// JoinPacks makes a file that is known with ring.LabelJoins, and has a pack's copies, the pack of all games of packs, of which it
	// holds that many. ErrConflict, or ErrNotFound, if packs cannot be joined now; nothing has changed then.
	JoinPacks(ctx context.Context, joined id.Digest, games int64, packs ...id.Digest) error
	// SetName moves a name by compare-and-set and states the events in the same entry. ErrConflict if expect is not current.
	SetName(ctx context.Context, key string, expect uint64, d id.Digest, values map[string]float64, events ...Statement) (ring.Name, error)
	// PutNote keeps value (as JSON; nil removes it) for the daemon's successor, with events in the same entry.
	PutNote(ctx context.Context, key string, value any, events ...Statement) error
}

// Statement is an event that rides on a command.
type Statement struct {
	Type    event.Type
	Payload any
	Cause   string
}

// Orders asks another node to do something; the order is idempotent.
type Orders interface {
	// Fetch asks node to hold d: it pulls the bytes from a holder, verifies, fsyncs, states its receipt, and answers.
	Fetch(ctx context.Context, node id.Node, d id.Digest) error
	// Ping measures a round trip to node.
	Ping(ctx context.Context, node id.Node) (time.Duration, error)
}

// Store is the content store of this node.
type Store interface {
	PutFile(ctx context.Context, path string) (id.Digest, int64, error)
	Path(d id.Digest) (string, bool)
	// Ensure makes the bytes present here, by fetching them from a holder if need be.
	Ensure(ctx context.Context, d id.Digest) (string, error)
	// Verify recomputes the hash of what is on disk; a mismatch goes to quarantine and is an error.
	Verify(ctx context.Context, d id.Digest) error
	// Drop puts this node's copy of an artifact that is no good into quarantine, with its reason, and takes its receipt back.
	Drop(ctx context.Context, d id.Digest, reason string) error
	// Discard deletes this node's copies of artifacts that the ring does not need here, with one permit of the coordinator for all of
	// them. Without it, it returns an error and nothing has changed.
	Discard(ctx context.Context, ds ...id.Digest) error
	// Aside keeps a database that cannot be used in quarantine, with its reason and with the log that SQLite has beside it, and
	// says where: all of it or nothing. The original stays where it is.
	Aside(ctx context.Context, path, reason string) (string, error)
}

// Local is durable key-value state of one daemon on one node. Values are small.
type Local interface {
	Get(key string) ([]byte, bool, error)
	Put(key string, value []byte) error
	Delete(key string) error
	Keys(prefix string) ([]string, error)
}

// Jobs is what the worker runs here.
type Jobs interface {
	// Databases lists the game databases of this node's self-play jobs, running and ended, that are not yet released.
	// It is false while the jobs of a former agent of this node have not all been taken over.
	Databases() ([]JobDB, bool)
	// Release says that everything worth keeping of a job's games is safe elsewhere, so its folder may go.
	Release(ctx context.Context, jobID string) error
	// Hold says that so many games of a config wait here to be packed that this node is to make no more of them; 0: it may.
	Hold(games int)
}

// JobDB is a SQLite file that a self-play job writes. It may be live: never read it but through gamedb.
type JobDB struct {
	JobID  string
	WorkID string
	Path   string
	Config id.Config
	Done   bool // the job has ended; nothing more will be written
}

// Letters are dead letters: (event, handler) pairs that failed for good.
type Letters interface {
	List(ctx context.Context) ([]ring.DeadLetter, error)
	// Retry runs exactly that pair again; nil means it succeeded and the letter is gone.
	Retry(ctx context.Context, letterID string) error
	Abandon(ctx context.Context, letterID string) error
}

// Peers is the mesh.
type Peers interface {
	Peers() []Peer
}

// Peer is a member as this node's gossip sees it.
type Peer struct {
	ID     id.Node
	Name   string
	Status ring.Status
	Boot   id.Boot
	Since  time.Time
}

// Daemons is the supervisor's view, for the watchdog.
type Daemons interface {
	Running() []DaemonProgress
	// Cancel ends the daemon's context; the supervisor restarts it by its own rules.
	Cancel(name, reason string)
}

// DaemonProgress is a running daemon's last useful progress.
type DaemonProgress struct {
	Name     string
	Since    time.Time // of RUNNING
	Last     time.Time // of progress; zero = none yet
	Deadline time.Duration
}

// Host samples this machine.
type Host interface {
	Sample(ctx context.Context) Sample
	// Report publishes this node's verdict: into the member's meta and for whoever pulls the full report.
	Report(Health)
}

// Sample is one reading; a nil pointer is unknown, never zero.
type Sample struct {
	At           time.Time
	CPUPercent   *float64
	MemPercent   *float64
	DiskFree     *int64 // bytes under the data dir
	DiskPercent  *float64
	FsyncSeconds *float64 // of a canary write in the data dir
	GPUs         []GPU
	GPUError     string
	GPUSlots     int               // cards that are given to jobs
	Preflight    map[string]string // stage → "" good, else why the workload cannot run here
}

// GPU is one device's reading.
type GPU struct {
	Name        string
	MemUsedMiB  *int
	MemTotalMiB *int
	UtilPercent *float64
	TempC       *float64
}

// Health is a node's verdict on itself.
type Health struct {
	Verdict string // HEALTHY, DEGRADED, UNHEALTHY
	Reasons []string
	At      time.Time
	Sample  Sample
	Reach   map[id.Node]bool
}
