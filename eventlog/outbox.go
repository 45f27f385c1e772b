package eventlog

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
)

// Errors of publishing, besides *event.ProblemError for events that nobody may publish.
var (
	// ErrNotStored says that the event could not be made durable here. It was not accepted; since a batch travels while it
	// is being stored, it may still appear in the log.
	ErrNotStored = errors.New("event was not stored")
	// ErrKeyTaken says that the key was used for another event that is still kept.
	ErrKeyTaken = errors.New("key was used for another event")
	// ErrClosed says that the outbox, or the replica, is not running.
	ErrClosed = errors.New("event log is closed")
)

// Sequencer gives batches of events their places. The agent implements it over the coordinator.
type Sequencer interface {
	// Append hands a batch over and returns at once; the channel (with room for one) gets exactly one answer, at the latest
	// when ctx ends. Batches are to arrive in the order of the calls; where they do not, a gap is answered and the batch is
	// sent again.
	Append(ctx context.Context, b Batch) <-chan Answer
	// Origin is asked whenever a connection begins: how far the log has got with an outbox.
	Origin(ctx context.Context, o event.Origin) (OriginState, error)
}

// Batch is a contiguous run of drafts of one origin.
type Batch struct {
	Origin event.Origin
	Node   id.Node
	First  uint64     // number of Drafts[0]; with Lost, the first number that is lost
	Before event.Hash // running hash of the origin before Drafts[0]
	Drafts [][]byte   // in event.AppendDraft form
	Lost   uint64     // if not 0: First…Lost can no longer be supplied, and Drafts[0] has number Lost+1
}

func (b Batch) first() uint64 {
	if b.Lost != 0 {
		return b.Lost + 1
	}
	return b.First
}

// Answer is what became of a batch.
type Answer struct {
	Err     error      // outcome unknown
	Next    uint64     // number that is expected next; everything below stands in the log
	Seqs    []uint64   // of what was placed now, beginning with number Next−len(Seqs)
	Hash    event.Hash // running hash of the origin up to Next−1
	Altered bool       // other bytes stand under a number of the batch
	Refused string     // why the batch was not looked at, or ""
}

// OriginState is how far the log has got with an outbox.
type OriginState struct {
	Known bool
	Next  uint64     // from 1
	Hash  event.Hash // up to Next−1
}

// Finder looks up which numbers of an origin stand in the log. A Replica is one.
type Finder interface {
	// Find returns the records of origin with numbers from…to, newest first. complete says that nothing of them can be
	// missing; otherwise this copy of the log may not be far enough yet.
	Find(ctx context.Context, origin event.Origin, from, to uint64) (found []event.Record, complete bool, err error)
}

// OutboxOptions say where an outbox lives and whom it talks to. Zero figures take the defaults named.
type OutboxOptions struct {
	Path       string // outbox.db
	Quarantine string // directory for damaged files
	Node       id.Node
	Catalogue  *event.Catalog
	Sequencer  Sequencer
	Finder     Finder
	Log        zerolog.Logger
	Alarm      func(Alarm) // may be nil; must not block

	Keep          time.Duration // of acknowledged records: 24 h
	KeepBytes     int64         // of acknowledged records: 64 MiB
	Window        int           // batches under way: 4
	BatchEvents   int           // 512
	BatchBytes    int           // 192 KiB
	AppendTimeout time.Duration // 10 s
	FindTimeout   time.Duration // how long the replica may lag behind before a reunion goes on without it: 30 s
	MinBackoff    time.Duration // 50 ms
	MaxBackoff    time.Duration // 2 s
	Now           func() time.Time

	hooks outboxHooks
}

// outboxHooks let tests break one safety at a time.
type outboxHooks struct {
	ackEarly   bool                // variant: acknowledge before the fsync
	keysEarly  bool                // variant: have records with a key travel before the fsync
	noCompare  bool                // variant: trust numbers without comparing hashes
	noFind     bool                // variant: publish again without looking whether it stands already
	commit     func() error        // fails a commit before it happens
	committed  func() error        // fails a commit after it has happened
	afterStore func(upTo uint64)   // after the fsync, before anybody is told
	handedOver func(b Batch)       // before a batch is handed over
	newOrigin  func() event.Origin // nil: random
	doorOpen   bool                // variant: number records also while the writer changes more than it adds
}

func (o *OutboxOptions) fill() {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&o.Keep, 24*time.Hour)
	set(&o.AppendTimeout, 10*time.Second)
	set(&o.FindTimeout, 30*time.Second)
	set(&o.MinBackoff, 50*time.Millisecond)
	set(&o.MaxBackoff, 2*time.Second)
	if o.KeepBytes == 0 {
		o.KeepBytes = 64 << 20
	}
	if o.Window == 0 {
		o.Window = 4
	}
	if o.BatchEvents == 0 {
		o.BatchEvents = 512
	}
	if o.BatchBytes == 0 {
		o.BatchBytes = 192 << 10
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.hooks.newOrigin == nil {
		o.hooks.newOrigin = newOrigin
	}
}

func newOrigin() event.Origin {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails on the platforms we build for
	return event.Origin(hex.EncodeToString(b[:]))
}

// Outbox holds what this node publishes until it has a place in the log.
type Outbox struct {
	opt    OutboxOptions
	alarms alarms

	puts    chan *put
	control chan func() // run by the writer between two commits
	wake    chan struct{}
	work    chan struct{} // there is something to store
	again   chan struct{} // ask once more how far the log has got with this outbox
	lost    chan struct{} // somebody may wait for a seq whose answer was lost
	closed  chan struct{}
	once    sync.Once
	blocks  blockWriter // the writer's
	kept    keeping     // the writer's

	mu sync.Mutex
	outboxState
}

// outboxState is guarded by Outbox.mu. Only the writer changes the file and what describes it; publishers add records (enter).
type outboxState struct {
	db         *bolt.DB
	origin     event.Origin
	base       uint64 // number before the first kept record
	baseHash   event.Hash
	last       uint64 // highest number given
	lastHash   event.Hash
	durable    uint64 // highest number that is fsynced
	acked      uint64 // everything up to here stands in the log
	stored     uint64 // acked, as the file has it
	bytes      int64  // of the kept records
	admits     bool   // publishers may number their records themselves
	fresh      []*put // numbered, and not told yet that they are fsynced, in order
	freshBytes int    // of their drafts
	returns    returners
	moment     *time.Timer     // ends the wait for them; nil: there was none yet
	tail       []kept          // the newest records, without a gap, up to last; all above durable are here
	tailed     int64           // bytes of the tail
	plain      map[uint64]*put // who waits for the seq of a record of this origin that has no key, by its number
	waiters    map[place][]*put
	early      map[place]uint64 // seqs that are known before the own fsync; those of plain stand in the puts
	keyed      map[place]string // keys of records whose seq is not written down yet
	seqs       []keySeq         // to be written down with the next commit
	carry      []kept           // saved from a damaged file, published again once it is known what stands
	carryOf    event.Origin     // of the newest damaged file, "" when nothing is to be brought
	suspect    bool             // the log holds something else under our numbers
	keysLost   bool             // answers were lost: keys may have seqs that nobody knows
	degraded   error
	unsure     *change // what failed, if it was more than a commit of records
	unkeyed    []*put  // with keys, of a failed commit: these are to be written with their records
	nextTrim   time.Time
	trimming   bool // there was too much, and not enough has been dropped since; for the writer
}

// change is a change of the file of which nobody knows whether it was made.
type change struct {
	done   func(s salvage) bool // says whether s, as the file has it, is what came of it
	settle func()               // makes it known
}

// place is a number of an origin.
type place struct {
	origin event.Origin
	number uint64
}

// kept is a record of the outbox.
type kept struct {
	number uint64
	hash   event.Hash // running hash up to and with it
	at     time.Time  // when it was stored
	key    string
	draft  []byte
	of     event.Origin // of one that was saved from a damaged file: what number is of
}

// OpenOutbox opens or makes the file. A damaged one is moved to quarantine with an alarm; what can be read of it is
// published again under a new origin once it is known what of it stands in the log. Run does the work.
func OpenOutbox(opt OutboxOptions) (*Outbox, error) {
	opt.fill()
	o := &Outbox{
		opt:     opt,
		alarms:  alarms{opt.Log, opt.Alarm, opt.Now},
		puts:    make(chan *put, 1024),
		control: make(chan func()),
		wake:    make(chan struct{}, 1),
		work:    make(chan struct{}, 1),
		again:   make(chan struct{}, 1),
		lost:    make(chan struct{}, 1),
		closed:  make(chan struct{}),
	}
	o.plain = make(map[uint64]*put)
	o.waiters = make(map[place][]*put)
	o.early = make(map[place]uint64)
	o.keyed = make(map[place]string)
	if err := o.open(); err != nil {
		return nil, fmt.Errorf("open outbox: %w", err)
	}
	return o, nil
}

// Run stores and sends until ctx ends, then closes the file.
func (o *Outbox) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return o.write(ctx) })
	g.Go(func() error { return o.send(ctx) })
	g.Go(func() error { return o.resolve(ctx) })
	err := g.Wait()
	o.once.Do(func() { close(o.closed) })
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.db != nil {
		err = errors.Join(err, o.db.Close())
		o.db = nil
	}
	return err
}

// OutboxStatus is a reading of an outbox.
type OutboxStatus struct {
	Origin   event.Origin
	Last     uint64 // highest number that is stored
	Acked    uint64 // everything up to here has its place
	Saved    int    // records of damaged files of which it is not known yet whether they have one
	Bytes    int64  // kept
	Degraded error  // nil: events can be stored
}

// Unplaced is how many events wait for their place.
func (s OutboxStatus) Unplaced() uint64 { return s.Last - s.Acked + uint64(s.Saved) }

// Status is a reading of the outbox.
func (o *Outbox) Status() OutboxStatus {
	o.mu.Lock()
	defer o.mu.Unlock()
	return OutboxStatus{Origin: o.origin, Last: o.durable, Acked: min(o.acked, o.durable), // a record may have its place before its fsync
		Saved: len(o.carry), Bytes: o.bytes, Degraded: o.degraded}
}
