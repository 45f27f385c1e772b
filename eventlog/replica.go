package eventlog

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	bolt "go.etcd.io/bbolt"

	"github.com/ringagent/ringagent/eventlog/event"
)

// Encoded is a record of the log in its binary form, with the running hash of the log after it.
type Encoded struct {
	Seq   uint64
	Hash  event.Hash
	Bytes []byte // event.AppendRecord form

	placed bool // by this process's own state machine, which has just computed Hash from Bytes
}

// Head is an end of the log.
type Head struct {
	Seq  uint64
	Hash event.Hash
}

// Compacted says that records are no longer kept here: From to To; the oldest that is kept has seq Oldest. Hash is the
// running hash after To.
type Compacted struct {
	From, To, Oldest uint64
	Hash             event.Hash
}

func (c *Compacted) Error() string {
	return fmt.Sprintf("events %d to %d are no longer kept, the oldest is %d", c.From, c.To, c.Oldest)
}

// CorruptError says that a stored record fails its check.
type CorruptError struct {
	Seq    uint64
	Detail string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("stored event %d is corrupt: %s", e.Seq, e.Detail)
}

// DivergedError says that this copy of the log has another record at Seq than the ring has.
type DivergedError struct {
	Seq        uint64
	Have, Want event.Hash
}

func (e *DivergedError) Error() string {
	return fmt.Sprintf("this copy of the log differs from the ring's at %d: hash %s instead of %s", e.Seq, e.Have, e.Want)
}

// Puller is another node's replica.
type Puller interface {
	// Fetch returns records after seq after, in order and without a gap, at most limit; fewer, even none, at the end of
	// what the peer has; a *Compacted if it no longer keeps them.
	Fetch(ctx context.Context, after uint64, limit int) ([]Encoded, error)
}

// Sources is where a replica gets what it missed.
type Sources interface {
	// Near lists the replicas of other nodes, near ones first.
	Near(ctx context.Context) ([]Puller, error)
	// Head is the end of the log in the state of a voter: what a pull is checked against.
	Head(ctx context.Context) (Head, error)
}

// Retention says how much of the log is kept. Zero means no limit.
type Retention struct {
	Age   time.Duration
	Count uint64
	Bytes int64
}

// ReplicaOptions say where a replica lives. Zero figures take the defaults named.
type ReplicaOptions struct {
	Path       string // events.db
	Quarantine string
	Sources    Sources
	Log        zerolog.Logger
	Alarm      func(Alarm)          // may be nil; must not block
	OnAppend   func([]event.Record) // may be nil; called by the writer after the fsync, must not block
	// Floor is the smallest cursor of the live subscribers: what is after it goes only when the byte limit forces it.
	Floor func() (seq uint64, any bool)

	Retention    func() Retention // asked before each cut; nil: keep everything
	RetainEvery  time.Duration    // 30 s
	QueueBytes   int              // of offered records that wait for the disk: 32 MiB
	Gather       time.Duration    // the longest from one append to the next, so that a busy log costs few fsyncs; 0: none
	PullEvery    time.Duration    // how often to try again what could not be pulled: 1 s
	FetchTimeout time.Duration    // 10 s
	Now          func() time.Time

	hooks replicaHooks
}

// replicaHooks let tests break one safety at a time.
type replicaHooks struct {
	noCRC     bool // variant: do not look at checksums
	noChain   bool // variant: do not look at the running hash
	noCompare bool // variant: overwrite what is there
	noHead    bool // variant: trust the peer alone
	commit    func() error
	committed func() error // fails a commit after it has happened
}

func (o *ReplicaOptions) fill() {
	if o.RetainEvery == 0 {
		o.RetainEvery = 30 * time.Second
	}
	if o.QueueBytes == 0 {
		o.QueueBytes = 32 << 20
	}
	if o.PullEvery == 0 {
		o.PullEvery = time.Second
	}
	if o.FetchTimeout == 0 {
		o.FetchTimeout = 10 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

// Replica is this node's copy of the log.
type Replica struct {
	opt    ReplicaOptions
	alarms alarms

	wake    chan struct{}
	control chan func(context.Context)
	durable atomic.Uint64
	stopped chan struct{}
	once    sync.Once

	rested  time.Time // when the writer has gathered enough; only it looks
	mended  bool      // the file was opened anew and not written yet; only the writer looks
	tried   uint64    // the seq whose repair was tried last; only the writer looks
	waits   wait      // for somebody who supplies what is missing; only the writer looks
	kept    keeping
	blocks  blockWriter
	decoder event.Decoder

	mu sync.Mutex
	replicaState
}

// replicaState is guarded by Replica.mu; only the writer changes the file and head, lastHash and diverged.
type replicaState struct {
	db       *bolt.DB
	head     replicaHead
	lastHash event.Hash
	queue    []Encoded
	queued   int    // bytes
	target   uint64 // the highest seq that is known to exist
	changed  chan struct{}
	diverged *DivergedError
	corrupt  []uint64 // seqs that failed their check and wait for repair, in order
	short    bool     // see supply
	headBad  bool     // the file's head failed its check and is to be written again
	degraded error
}

// OpenReplica opens or makes the file. One that is damaged is moved to quarantine with an alarm; what cannot be read of it is
// pulled anew. Run does the work.
func OpenReplica(opt ReplicaOptions) (*Replica, error) {
	opt.fill()
	r := &Replica{
		opt:     opt,
		alarms:  alarms{opt.Log, opt.Alarm, opt.Now},
		wake:    make(chan struct{}, 1),
		control: make(chan func(context.Context)),
		stopped: make(chan struct{}),
	}
	r.changed = make(chan struct{})
	f, err := r.openOrBegin(nil)
	if err != nil {
		return nil, fmt.Errorf("open replica: %w", err)
	}
	r.begin(f)
	return r, nil
}

// OfferPlaced is Offer for records that this process's own state machine has just placed. Their hashes follow from one another
// and are not computed once more; that they follow from what is stored is. The records are the replica's from here on.
func (r *Replica) OfferPlaced(records []Encoded) {
	for i := range records {
		records[i].placed = true
	}
	r.Offer(records)
}

// Offer hands over records that the state machine has placed, or that the coordinator has streamed: in order, with the
// running hash of the state. It never blocks: what does not fit is pulled later. What comes while the file cannot be written
// waits with what could not be: where nobody else has a copy it is not to be had again.
func (r *Replica) Offer(records []Encoded) {
	if len(records) == 0 {
		return
	}
	r.mu.Lock()
	r.target = max(r.target, records[len(records)-1].Seq)
	records = r.unknown(records)
	size := 0
	for i := range records {
		size += len(records[i].Bytes)
	}
	if r.queued+size <= r.opt.QueueBytes && r.diverged == nil {
		r.queue = append(r.queue, records...)
		r.queued += size
	}
	r.mu.Unlock()
	r.nudge()
}

// unknown leaves out of what is offered, and of the end of the queue, records that are stored already but the newest, with
// which all before it are compared. A node that starts applies again whatever its last snapshot lacks, and all of that must
// not take the place of the little that is new: where nobody else has a copy, what is refused here is not to be had again.
func (r *Replica) unknown(records []Encoded) []Encoded {
	n := 0
	for n < len(records) && records[n].Seq <= r.head.Last {
		n++
	}
	if n == 0 {
		return records
	}
	if end := len(r.queue) - 1; end >= 0 && r.queue[end].Seq < records[n-1].Seq {
		r.queued -= len(r.queue[end].Bytes)
		r.queue = r.queue[:end]
	}
	return records[n-1:]
}

// Chain puts running hashes to records that follow after prev.
func Chain(prev event.Hash, records []event.Record) []Encoded {
	out := make([]Encoded, len(records))
	for i, rec := range records {
		b := rec.Encode()
		prev = prev.Next(b)
		out[i] = Encoded{Seq: rec.Seq, Hash: prev, Bytes: b}
	}
	return out
}

// Expect tells the replica that the log reaches at least to seq, so that it pulls what it lacks.
func (r *Replica) Expect(seq uint64) {
	r.mu.Lock()
	r.target = max(r.target, seq)
	r.mu.Unlock()
	r.nudge()
}

func (r *Replica) nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Durable is the highest seq up to which this copy is fsynced without a gap.
func (r *Replica) Durable() uint64 { return r.durable.Load() }

// WaitDurable waits until the copy is fsynced up to seq.
func (r *Replica) WaitDurable(ctx context.Context, seq uint64) error {
	for {
		r.mu.Lock()
		changed := r.changed
		r.mu.Unlock()
		if r.Durable() >= seq {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for event %d: %w", seq, ctx.Err())
		case <-r.stopped:
			return fmt.Errorf("wait for event %d: %w", seq, ErrClosed)
		}
	}
}

// ReplicaStatus is a reading of a replica.
type ReplicaStatus struct {
	Oldest, Last uint64     // kept; Oldest > Last when nothing is
	Hash         event.Hash // after Last
	Verified     uint64     // agrees with a voter's state up to here
	Target       uint64     // highest seq that is known to exist: Target − Last is the lag
	Bytes        int64
	Diverged     *DivergedError // nil: none seen
	Degraded     error
	Short        bool // it lacks events that nobody who answers can supply
}

// Status is a reading of the replica.
func (r *Replica) Status() ReplicaStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return ReplicaStatus{
		Oldest: r.head.Cut + 1, Last: r.head.Last, Hash: r.lastHash, Verified: r.head.Verified, Target: r.target,
		Bytes: r.head.Bytes, Diverged: r.diverged, Degraded: r.degraded,
		Short: r.short,
	}
}

// MarshalJSON writes the gap in the form that a tail shows.
func (c *Compacted) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		From   uint64 `json:"from"`
		To     uint64 `json:"to"`
		Oldest uint64 `json:"oldest"`
	}{c.From, c.To, c.Oldest})
}
