package state

import (
	"encoding/json"
	"math"
	"slices"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// The facts that are placed within the entry of their effect.
const (
	evWorkQueued    event.Type = "WORK_QUEUED"
	evWorkClaimed   event.Type = "WORK_CLAIMED"
	evWorkStarted   event.Type = "WORK_STARTED"
	evWorkCompleted event.Type = "WORK_COMPLETED"
	evWorkFailed    event.Type = "WORK_FAILED"
	evWorkRetry     event.Type = "WORK_RETRY"
	evWorkTimeout   event.Type = "WORK_TIMEOUT"
	evWorkCancelled event.Type = "WORK_CANCELLED"
	evWorkDead      event.Type = "WORK_DEAD_LETTERED"

	evSelfplay     event.Type = "SELFPLAY_COMPLETE"
	evExport       event.Type = "NPZ_EXPORT_COMPLETE"
	evTrainStarted event.Type = "TRAINING_STARTED"
	evTrainDone    event.Type = "TRAINING_COMPLETED"
	evTrainFailed  event.Type = "TRAINING_FAILED"
	evEvaluated    event.Type = "EVALUATION_COMPLETED"
	evEvalFailed   event.Type = "EVALUATION_FAILED"
	evElo          event.Type = "ELO_UPDATED"
	evPromoted     event.Type = "MODEL_PROMOTED"

	evNodeDead    event.Type = "P2P_NODE_DEAD"
	evOnline      event.Type = "HOST_ONLINE"
	evOffline     event.Type = "HOST_OFFLINE"
	evRevoked     event.Type = "NODE_REVOKED"
	evHealthy     event.Type = "P2P_CLUSTER_HEALTHY"
	evUnhealthy   event.Type = "P2P_CLUSTER_UNHEALTHY"
	evLeadElected event.Type = "LEADER_ELECTED"
	evSettings    event.Type = "CONFIG_UPDATED"
)

// Roles of inputs that the facts speak of.
const (
	RoleModel     = "model"     // of a self-play
	RoleDataset   = "dataset"   // of a training
	RoleChampion  = "champion"  // of a training (its parent) and an evaluation
	RoleCandidate = "candidate" // of an evaluation
	RolePack      = "pack"      // of an export
)

// Types of work whose ends are facts of the loop.
const (
	TypeSelfplay = "selfplay"
	TypeExport   = "export"
	TypeTrain    = "train"
	TypeEvaluate = "evaluate"
)

// ownedByState says which types no outbox may publish. A switch, not a map: it is asked for every event.
func ownedByState(t []byte) bool {
	switch event.Type(t) {
	case evWorkQueued, evWorkClaimed, evWorkStarted, evWorkCompleted, evWorkFailed, evWorkRetry, evWorkTimeout,
		evWorkCancelled, evWorkDead, evSelfplay, evExport, evTrainStarted, evTrainDone, evTrainFailed, evEvaluated,
		evEvalFailed, evElo, evPromoted, evNodeDead, evOnline, evOffline, evRevoked, evHealthy, evUnhealthy, evLeadElected,
		evSettings, TypeRefused, TypeLost:
		return true
	}
	return false
}

// OwnedByState says whether events of type t are made only within the entry of an effect; outboxes get a REFUSED record
// for them.
func OwnedByState(t event.Type) bool { return ownedByState([]byte(t)) }

// checkEvents looks at the events that the proposer sent along: their type must be one that the effect allows, their fence
// the command's, and what they say of the effect must be so. A fact that the machine made itself gives way to the
// proposer's. before is the state without the effect.
func (t *txn) checkEvents(before *State, steps []Step) error {
	for i := range t.cmd.Events {
		d := &t.cmd.Events[i]
		if !validType([]byte(d.Type)) {
			return refuse(CodeInvalid, "event %d: type %q", i+1, d.Type)
		}
		if len(d.Payload) > event.MaxPayload || len(d.Payload) > 0 && !json.Valid(d.Payload) {
			return refuse(CodeInvalid, "event %d: payload is not JSON of at most %d bytes", i+1, event.MaxPayload)
		}
		if err := t.checkRight(i, d); err != nil {
			return err
		}
		var err error
		switch {
		case d.Type == evPromoted:
			err = t.checkPromoted(before, d, steps)
		case d.Type == evEvaluated:
			err = t.checkEvaluated(d, steps)
		case d.Type == evElo:
			err = t.checkElo(d)
		case d.Type == evHealthy || d.Type == evUnhealthy:
			if !slices.ContainsFunc(steps, func(s Step) bool { return rosterKind(s.Kind) }) {
				err = refuse(CodeInvalid, "%s rides on an entry of the roster", d.Type)
			}
		case OwnedByState(d.Type):
			err = refuse(CodeInvalid, "%s is stated by the state machine itself", d.Type)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func rosterKind(k Kind) bool {
	return k == KindEnrol || k == KindReport || k == KindStatus || k == KindRevoke || k == KindForget || k == KindLead
}

// checkRight holds an event's daemon and epoch against the command's.
func (t *txn) checkRight(i int, d *event.Draft) error {
	f := t.fence()
	if d.Daemon == "" && d.Epoch == 0 {
		d.Daemon, d.Epoch = f.Daemon, f.Epoch
	}
	if d.Node == "" {
		d.Node = t.by()
	}
	if d.Daemon != f.Daemon || d.Epoch != f.Epoch {
		return refuse(CodeStale, "event %d is of %q under epoch %d, its command of %q under %d", i+1, d.Daemon, d.Epoch, f.Daemon, f.Epoch)
	}
	if t.cmd.By != "" && d.Node != t.cmd.By {
		return refuse(CodeInvalid, "event %d is of node %s, its command of %s", i+1, d.Node, t.cmd.By)
	}
	return nil
}

// stated are the facts of a proposer's event that can be held against an effect.
type stated struct {
	Config   id.Config  `json:"config_key"`
	Version  uint64     `json:"version"`
	Digest   id.Digest  `json:"sha256"`
	Previous *id.Digest `json:"previous_sha256"`
}

func readStated(d *event.Draft) (stated, error) {
	var s stated
	if err := json.Unmarshal(d.Payload, &s); err != nil {
		return s, refuse(CodeInvalid, "%s: payload: %v", d.Type, err)
	}
	return s, nil
}

func (t *txn) checkPromoted(before *State, d *event.Draft, steps []Step) error {
	s, err := readStated(d)
	if err != nil {
		return err
	}
	key := ring.ModelName(s.Config)
	for _, st := range steps {
		b, ok := st.Body.(SetName)
		if !ok || b.Key != key {
			continue
		}
		var previous id.Digest
		if s.Previous != nil {
			previous = *s.Previous
		}
		was, _ := before.names.get(key)
		if s.Digest != b.Digest || s.Version != b.Expect+1 || previous != was.Digest {
			return refuse(CodeInvalid, "%s: sha256, version or previous_sha256 is not that of the name %s", d.Type, key)
		}
		t.dropFact(evPromoted, s.Digest)
		return nil
	}
	return refuse(CodeInvalid, "%s without a change of %s", d.Type, key)
}

func (t *txn) checkEvaluated(d *event.Draft, steps []Step) error {
	s, err := readStated(d)
	if err != nil {
		return err
	}
	for _, st := range steps {
		b, ok := st.Body.(FinishWork)
		if !ok || b.Result == nil {
			continue
		}
		row, _ := t.s.work.get(b.Work)
		if row.Type == TypeEvaluate && inputOf(row.Inputs, RoleCandidate) == s.Digest {
			t.dropFact(evEvaluated, s.Digest)
			return nil
		}
	}
	return refuse(CodeInvalid, "%s without the end of an evaluation of %s", d.Type, s.Digest.Short())
}

func (t *txn) checkElo(d *event.Draft) error {
	s, err := readStated(d)
	if err != nil {
		return err
	}
	if a, ok := t.s.artifact(s.Digest); !ok || a.Kind != ring.KindModel {
		return refuse(CodeInvalid, "%s: %s is no known model", d.Type, s.Digest.Short())
	}
	if t.cmd.Fence == nil && t.cmd.Kind != KindFinish {
		return refuse(CodeStale, "%s needs the epoch of the daemon that rates", d.Type)
	}
	t.dropFact(evElo, s.Digest)
	return nil
}

// dropFact removes the machine's own version of a fact that the proposer states.
func (t *txn) dropFact(typ event.Type, d id.Digest) {
	t.facts = slices.DeleteFunc(t.facts, func(f event.Draft) bool {
		if f.Type != typ {
			return false
		}
		s, err := readStated(&f)
		return err == nil && s.Digest == d
	})
}

func inputOf(inputs []ring.Input, role string) id.Digest {
	for _, in := range inputs {
		if in.Role == role {
			return in.Digest
		}
	}
	return ""
}

func outputOf(r *ring.WorkResult, k ring.Kind) (ring.Output, bool) {
	for _, o := range r.Outputs {
		if o.Kind == k {
			return o, true
		}
	}
	return ring.Output{}, false
}

// orNull is nil for the empty digest.
func orNull(d id.Digest) any {
	if d == "" {
		return nil
	}
	return d
}

// number is v[key], or nil where it is missing or no number that JSON has.
func number(v map[string]float64, key string) any {
	f, ok := v[key]
	if !ok || math.IsNaN(f) || math.IsInf(f, 0) {
		return nil
	}
	return f
}
