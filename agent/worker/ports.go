package worker

import (
	"context"
	"errors"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/proc"
	"github.com/ringagent/ringagent/internal/workload"
)

// ErrConflict is what a Queue answers when the claim is no longer ours. It is final: whatever was offered changes nothing.
var ErrConflict = errors.New("claim is no longer held")

// ErrRefused is what a Queue answers when it has heard an outcome and will never take it as it is.
var ErrRefused = errors.New("outcome is refused")

// ErrUnknownJob is returned by Release for a job that is not kept here.
var ErrUnknownJob = errors.New("no such job on this node")

// Queue is the ring's work queue. An error other than ErrConflict and ErrRefused means that nobody answered; the call is
// repeated.
type Queue interface {
	// Claim asks for one item that fits the offer; false means that there is none.
	Claim(ctx context.Context, offer Offer) (Claim, bool, error)
	// Started tells that the command of a claim is really being executed: from here on the attempt counts. It is
	// always told before Finish, and may be told again.
	Started(ctx context.Context, ref ClaimRef) error
	// Heartbeat renews claims, all in one call, and returns a verdict on each; a claim without one counts as renewed.
	Heartbeat(ctx context.Context, beats []Beat) ([]Verdict, error)
	// Finish answers a claim whose run is over.
	Finish(ctx context.Context, claim Claim, outcome Outcome) error
	// Release hands a claim back without a result.
	Release(ctx context.Context, ref ClaimRef, reason string) error
}

// Artifacts are the immutable bytes of this node, and those it can get.
type Artifacts interface {
	// Ensure returns the path of a verified local copy, fetching it if need be. The file must not be written to.
	Ensure(ctx context.Context, digest id.Digest) (path string, err error)
	// Store keeps a copy of a file. The same bytes again give the same digest. The ring learns of it from the outcome that
	// names it, if that is taken: what a run made whose claim is another node's by then is nobody's input.
	Store(ctx context.Context, path string) (id.Digest, error)
}

// Games builds what an export reads.
type Games interface {
	// Merged returns the path of a games database of config that holds at least the games of these packs.
	Merged(ctx context.Context, config id.Config, packs []id.Digest) (path string, err error)
}

// Offer is what this node can take now.
type Offer struct {
	Node id.Node
	Boot id.Boot
	Free workload.Slots
	// Types are the stages that fit into Free and are not being avoided.
	Types   []string
	Configs []id.Config
	// Holds are artifacts that are here already, the most useful first; a hint for choosing.
	Holds []id.Digest
	// Claims are the claim ids that this node works on. A live claim of this node and boot that is not among them was
	// granted in an answer that got lost: it can be granted again at once.
	Claims []string
}

// ClaimRef names one lease on one item.
type ClaimRef struct {
	WorkID  string `json:"work_id"`
	ClaimID string `json:"claim_id"`
}

// Claim is one granted item with everything resolved.
type Claim struct {
	ClaimRef
	// Type is a stage name of the workload.
	Type   string    `json:"type"`
	Config id.Config `json:"config"`
	// Params may hold games, seed, simulations, epochs and opponents; other names are ignored.
	Params map[string]string `json:"params,omitempty"`
	// Inputs may hold model, dataset, champion and candidate.
	Inputs map[string]id.Digest `json:"inputs,omitempty"`
	// Packs are the game packs of an export.
	Packs []id.Digest `json:"packs,omitempty"`
	// Lease is how long the claim lives without a heartbeat.
	Lease time.Duration `json:"lease"`
	// Attempt counts from 1.
	Attempt int `json:"attempt"`
}

// Phase is how far a claim is.
type Phase string

// The phases, in their order.
const (
	Staging    Phase = "staging"
	Running    Phase = "running"
	Judging    Phase = "judging"
	Publishing Phase = "publishing"
	Finishing  Phase = "finishing"
)

// Beat is one claim's part of a heartbeat.
type Beat struct {
	ClaimRef
	Phase Phase
	// Progress is the largest progress number so far; ProgressAt when it last grew.
	Progress   float64
	ProgressAt time.Time
}

// Verdict is the queue's answer to one Beat. OK false ends the run: the claim expired, was cancelled or was superseded.
type Verdict struct {
	ClaimID string
	OK      bool
	Reason  string
}

// Result is what became of a claim.
type Result string

// The results.
const (
	// Done: exit 0, and all outputs are there, new and good.
	Done Result = "done"
	// Failed: this attempt failed; another may succeed.
	Failed Result = "failed"
	// Refused: the command rejected its arguments at once; no attempt anywhere will succeed.
	Refused Result = "refused"
)

// Reasons that are not those of a proc.Status.
const (
	ReasonExitCode = "exit_code"    // the command failed by its own account
	ReasonOutputs  = "outputs"      // it claimed success and the outputs say otherwise
	ReasonTemplate = "bad_template" // exit 2 within seconds
	ReasonPublish  = "publish"      // an output could not be stored
	ReasonRefused  = "refused"      // the queue takes no success of this kind
	ReasonRender   = "render"       // the workload cannot be turned into a command with these values
	ReasonInputs   = "inputs"       // an input could not be had
	ReasonLeaving  = "node_leaves"
	ReasonDraining = "node_drains"
	ReasonSlots    = "no_slots"
	ReasonStage    = "unknown_stage"
)

// Outcome is the answer to a claim.
type Outcome struct {
	Result Result `json:"result"`
	// Reason is short and fixed; Detail is a sentence for people.
	Reason string `json:"reason,omitempty"`
	Detail string `json:"detail,omitempty"`
	// Started says whether the command ever ran.
	Started bool       `json:"started"`
	Outputs []Produced `json:"outputs,omitempty"`
	// Seconds is the command's run time.
	Seconds  float64    `json:"seconds"`
	ExitCode int        `json:"exit_code"`
	Signal   string     `json:"signal,omitempty"`
	Usage    proc.Usage `json:"usage"`
}

// Produced is a verified output.
type Produced struct {
	Kind string `json:"kind"`
	// Digest is empty for games: those are gathered from the job's directory.
	Digest   id.Digest        `json:"digest,omitempty"`
	Counters map[string]int64 `json:"counters"`
}
