package state

import (
	"slices"
	"strings"
	"time"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

func (t *txn) finish(b FinishWork) (any, error) {
	r, err := t.item(b.Work)
	if err != nil {
		return nil, err
	}
	if b.Claim != "" && r.EndedBy == b.Claim && r.EndedBad == (b.Result == nil) {
		return r.WorkItem, nil // the answer was lost
	}
	if err := t.m.rules.claim(r, b.Claim); err != nil {
		return nil, err
	}
	if (b.Result == nil) == (b.Error == "") {
		return nil, refuse(CodeInvalid, "work %s ends with a result or with an error", r.ID)
	}
	if len(b.Artifacts) > 0 {
		if _, err := t.addArtifacts(b.Artifacts); err != nil {
			return nil, err
		}
	}
	r.EndedBy, r.EndedBad = b.Claim, b.Result == nil
	if b.Result == nil {
		t.failed(&r, b)
		return r.WorkItem, nil
	}
	if err := t.checkResult(r, b.Result); err != nil {
		return nil, err
	}
	if r.State == ring.WorkClaimed { // it did run: the word of its start was lost
		t.started(&r)
	}
	res := *b.Result
	res.Node = r.Claim.Node
	r.Result, r.Error = &res, ""
	t.end(&r, ring.WorkDone)
	t.workFact(evWorkCompleted, r, res.Node, "")
	t.stageFacts(r)
	return r.WorkItem, nil
}

// checkResult refuses a success without what the stage is for. The node has looked at the bytes; this is the last gate.
func (t *txn) checkResult(r workRow, res *ring.WorkResult) error {
	for _, o := range res.Outputs {
		if o.Kind == ring.KindPack {
			continue // games are gathered from the node by the sync daemons
		}
		if a, ok := t.s.artifact(o.Digest); !ok || a.Kind != o.Kind {
			return refuse(CodeRefused, "work %s: output %s %s is no known %s", r.ID, o.Role, o.Digest.Short(), o.Kind)
		}
	}
	need := func(counter string) error {
		if res.Counters[counter] <= 0 {
			return refuse(CodeInvalid, "work %s: a finished %s needs %s above zero", r.ID, r.Type, counter)
		}
		return nil
	}
	needOutput := func(k ring.Kind) error {
		if _, ok := outputOf(res, k); !ok {
			return refuse(CodeInvalid, "work %s: a finished %s needs an output of kind %s", r.ID, r.Type, k)
		}
		return nil
	}
	switch r.Type {
	case TypeSelfplay:
		return need("games")
	case TypeExport:
		if err := needOutput(ring.KindDataset); err != nil {
			return err
		}
		return need("samples")
	case TypeTrain:
		return needOutput(ring.KindModel)
	case TypeEvaluate:
		if err := needOutput(ring.KindMatches); err != nil {
			return err
		}
		return need("games")
	}
	return nil
}

// failed ends an attempt with an error: back to the queue after a rest, or the end of the item.
func (t *txn) failed(r *workRow, b FinishWork) {
	node := r.Claim.Node
	r.Failures++
	r.Error = b.Error
	r.FailedOn = append(slices.Clone(r.FailedOn), node)
	if len(r.FailedOn) > 8 {
		r.FailedOn = r.FailedOn[len(r.FailedOn)-8:]
	}
	dead := r.Attempts-r.Excused >= r.MaxAttempts
	t.workFact(evWorkFailed, *r, node, b.Error)
	switch r.Type {
	case TypeTrain:
		t.runFailed(evTrainFailed, *r, node, b.Error, !b.Permanent && !dead)
	case TypeEvaluate:
		t.runFailed(evEvalFailed, *r, node, b.Error, !b.Permanent && !dead)
	}
	switch {
	case b.Permanent:
		t.end(r, ring.WorkFailed)
	case dead:
		t.end(r, ring.WorkDead)
		t.workFact(evWorkDead, *r, node, b.Error)
	default:
		r.unclaim()
		r.State = ring.WorkPending
		r.NotBefore = t.at().Add(backoff(t.s.settings.Timing, r.Failures))
		t.s.putWork(*r)
		t.workFact(evWorkRetry, *r, node, b.Error)
	}
}

// backoff is the rest after the n-th failure: it doubles from 30 s (dev: 1 s) to at most 5 min.
func backoff(timing ring.Timing, n int) time.Duration {
	d := 30 * time.Second
	if timing == ring.TimingDev {
		d = time.Second
	}
	for ; n > 1 && d < 5*time.Minute; n-- {
		d *= 2
	}
	return min(d, 5*time.Minute)
}

// end moves an item into a final state, and the oldest finished ones out of the state: their keys stay, so that no
// finished stage runs twice.
func (t *txn) end(r *workRow, st ring.WorkState) {
	r.State, r.Finished, r.Done = st, t.at(), t.s.next()
	t.s.putWork(*r)
	for t.s.doneOrder.len() > keptFinished {
		_, workID, _ := t.s.doneOrder.first()
		t.bury(workID)
	}
}

func (t *txn) bury(workID string) {
	r, _ := t.s.work.get(workID)
	t.s.count(r, -1)
	t.s.doneOrder.del(ordered(r.Done))
	t.s.workOrder.del(ordered(r.Added))
	t.s.workKeys.del(r.Key)
	t.s.work.del(r.ID)
	t.s.putTombstone(r.Key, tombstone{ID: r.ID, Type: r.Type, State: r.State, At: r.Finished, Order: r.Done})
	for t.s.tombstones.len() > keptTombstones {
		k, key, _ := t.s.tombOrder.first()
		t.s.tombOrder.del(k)
		t.s.tombstones.del(key)
	}
}

func (s *State) putTombstone(key string, ts tombstone) {
	s.tombstones.put(key, ts)
	s.tombOrder.put(ordered(ts.Order), key)
}

// workFact states what happened to an item. Attempt is the number of the run that is meant: for a claim, the one to come.
func (t *txn) workFact(typ event.Type, r workRow, node id.Node, reason string) {
	attempt := r.Attempts
	if typ == evWorkClaimed {
		attempt++
	}
	p := about(r, node)
	p["work_type"], p["attempt"] = r.Type, attempt
	if reason != "" {
		p["reason"] = reason
	}
	t.fact(typ, node, p)
}

func about(r workRow, node id.Node) map[string]any {
	p := map[string]any{"node_id": node, "work_id": r.ID}
	if r.Config != "" {
		p["config_key"] = r.Config
	}
	return p
}

func (t *txn) trainingStarted(r workRow) {
	p := about(r, r.Claim.Node)
	p["dataset_sha256"] = inputOf(r.Inputs, RoleDataset)
	p["parent_sha256"] = orNull(parentOf(r.Inputs))
	t.fact(evTrainStarted, r.Claim.Node, p)
}

// parentOf is the model that a training starts from.
func parentOf(inputs []ring.Input) id.Digest {
	if d := inputOf(inputs, RoleChampion); d != "" {
		return d
	}
	return inputOf(inputs, RoleModel)
}

func (t *txn) runFailed(typ event.Type, r workRow, node id.Node, reason string, retryable bool) {
	p := about(r, node)
	p["reason"], p["retryable"] = reason, retryable
	t.fact(typ, node, p)
}

// stageFacts states what a finished item means for the loop.
func (t *txn) stageFacts(r workRow) {
	res, p := r.Result, about(r, r.Result.Node)
	switch r.Type {
	case TypeSelfplay:
		p["games"], p["seconds"] = res.Counters["games"], res.Seconds
		p["model_sha256"] = orNull(inputOf(r.Inputs, RoleModel))
		t.fact(evSelfplay, res.Node, p)
	case TypeExport:
		o, _ := outputOf(res, ring.KindDataset)
		p["sha256"], p["samples"], p["games"] = o.Digest, res.Counters["samples"], res.Counters["games"]
		t.fact(evExport, res.Node, p)
	case TypeTrain:
		o, _ := outputOf(res, ring.KindModel)
		p["sha256"], p["samples"], p["seconds"] = o.Digest, res.Counters["samples"], res.Seconds
		p["loss"] = number(res.Values, "loss")
		t.fact(evTrainDone, res.Node, p)
	case TypeEvaluate:
		p["sha256"], p["games"] = inputOf(r.Inputs, RoleCandidate), res.Counters["games"]
		p["opponents"], p["elo"] = opponents(res.Counters), number(res.Values, "elo")
		t.fact(evEvaluated, res.Node, p)
		if p["elo"] != nil {
			e := about(r, res.Node)
			delete(e, "work_id")
			e["sha256"], e["games"], e["elo"] = p["sha256"], p["games"], p["elo"]
			t.fact(evElo, res.Node, e)
		}
	}
}

// opponents reads counters of the form "vs:<opponent>:<games|wins|draws|losses>".
func opponents(counters map[string]int64) map[string]map[string]int64 {
	out := map[string]map[string]int64{}
	for k, n := range counters {
		rest, ok := strings.CutPrefix(k, "vs:")
		i := strings.LastIndexByte(rest, ':')
		if !ok || i <= 0 {
			continue
		}
		name, what := rest[:i], rest[i+1:]
		switch what {
		case "games", "wins", "draws", "losses":
		default:
			continue
		}
		if out[name] == nil {
			out[name] = map[string]int64{"games": 0, "wins": 0, "draws": 0, "losses": 0}
		}
		out[name][what] = n
	}
	return out
}
