package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/agent/worker"
	"github.com/ringagent/ringagent/eventlog"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/blob"
	"github.com/ringagent/ringagent/internal/boltfile"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/proc"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/internal/transfer"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/mesh"
)

// sweepStaging removes what a former process left unfinished, but for what a job reads that goes on.
func (d *dataDir) sweepStaging() error {
	if err := os.MkdirAll(d.path("staging"), 0o700); err != nil {
		return fmt.Errorf("make staging: %w", err)
	}
	left, err := os.ReadDir(d.path("staging"))
	if err != nil {
		return fmt.Errorf("sweep staging: %w", err)
	}
	for _, e := range left {
		path := d.path("staging", e.Name())
		if strings.HasPrefix(e.Name(), exportPrefix) && !outlived(path) {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("sweep staging: %w", err)
		}
	}
	return nil
}

func (a *Agent) openStore() error {
	blobs, err := blob.Open(a.dir.path("blobs"), blob.Options{Quarantine: a.dir.path("quarantine"), Log: a.log, Step: a.opts.Faults.Store})
	if err != nil {
		return fmt.Errorf("open artifacts: %w", err)
	}
	s := &artifacts{a: a, blobs: blobs}
	if err := s.sweepPartial(); err != nil {
		return err
	}
	o := transfer.Options{Log: a.log, Damaged: func(d id.Digest, err error) {
		a.log.Error().Err(err).Str("artifact", string(d)).Msg("own copy is damaged")
		s.suspect(d)
	}}
	if s.server, err = transfer.NewServer(blobs, o); err != nil {
		return fmt.Errorf("open artifacts: %w", err)
	}
	if s.client, err = transfer.NewClient(a.node.ID, incoming{blobs, s}, s, o); err != nil {
		return fmt.Errorf("open artifacts: %w", err)
	}
	s.receipt = batcher{delay: 20 * time.Millisecond, flush: func(ctx context.Context, ds []id.Digest) error {
		return a.nodeEffects("").AddReceipts(ctx, ds...)
	}}
	a.store = s
	return nil
}

// openRoster reads the node's copy of the roster. One that is damaged is put aside: a node without any learns it from its seed, or
// from its own part of Raft's log.
func (a *Agent) openRoster() (err error) {
	path := a.dir.path("roster.json")
	if a.roster, err = openRoster(path); !errors.Is(err, errDamagedRoster) {
		return err
	}
	if err := a.store.blobs.QuarantineFile(path, err.Error()); err != nil {
		return fmt.Errorf("put the roster copy aside: %w", err)
	}
	a.roster, err = openRoster(path)
	return err
}

// openState opens state.db. A damaged one is put aside: what it held is made anew or read anew, but for what an operator stopped here.
func (a *Agent) openState(path string) (*localStore, error) {
	s, err := openLocal(path)
	if bad := (*boltfile.DamagedError)(nil); errors.As(err, &bad) {
		if err := a.store.blobs.QuarantineFile(path, bad.Error()); err != nil {
			return nil, fmt.Errorf("put state.db aside: %w", err)
		}
		a.alarms.raise("state_lost", bad.Error()+": it is in quarantine, and begun anew; "+stateLost)
		s, err = openLocal(path)
	}
	return s, err
}

const (
	stateLost  = "daemons that were stopped on this node run again, and its consumers without a place in the ring read again"
	outboxLost = "events of this node that had no place yet are gone, and keys under which it published are not known again"
)

// tellOfLost raises an alarm for small files that were there when an agent ran here last: without them it begins anew. Where both are
// not there, a first start came no further.
func (a *Agent) tellOfLost() {
	has := func(name string) bool {
		st, err := os.Stat(a.dir.path(name))
		return err == nil && st.Size() > 0
	}
	outbox, state := has("outbox.db") || has("outbox.db.next"), has("state.db") // .next: its replacing was cut off, and is ended by opening it
	for code, f := range map[string][2]string{"state_lost": {"state.db", stateLost}, "outbox_lost": {"outbox.db", outboxLost}} {
		if code == "state_lost" && outbox && !state || code == "outbox_lost" && state && !outbox {
			a.log.Error().Str("file", f[0]).Msg("is gone or empty, although an agent has run here")
			a.alarms.raise(code, f[0]+" is gone or empty, although an agent has run here; "+f[1])
		}
	}
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
	var told refusals
	conf := mesh.Config{
		DataDir: a.dir.root, Listen: c.Listen, Advertise: advertise, Boot: a.boot, Profile: profile, Roster: a.roster, Life: a.opts.CertLife,
		Meta: mesh.Meta{Version: Build(), Protocol: Protocol, State: StateVersion}, Network: a.opts.Network, Log: a.log,
		Hooks: mesh.Hooks{Generation: gen.current, Seen: gen.seen},
		OnRefused: func(by id.Node, reason *mesh.Error) {
			if told.news(by, reason.Code, time.Now()) {
				a.log.Warn().Str("peer", string(by)).Err(reason).Msg("another node refuses this one")
			}
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

func (a *Agent) openLeader(seeded, ran bool) error {
	conf := leader.Config{
		Self: leader.Self{Node: a.node.ID, Boot: a.boot, Class: a.node.Class}, Dir: a.dir.path("raft"), Ran: ran, Timing: a.lastTiming(), Log: a.log,
		Caller: a.mesh, Snapshots: a.opts.Snapshots, Clock: a.opts.Faults.Clock,
		Ports: leader.Ports{
			Seeds: a.coreNodes, Likely: a.likelyCores, Replica: a.replica, Reach: reach{a.mesh}, Complete: a.replicaComplete,
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
	if seeded { // also where the first start was cut off on the way
		a.leader, err = leader.Bootstrap(conf)
	} else {
		a.leader, err = leader.Open(conf)
	}
	if err != nil {
		return fmt.Errorf("open leader: %w", err)
	}
	return nil
}

// lastTiming is the timing that was in force when this node last ran, or when it was taken in: until the settings are known, a dev ring must not
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

// replicaGather is how long at most a busy node's copy of the log gathers between two fsyncs: they compete with those of the
// outbox and of Raft on the same disk, for which publishers wait. The first event after a pause does not wait.
const replicaGather = 10 * time.Millisecond

// alarm tells people what is wrong with the files of the event log.
func (a *Agent) alarm(al eventlog.Alarm) {
	if al.Over {
		a.alarms.clear(string(al.Kind))
		return
	}
	a.log.Error().Str("kind", string(al.Kind)).Uint64("seq", al.Seq).Msg(al.Detail)
	a.alarms.raise(string(al.Kind), al.Detail)
}

// openReplica opens this node's copy of the log. Nothing that is opened after it is asked for before Run.
func (a *Agent) openReplica() error {
	if f := a.opts.Faults.openReplica; f != nil {
		f(a)
	}
	var err error
	a.replica, err = eventlog.OpenReplica(eventlog.ReplicaOptions{
		Path: a.dir.path("events.db"), Quarantine: a.dir.path("quarantine"), Sources: sources{a}, Log: a.log, Alarm: a.alarm,
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
	return nil
}

// closeReplica closes a replica that was never run.
func (a *Agent) closeReplica() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = a.replica.Run(ctx)
}

func (a *Agent) openEvents() error {
	var err error
	a.outbox, err = eventlog.OpenOutbox(eventlog.OutboxOptions{
		Path: a.dir.path("outbox.db"), Quarantine: a.dir.path("quarantine"), Node: a.node.ID, Catalogue: event.Catalogue(),
		Sequencer: sequencer{a.leader}, Finder: a.replica, Log: a.log, Alarm: a.alarm,
	})
	if err != nil {
		return fmt.Errorf("open outbox: %w", err)
	}
	if a.local, err = a.openState(a.dir.path("state.db")); err != nil {
		return err
	}
	a.readLastSettings()
	return a.openDispatcher()
}

func (a *Agent) openWorker(c config.Config) error {
	a.machine.measured = worker.Measure(a.dir.root, a.dir.path("jobs"))
	ctx, cancel := context.WithTimeout(context.Background(), cardsPatience)
	defer cancel()
	if cards, err := a.host.GPUs(ctx); err == nil {
		a.machine.count(cards)
	} else {
		a.log.Warn().Err(err).Msg("graphics cards are not known; until they are, those count that slots of the config say")
	}
	slots, err := a.machine.slots(c)
	if err != nil {
		return api.Errorf(api.CodeInvalid, "slots: %v", err)
	}
	a.logSlots(slots)
	w, err := worker.New(worker.Config{
		Pace: a.pace(),
		Node: a.node.ID, Boot: a.boot, Self: a.opts.Self, Slots: slots, MinFreeMiB: 64,
		CardsUnknown: a.machine.cardsUnknown,
		Runner:       &proc.Runner{Dir: a.dir.path("jobs"), Shim: []string{a.opts.Self, "job-shim"}, Log: a.log},
		Queue:        &workQueue{a: a}, Artifacts: workArtifacts{a.store}, Games: workGames{a}, Validators: jobValidators(), Belongs: belongs,
		Workload: a.workload, Configs: a.configs, Holds: a.holds, Log: a.log,
	})
	if err != nil {
		return err
	}
	a.worker = w
	return nil
}
