package event

import (
	"encoding/json"

	"github.com/ringagent/ringagent/internal/id"
)

// Subject is in every payload: the node that the event is about, which for most is the one that states it.
type Subject struct {
	NodeID id.Node `json:"node_id"`
}

// About is Subject for events that belong to what is being trained.
type About struct {
	Subject
	Config id.Config `json:"config_key" was:"config"`
}

// SelfplayDone is the payload of SELFPLAY_COMPLETE.
type SelfplayDone struct {
	About
	WorkID  string     `json:"work_id" was:"job_id"`
	Games   int64      `json:"games" was:"games_completed games_played"`
	Model   *id.Digest `json:"model_sha256"` // null: played without a network
	Seconds float64    `json:"seconds" unit:"s" was:"duration_seconds"`
}

// NewGames is the payload of NEW_GAMES_AVAILABLE.
type NewGames struct {
	About
	New   int64     `json:"new_games"`
	Total *int64    `json:"total_games"` // null: not known where it was stated
	Pack  id.Digest `json:"pack_sha256,omitempty"`
}

// SyncDone is the payload of DATA_SYNC_COMPLETED. Games and Bytes are what really moved.
type SyncDone struct {
	Subject
	Config  id.Config `json:"config_key,omitempty" was:"config"` // "": several configs at once
	Games   int64     `json:"games" was:"games_synced"`
	Bytes   int64     `json:"bytes" unit:"B" was:"bytes_transferred"`
	Targets []id.Node `json:"targets" was:"target_nodes"`
}

// SyncFailed is the payload of DATA_SYNC_FAILED.
type SyncFailed struct {
	Subject
	Config   id.Config `json:"config_key,omitempty" was:"config"`
	Target   string    `json:"target"`
	Error    string    `json:"error"`
	Attempts int64     `json:"attempts" was:"retry_count"`
}

// ExportStarted is the payload of NPZ_EXPORT_STARTED.
type ExportStarted struct {
	About
	WorkID string `json:"work_id"`
	Games  int64  `json:"games"`
}

// ExportDone is the payload of NPZ_EXPORT_COMPLETE.
type ExportDone struct {
	About
	WorkID  string    `json:"work_id,omitempty"`
	Digest  id.Digest `json:"sha256"`
	Samples int64     `json:"samples" was:"samples_exported total_samples"`
	Games   int64     `json:"games" was:"games_exported"`
}

// ExportInvalid is the payload of EXPORT_VALIDATION_FAILED.
type ExportInvalid struct {
	About
	WorkID string `json:"work_id,omitempty"`
	Reason string `json:"reason" was:"error"`
}

// Distribution is the payload of NPZ_DISTRIBUTION_* and MODEL_DISTRIBUTION_*.
type Distribution struct {
	About
	Digest  id.Digest `json:"sha256"`
	Version uint64    `json:"version,omitempty"` // of the name model/<config>, for models
	OK      []id.Node `json:"nodes_ok"`
	Missing []id.Node `json:"nodes_missing"` // at most 50 of them
	Reason  string    `json:"reason,omitempty" was:"error"`
}

// TrainingStart is the payload of TRAINING_STARTED.
type TrainingStart struct {
	About
	WorkID  string     `json:"work_id" was:"job_id"`
	Dataset id.Digest  `json:"dataset_sha256"`
	Parent  *id.Digest `json:"parent_sha256"` // null: from nothing
}

// TrainingDone is the payload of TRAINING_COMPLETED.
type TrainingDone struct {
	About
	WorkID  string    `json:"work_id" was:"job_id"`
	Digest  id.Digest `json:"sha256"`
	Samples int64     `json:"samples" was:"samples_trained training_samples"`
	Loss    float64   `json:"loss" was:"final_loss"`
	Seconds float64   `json:"seconds" unit:"s" was:"duration_seconds"`
}

// RunFailed is the payload of TRAINING_FAILED and EVALUATION_FAILED.
type RunFailed struct {
	About
	WorkID    string `json:"work_id" was:"job_id"`
	Reason    string `json:"reason" was:"error"`
	Retryable bool   `json:"retryable"`
}

// Blocked is the payload of TRAINING_BLOCKED: the condition that does not hold.
type Blocked struct {
	About
	Condition string  `json:"condition" was:"reason"`
	Actual    float64 `json:"actual"`
	Threshold float64 `json:"threshold"`
}

// Score counts the games of a candidate against one opponent, from the candidate's side.
type Score struct {
	Games  int64 `json:"games"`
	Wins   int64 `json:"wins"`
	Draws  int64 `json:"draws"`
	Losses int64 `json:"losses"`
}

// EvaluationWanted is the payload of EVALUATION_REQUESTED.
type EvaluationWanted struct {
	About
	Digest id.Digest `json:"sha256"`
	WorkID string    `json:"work_id,omitempty"`
}

// EvaluationDone is the payload of EVALUATION_COMPLETED.
type EvaluationDone struct {
	About
	WorkID    string           `json:"work_id,omitempty"`
	Digest    id.Digest        `json:"sha256"`
	Opponents map[string]Score `json:"opponents"`
	Elo       float64          `json:"elo"`
	Games     int64            `json:"games" was:"games_played"`
}

// Pressure is the payload of EVALUATION_BACKPRESSURE and its release.
type Pressure struct {
	Subject
	Config    id.Config `json:"config_key,omitempty" was:"config"`
	Depth     int64     `json:"queue_depth"`
	Active    bool      `json:"backpressure_active"`
	Threshold int64     `json:"threshold"`
	Release   int64     `json:"release_threshold"`
}

// Rating is the payload of ELO_UPDATED.
type Rating struct {
	About
	Digest id.Digest `json:"sha256"`
	Elo    float64   `json:"elo" was:"new_elo"`
	Games  int64     `json:"games" was:"games_played"`
}

// Promotion is the payload of MODEL_PROMOTED.
type Promotion struct {
	About
	Version  uint64     `json:"version"`
	Digest   id.Digest  `json:"sha256"`
	Previous *id.Digest `json:"previous_sha256"` // null: the first champion
	Elo      float64    `json:"elo" was:"new_elo"`
	Delta    *float64   `json:"elo_delta"` // null: there is nothing to compare with
}

// Rejection is the payload of PROMOTION_REJECTED.
type Rejection struct {
	About
	Digest    id.Digest `json:"sha256"`
	Gate      string    `json:"gate"`
	Actual    float64   `json:"actual"`
	Threshold float64   `json:"threshold"`
}

// Allocation is the payload of SELFPLAY_ALLOCATION_UPDATED: games by config and node.
type Allocation struct {
	Subject
	PlanVersion uint64                          `json:"plan_version"`
	Games       map[id.Config]map[id.Node]int64 `json:"allocation"`
	Total       int64                           `json:"total"`
}

// Host is the payload of P2P_NODE_DEAD, HOST_ONLINE and HOST_OFFLINE. NodeID is the node that is spoken of.
type Host struct {
	Subject
	Boot  id.Boot `json:"boot_id"`
	Cause string  `json:"cause" was:"reason"`
}

// Expulsion is the payload of NODE_REVOKED.
type Expulsion struct {
	Subject
	Cause string `json:"cause,omitempty" was:"reason"`
}

// Cluster is the payload of P2P_CLUSTER_HEALTHY and P2P_CLUSTER_UNHEALTHY.
type Cluster struct {
	Subject
	Alive  int64  `json:"alive"`
	Total  int64  `json:"total"`
	Reason string `json:"reason,omitempty"`
}

// Election is the payload of LEADER_ELECTED.
type Election struct {
	Subject
	Term uint64 `json:"term"`
}

// SettingsChange is the payload of CONFIG_UPDATED.
type SettingsChange struct {
	Subject
	Version uint64 `json:"version"`
}

// DaemonStatus is the payload of DAEMON_STATUS_CHANGED.
type DaemonStatus struct {
	Subject
	Daemon string `json:"daemon" was:"daemon_name daemon_type"`
	State  string `json:"state"`
	Reason string `json:"reason,omitempty" was:"watchdog_alert"`
}

// NodeVerdict is the payload of NODE_UNHEALTHY, NODE_RECOVERED and NODE_OVERLOADED.
type NodeVerdict struct {
	Subject
	Reasons         []string `json:"reasons,omitempty"`
	DowntimeSeconds float64  `json:"downtime_seconds,omitempty" unit:"s"`
}

// Work is the payload of the WORK_* events of single items.
type Work struct {
	Subject
	Config  id.Config `json:"config_key,omitempty" was:"config"` // "": work that belongs to no config
	WorkID  string    `json:"work_id"`
	Type    string    `json:"work_type"`
	Attempt int64     `json:"attempt"`
	Reason  string    `json:"reason,omitempty" was:"error"`
}

// QueueDepth is the payload of WORK_QUEUE_BACKPRESSURE, its release and WORK_QUEUE_EXHAUSTED.
type QueueDepth struct {
	Subject
	Config id.Config `json:"config_key,omitempty" was:"config"`
	Depth  int64     `json:"queue_depth"`
	Limit  int64     `json:"limit" was:"threshold"`
}

// StageOverdue is the payload of PIPELINE_STAGE_OVERDUE.
type StageOverdue struct {
	About
	Stage      string  `json:"stage"`
	Generation uint64  `json:"generation"`
	Overdue    float64 `json:"overdue_seconds" unit:"s"`
}

// Replayed is the payload of DLQ_EVENTS_REPLAYED.
type Replayed struct {
	Subject
	Recovered int64  `json:"recovered_count"`
	Types     []Type `json:"event_types"`
}

// StaleLetters is the payload of DLQ_STALE_EVENTS.
type StaleLetters struct {
	Subject
	Count    int64   `json:"stale_count"`
	Types    []Type  `json:"event_types"`
	MaxHours float64 `json:"max_stale_hours" unit:"h"`
}

// Refusal is the payload of EVENT_REFUSED, which stands under the number of an event that could not be accepted.
type Refusal struct {
	Subject
	Type   Type   `json:"type"` // "" when it could not be read
	Reason string `json:"reason"`
}

// Loss is the payload of EVENTS_LOST: the numbers From to To of an outbox, which it can no longer supply.
type Loss struct {
	Subject
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// Note is the payload of OPERATOR_NOTE.
type Note struct {
	Subject
	Text string          `json:"text"`
	Data json.RawMessage `json:"data,omitempty"`
}
