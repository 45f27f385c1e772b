package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
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
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/blob"
	"github.com/ringagent/ringagent/internal/host"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/proc"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/internal/transfer"
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
	// AnyVoter takes nodes in as voters whose copy of the log is not complete.
	AnyVoter bool
}

// Agent is one node put together.
type Agent struct {
	conf    atomic.Pointer[config.Config]
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
	local        *localStore
	store        *artifacts
	worker       *worker.Worker
	supervisor   *supervise.Supervisor
	leases       chan supervise.Lease
	server       *httpd.Server
	plain        *turnstile // connections of people in the clear
	secure       *turnstile // and over TLS
	metrics      *prometheus.Registry
	host         *host.Reader
	parsed       parsedWorkload
	heard        reportBook
	health       healthBook
	alarms       alarmBook
	external     *external
	specs        []kit.Spec

	leaving  chan leaveRequest
	fatal    chan error // why this process must end
	draining atomic.Bool
	shutOut  atomic.Bool   // a peer has said that this node is revoked
	ready    chan struct{} // closed once everything has been started
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
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly}
	}
	return zerolog.New(w).With().Timestamp().Logger().Sample(level), level, nil
}

// New opens everything that an agent stands on and starts nothing. What it has opened is closed again when it fails.
func New(c config.Config, o Options) (a *Agent, err error) {
	if !used(c.DataDir) {
		return nil, noRing(c.DataDir)
	}
	dir, err := openDataDir(c.DataDir)
	if err != nil {
		return nil, err
	}
	a = &Agent{opts: o, dir: dir, boot: id.NewBoot(), started: time.Now(), leaving: make(chan leaveRequest), fatal: make(chan error, 1), ready: make(chan struct{})}
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
	if a.roster, err = openRoster(dir.path("roster.json")); err != nil {
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
	if err := a.openStore(); err != nil {
		return nil, err
	}
	if err := a.openMesh(c); err != nil {
		return nil, err
	}
	undo = append(undo, a.mesh.Close)
	if err := a.openLeader(seeded); err != nil {
		return nil, err
	}
	undo = append(undo, func() { _ = a.leader.Close() })
	registerLeader(a.mesh, a.leader)
	if err := a.openEvents(); err != nil {
		return nil, err
	}
	if err := a.openWorker(c); err != nil {
		return nil, err
	}
	a.external = &external{a: a, cursors: a.local.shelf("external")}
	if err := a.openSupervisor(); err != nil {
		return nil, err
	}
	a.registerMethods()
	a.openServer(c)
	return a, nil
}

func (d *dataDir) sweepStaging() error {
	if err := os.RemoveAll(d.path("staging")); err != nil {
		return fmt.Errorf("sweep staging: %w", err)
	}
	if err := os.MkdirAll(d.path("staging"), 0o700); err != nil {
		return fmt.Errorf("make staging: %w", err)
	}
	return nil
}

// partialAge is how long a half-fetched artifact is kept for whoever goes on with it.
const partialAge = 48 * time.Hour

func (a *Agent) openStore() error {
	blobs, err := blob.Open(a.dir.path("blobs"), blob.Options{Quarantine: a.dir.path("quarantine"), Log: a.log})
	if err != nil {
		return fmt.Errorf("open artifacts: %w", err)
	}
	if n, err := transfer.Sweep(blobs.PartialDir(), partialAge, time.Now()); err != nil {
		return fmt.Errorf("sweep half-fetched artifacts: %w", err)
	} else if n > 0 {
		a.log.Info().Int("files", n).Msg("half-fetched artifacts that nobody went on with are gone")
	}
	s := &artifacts{a: a, blobs: blobs}
	o := transfer.Options{Log: a.log, Damaged: func(d id.Digest, err error) {
		a.log.Error().Err(err).Str("artifact", string(d)).Msg("own copy is damaged")
		go func() { _ = s.Verify(context.Background(), d) }()
	}}
	if s.server, err = transfer.NewServer(blobs, o); err != nil {
		return fmt.Errorf("open artifacts: %w", err)
	}
	if s.client, err = transfer.NewClient(a.node.ID, blobs, s, o); err != nil {
		return fmt.Errorf("open artifacts: %w", err)
	}
	s.receipt = batcher{delay: 20 * time.Millisecond, flush: func(ctx context.Context, ds []id.Digest) error {
		return a.nodeEffects("").AddReceipts(ctx, ds...)
	}}
	a.store = s
	return nil
}

func (a *Agent) openMesh(c config.Config) error {
	var advertise []string
	if s := advertised(c); s != "" {
		advertise = []string{s}
	}
	profile := mesh.LAN
	if c.Gossip == "wan" {
		profile = mesh.WAN
	}
	gen := generations{current: func() uint64 {
		if a.leader == nil {
			return 0
		}
		return a.leader.View().Generation()
	}}
	conf := mesh.Config{
		DataDir: a.dir.root, Listen: c.Listen, Advertise: advertise, Boot: a.boot, Profile: profile, Roster: a.roster, Life: a.opts.CertLife,
		Meta: mesh.Meta{Version: Version, Protocol: Protocol, State: StateVersion}, Network: a.opts.Network, Log: a.log,
		Hooks: mesh.Hooks{Generation: gen.current, Seen: gen.seen},
		OnRefused: func(by id.Node, reason *mesh.Error) {
			a.log.Warn().Str("peer", string(by)).Err(reason).Msg("another node refuses this one")
			switch {
			case mesh.IsCode(reason, mesh.CodeDuplicate):
				// Two machines with one identity must not both go on: this one started later.
				a.giveUp(api.Errorf(api.CodeRefused, "%s", reason.Message).WithHint(reason.Hint))
			case mesh.IsCode(reason, mesh.CodeRevoked):
				a.alarms.raise("revoked", reason.Message)
			}
			if mesh.IsCode(reason, mesh.CodeRevoked) {
				a.shutOut.Store(true)
			}
		},
	}
	if a.node.Class == id.Core {
		conf.Enroller = enroller{self: a.node.ID, now: time.Now, leader: proposeLater{a}, roster: a.roster.file}
	}
	m, err := mesh.Open(context.Background(), conf)
	if err != nil {
		return meshError(err)
	}
	a.mesh = m
	a.plain, a.secure = &turnstile{real: m.PlainHTTP()}, &turnstile{real: m.TLSHTTP()}
	for _, s := range a.roster.file().Members {
		for _, addr := range s.Addresses {
			m.AddAddress(s.ID, addr)
		}
	}
	return nil
}

// giveUp ends Run with err; the first one counts.
func (a *Agent) giveUp(err error) {
	select {
	case a.fatal <- err:
	default:
	}
}

// proposeLater proposes through a leader that is opened after whoever needs it.
type proposeLater struct{ a *Agent }

func (p proposeLater) Propose(ctx context.Context, c state.Command) (state.Result, error) {
	return p.a.leader.Propose(ctx, c)
}

// Read is the state as new as the coordinator's.
func (p proposeLater) Read(ctx context.Context) (*state.State, error) { return p.a.leader.Read(ctx) }

func (a *Agent) openLeader(seeded bool) error {
	conf := leader.Config{
		Self: leader.Self{Node: a.node.ID, Boot: a.boot, Class: a.node.Class}, Dir: a.dir.path("raft"), Timing: a.lastTiming(), Log: a.log,
		Caller: a.mesh, Snapshots: a.opts.Snapshots,
		Ports: leader.Ports{
			Seeds: a.coreNodes, Replica: lateReplica{a}, Reach: reach{a.mesh}, Complete: a.replicaComplete,
			Placed: a.placed, Singletons: a.singletons, Vet: vet,
			Introduce: func(ctx context.Context) {
				if err := a.sayHello(ctx); err != nil {
					a.log.Debug().Err(err).Msg("not introduced yet")
				}
			},
		},
	}
	if a.opts.Faults.AnyVoter {
		conf.Ports.Complete = nil
	}
	if a.node.Class == id.Core {
		conf.Streams = raftStreams{mesh: a.mesh, listener: a.mesh.Listener(mesh.RaftProtocol)}
	}
	var err error
	if seeded && !exists(a.dir.path("raft")) {
		a.leader, err = leader.Bootstrap(conf)
	} else {
		a.leader, err = leader.Open(conf)
	}
	if err != nil {
		return fmt.Errorf("open leader: %w", err)
	}
	return nil
}

// vet is the catalogue's verdict on the bytes of a draft, given once by the coordinator; "" lets it pass. Whose word the
// publisher was is not asked again here: the node that published has checked it, and facts of the state machine are refused
// by the machine itself.
func vet(draft []byte) string {
	d, err := event.DecodeDraft(draft)
	if err != nil {
		return err.Error()
	}
	by := event.ByExternal
	if def, ok := event.Catalogue().Lookup(string(d.Type)); ok && len(def.Owners) > 0 {
		by = def.Owners[0]
	}
	if _, err := event.Catalogue().Prepare(d, by); err != nil {
		return err.Error()
	}
	return ""
}

// lastTiming is the timing that was in force when this node last ran: until the settings are known, a dev ring must not
// wait as long as one across the world.
func (a *Agent) lastTiming() ring.Timing {
	if seed, ok, err := a.dir.readSeed(); err == nil && ok {
		return seed.Settings.Timing
	}
	b, err := os.ReadFile(a.dir.path("timing"))
	if err != nil {
		return ring.TimingLAN
	}
	return ring.Timing(strings.TrimSpace(string(b)))
}

// lateReplica is the gate for snapshots, over a replica that is opened after the leader.
type lateReplica struct{ a *Agent }

// Durable implements leader.ReplicaGate.
func (r lateReplica) Durable() uint64 {
	if r.a.replica == nil {
		return 0
	}
	return r.a.replica.Durable()
}

// placed hands on what each applied entry placed in the log. It never blocks.
func (a *Agent) placed(records []state.Placed, head ring.LogHead) {
	if a.replica == nil {
		return // still opening; the replica pulls what it missed
	}
	if len(records) == 0 {
		a.replica.Expect(head.Seq)
		return
	}
	out := make([]eventlog.Encoded, len(records))
	for i, r := range records {
		out[i] = eventlog.Encoded{Seq: r.Seq, Hash: r.Hash, Bytes: r.Bytes}
	}
	a.replica.Offer(out)
}

// replicaGather is how long a busy node's copy of the log gathers between two fsyncs: they compete with those of the
// outbox and of Raft on the same disk, for which publishers wait. The first event after a pause does not wait.
const replicaGather = 4 * time.Millisecond

func (a *Agent) openEvents() error {
	alarm := func(al eventlog.Alarm) {
		if al.Over {
			a.alarms.clear(string(al.Kind))
			return
		}
		a.log.Error().Str("kind", string(al.Kind)).Uint64("seq", al.Seq).Msg(al.Detail)
		a.alarms.raise(string(al.Kind), al.Detail)
	}
	var err error
	a.replica, err = eventlog.OpenReplica(eventlog.ReplicaOptions{
		Path: a.dir.path("events.db"), Quarantine: a.dir.path("quarantine"), Sources: sources{a}, Log: a.log, Alarm: alarm,
		Gather: replicaGather,
		OnAppend: func(rs []event.Record) {
			a.outbox.Observe(rs)
			a.router.observe(rs)
		},
		Floor: func() (uint64, bool) { return a.dispatcher.Floor() },
		Retention: func() eventlog.Retention {
			s, _ := a.leader.View().Settings()
			return eventlog.Retention{Age: time.Duration(s.Retention.Age), Count: s.Retention.Count, Bytes: s.Retention.Bytes}
		},
	})
	if err != nil {
		return fmt.Errorf("open event replica: %w", err)
	}
	a.outbox, err = eventlog.OpenOutbox(eventlog.OutboxOptions{
		Path: a.dir.path("outbox.db"), Quarantine: a.dir.path("quarantine"), Node: a.node.ID, Catalogue: event.Catalogue(),
		Sequencer: sequencer{a.leader}, Finder: a.replica, Log: a.log, Alarm: alarm,
	})
	if err != nil {
		return fmt.Errorf("open outbox: %w", err)
	}
	if a.local, err = openLocal(a.dir.path("state.db")); err != nil {
		return err
	}
	return a.openDispatcher()
}

func (a *Agent) openWorker(c config.Config) error {
	slots, err := worker.Configured(worker.Measure(context.Background(), a.dir.root), slotsByName(c.Slots))
	if err != nil {
		return api.Errorf(api.CodeInvalid, "slots: %v", err)
	}
	w, err := worker.New(worker.Config{
		Pace: a.pace(),
		Node: a.node.ID, Boot: a.boot, Self: a.opts.Self, Slots: slots, MinFreeMiB: 64,
		Runner: &proc.Runner{Dir: a.dir.path("jobs"), Shim: []string{a.opts.Self, "job-shim"}, Log: a.log},
		Queue:  &workQueue{a: a}, Artifacts: workArtifacts{a.store}, Games: workGames{a}, Validators: jobValidators(),
		Workload: a.workload, Configs: a.configs, Holds: a.holds, Log: a.log,
	})
	if err != nil {
		return err
	}
	a.worker = w
	return nil
}

// singletons are the cluster-scope daemons as the coordinator places them.
func (a *Agent) singletons() []leader.Singleton {
	var out []leader.Singleton
	for _, s := range a.specs {
		if s.Scope != kit.ScopeCluster || s.AliasOf != "" {
			continue
		}
		out = append(out, leader.Singleton{
			Name: s.Name,
			Eligible: func(m ring.Member) string {
				if !s.RunsOn(m) {
					return "class " + string(m.Class) + " or its slots do not allow it"
				}
				return ""
			},
			Enabled: func(r ring.Settings) bool { return daemons.Enabled(r, s.Name) },
		})
	}
	return out
}

// coreNodes are the nodes that may coordinate, this one left out.
func (a *Agent) coreNodes() []id.Node {
	var out []id.Node
	for _, m := range a.roster.file().Members {
		if m.Class == id.Core && !m.Revoked && m.ID != a.node.ID {
			out = append(out, m.ID)
		}
	}
	return out
}

// replicaComplete asks a node whether its copy of the log has everything that the state knows now. While events come in, a
// sound copy is always a write or two behind, so it is asked until it has come as far as the state was, or ctx ends.
func (a *Agent) replicaComplete(ctx context.Context, n id.Node) bool {
	const again = 50 * time.Millisecond
	want := a.leader.View().LogHead().Seq
	durable := func() (uint64, bool) {
		if n == a.node.ID {
			return a.replica.Durable(), true
		}
		var st replicaState
		err := a.mesh.Call(ctx, n, methodReplica, struct{}{}, &st)
		// A voter must be able to take newcomers in, too, so that the loss of the others does not close the ring.
		return st.Durable, err == nil && st.Authority
	}
	for {
		seq, ok := durable()
		if !ok || seq >= want {
			return ok
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return false
		}
	}
}

// current is the state as new as the coordinator's.
func (a *Agent) current(ctx context.Context) (*state.State, error) { return a.leader.Read(ctx) }

// command is one that this node proposes on its own behalf.
func (a *Agent) command(k state.Kind, body any) state.Command {
	return state.Command{Kind: k, At: time.Now().UTC(), By: a.node.ID, Body: body}
}

func (a *Agent) nodeEffects(daemon string) effects {
	return effects{self: a.node.ID, daemon: daemon, now: time.Now, leader: a.leader}
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
	if a.opts.Level != nil {
		if err := a.opts.Level.set(next.Log.Level); err != nil {
			return api.Errorf(api.CodeInvalid, "%v", err)
		}
	}
	a.conf.Store(&next)
	a.log.Info().Msg("config reloaded")
	return nil
}

// socketPath is where the agent listens for its own command line.
func (a *Agent) socketPath() string { return filepath.Join(a.dir.root, "agent.sock") }

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
