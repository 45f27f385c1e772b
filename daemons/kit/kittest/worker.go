package kittest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// Outcome is what a faked run leaves.
type Outcome struct {
	Artifacts []ring.Artifact // outputs; their bytes must be in the node's store already
	Counters  map[string]int64
	Values    map[string]float64
	Err       error
	Permanent bool // with Err: will not be retried
}

// Stages plays the runs of a workload: it may sleep on the bubble's clock and put files into the node's store.
type Stages func(ctx context.Context, n *Node, w ring.WorkItem) Outcome

// Work makes n claim and finish items, one at a time and the most urgent first, until ctx ends.
func (n *Node) Work(ctx context.Context, run Stages) {
	for {
		w, ok := n.r.Claim(n)
		if !ok {
			select {
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		out := run(ctx, n, w)
		if ctx.Err() != nil {
			return
		}
		n.r.finish(n, w.ID, w.Claim.ID, out)
	}
}

// Claim gives the most urgent pending item to n, with the champion and the model resolved as of now.
func (r *Ring) Claim(n *Node) (ring.WorkItem, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	best := -1
	for i, w := range r.items {
		if w.State == ring.WorkPending && !time.Now().Before(w.NotBefore) && (best < 0 || w.Priority > r.items[best].Priority) {
			best = i
		}
	}
	if best < 0 || r.noQuorum {
		return ring.WorkItem{}, false
	}
	w := &r.items[best]
	role := map[string]string{kit.StageSelfplay: kit.RoleModel, kit.StageTrain: kit.RoleModel, kit.StageEvaluate: kit.RoleChampion}[w.Type]
	if champion, ok := r.names[ring.ModelName(w.Config)]; ok && role != "" {
		if _, has := kit.InputOf(*w, role); !has {
			w.Inputs = append(slices.Clone(w.Inputs), ring.Input{Role: role, Digest: champion.Digest})
		}
	}
	w.Attempts++
	w.State = ring.WorkRunning
	w.Claim = &ring.Claim{ID: fmt.Sprintf("c%d", r.index), Node: n.ID, Boot: n.Boot, At: time.Now(), Started: time.Now()}
	r.index++
	r.work(event.WorkClaimed, *w, n.ID, "")
	if w.Type == kit.StageTrain {
		d, _ := kit.InputOf(*w, kit.RoleDataset)
		r.must(event.TrainingStarted.Type(), event.TrainingStart{About: about(n, *w), WorkID: w.ID, Dataset: d, Parent: input(*w, kit.RoleModel)})
	}
	return *w, true
}

// Finish ends n's run of an item and states what the state machine states.
func (r *Ring) Finish(n *Node, workID string, out Outcome) { r.finish(n, workID, "", out) }

// finish changes nothing when the item has been cancelled, asked for anew or claimed again since the claim with that id was
// given; "" is the present one.
func (r *Ring) finish(n *Node, workID, claimID string, out Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.items, func(w ring.WorkItem) bool { return w.ID == workID })
	if claimID != "" && (i < 0 || r.items[i].State != ring.WorkRunning || r.items[i].Claim.ID != claimID) {
		return
	}
	w := &r.items[i]
	r.index++
	if out.Err != nil {
		r.fail(n, w, out)
		return
	}
	res := &ring.WorkResult{Counters: out.Counters, Values: out.Values, Seconds: time.Since(w.Claim.Started).Seconds(), Node: n.ID}
	r.index++
	for _, a := range out.Artifacts {
		a.Origin, a.Holders, a.Created, a.Config = n.ID, []id.Node{n.ID}, time.Now(), w.Config
		for _, in := range w.Inputs {
			a.Parents = append(a.Parents, in.Digest)
		}
		r.addArtifact(a)
		res.Outputs = append(res.Outputs, ring.Output{Role: string(a.Kind), Kind: a.Kind, Digest: a.Digest, Bytes: a.Bytes})
	}
	w.Result, w.State, w.Finished = res, ring.WorkDone, time.Now()
	r.work(event.WorkCompleted, *w, n.ID, "")
	r.complete(n, *w)
}

func (r *Ring) fail(n *Node, w *ring.WorkItem, out Outcome) {
	w.Error, w.Claim = out.Err.Error(), nil
	w.NotBefore = time.Now().Add(time.Second)
	again := false
	switch {
	case out.Permanent:
		w.State, w.Finished = ring.WorkFailed, time.Now()
	case w.Attempts >= max(1, w.MaxAttempts):
		w.State, w.Finished = ring.WorkDead, time.Now()
	default:
		w.State, again = ring.WorkPending, true
	}
	r.work(event.WorkFailed, *w, n.ID, w.Error)
	if w.Type == kit.StageTrain {
		r.must(event.TrainingFailed.Type(), event.RunFailed{About: about(n, *w), WorkID: w.ID, Reason: w.Error, Retryable: again})
	}
}

// complete states the event of the stage. Called with mu held.
func (r *Ring) complete(n *Node, w ring.WorkItem) {
	res := w.Result
	switch w.Type {
	case kit.StageSelfplay:
		r.must(event.SelfplayComplete.Type(), event.SelfplayDone{About: about(n, w), WorkID: w.ID, Games: res.Counters[kit.CounterGames],
			Model: input(w, kit.RoleModel), Seconds: res.Seconds})
	case kit.StageExport:
		d, _ := kit.OutputOf(w, ring.KindDataset)
		r.must(event.NPZExportComplete.Type(), event.ExportDone{About: about(n, w), WorkID: w.ID, Digest: d,
			Samples: res.Counters[kit.CounterSamples], Games: res.Counters[kit.CounterGames]})
	case kit.StageTrain:
		d, _ := kit.OutputOf(w, ring.KindModel)
		r.must(event.TrainingCompleted.Type(), event.TrainingDone{About: about(n, w), WorkID: w.ID, Digest: d,
			Samples: res.Counters[kit.CounterSamples], Loss: res.Values["loss"], Seconds: res.Seconds})
	case kit.StageEvaluate:
		d, _ := kit.InputOf(w, kit.RoleCandidate)
		scores := map[string]event.Score{}
		for k, v := range res.Counters {
			parts := strings.Split(k, ":")
			if len(parts) != 3 || parts[0] != "vs" {
				continue
			}
			s := scores[parts[1]]
			*map[string]*int64{"games": &s.Games, "wins": &s.Wins, "draws": &s.Draws, "losses": &s.Losses}[parts[2]] = v
			scores[parts[1]] = s
		}
		r.must(event.EvaluationCompleted.Type(), event.EvaluationDone{About: about(n, w), WorkID: w.ID, Digest: d, Opponents: scores,
			Games: res.Counters[kit.CounterMatches]})
	}
}

func (r *Ring) must(t event.Type, payload any) {
	if _, err := r.place(event.ByState, event.Draft{Type: t}, payload); err != nil {
		r.T.Errorf("state %s: %v", t, err)
	}
}

func about(n *Node, w ring.WorkItem) event.About {
	return event.About{Subject: event.Subject{NodeID: n.ID}, Config: w.Config}
}

func input(w ring.WorkItem, role string) *id.Digest {
	if d, ok := kit.InputOf(w, role); ok {
		return &d
	}
	return nil
}

// Store puts content into the node's store and returns it as an output of kind k.
func (n *Node) Store(k ring.Kind, content string, counters map[string]int64) ring.Artifact {
	d := id.DigestOf([]byte(content))
	n.put(d, []byte(content))
	return ring.Artifact{Digest: d, Kind: k, Bytes: int64(len(content)), Counters: counters}
}
