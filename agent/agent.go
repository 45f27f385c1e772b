package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/agent/httpd"
	"github.com/ringagent/ringagent/agent/supervise"
	"github.com/ringagent/ringagent/agent/worker"
	"github.com/ringagent/ringagent/daemons"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog"
	"github.com/ringagent/ringagent/internal/host"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/rating"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/state"
	"github.com/ringagent/ringagent/mesh"
)

// Options are what New needs beside the config.
type Options struct {
	Log   zerolog.Logger
	Level *LogLevel // of Log, for a reload; nil: it does not change
	// Reload reads the config anew, for SIGHUP; nil: there is nothing to reload.
	Reload func() (config.Config, error)
	// Network carries connections; nil means TCP. Tests put a network in memory here.
	Network mesh.Network
	// Self is the path of the binary that runs jobs' shims and built-in stages; "" means this process's own.
	Self string
	// CertLife is the life of certificates that this node signs; 0 means a day.
	CertLife time.Duration
	// Specs are the daemons; nil means the registry's.
	Specs []kit.Spec
	// Snapshots says when Raft's log is cut; zero fields have the leader's defaults.
	Snapshots leader.Snapshots
	Faults    Faults
}

// Faults are openings for tests; the zero value is none.
type Faults struct {
	// Fetch stands before each pull of events from another node; an error fails it.
	Fetch func() error
	// Cursors stands before the store of the singletons' positions.
	Cursors func(eventlog.CursorStore) eventlog.CursorStore
	// Clock measures leases instead of the machine's clocks.
	Clock leader.Clock
	// AnyVoter takes nodes in as voters whose copy of the log is not complete.
	AnyVoter bool
	// AnyIntroducer believes nodes of either class who belongs to the ring.
	AnyIntroducer bool

	openReplica func(*Agent) // stands before the opening of the event replica
	// Store is told of each step in which the content store gives a file its name, and may block there.
	Store func(step string)
	// Reconcile is how often the copies here are compared with the state; 0: as the timing has it.
	Reconcile time.Duration
	// ReceiptFirst states the receipt of an artifact before it is here.
	ReceiptFirst bool
	// UnsyncedAge replaces the age at which a reading of unsynced games becomes unknown.
	UnsyncedAge time.Duration
}

// Agent is one node put together.
type Agent struct {
	conf    atomic.Pointer[config.Config]
	first   config.Config // as this start read it
	opts    Options
	log     zerolog.Logger
	dir     *dataDir
	node    nodeFile
	boot    id.Boot
	started time.Time

	roster       *roster
	mesh         *mesh.Mesh
	leader       *leader.Node
	outbox       *eventlog.Outbox
	replica      *eventlog.Replica
	dispatcher   *eventlog.Dispatcher
	router       *router
	localLetters *eventlog.LocalLetters
	cursors      *eventlog.LocalCursors
	generation   uint64 // of the ring, which the copy of the log follows; its follower alone looks
	local        *localStore
	store        *artifacts
	matches      *rating.Book // of all stored matches that somebody asked the ratings of
	worker       *worker.Worker
	supervisor   *supervise.Supervisor
	leases       chan supervise.Lease
	server       *httpd.Server
	plain        *turnstile // connections of people in the clear
	secure       *turnstile // and over TLS
	metrics      *prometheus.Registry
	host         *host.Reader
	machine      machine
	resized      chan struct{} // slots may have changed; holds one
	changed      chan struct{} // the ring may have to be told of it; holds one
	parsed       parsedWorkload
	heard        reportBook
	verifying    turns // one at a time hashes the log because another node asked for it
	health       healthBook
	alarms       alarmBook
	ofState      alarmBook // those that the replicated state alone gives rise to
	sections     sectionBook
	settings     atomic.Pointer[lastSettings] // nil: none were ever known
	recordsBy    atomic.Pointer[id.Node]      // who answered for records last; nil: nobody
	external     *external
	specs        []kit.Spec

	leaving   chan struct{} // this node has left the ring, and Run has to end
	stopping  chan struct{} // closed when Run has begun to end
	fatal     chan error    // why this process must end
	draining  atomic.Bool
	departing atomic.Bool   // somebody asked this node to leave, and is not answered yet
	shutOut   atomic.Bool   // a peer has said that this node is revoked
	ready     chan struct{} // closed once everything has been started
}

// LogLevel is the level in force; it can change while everybody logs.
type LogLevel struct{ level atomic.Int32 }

// Sample implements zerolog.Sampler: what is below the level is dropped.
func (l *LogLevel) Sample(at zerolog.Level) bool { return int32(at) >= l.level.Load() }

func (l *LogLevel) set(name string) error {
	level, err := zerolog.ParseLevel(name)
	if err != nil {
		return fmt.Errorf("log.level: %w", err)
	}
	l.level.Store(int32(level))
	return nil
}

// NewLogger makes the agent's logger, and the knob for its level.
func NewLogger(w io.Writer, c config.Log) (zerolog.Logger, *LogLevel, error) {
	level := &LogLevel{}
	if err := level.set(c.Level); err != nil {
		return zerolog.Nop(), nil, err
	}
	if c.Format == "console" {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly, NoColor: !colours(w)}
	}
	return zerolog.New(w).With().Timestamp().Logger().Sample(level), level, nil
}

// New opens everything that an agent stands on and starts nothing. What it has opened is closed again when it fails.
func New(c config.Config, o Options) (a *Agent, err error) {
	if !used(c.DataDir) {
		return nil, noNode(c.DataDir)
	}
	dir, err := openDataDir(c.DataDir)
	if err != nil {
		return nil, err
	}
	a = &Agent{
		opts: o, dir: dir, boot: id.NewBoot(), started: time.Now(), matches: rating.NewBook(rating.DefaultWords),
		leaving: make(chan struct{}), stopping: make(chan struct{}), fatal: make(chan error, 1), ready: make(chan struct{}),
		resized: make(chan struct{}, 1), changed: make(chan struct{}, 1),
	}
	a.first = c
	a.conf.Store(&c)
	var undo []func()
	defer func() {
		if err == nil {
			return
		}
		for i := len(undo) - 1; i >= 0; i-- {
			undo[i]()
		}
		dir.close()
	}()
	if a.node, err = dir.readNode(); err != nil {
		return nil, err
	}
	a.log = o.Log.With().Str("node", a.node.Name).Logger()
	if err := dir.tendBallast(); err != nil {
		a.log.Warn().Err(err).Msg("the ballast is not as it should be")
	}
	if a.specs = o.Specs; a.specs == nil {
		a.specs = daemons.All()
	}
	if a.opts.Self == "" {
		if a.opts.Self, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("find own binary: %w", err)
		}
	}
	if err := dir.sweepStaging(); err != nil {
		return nil, err
	}
	if err := a.openStore(); err != nil {
		return nil, err
	}
	if err := a.openRoster(); err != nil {
		return nil, err
	}
	seed, seeded, err := dir.readSeed()
	if err != nil {
		return nil, err
	}
	if seeded && !a.roster.Loaded() {
		a.roster.copy.Store(index(rosterFile{Members: []ring.Member{seed.Member}}))
	}
	a.router = newRouter()
	a.host = host.NewReader(dir.root)
	a.metrics = prometheus.NewRegistry()
	if err := a.openMesh(c); err != nil {
		return nil, err
	}
	undo = append(undo, a.mesh.Close)
	ran := !seeded && hasRun(dir.root) // before anything of this start is written
	if ran {
		a.tellOfLost()
	}
	// The leader elects itself and applies its log again as soon as it is open, and what it places goes to the replica.
	if err := a.openReplica(); err != nil {
		return nil, err
	}
	undo = append(undo, a.closeReplica)
	if err := a.openLeader(seeded, ran); err != nil {
		return nil, err
	}
	decides := a.leader // not a's: with an error there is no a any more
	undo = append(undo, func() { _ = decides.Close() })
	registerLeader(a.mesh, a.leader)
	if err := a.openEvents(); err != nil {
		return nil, err
	}
	if err := a.openWorker(c); err != nil {
		return nil, err
	}
	a.external = &external{a: a, cursors: a.local.shelf("external"), turned: make(chan struct{})}
	if err := a.openSupervisor(); err != nil {
		return nil, err
	}
	a.registerMethods()
	a.openServer(c)
	return a, nil
}

// giveUp ends Run with err; the first one counts.
func (a *Agent) giveUp(err error) {
	select {
	case a.fatal <- err:
	default:
	}
}

// current is the state as new as the coordinator's.
func (a *Agent) current(ctx context.Context) (*state.State, error) { return a.leader.Read(ctx) }

// command is one that this node proposes on its own behalf.
func (a *Agent) command(k state.Kind, body any) state.Command {
	return state.Command{Kind: k, At: time.Now().UTC(), By: a.node.ID, Body: body}
}

func (a *Agent) nodeEffects(daemon string) effects {
	return effects{self: a.node.ID, daemon: daemon, now: time.Now, leader: a.leader, view: a.leader.View}
}

// Reload takes over what can change while running, after it has been found valid as a whole.
func (a *Agent) Reload() error {
	if a.opts.Reload == nil {
		return nil
	}
	next, err := a.opts.Reload()
	if err != nil {
		return err
	}
	now := *a.conf.Load()
	if next.Listen != now.Listen || next.DataDir != now.DataDir || next.NodeName != now.NodeName {
		return api.Errorf(api.CodeRefused, "listen, data_dir and node_name change only with a restart")
	}
	if _, err := a.machine.slots(next); err != nil {
		return api.Errorf(api.CodeInvalid, "slots: %v", err)
	}
	if a.opts.Level != nil {
		if err := a.opts.Level.set(next.Log.Level); err != nil {
			return api.Errorf(api.CodeInvalid, "%v", err)
		}
	}
	a.conf.Store(&next)
	a.server.OpenLoopback(next.API.LoopbackReads())
	select {
	case a.resized <- struct{}{}:
	default:
	}
	e := a.log.Info()
	if later := waiting(a.first, next); len(later) > 0 {
		e = e.Strs("after_restart", later)
	}
	e.Msg("config reloaded")
	if next.Class != now.Class {
		a.log.Warn().Str("class", string(a.node.Class)).Msg("the class is what the join token gave, whatever the config says")
	}
	return nil
}

// waiting names the fields of next that a running agent does not take over. They are compared with those of its start: what the
// last reload has left waiting waits still.
func waiting(start, next config.Config) []string {
	var out []string
	for _, f := range []struct {
		name string
		same bool
	}{
		{"advertise", start.Advertise == next.Advertise},
		{"profile", start.Profile == next.Profile},
		{"failure_domain", start.FailureDomain == next.FailureDomain},
		{"labels", maps.Equal(start.Labels, next.Labels)},
		{"gossip", start.Gossip == next.Gossip},
		{"log.format", start.Log.Format == next.Log.Format},
	} {
		if !f.same {
			out = append(out, f.name)
		}
	}
	return out
}

// socketPath is where the agent listens for its own command line.
func (a *Agent) socketPath() string { return socketIn(a.dir.root) }

// part runs f under a name until ctx ends, and reports what ends it too early.
type part struct {
	name string
	run  func(context.Context) error
}

// runParts runs all of them; the first that fails ends the others.
func runParts(ctx context.Context, parts ...part) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for _, p := range parts {
		group.Go(func() {
			err := p.run(ctx)
			if err != nil && !errors.Is(err, context.Canceled) {
				err = fmt.Errorf("%s: %w", p.name, err)
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
				cancel(err)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}
