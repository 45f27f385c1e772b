package eventlog

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/ringagent/ringagent/eventlog/event"
)

// subscription is one running Subscribe.
type subscription struct {
	d     *Dispatcher
	c     Consumer
	match matcher
	retry chan retryCall

	mu     sync.Mutex
	cursor uint64 // dealt with
	saved  uint64 // as the store has it
	loaded bool
	last   string // error of the last failed try

	nextSave time.Time
	lastSave time.Time
}

// idleSaves is how many times rarer a cursor is saved while it only passes over events that its subscriber does not want:
// to lose that costs a little reading after a restart.
const idleSaves = 20

type retryCall struct {
	record event.Record
	done   chan error
}

// errStuck is the failure of a handler that did not return.
var errStuck = errors.New("handler did not return after its deadline")

func (s *subscription) fill() {
	o := &s.d.opt
	if s.c.Cursors == nil {
		s.c.Cursors = o.Cursors
	}
	if s.c.Letters == nil {
		s.c.Letters = o.Letters
	}
	if s.c.Deadline == 0 {
		s.c.Deadline = o.Deadline
	}
	if s.c.SaveEvery == 0 {
		s.c.SaveEvery = o.SaveEvery
	}
}

func (s *subscription) load(ctx context.Context) error {
	seq, ok, err := s.c.Cursors.Load(ctx, s.c.Name)
	if errors.Is(err, ErrCursorCorrupt) {
		s.d.opt.Log.Error().Str("subscriber", s.c.Name).Msg("its cursor is corrupt; it gets everything again that is kept")
		seq, ok, err = 0, true, nil
		if oldest := s.d.opt.Replica.Status().Oldest; oldest > 0 {
			seq = oldest - 1
		}
	}
	if err != nil {
		return err
	}
	fresh := !ok
	if fresh {
		if seq, err = s.d.opt.Replica.position(ctx, s.c.Start); err != nil {
			return err
		}
		// From now on it is known: what happens before its first event must not be passed over after a restart.
		if err := s.c.Cursors.Save(ctx, s.c.Name, seq); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cursor, s.saved, s.loaded = seq, seq, true
	return nil
}

func (s *subscription) savedCursor() (uint64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.saved, s.loaded
}

func (s *subscription) status(name string, end uint64, failing int) SubscriberStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := SubscriberStatus{Name: name, Cursor: s.cursor, Failing: failing}
	if end > s.cursor {
		st.Lag = end - s.cursor
	}
	if failing > 0 {
		st.Error = s.last
	}
	return st
}

// run delivers until ctx ends.
func (s *subscription) run(ctx context.Context) error {
	r := s.d.opt.Replica
	defer s.save(context.WithoutCancel(ctx), true)
	for ctx.Err() == nil {
		r.mu.Lock()
		changed := r.changed
		r.mu.Unlock()
		records, more, err := r.read(s.cursor, readMost, s.match.match)
		if gap := (*Compacted)(nil); errors.As(err, &gap) {
			if err := s.gap(ctx, gap); err != nil {
				return nil // ctx has ended
			}
			continue
		}
		if errors.Is(err, ErrClosed) {
			return fmt.Errorf("subscriber %s: %w", s.c.Name, err)
		}
		if err != nil {
			// A corrupt record is repaired from a peer; it is never passed over.
			s.d.opt.Log.Debug().Err(err).Str("subscriber", s.c.Name).Msg("cannot read the log")
			changed = nil
		}
		for i := range records {
			if !s.match.match(&records[i]) {
				if i == len(records)-1 {
					s.passed(ctx, records[i].Seq)
				}
				continue
			}
			if s.d.opt.hooks.saveFirst {
				s.advance(records[i].Seq)
				s.save(ctx, true)
			}
			if !s.deliver(ctx, records[i]) {
				return nil
			}
			s.hurry()
			s.passed(ctx, records[i].Seq)
		}
		if more || len(records) > 0 {
			continue
		}
		s.idle(ctx, changed)
	}
	return nil
}

// passed moves on to seq, and serves a retry in between.
func (s *subscription) passed(ctx context.Context, seq uint64) {
	s.advance(seq)
	s.save(ctx, false)
	select {
	case call := <-s.retry:
		call.done <- s.try(ctx, call.record)
	default:
	}
}

// idle waits for new records, serves retries, and saves what is not saved yet.
func (s *subscription) idle(ctx context.Context, changed <-chan struct{}) {
	var due <-chan time.Time // only when there is something to save: an idle ring wakes nobody
	s.mu.Lock()
	unsaved := s.cursor != s.saved
	s.mu.Unlock()
	if unsaved || changed == nil {
		timer := time.NewTimer(max(time.Until(s.nextSave), time.Millisecond))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-ctx.Done():
	case <-changed:
	case <-s.d.opt.Replica.stopped:
	case call := <-s.retry:
		call.done <- s.try(ctx, call.record)
	case <-due:
		s.nextSave = time.Now()
		s.save(ctx, true)
		if changed == nil {
			s.nextSave = time.Now().Add(s.c.SaveEvery) // look for the repaired record again
		}
	}
}

// hurry has the cursor saved soon, since an event was dealt with.
func (s *subscription) hurry() {
	if soon := s.lastSave.Add(s.c.SaveEvery); soon.Before(s.nextSave) {
		s.nextSave = soon
	}
}

func (s *subscription) advance(seq uint64) {
	s.mu.Lock()
	s.cursor = seq
	s.mu.Unlock()
}

// save writes the cursor, at most once every SaveEvery. When it cannot, the cursor stays behind, and events are delivered
// again after a restart.
func (s *subscription) save(ctx context.Context, now bool) {
	s.mu.Lock()
	cursor, saved := s.cursor, s.saved
	s.mu.Unlock()
	clock := time.Now()
	if cursor == saved || !now && clock.Before(s.nextSave) {
		return
	}
	s.nextSave = clock.Add(idleSaves * s.c.SaveEvery)
	s.lastSave = clock
	ctx, cancel := context.WithTimeout(ctx, s.d.opt.Grace)
	defer cancel()
	if err := s.c.Cursors.Save(ctx, s.c.Name, cursor); err != nil {
		s.d.opt.Log.Warn().Err(err).Str("subscriber", s.c.Name).Msg("cursor could not be saved yet")
		return
	}
	s.mu.Lock()
	s.saved = max(s.saved, cursor)
	s.mu.Unlock()
}

// gap tells the consumer of records that it will never get, until it has understood, and goes on behind them.
func (s *subscription) gap(ctx context.Context, gap *Compacted) error {
	s.d.opt.Log.Warn().Str("subscriber", s.c.Name).Uint64("from", gap.From).Uint64("to", gap.To).Msg("events are no longer kept")
	backoff := s.d.opt.MinBackoff
	for s.c.OnGap != nil {
		err := s.call(ctx, func(ctx context.Context) error { return s.c.OnGap(ctx, *gap) })
		if err == nil {
			break
		}
		s.d.opt.Log.Warn().Err(err).Str("subscriber", s.c.Name).Msg("gap could not be dealt with yet")
		if !s.pause(ctx, backoff) {
			return ctx.Err()
		}
		backoff = min(2*backoff, s.d.opt.MaxBackoff)
	}
	s.advance(gap.To)
	s.save(ctx, true)
	return nil
}

// deliver gets one event dealt with: handled, or put to the dead letters. It returns false when ctx ended before.
func (s *subscription) deliver(ctx context.Context, r event.Record) bool {
	o := &s.d.opt
	for {
		err := s.try(ctx, r)
		if err == nil {
			s.d.passed(s.c.Name)
			return true
		}
		if ctx.Err() != nil {
			return false // a restart is nobody's fault and no try
		}
		t := s.d.failed(s.c.Name, r.Seq)
		s.mu.Lock()
		s.last = err.Error()
		s.mu.Unlock()
		o.Log.Warn().Err(err).Str("subscriber", s.c.Name).Uint64("seq", r.Seq).Int("try", t.tries).Msg("handler failed")
		if errors.Is(err, errStuck) && s.c.OnStuck != nil {
			s.c.OnStuck(r)
		}
		backoff := min(o.MinBackoff<<min(t.tries-1, 16), o.MaxBackoff)
		if t.tries >= o.Tries {
			if s.bury(ctx, r, t, err) {
				s.d.passed(s.c.Name)
				return true
			}
			backoff = o.MaxBackoff
		}
		if !s.pause(ctx, backoff) {
			return false
		}
	}
}

// bury puts the pair to the dead letters. Only then may the cursor pass on.
func (s *subscription) bury(ctx context.Context, r event.Record, t trying, why error) bool {
	now := s.d.opt.Now().UTC()
	l := Letter{
		ID: LetterID(r.Seq, s.c.Name), EventID: r.ID(), Seq: r.Seq, Type: r.Type, Handler: s.c.Name, Node: s.d.opt.Node,
		Error: why.Error(), Attempts: t.tries, FirstFailed: t.first.UTC(), LastFailed: now, Record: r.Encode(),
	}
	if err := s.c.Letters.Put(ctx, l); err != nil {
		s.d.opt.Log.Error().Err(err).Str("subscriber", s.c.Name).Uint64("seq", r.Seq).Msg("dead letter could not be written; trying the handler again")
		return false
	}
	s.d.opt.Log.Error().Err(why).Str("subscriber", s.c.Name).Uint64("seq", r.Seq).Msg("event is a dead letter for this handler")
	return true
}

func (s *subscription) try(ctx context.Context, r event.Record) error {
	return s.call(ctx, func(ctx context.Context) error { return s.c.Handler(ctx, r) })
}

// call runs f under the deadline. One that has not returned a while after it is left behind: others must not wait for it.
func (s *subscription) call(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.c.Deadline)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("handler panicked: %v\n%s", p, debug.Stack())
			}
		}()
		done <- f(ctx)
	}()
	select {
	case err := <-done:
		return s.late(ctx, err)
	case <-ctx.Done():
	}
	grace := time.NewTimer(s.d.opt.Grace)
	defer grace.Stop()
	select {
	case err := <-done:
		return s.late(ctx, err)
	case <-grace.C:
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return ctx.Err()
		}
		return fmt.Errorf("%w of %s", errStuck, s.c.Deadline)
	}
}

// late lets success stand, whenever it came, and names the deadline when it was the cause of a failure.
func (s *subscription) late(ctx context.Context, err error) error {
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("handler passed its deadline of %s: %w", s.c.Deadline, err)
	}
	return err
}

// pause waits, and serves retries of dead letters meanwhile.
func (s *subscription) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return ctx.Err() == nil
		case call := <-s.retry:
			call.done <- s.try(ctx, call.record)
		case <-ctx.Done():
			return false
		}
	}
}
