package agent

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/ringagent/ringagent/agent/supervise"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

// gauges reads the agent's figures when they are asked for; nothing is counted in between. What this node does not know is
// left out, never shown as 0.
type gauges struct {
	a *Agent

	members, daemons, work, slots, free        *prometheus.Desc
	lastSeq, lag, unplaced, alarms, degraded   *prometheus.Desc
	coordinates, coordinatorKnown, voter, jobs *prometheus.Desc
	figure, restarts, progress                 *prometheus.Desc
	artifacts, artifactsLeft                   *prometheus.Desc
}

func newGauges(a *Agent) gauges {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("ringagent_"+name, help, labels, nil)
	}
	return gauges{
		a:       a,
		members: d("members", "Nodes of the ring as this node's gossip sees them.", "status"),
		daemons: d("daemons", "Daemons on this node.", "state"),
		work:    d("work_items", "Work items of the ring by state; core nodes only.", "state"),
		slots:   d("slots", "Slots of this node.", "slot"), free: d("slots_free", "Free slots of this node.", "slot"),
		artifacts:     d("artifacts", "Artifacts that the ring knows, game packs for the most part; core nodes only."),
		artifactsLeft: d("artifacts_left", "Artifacts that the ring has room for; core nodes only."),
		lastSeq:       d("events_last_seq", "Newest event in this node's copy of the log."),
		lag:           d("events_lag", "Events that the ring has and this node's copy has not."),
		unplaced:      d("outbox_unplaced", "Events accepted here that have no place in the log yet."),
		alarms:        d("alarms", "Alarms that this node raises."), degraded: d("degraded", "Ways in which this node is degraded."),
		coordinates: d("coordinates", "1 on the coordinator."), coordinatorKnown: d("coordinator_known", "1 where a coordinator is known."),
		figure:   d("daemon_figure", "What a daemon that runs on this node shows of itself.", "daemon", "figure"),
		restarts: d("daemon_restarts", "How often a daemon of this node was started anew since the agent's start.", "daemon"),
		progress: d("daemon_progress_age_seconds", "How long ago a daemon that runs on this node last did something useful.", "daemon"),
		voter:    d("voter", "1 on a voter."), jobs: d("jobs", "Claims that are not answered yet."),
	}
}

// Describe implements prometheus.Collector.
func (g gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		g.members, g.daemons, g.work, g.slots, g.free, g.lastSeq, g.lag, g.unplaced, g.alarms, g.degraded, g.coordinates,
		g.coordinatorKnown, g.voter, g.jobs, g.figure, g.restarts, g.progress, g.artifacts, g.artifactsLeft,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (g gauges) Collect(out chan<- prometheus.Metric) {
	a := g.a
	put := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	flag := func(d *prometheus.Desc, on bool) {
		v := 0.0
		if on {
			v = 1
		}
		put(d, v)
	}
	members := map[ring.Status]int{ring.Alive: 0, ring.Failed: 0, ring.Left: 0, ring.Draining: 0}
	for _, m := range a.mesh.Members() {
		members[statusOf(m)]++
	}
	for s, n := range members {
		put(g.members, float64(n), string(s))
	}
	daemons := map[string]int{"running": 0, "failed": 0, "pending": 0}
	for _, d := range a.daemonRows() {
		daemons[strings.ToLower(d.State)]++
	}
	for s, n := range daemons {
		put(g.daemons, float64(n), s)
	}
	for _, r := range a.supervisor.Rows() {
		if r.AliasOf != "" || !r.Held {
			continue
		}
		put(g.restarts, float64(r.Restarts), r.Name)
		if r.State != supervise.Running {
			continue // what it last showed is no news
		}
		if !r.LastProgress.IsZero() {
			put(g.progress, time.Since(r.LastProgress).Seconds(), r.Name)
		}
		for name, v := range r.Gauges {
			put(g.figure, v, r.Name, name)
		}
	}
	fresh := a.leader.Freshness()
	if a.node.Class == id.Core && fresh.Known {
		for _, s := range []ring.WorkState{ring.WorkPending, ring.WorkClaimed, ring.WorkRunning, ring.WorkDone, ring.WorkFailed, ring.WorkDead} {
			put(g.work, float64(a.leader.View().WorkDepth("", s)), string(s))
		}
		n := a.leader.View().ArtifactCount()
		put(g.artifacts, float64(n))
		put(g.artifactsLeft, float64(max(0, state.MaxArtifacts-n)))
	}
	w := a.worker.Snapshot()
	for name, n := range map[string][2]int64{
		"cpu": {w.Total.CPU, w.Free.CPU}, "gpu": {w.Total.GPU, w.Free.GPU}, "vram_mib": {w.Total.VRAMMiB, w.Free.VRAMMiB},
		"ram_mib": {w.Total.RAMMiB, w.Free.RAMMiB}, "disk_mib": {w.Total.DiskMiB, w.Free.DiskMiB},
	} {
		put(g.slots, float64(n[0]), name)
		put(g.free, float64(n[1]), name)
	}
	put(g.jobs, float64(len(w.Runs)))
	log, box := a.replica.Status(), a.outbox.Status()
	put(g.lastSeq, float64(log.Last))
	if fresh.Known && log.Target >= log.Last {
		put(g.lag, float64(log.Target-log.Last))
	}
	put(g.unplaced, float64(box.Unplaced()))
	put(g.alarms, float64(len(a.alarmList())))
	put(g.degraded, float64(len(a.degraded())))
	flag(g.coordinates, fresh.Coordinator == a.node.ID)
	flag(g.coordinatorKnown, fresh.Coordinator != "")
	flag(g.voter, a.isVoter())
}

// registerMetrics is called once everything that is measured stands.
func (a *Agent) registerMetrics() {
	a.metrics.MustRegister(newGauges(a), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}
