package api

import (
	"encoding/json"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// AsOf says how old a view is; it is on every answer that may be stale.
type AsOf struct {
	AsOf  Confirmed `json:"as_of,omitzero"` // when a coordinator last confirmed the copy; absent when it is current
	Index uint64    `json:"index,omitempty"`
}

// Confirmed is when a coordinator last confirmed a copy that may be stale; its zero value is that of one that is current.
type Confirmed struct {
	At      *time.Time
	Unknown bool // none has since the node started: null in JSON
}

// ConfirmedAt is that of a copy that was current at t.
func ConfirmedAt(t time.Time) Confirmed {
	t = t.UTC()
	return Confirmed{At: &t}
}

// IsZero says that the copy is current, so that nothing is written.
func (c Confirmed) IsZero() bool { return c.At == nil && !c.Unknown }

// MarshalJSON implements json.Marshaler.
func (c Confirmed) MarshalJSON() ([]byte, error) { return json.Marshal(c.At) }

// UnmarshalJSON implements json.Unmarshaler.
func (c *Confirmed) UnmarshalJSON(b []byte) error {
	*c = Confirmed{}
	err := json.Unmarshal(b, &c.At)
	c.Unknown = err == nil && c.At == nil
	return err
}

// Members answers `members`.
type Members struct {
	Members []Member `json:"members"`
	AsOf
}

// Member is one row of `members`: the asked node's gossip view joined with the roster.
type Member struct {
	Name            string            `json:"name"`
	ID              id.Node           `json:"id"`
	Address         string            `json:"address"`
	Status          string            `json:"status"` // alive suspect draining left failed
	Class           id.Class          `json:"class"`
	Voter           bool              `json:"voter"`
	Coordinator     bool              `json:"coordinator"`
	Reach           string            `json:"reach"` // direct session relay unknown
	Version         string            `json:"version"`
	Tags            map[string]string `json:"tags"`
	GPU             *int              `json:"gpu"`
	Daemons         *int              `json:"daemons"`
	UnsyncedGames   *int64            `json:"unsynced_games"`
	LastSeenSeconds *float64          `json:"last_seen_seconds"`
	Health          *string           `json:"health"`
	HealthReasons   []string          `json:"health_reasons,omitempty"`
	Boot            id.Boot           `json:"boot,omitempty"`
}

// Leader answers `leader`.
type Leader struct {
	Coordinator      *string  `json:"coordinator"`
	Term             uint64   `json:"term"`
	Voters           []string `json:"voters"`
	Nonvoters        []string `json:"nonvoters"`
	Quorum           int      `json:"quorum"`
	AliveVoters      int      `json:"alive_voters"`
	FailureTolerance int      `json:"failure_tolerance"`
	CommitIndex      *uint64  `json:"commit_index"` // null: not known here
	AsOf
}

// Status answers `status`.
type Status struct {
	Node        string          `json:"node"`
	Ring        string          `json:"ring"`
	Coordinator *string         `json:"coordinator"`
	QuorumOK    bool            `json:"quorum_ok"`
	Members     map[string]int  `json:"members"`
	Daemons     map[string]int  `json:"daemons"`
	Events      EventsStatus    `json:"events"`
	Work        map[string]*int `json:"work"` // null: not known here
	Alarms      []Alarm         `json:"alarms"`
	Singletons  []DaemonRow     `json:"singletons,omitempty"`
	NextStep    string          `json:"next_step,omitempty"`
	Degraded    []string        `json:"degraded,omitempty"`
	AsOf
}

// EventsStatus is the log's part of a status.
type EventsStatus struct {
	LastSeq uint64  `json:"last_seq"`
	Lag     *uint64 `json:"lag"` // events that the state has and this replica has not; null = unknown
}

// Alarm is something an operator should look at.
type Alarm struct {
	Code    string    `json:"code"`
	Message string    `json:"message"`
	Since   time.Time `json:"since"`
}

// Daemons answers `daemons`.
type Daemons struct {
	Daemons []DaemonRow `json:"daemons"`
	AsOf
}

// DaemonRow is one row of `daemons`.
type DaemonRow struct {
	Name                string     `json:"name"`
	Category            string     `json:"category"`
	Scope               string     `json:"scope"`
	State               string     `json:"state"` // upper case, or "unknown"
	Node                *string    `json:"node"`
	Epoch               *uint64    `json:"epoch"`
	Standby             *string    `json:"standby"`
	Since               *time.Time `json:"since"`
	Restarts            int        `json:"restarts"`
	DependsOn           []string   `json:"depends_on"`
	BlockedOn           []string   `json:"blocked_on"`
	LastProgressSeconds *float64   `json:"last_progress_seconds"`
	LastError           string     `json:"last_error"`
	AliasOf             *string    `json:"alias_of"`
}

// Explanation answers `daemon explain`.
type Explanation struct {
	Daemon  DaemonRow         `json:"daemon"`
	Why     []string          `json:"why"`
	Nodes   map[string]string `json:"nodes"` // per node: why it may run there, or why not
	Enabled bool              `json:"enabled"`
}

// CompactedLine is a tail's first line when what was asked for is gone.
type CompactedLine struct {
	Compacted Compacted `json:"compacted"`
}

// Compacted is a stretch of the log that retention has taken.
type Compacted struct {
	From   uint64 `json:"from"`
	To     uint64 `json:"to"`
	Oldest uint64 `json:"oldest"`
}

// Publish asks for an event.
type Publish struct {
	Type    string          `json:"type"`
	Payload json.RawMessage `json:"payload"`
	Wait    bool            `json:"wait,omitempty"`
	Key     string          `json:"key,omitempty"`
	Cause   string          `json:"cause,omitempty"`
}

// Published answers it.
type Published struct {
	ID  string  `json:"id"`
	Seq *uint64 `json:"seq,omitempty"`
}

// Verify answers `events verify`.
type Verify struct {
	OK      *bool        `json:"ok"` // null: no replica is known to be wrong, but of some nothing is known
	LastSeq *uint64      `json:"last_seq"`
	Hash    *string      `json:"hash"`
	Nodes   []VerifyNode `json:"nodes"`
}

// VerifyNode is one replica's part of a verification; all is null where its node does not answer.
type VerifyNode struct {
	Node     string  `json:"node"`
	OK       *bool   `json:"ok"`
	LastSeq  *uint64 `json:"last_seq"`
	Oldest   *uint64 `json:"oldest"`
	Hash     *string `json:"hash"`
	FirstBad *uint64 `json:"first_bad"`
	Error    string  `json:"error,omitempty"`
}

// DeadLetters answers `dlq list`.
type DeadLetters struct {
	DeadLetters []ring.DeadLetter `json:"dead_letters"`
	OnlyHere    bool              `json:"only_here,omitempty"` // of this node's handlers alone: those of singletons are not known here
}

// WorkList answers `work list`.
type WorkList struct {
	Work []WorkRow `json:"work"`
	AsOf
}

// WorkRow is one item of the queue.
type WorkRow struct {
	ID        string            `json:"id"`
	Type      string            `json:"type"`
	Config    id.Config         `json:"config"`
	State     ring.WorkState    `json:"state"`
	Priority  int               `json:"priority"`
	Attempts  int               `json:"attempts"`
	ClaimedBy *string           `json:"claimed_by"`
	ClaimID   *string           `json:"claim_id"`
	Epoch     *uint64           `json:"epoch"`
	Created   time.Time         `json:"created"`
	Deadline  *time.Time        `json:"deadline"`
	Error     string            `json:"error"`
	Result    *ring.WorkResult  `json:"result"`
	Key       string            `json:"key"`
	Params    map[string]string `json:"params,omitempty"`
	Inputs    []ring.Input      `json:"inputs,omitempty"`
}

// AddWork asks for an item.
type AddWork struct {
	Type     string            `json:"type"`
	Config   id.Config         `json:"config"`
	Key      string            `json:"key,omitempty"`
	Priority *int              `json:"priority,omitempty"`
	Params   map[string]string `json:"params,omitempty"`
	Inputs   []ring.Input      `json:"inputs,omitempty"`
}

// Artifacts answers `data ls`, `data where` and `data under-replicated`.
type Artifacts struct {
	Artifacts []Artifact `json:"artifacts"`
	OnlyHere  bool       `json:"only_here,omitempty"` // these are the asked node's own copies; what else there is, it cannot know
	AsOf
}

// Artifact is one artifact with the nodes that hold it and the names that point to it.
type Artifact struct {
	SHA256   id.Digest         `json:"sha256"`
	Kind     ring.Kind         `json:"kind"`
	Config   id.Config         `json:"config"`
	Bytes    int64             `json:"bytes"`
	Created  *time.Time        `json:"created"`
	Origin   *string           `json:"origin"`
	Holders  []string          `json:"holders"`
	Names    []string          `json:"names"`
	Wanted   *int              `json:"wanted"` // receipts asked for
	Counters map[string]int64  `json:"counters,omitempty"`
	Parents  []id.Digest       `json:"parents,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Joined   id.Digest         `json:"joined,omitempty"` // of a pack: the one that has its games now; its copies are being deleted
}

// Verified answers `data verify`.
type Verified struct {
	OK    bool            `json:"ok"`
	Files []VerifiedBytes `json:"files"`
}

// VerifiedBytes is one verified copy.
type VerifiedBytes struct {
	SHA256 id.Digest `json:"sha256"`
	OK     bool      `json:"ok"`
	Error  string    `json:"error,omitempty"`
}

// Games answers `games`.
type Games struct {
	Configs []GameCount `json:"configs"`
	AsOf
}

// GameCount counts one config's finished games.
type GameCount struct {
	Config   id.Config  `json:"config"`
	Games    int64      `json:"games"`    // with receipts, distinct by id; falls only where a game turns out to be in two packs
	Unsynced *int64     `json:"unsynced"` // finished, not yet receipted; null = unknown
	Packs    int        `json:"packs"`
	LastGame *time.Time `json:"last_game"`
}

// Models answers `models`.
type Models struct {
	Models []Model `json:"models"`
	AsOf
}

// Model is a champion, or with --history a past one.
type Model struct {
	Config       id.Config  `json:"config"`
	Version      uint64     `json:"version"`
	SHA256       id.Digest  `json:"sha256"`
	Elo          *float64   `json:"elo"`
	Games        *int64     `json:"games"`
	PromotedAt   time.Time  `json:"promoted_at"`
	Parent       *id.Digest `json:"parent"`
	OnNodes      []string   `json:"on_nodes"`
	SupersededAt *time.Time `json:"superseded_at,omitempty"`
}

// Ratings answers `elo`.
type Ratings struct {
	Ratings []Rating         `json:"ratings"`
	Missing []MissingMatches `json:"missing,omitempty"` // there are any: the answer is partial
	AsOf
}

// Rating is one player's rating; its figures are null while matches of its config are missing.
type Rating struct {
	Config id.Config `json:"config"`
	Model  string    `json:"model"` // digest, or a baseline's name
	Elo    *float64  `json:"elo"`
	Low    *float64  `json:"low"`
	High   *float64  `json:"high"`
	Games  *int      `json:"games"`
	Wins   *int      `json:"wins"`
	Losses *int      `json:"losses"`
	Draws  *int      `json:"draws"`
}

// MissingMatches is a stored file of matches that cannot be had now.
type MissingMatches struct {
	Config id.Config `json:"config"`
	SHA256 id.Digest `json:"sha256"`
	Reason string    `json:"reason"`
}

// TokenCreated answers `token create`; the only place where a token is shown.
type TokenCreated struct {
	Token   string    `json:"token"`
	ID      string    `json:"id"`
	Class   id.Class  `json:"class"`
	Expires time.Time `json:"expires"`
	Uses    int       `json:"uses"`
}

// Tokens answers `token list`.
type Tokens struct {
	Tokens []Token `json:"tokens"`
	AsOf
}

// Token is a join token without its secret.
type Token struct {
	ID      string    `json:"id"`
	Class   id.Class  `json:"class"`
	Uses    int       `json:"uses"`
	Used    int       `json:"used"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	Revoked bool      `json:"revoked"`
}

// CreateToken asks for a token.
type CreateToken struct {
	Class      id.Class `json:"class"`
	TTLSeconds float64  `json:"ttl_seconds"`
	Uses       int      `json:"uses"`
}

// Recover asks a node to make the ring decide again that has lost the majority of its voters.
type Recover struct {
	Lost []string `json:"lost"` // nodes that will not come back: they are shut out
}

// Recovered says that it does.
type Recovered struct {
	Generation uint64   `json:"generation"`
	Voter      string   `json:"voter"` // the only one for now
	ShutOut    []string `json:"shut_out"`
}

// Leave asks a node to leave the ring.
type Leave struct {
	Drain bool `json:"drain"` // running jobs may come to their own end first
	// LimitSeconds is for how long at most; nil means ten minutes. What runs then is ended and handed back.
	LimitSeconds *float64 `json:"limit_seconds,omitempty"`
}

// Departure says that a node has left the ring, and how many of its finished games are nowhere else.
type Departure struct {
	Done
	UnsyncedGames *int64 `json:"unsynced_games"` // null: unknown
}

// Done answers what has nothing more to say.
type Done struct {
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
}
