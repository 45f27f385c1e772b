package worker

import (
	"cmp"
	"slices"
	"time"

	"github.com/ringagent/ringagent/internal/proc"
	"github.com/ringagent/ringagent/internal/workload"
)

// Snapshot is how the worker stands, for people.
type Snapshot struct {
	Total, Free workload.Slots
	Draining    bool
	Held        bool // see Hold
	Runs        []RunInfo
	// Stages are those of the workload that fit into Total: "", or why this node does not claim it at the moment.
	Stages map[string]string
	// Failing are the types that come to nothing here again and again.
	Failing []Failing
}

// Failing is a type whose runs come to nothing on this node.
type Failing struct {
	Type, Reason string
	Since        time.Time
}

// RunInfo is one claim that is not answered yet.
type RunInfo struct {
	JobID    string
	Claim    Claim
	Phase    Phase
	Progress float64
	At       time.Time
}

// Snapshot returns the present state; runs are ordered by job id.
func (w *Worker) Snapshot() Snapshot {
	s := Snapshot{Total: w.ledger.Total(), Free: w.ledger.Free(), Stages: make(map[string]string)}
	var stages map[string]workload.Stage
	if wl := w.cfg.Workload(); wl != nil {
		stages = wl.Stages
	}
	live := map[string]bool{}
	w.mu.Lock()
	for _, r := range w.runs {
		live[r.claim.Type] = true
	}
	w.mu.Unlock()
	for _, name := range workload.StageNames() {
		if stage, ok := stages[name]; !ok || !stage.Needs.Fits(s.Total) {
			continue
		}
		s.Stages[name], _ = w.avoid.blocked(name)
		if f, failing := w.avoid.failing(name, live[name]); failing {
			s.Stages[name] = f.Reason
			s.Failing = append(s.Failing, f)
		}
	}
	w.mu.Lock()
	s.Draining, s.Held = w.draining, w.held
	var handles []*proc.Handle
	for _, r := range w.runs {
		s.Runs = append(s.Runs, RunInfo{JobID: r.job, Claim: r.claim, Phase: r.phase})
		handles = append(handles, r.handle)
	}
	w.mu.Unlock()
	for i, h := range handles {
		b, _ := pulse(s.Runs[i].Claim.ClaimRef, s.Runs[i].Phase, h)
		s.Runs[i].Progress, s.Runs[i].At = b.Progress, b.ProgressAt
	}
	slices.SortFunc(s.Runs, func(a, b RunInfo) int { return cmp.Compare(a.JobID, b.JobID) })
	return s
}
