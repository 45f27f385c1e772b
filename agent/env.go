package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/ringagent/ringagent/agent/supervise"
	"github.com/ringagent/ringagent/daemons"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/mesh"
)

// env makes one attempt's environment. What has an effect carries the attempt's fence, so that a daemon which outlives its
// assignment can change nothing.
func (a *Agent) env(spec kit.Spec, epoch id.Epoch) (kit.Env, error) {
	settings := a.sections.take(spec.Name, a.ringSettings)
	if spec.Scope == kit.ScopeNode && !daemons.Enabled(settings, spec.Name) { // singletons are not assigned in the first place
		return kit.Env{}, fmt.Errorf("disabled by the ring settings: %w", kit.ErrSkip)
	}
	section := settings.Daemons[spec.Name]
	every, err := spec.Period(section)
	if err != nil {
		return kit.Env{}, err
	}
	var fence *ring.Fence
	if spec.Scope == kit.ScopeCluster {
		fence = &ring.Fence{Daemon: spec.Name, Epoch: epoch}
	}
	return kit.Env{
		Self: kit.Self{ID: a.node.ID, Name: a.node.Name, Class: a.node.Class, Boot: a.boot},
		Log:  a.log.With().Str("daemon", spec.Name).Logger(), Now: time.Now, Every: every, Settings: section,
		Events:  daemonEvents{a: a, daemon: spec.Name, fence: fence},
		View:    a.viewsFor(spec.Name),
		Effects: effects{self: a.node.ID, daemon: spec.Name, fence: fence, now: time.Now, leader: a.leader, view: a.leader.View, needs: a.stageNeeds},
		Orders:  orders{a}, Store: a.store, Local: a.local.shelf(spec.Name), Jobs: jobs{a}, Letters: a.letters(), Peers: peers{a},
		Host: hostOf{a}, Part: a.part,
		Dirs: kit.Dirs{Games: a.dir.path("games"), Staging: a.dir.path("staging"), Spool: a.dir.path("spool")},
	}, nil
}

// stageNeeds is what the ring's workload says that a stage takes.
func (a *Agent) stageNeeds(stage string) ring.Slots {
	if w := a.workload(); w != nil {
		return ringSlots(w.Stages[stage].Needs)
	}
	return ring.Slots{}
}

// openSupervisor makes the supervisor with the daemons of this node's profile.
func (a *Agent) openSupervisor() error {
	leases := make(chan supervise.Lease)
	a.leases = leases
	specs, err := a.profileSpecs()
	if err != nil {
		return err
	}
	a.supervisor, err = supervise.New(supervise.Config{
		Specs: specs, Env: a.env, RingWide: a.runsSomewhere, Leases: leases, Switches: switches{a.local.shelf("supervisor")},
		Tell: func(daemon string, st supervise.State, reason string) {
			payload, err := json.Marshal(map[string]any{"node_id": a.node.ID, "daemon": daemon, "state": st, "reason": reason})
			if err != nil {
				return
			}
			d := event.Draft{Type: "DAEMON_STATUS_CHANGED", Node: a.node.ID, Time: time.Now().UTC(), Payload: payload}
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				if _, err := a.outbox.Publish(ctx, d, eventlog.PublishOptions{By: event.ByAgent}); err != nil {
					a.log.Warn().Err(err).Str("daemon", daemon).Msg("status change not published")
				}
			}()
		},
		Figures: a.figures(), Log: a.log,
	})
	return err
}

// figures are the restart times of the timing in force: a dev ring must show within seconds what takes minutes elsewhere.
func (a *Agent) figures() supervise.Figures {
	if a.lastTiming() == ring.TimingDev {
		return supervise.Figures{First: time.Second, Slowest: 30 * time.Second}
	}
	return supervise.Figures{}
}

// passLeases hands every lease that this node holds to the supervisor, once per life of its context.
func (a *Agent) passLeases(ctx context.Context) {
	h := a.leader.Holder()
	given := map[string]context.Context{}
	for {
		changed := h.Changes()
		for _, held := range h.Leases() {
			if given[held.Daemon] == held.Ctx {
				continue
			}
			select {
			case a.leases <- supervise.Lease{Daemon: held.Daemon, Epoch: held.Epoch, Context: held.Ctx}:
				given[held.Daemon] = held.Ctx
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// switches keeps what an operator stopped on this node.
type switches struct{ shelf }

// Off implements supervise.Switches.
func (s switches) Off(daemon string) (bool, error) {
	_, off, err := s.Get("off/" + daemon)
	return off, err
}

// SetOff implements supervise.Switches.
func (s switches) SetOff(daemon string, off bool) error {
	if off {
		return s.Put("off/"+daemon, []byte{1})
	}
	return s.Delete("off/" + daemon)
}

// daemonEvents publishes and hears for one daemon.
type daemonEvents struct {
	a      *Agent
	daemon string
	fence  *ring.Fence
}

// Publish implements kit.Events.
func (e daemonEvents) Publish(ctx context.Context, t event.Type, payload any, cause string) (string, error) {
	if err := supervise.Entitled(ctx); err != nil {
		return "", fmt.Errorf("publish %s: %w", t, err)
	}
	b, err := json.Marshal(payload)
	if err != nil {
		return "", fmt.Errorf("encode %s: %w", t, err)
	}
	d := event.Draft{Type: t, Node: e.a.node.ID, Daemon: e.daemon, Time: time.Now().UTC(), Cause: cause, Payload: b}
	if e.fence != nil {
		d.Epoch = e.fence.Epoch
	}
	return e.a.outbox.Publish(ctx, d, eventlog.PublishOptions{By: event.Publisher(e.daemon)})
}

// jobs is what the worker runs here.
type jobs struct{ a *Agent }

// Databases implements kit.Jobs.
func (j jobs) Databases() ([]kit.JobDB, bool) {
	var out []kit.JobDB
	all, known := j.a.worker.JobDatabases()
	for _, d := range all {
		out = append(out, kit.JobDB{JobID: d.JobID, WorkID: d.WorkID, Path: d.Path, Config: d.Config, Done: d.Done})
	}
	return out, known
}

// Release implements kit.Jobs.
func (j jobs) Release(_ context.Context, jobID string) error { return j.a.worker.Release(jobID) }

// Hold implements kit.Jobs.
func (j jobs) Hold(games int) {
	const code = "games_behind"
	j.a.worker.Hold(games > 0)
	if games == 0 {
		j.a.alarms.clear(code)
		return
	}
	j.a.alarms.raise(code, fmt.Sprintf(
		"%d finished games of a config are in no pack yet: this node plays faster than it packs, and plays no more until they are fewer", games))
}

// peers is the mesh as this node sees it.
type peers struct{ a *Agent }

// Peers implements kit.Peers.
func (p peers) Peers() []kit.Peer {
	var out []kit.Peer
	for _, m := range p.a.mesh.Members() {
		if m.ID != p.a.node.ID {
			out = append(out, kit.Peer{ID: m.ID, Name: m.Name, Status: statusOf(m), Boot: m.Boot, Since: m.Since})
		}
	}
	return out
}

// hostOf samples the machine and publishes the node's verdict on itself.
type hostOf struct{ a *Agent }

// Sample implements kit.Host.
func (h hostOf) Sample(ctx context.Context) kit.Sample {
	s, jobs := h.a.host.Sample(ctx), h.a.worker.Snapshot()
	out := kit.Sample{
		At: time.Now().UTC(), CPUPercent: s.CPUPercent, MemPercent: s.MemPercent, DiskFree: s.DiskFree, DiskPercent: s.DiskPercent,
		FsyncSeconds: s.FsyncSeconds, GPUError: s.GPUError, Preflight: jobs.Stages, GPUSlots: int(jobs.Total.GPU),
	}
	for _, g := range s.GPUs {
		out.GPUs = append(out.GPUs, kit.GPU(g))
	}
	return out
}

// Report implements kit.Host.
func (h hostOf) Report(v kit.Health) {
	h.a.health.put(v)
	if err := h.a.mesh.UpdateMeta(func(m *mesh.Meta) { m.Health = v.Verdict }); err != nil {
		h.a.log.Warn().Err(err).Msg("verdict not spread")
	}
}
