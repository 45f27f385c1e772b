package state

import (
	"time"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// Kind is the first byte of a Raft entry after the format byte; kinds are never reused.
type Kind byte

// The commands. Each has a body type below of the same name.
const (
	KindEvents       Kind = 1  // EventBatches: binary, see AppendEvents
	KindEnrol        Kind = 2  // Enrol
	KindReport       Kind = 3  // Report: a boot introduces itself, addresses, slots
	KindStatus       Kind = 4  // SetStatus: alive, failed, left, draining
	KindRevoke       Kind = 5  // Revoke
	KindForget       Kind = 6  // Forget (prune)
	KindToken        Kind = 7  // PutToken
	KindTokenRevoke  Kind = 8  // RevokeToken
	KindAssign       Kind = 9  // Assign
	KindDaemonSwitch Kind = 10 // SwitchDaemon: daemon stop/start in the whole ring
	KindEnqueue      Kind = 11 // Enqueue
	KindClaim        Kind = 12 // ClaimWork
	KindStarted      Kind = 13 // StartWork
	KindFinish       Kind = 14 // FinishWork
	KindRelease      Kind = 15 // ReleaseWork: expiry, hand-back
	KindCancel       Kind = 16 // CancelWork
	KindRetry        Kind = 17 // RetryWork
	KindArtifacts    Kind = 18 // AddArtifacts
	KindReceipts     Kind = 19 // AddReceipts
	KindDropCopy     Kind = 20 // DropCopies: a permit
	KindName         Kind = 21 // SetName: compare-and-set
	KindPosition     Kind = 22 // SetPositions
	KindNote         Kind = 23 // PutNote
	KindDeadLetter   Kind = 24 // PutDeadLetter / drop
	KindSettings     Kind = 25 // PutSettings
	KindRaise        Kind = 26 // Raise: generation
	KindLead         Kind = 27 // Lead: a coordinator's first entry of its term
	KindEffect       Kind = 28 // Effect: several of the above in one entry, all or nothing
	KindRepeats      Kind = 29 // StateRepeats, from version 2 on
	KindJoin         Kind = 30 // JoinPacks, from version 3 on: the permit to delete the packs that were joined
)

// Version of the command set that this binary writes at most. What may be proposed is State.CoreCommands.
const Version = 3

// The first versions with KindRepeats and with KindJoin, which nobody proposes before all core nodes have them.
const (
	VersionRepeats = 2
	VersionJoin    = 3
)

// Since is the version of the command set in which a kind came.
func (k Kind) Since() int {
	switch k {
	case KindRepeats:
		return VersionRepeats
	case KindJoin:
		return VersionJoin
	}
	return 1
}

// Command is what everybody but the event path proposes. Apply reads no clock: At is stamped by the proposer.
type Command struct {
	Kind   Kind          `json:"kind"`
	At     time.Time     `json:"at"`
	By     id.Node       `json:"by"`
	Fence  *ring.Fence   `json:"fence,omitempty"`  // required for every effect of a singleton
	Body   any           `json:"body"`             // one of the types below, by value
	Events []event.Draft `json:"events,omitempty"` // get their seq in the same apply, or none do
	// Once makes a repeated proposal harmless: the same key within the kept window answers the first result.
	Once string `json:"once,omitempty"`
}

// Result is the answer of the state machine to a command.
type Result struct {
	Index   uint64   `json:"index"`
	Code    Code     `json:"code,omitempty"` // "" = done
	Message string   `json:"message,omitempty"`
	Seqs    []uint64 `json:"seqs,omitempty"`  // of Command.Events, or of a batch's events
	Value   any      `json:"value,omitempty"` // per kind: ring.Assignment, ring.WorkItem, ring.Name, AppendResult …
}

// Code says why a command was refused. The state is unchanged then.
type Code string

// Codes of refusal.
const (
	CodeStale    Code = "stale_epoch" // the fence is not the daemon's current epoch
	CodeConflict Code = "conflict"    // compare-and-set lost, claim id not current, key taken
	CodeNotFound Code = "not_found"
	CodeInvalid  Code = "invalid"
	CodeRefused  Code = "refused" // a precondition does not hold
	CodeUnauth   Code = "unauthorised"
)

// Enrol admits a key: consumes a use of a token, or answers the same grant to the same key again.
type Enrol struct {
	TokenID    string      `json:"token_id"` // "" only for the first node of a ring
	SecretHash string      `json:"secret_hash"`
	Class      id.Class    `json:"class"` // as asked; must be the token's
	Member     ring.Member `json:"member"`
}

// Report is a boot's statement about itself; a new boot gives the old one's assignments up.
type Report struct {
	Member ring.Member `json:"member"` // ID, Name, Addresses, Labels, FailureDomain, Slots, Boot, Version, Commands
}

// SetStatus records a fact about a node; Boot guards against news about a former boot.
type SetStatus struct {
	Node   id.Node     `json:"node"`
	Boot   id.Boot     `json:"boot"`
	Status ring.Status `json:"status"`
	Cause  string      `json:"cause"`
}

// Revoke shuts a node out for good.
type Revoke struct {
	Node  id.Node `json:"node"`
	Prune bool    `json:"prune,omitempty"`
}

// Forget drops a left or revoked node from the roster.
type Forget struct {
	Node id.Node `json:"node"`
}

// PutToken adds a join token.
type PutToken struct {
	Token ring.Token `json:"token"`
}

// RevokeToken ends a join token.
type RevokeToken struct {
	ID string `json:"id"`
}

// Assign gives a singleton to a boot of a node (new epoch = generation and this entry's index), or to nobody.
type Assign struct {
	Daemon  string  `json:"daemon"`
	Node    id.Node `json:"node"`
	Boot    id.Boot `json:"boot"`
	Standby id.Node `json:"standby,omitempty"`
	Reason  string  `json:"reason,omitempty"`
	// Previous is the epoch that the proposer saw; another one in the state is a conflict.
	Previous id.Epoch `json:"previous"`
}

// SwitchDaemon enables or disables a singleton in the whole ring.
type SwitchDaemon struct {
	Daemon string `json:"daemon"`
	Off    bool   `json:"off"`
}

// Enqueue adds items; one whose Key exists among the kept items is answered with that item, not added.
type Enqueue struct {
	Items []ring.WorkItem `json:"items"`
}

// ClaimWork leases one named item to a node; the coordinator chose it (leader/work), the state machine checks it.
type ClaimWork struct {
	Work   string            `json:"work"`
	Claim  ring.Claim        `json:"claim"`
	Inputs []ring.Input      `json:"inputs,omitempty"` // as resolved now
	Params map[string]string `json:"params,omitempty"` // added to the item's
}

// StartWork says that the claimed run really started; this is what counts as an attempt.
type StartWork struct {
	Work  string `json:"work"`
	Claim string `json:"claim"`
}

// FinishWork ends a claim: with a result, or with an error.
type FinishWork struct {
	Work      string           `json:"work"`
	Claim     string           `json:"claim"`
	Result    *ring.WorkResult `json:"result,omitempty"`
	Error     string           `json:"error,omitempty"`
	Permanent bool             `json:"permanent,omitempty"` // will not be retried: bad template, refused
	Artifacts []ring.Artifact  `json:"artifacts,omitempty"` // added in the same apply
}

// ReleaseWork takes a claim back without blame (expiry, hand-back, node gone).
type ReleaseWork struct {
	Work    string `json:"work"`
	Claim   string `json:"claim"`
	Reason  string `json:"reason"`
	Timeout bool   `json:"timeout,omitempty"` // counts as WORK_TIMEOUT
}

// CancelWork ends an unfinished item.
type CancelWork struct {
	Work   string `json:"work"`
	Reason string `json:"reason"`
}

// RetryWork puts a failed, dead or cancelled item back with fresh attempts.
type RetryWork struct {
	Work string `json:"work"`
}

// AddArtifacts makes bytes known, with the receipts of their holders.
type AddArtifacts struct {
	Artifacts []ring.Artifact `json:"artifacts"`
}

// AddReceipts adds holders to known artifacts; unknown digests are answered in Result.Value as []id.Digest.
type AddReceipts struct {
	Receipts []ring.Receipt `json:"receipts"`
}

// StateRepeats says which games were counted with an older pack already. What was said of a pack only grows: who has seen fewer
// of the older packs knows less. Packs that are unknown or have not got their receipts are passed over.
type StateRepeats struct {
	Repeats []ring.Repeat `json:"repeats"`
}

// JoinPacks makes a file that holds the games of Packs a game pack in their stead. The number of games that the ring counts stays
// what it was. Refused unless the file has a pack's copies and all of Packs are counted, in no unfinished work, and of one config.
type JoinPacks struct {
	Joined id.Digest   `json:"joined"`
	Games  int64       `json:"games"` // in the file, each once
	Packs  []id.Digest `json:"packs"` // 2 to MaxJoined
}

// DropCopies takes holders off after the state machine has checked that enough copies stay: the permit to delete. A lost
// copy (found corrupt, disk gone) is taken off whatever remains. Of a pack that has been joined no copy has to stay while the
// joined one has its own.
type DropCopies struct {
	Receipts []ring.Receipt `json:"receipts"`
	Lost     bool           `json:"lost,omitempty"`
}

// SetName moves a name from Expect (0 = does not exist) to the next version.
type SetName struct {
	Key    string             `json:"key"`
	Expect uint64             `json:"expect"`
	Digest id.Digest          `json:"sha256"`
	Values map[string]float64 `json:"values,omitempty"`
}

// SetPositions moves consumers forward, never back.
type SetPositions struct {
	Positions []ring.Position `json:"positions"`
}

// PutNote writes (or with a nil value removes) a daemon note: ≤ 16 KiB each, ≤ 1 MiB a daemon, always fenced.
type PutNote struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

// PutDeadLetter records a singleton handler's failure, or drops one.
type PutDeadLetter struct {
	Letter ring.DeadLetter `json:"letter"`
	Drop   bool            `json:"drop,omitempty"`
}

// PutSettings replaces the ring settings if their version is still Expect.
type PutSettings struct {
	Expect   uint64        `json:"expect"`
	Settings ring.Settings `json:"settings"`
}

// Raise lifts the generation (recover, restore).
type Raise struct {
	Generation bool `json:"generation,omitempty"`
	// Commands is in logs of version 1, which must lead to what they always led to. Nobody proposes it: see ActiveCommands.
	Commands int `json:"commands,omitempty"`
}

// Lead is a coordinator's first entry in its term.
type Lead struct {
	Node id.Node `json:"node"`
	Term uint64  `json:"term"`
}

// Effect applies several bodies in order under the command's fence: all, or none if one is refused.
type Effect struct {
	Steps []Step `json:"steps"`
}

// Step is one part of an Effect.
type Step struct {
	Kind Kind `json:"kind"`
	Body any  `json:"body"`
}

// EventBatch is a contiguous run of drafts of one origin.
type EventBatch struct {
	Origin event.Origin
	Node   id.Node
	First  uint64     // number of Drafts[0]; with Lost, the first number that is lost
	Before event.Hash // origin's running hash before Drafts[0], as the outbox has it
	Drafts [][]byte   // in event.AppendDraft form; a draft that does not decode becomes a REFUSED record
	// Lost, if not 0, says that the outbox can no longer supply First…Lost. One LOST record stands for what of it is new,
	// Drafts[0] has number Lost+1, and the running hash goes on from Before.
	Lost uint64
	// Refused are the drafts that the coordinator found unregistered or invalid, in order. The verdict is the coordinator's
	// because catalogues differ between versions of the binary, and all voters must write the same record.
	Refused []Refusal
}

// Refusal is the coordinator's verdict on one draft of a batch.
type Refusal struct {
	Draft  int // index in Drafts
	Reason string
}

// AppendResult answers one EventBatch.
type AppendResult struct {
	Origin event.Origin `json:"origin"`
	// Next is the number that the state expects next; everything below stands in the log.
	Next uint64 `json:"next"`
	// Seqs of the drafts that were placed by this very entry, in order, beginning with number Next−len(Seqs).
	Seqs []uint64 `json:"seqs,omitempty"`
	// Altered says that other bytes came under a number that is used: an alarm, and no acknowledgement.
	Altered bool `json:"altered,omitempty"`
	// Refused says why a whole batch was not looked at (revoked node, malformed); "" otherwise.
	Refused string `json:"refused,omitempty"`
	// Hash is the state's running hash of the origin up to Next−1. The outbox compares it with its own.
	Hash event.Hash `json:"hash"`
}
