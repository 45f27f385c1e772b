package ring

import (
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// WorkState is where a work item stands.
type WorkState string

// States of a work item. Failed will not be retried; Dead has used its attempts up; both keep their reason.
const (
	WorkPending   WorkState = "pending"
	WorkClaimed   WorkState = "claimed"
	WorkRunning   WorkState = "running"
	WorkDone      WorkState = "done"
	WorkFailed    WorkState = "failed"
	WorkCancelled WorkState = "cancelled"
	WorkDead      WorkState = "dead"
)

// Finished says that nothing more will happen to an item in this state.
func (s WorkState) Finished() bool {
	return s == WorkDone || s == WorkFailed || s == WorkCancelled || s == WorkDead
}

// WorkItem is one job of the queue. Its Key makes adding it again harmless.
type WorkItem struct {
	ID          string            `json:"id"`
	Type        string            `json:"type"` // stage of the workload: selfplay, export, train, evaluate
	Config      id.Config         `json:"config"`
	Key         string            `json:"key"` // idempotency: type, config, generation …; unique among kept items
	State       WorkState         `json:"state"`
	Priority    int               `json:"priority"` // 0–100, higher first
	Generation  uint64            `json:"generation,omitempty"`
	Params      map[string]string `json:"params,omitempty"` // games, seed, simulations, epochs, opponents …
	Inputs      []Input           `json:"inputs,omitempty"` // fixed when added, or resolved when claimed
	Needs       Slots             `json:"needs"`
	Attempts    int               `json:"attempts"` // runs that really started
	MaxAttempts int               `json:"max_attempts"`
	Excused     int               `json:"excused,omitempty"`   // of Attempts: taken back without blame
	FailedOn    []id.Node         `json:"failed_on,omitempty"` // nodes whose attempts failed, newest last
	NotBefore   time.Time         `json:"not_before,omitzero"` // backoff
	Created     time.Time         `json:"created"`
	Deadline    time.Time         `json:"deadline,omitzero"` // a pending item is cancelled after it
	By          Fence             `json:"by,omitzero"`       // the singleton that asked for it, if one did
	Claim       *Claim            `json:"claim,omitempty"`
	Error       string            `json:"error,omitempty"` // of the last attempt
	Result      *WorkResult       `json:"result,omitempty"`
	Finished    time.Time         `json:"finished,omitzero"`
}

// Input names an artifact that a run needs and the role it plays: model, dataset, champion, candidate, pack.
type Input struct {
	Role   string    `json:"role"`
	Digest id.Digest `json:"sha256"`
}

// Claim is one node's lease on an item. Only its id may finish the item.
type Claim struct {
	ID      string    `json:"id"`
	Node    id.Node   `json:"node"`
	Boot    id.Boot   `json:"boot"`
	At      time.Time `json:"at"`
	Lease   Duration  `json:"lease_seconds"` // renewed by heartbeat; expiry is judged by the coordinator's own clock
	Started time.Time `json:"started,omitzero"`
}

// WorkResult is what a run left: its outputs by role and the counters read from them, never from its prints.
type WorkResult struct {
	Outputs  []Output           `json:"outputs,omitempty"`
	Counters map[string]int64   `json:"counters,omitempty"`
	Values   map[string]float64 `json:"values,omitempty"` // loss, elo …
	Seconds  float64            `json:"seconds"`
	Node     id.Node            `json:"node"`
}

// Output is one artifact that a run produced.
type Output struct {
	Role   string    `json:"role"`
	Kind   Kind      `json:"kind"`
	Digest id.Digest `json:"sha256"`
	Bytes  int64     `json:"bytes"`
}

// Duration is a time.Duration that is written as seconds.
type Duration time.Duration
