package eventlog

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
)

// Consumer is a durable, named subscriber.
type Consumer struct {
	Name  string   // its cursor's name; the same name again goes on where it stopped
	Types []string // globs, see Filter; empty: everything
	// Handler gets events in order, each at least once, and must be idempotent by event id. An error, a panic or passing
	// the deadline is a failed try. It has to return when its context ends: one that does not is left behind, and may still
	// run when the next try begins.
	Handler func(ctx context.Context, r event.Record) error
	// OnGap is told of records that it will never get, because the log no longer keeps them; nil: only logged.
	OnGap func(ctx context.Context, gap Compacted) error
	// OnStuck is told that the handler has not returned for a while after its deadline: its daemon is to be restarted. It
	// must not block.
	OnStuck func(r event.Record)
	Stale   bool        // wants records that carried an older epoch, too
	Start   Start       // where a consumer without a cursor begins; the zero value is the start of what is kept
	Cursors CursorStore // nil: the dispatcher's
	Letters Letters     // nil: the dispatcher's
	// SaveEvery is the least time between two saves of the cursor; 0: the dispatcher's.
	SaveEvery time.Duration
	Deadline  time.Duration // of one try; 0: the dispatcher's
}

// DispatcherOptions hold for all subscribers. Zero figures take the defaults named.
type DispatcherOptions struct {
	Replica *Replica
	Node    id.Node
	Cursors CursorStore
	Letters Letters
	Log     zerolog.Logger

	Deadline   time.Duration // of one try: 10 min
	Grace      time.Duration // after the deadline, until the handler is called stuck: 5 s
	Tries      int           // 5
	MinBackoff time.Duration // 1 s
	MaxBackoff time.Duration // 1 min
	Retries    int           // of a dead letter, until it is abandoned: 5
	SaveEvery  time.Duration // 250 ms
	Now        func() time.Time

	hooks dispatcherHooks
}

type dispatcherHooks struct {
	saveFirst bool // variant: move the cursor before the delivery
}

func (o *DispatcherOptions) fill() {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&o.Deadline, 10*time.Minute)
	set(&o.Grace, 5*time.Second)
	set(&o.MinBackoff, time.Second)
	set(&o.MaxBackoff, time.Minute)
	set(&o.SaveEvery, 250*time.Millisecond)
	if o.Tries == 0 {
		o.Tries = 5
	}
	if o.Retries == 0 {
		o.Retries = 5
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

// Errors of subscribing and retrying.
var (
	ErrNameTaken = errors.New("a subscriber of that name is running")
	ErrNoHandler = errors.New("its handler is not running here")
)

// Dispatcher delivers the log to durable subscribers.
type Dispatcher struct {
	opt DispatcherOptions

	mu    sync.Mutex
	live  map[string]*subscription
	tried map[string]trying // by consumer: outlives a restart of its daemon
}

// trying counts the failed tries of the event at which a consumer stands.
type trying struct {
	seq   uint64
	tries int
	first time.Time
}

// NewDispatcher makes a dispatcher without subscribers.
func NewDispatcher(opt DispatcherOptions) *Dispatcher {
	opt.fill()
	return &Dispatcher{opt: opt, live: make(map[string]*subscription), tried: make(map[string]trying)}
}

// Subscribe delivers events to c until ctx ends, in the caller's goroutine. It returns nil then; an error before means that
// the subscriber could not begin, because its name is taken or its cursor cannot be read.
func (d *Dispatcher) Subscribe(ctx context.Context, c Consumer) error {
	s := &subscription{d: d, c: c, retry: make(chan retryCall)}
	s.fill()
	m, err := compile(Filter{Types: c.Types, SkipStale: !c.Stale})
	if err != nil {
		return fmt.Errorf("subscribe %s: %w", c.Name, err)
	}
	s.match = m
	if err := d.enter(s); err != nil {
		return err
	}
	defer d.leave(s)
	if err := s.load(ctx); err != nil {
		return fmt.Errorf("subscribe %s: %w", c.Name, err)
	}
	return s.run(ctx)
}

func (d *Dispatcher) enter(s *subscription) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.live[s.c.Name] != nil {
		return fmt.Errorf("subscribe %s: %w", s.c.Name, ErrNameTaken)
	}
	d.live[s.c.Name] = s
	return nil
}

func (d *Dispatcher) leave(s *subscription) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.live, s.c.Name)
}

// Floor is the smallest saved cursor of the live subscribers, for ReplicaOptions.Floor.
func (d *Dispatcher) Floor() (seq uint64, any bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.live {
		if saved, ok := s.savedCursor(); ok && (!any || saved < seq) {
			seq, any = saved, true
		}
	}
	return seq, any
}

// SubscriberStatus is a reading of a live subscriber.
type SubscriberStatus struct {
	Name    string
	Cursor  uint64 // everything up to here is dealt with
	Lag     uint64 // records behind the end of this node's copy
	Failing int    // failed tries of the event at which it stands
	Error   string // of the last failed try
}

// Status lists the live subscribers by name.
func (d *Dispatcher) Status() []SubscriberStatus {
	end := d.opt.Replica.Durable()
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []SubscriberStatus
	for name, s := range d.live {
		out = append(out, s.status(name, end, d.tried[name].tries))
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// failed counts a failed try and returns how many there were.
func (d *Dispatcher) failed(consumer string, seq uint64) trying {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := d.tried[consumer]
	if t.seq != seq {
		t = trying{seq: seq, first: d.opt.Now()}
	}
	t.tries++
	d.tried[consumer] = t
	return t
}

func (d *Dispatcher) passed(consumer string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.tried, consumer)
}

// Retry delivers the event of a dead letter once more to exactly that handler, between two of its other events, and waits
// for what comes of it. When it succeeds the letter is dropped; when it fails the handler's own error is returned and the
// letter counts it, and is abandoned after too many.
func (d *Dispatcher) Retry(ctx context.Context, letters Letters, letter string) error {
	l, err := letters.Get(ctx, letter)
	if err != nil {
		return err
	}
	d.mu.Lock()
	s := d.live[l.Handler]
	d.mu.Unlock()
	if s == nil {
		return fmt.Errorf("retry dead letter %s: %w", letter, ErrNoHandler)
	}
	r, err := d.letterRecord(l)
	if err != nil {
		return fmt.Errorf("retry dead letter %s: %w", letter, err)
	}
	call := retryCall{record: r, done: make(chan error, 1)}
	select {
	case s.retry <- call:
	case <-ctx.Done():
		return fmt.Errorf("retry dead letter %s: %w", letter, ctx.Err())
	}
	select {
	case err = <-call.done:
	case <-ctx.Done():
		return fmt.Errorf("retry dead letter %s: %w", letter, ctx.Err())
	}
	if err == nil {
		return letters.Drop(ctx, letter)
	}
	l.Retries++
	l.LastFailed, l.Error = d.opt.Now().UTC(), err.Error()
	l.Abandoned = l.Retries >= d.opt.Retries
	return errors.Join(fmt.Errorf("retry dead letter %s: %w", letter, err), letters.Put(ctx, l))
}

func (d *Dispatcher) letterRecord(l Letter) (event.Record, error) {
	if len(l.Record) > 0 {
		return event.DecodeRecord(l.Record)
	}
	got, err := d.opt.Replica.Read(l.Seq-1, 1)
	if err == nil && (len(got) == 0 || got[0].Seq != l.Seq) {
		err = fmt.Errorf("event %d is not in this node's log", l.Seq)
	}
	if err != nil {
		return event.Record{}, err
	}
	return got[0], nil
}
