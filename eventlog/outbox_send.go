package eventlog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/ringagent/ringagent/eventlog/event"
)

// errAgain ends a session that has to ask for the origin's state again, at once.
var errAgain = errors.New("ask again")

// errGap says that a batch came before the one that it follows.
var errGap = errors.New("batches came out of order")

// gapsAtOnce is how often in a row a session puts batches in order again before it asks where it stands.
const gapsAtOnce = 8

// forgotten is how old what the ring has of an origin must be for it to have dropped that, and not lost it: state.keptRemoved.
const forgotten = 30 * 24 * time.Hour

// send keeps a session with the sequencer, for ever.
func (o *Outbox) send(ctx context.Context) error {
	backoff := o.opt.MinBackoff
	for ctx.Err() == nil {
		began := time.Now()
		err := o.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if bad := (*DamagedError)(nil); errors.As(err, &bad) && bad.Path == o.opt.Path { // and not the replica's
			o.distrust(ctx, err)
		}
		if errors.Is(err, errAgain) || errors.Is(err, errGap) {
			backoff = 0
		} else {
			o.opt.Log.Debug().Err(err).Msg("outbox lost the coordinator")
		}
		if time.Since(began) > o.opt.MaxBackoff {
			backoff = o.opt.MinBackoff
		}
		// A little chance keeps the outboxes of a ring from asking a new coordinator all at once.
		wait := backoff + time.Duration(rand.Int64N(int64(o.opt.MinBackoff)/4+1))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		backoff = min(max(2*backoff, o.opt.MinBackoff), o.opt.MaxBackoff)
	}
	return nil
}

// distrust has the writer begin a file again of which the sender could not read something.
func (o *Outbox) distrust(ctx context.Context, why error) {
	_ = o.inWriter(ctx, func() error {
		o.mu.Lock()
		known := o.degraded != nil
		o.mu.Unlock()
		if !known {
			o.fail(why, nil)
		}
		return nil
	})
}

// session asks how far the log has got with this outbox and sends from there on, until something goes wrong.
func (o *Outbox) session(ctx context.Context) error {
	if err := o.bringCarried(ctx); err != nil {
		return err
	}
	o.mu.Lock()
	origin := o.origin
	o.mu.Unlock()
	st, err := o.ask(ctx, origin)
	if err != nil {
		return err
	}
	lost, err := o.reunite(ctx, origin, st)
	if err != nil {
		return err
	}
	return o.stream(ctx, origin, lost)
}

func (o *Outbox) ask(ctx context.Context, origin event.Origin) (OriginState, error) {
	ctx, cancel := context.WithTimeout(ctx, o.opt.AppendTimeout)
	defer cancel()
	st, err := o.opt.Sequencer.Origin(ctx, origin)
	if err != nil {
		return st, fmt.Errorf("ask for origin %s: %w", origin, err)
	}
	st.Next = max(st.Next, 1)
	return st, nil
}

// lostRange are numbers that can no longer be supplied; none if to is 0.
type lostRange struct{ from, to uint64 }

// reunite compares the outbox with what the log has of its origin, and decides from where to send.
func (o *Outbox) reunite(ctx context.Context, origin event.Origin, st OriginState) (lostRange, error) {
	o.mu.Lock()
	if o.origin != origin {
		o.mu.Unlock()
		return lostRange{}, errAgain // the file was begun again meanwhile
	}
	placed := st.Next - 1
	var same bool
	if placed >= o.base && placed <= o.last && !o.suspect {
		h, err := o.hashAt(placed)
		if err != nil {
			o.mu.Unlock()
			return lostRange{}, err
		}
		same = h == st.Hash || o.opt.hooks.noCompare || placed == 0
	}
	base, last, acked := o.base, o.last, o.acked
	if newest := min(acked, o.durable); !st.Known && newest > base && !o.suspect {
		// The ring forgets an origin of a node that has left, a month after its last event. A younger one it knew and has lost: what
		// it acknowledged is to be published again, and under the same numbers it cannot stand twice.
		run, err := o.readFile(newest, 1, 1)
		if err != nil {
			o.mu.Unlock()
			return lostRange{}, err
		}
		st.Known = o.opt.Now().Sub(run[0].at) < forgotten
	}
	switch {
	case same && st.Known, same && acked == 0:
		if placed < acked {
			if err := o.placedAnew(placed); err != nil {
				o.mu.Unlock()
				return lostRange{}, err
			}
			o.opt.Log.Warn().Uint64("acked", acked).Uint64("placed", placed).Msg("the ring went back; events are published again")
		}
		if placed > o.acked {
			o.keysLost = true
			o.search() // answers were lost on the way
		}
		o.acked = placed
		o.mu.Unlock()
		return lostRange{}, nil
	case st.Known && placed < base && !o.suspect:
		if err := o.placedAnew(base); err != nil {
			o.mu.Unlock()
			return lostRange{}, err
		}
		o.acked = base
		o.mu.Unlock()
		o.alarms.raise(AlarmEventsLost, 0, fmt.Sprintf("the ring has lost events of origin %s that are no longer kept here: numbers %d to %d", origin, st.Next, base))
		return lostRange{st.Next, base}, nil
	}
	altered := o.suspect || st.Known && placed <= last
	if !st.Known {
		placed = max(placed, acked) // forgotten: what the ring acknowledged stays acknowledged
	}
	o.mu.Unlock()
	if altered {
		o.alarms.raise(AlarmOutboxAltered, 0, fmt.Sprintf("the log holds other bytes under numbers of origin %s (up to %d; this outbox has %d): was this directory copied or set back?", origin, placed, last))
	} else {
		o.opt.Log.Warn().Str("origin", string(origin)).Uint64("placed", placed).Uint64("last", last).Bool("known", st.Known).
			Msg("the log and this outbox do not know each other's end; a new origin begins")
	}
	if err := o.reorigin(ctx, origin, placed); err != nil {
		return lostRange{}, err
	}
	return lostRange{}, errAgain
}

// flight is a batch under way.
type flight struct {
	left time.Time
	last uint64
	ch   <-chan Answer
	done context.CancelFunc
}

// stream sends what is not acknowledged, several batches at a time, in order.
func (o *Outbox) stream(ctx context.Context, origin event.Origin, lost lostRange) error {
	ctx, cancel := context.WithCancel(ctx) // ends what is under way, too
	defer cancel()
	o.mu.Lock()
	next := o.acked + 1
	o.mu.Unlock()
	var flights []flight
	gaps := 0
	hold := time.NewTimer(holdTime)
	defer hold.Stop()
	for {
		for len(flights) < o.opt.Window {
			if f := len(flights); f > 0 && o.holds(next) {
				if wait := holdTime - time.Since(flights[f-1].left); wait > 0 {
					hold.Reset(wait)
					break
				}
			}
			b, ok, err := o.batch(origin, next, lost)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			lost = lostRange{}
			if f := o.opt.hooks.handedOver; f != nil {
				f(b)
			}
			next = b.first() + uint64(len(b.Drafts))
			bctx, done := context.WithTimeout(ctx, o.opt.AppendTimeout)
			flights = append(flights, flight{time.Now(), next - 1, o.opt.Sequencer.Append(bctx, b), done})
		}
		var head <-chan Answer
		if len(flights) > 0 {
			head = flights[0].ch
		}
		wake := o.wake
		if len(flights) >= o.opt.Window {
			wake = nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-o.again:
			return errAgain
		case <-wake:
		case <-hold.C:
		case a := <-head:
			flights[0].done()
			err := o.answered(origin, flights[0], a)
			flights = flights[1:]
			switch {
			case err == nil:
				gaps = 0
			case errors.Is(err, errGap) && gaps < gapsAtOnce:
				gaps++
				if next, err = o.settle(ctx, origin, flights); err != nil {
					return err
				}
				flights = nil
			default:
				return err
			}
		}
	}
}

// AskAgain has the outbox compare itself once more with what the log has of it, and publish again what is not there: a ring
// that was recovered may have lost what it had acknowledged.
func (o *Outbox) AskAgain() {
	select {
	case o.again <- struct{}{}:
	default:
	}
}

// settle waits for all batches under way after one of them came too early, and returns the number from which to send again.
func (o *Outbox) settle(ctx context.Context, origin event.Origin, flights []flight) (uint64, error) {
	for _, f := range flights {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case a := <-f.ch:
			f.done()
			if err := o.answered(origin, f, a); err != nil && !errors.Is(err, errGap) {
				return 0, err
			}
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.acked + 1, nil
}

// batch cuts the next batch from number n on; ok is false when there is nothing to send.
func (o *Outbox) batch(origin event.Origin, n uint64, lost lostRange) (b Batch, ok bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.origin != origin {
		return b, false, errAgain // the file was begun again
	}
	if lost.to == 0 && (n > o.last || o.returns.awaited() && o.last-n < returnMost) {
		return b, false, nil
	}
	b = Batch{Origin: origin, Node: o.opt.Node, First: n}
	if lost.to != 0 {
		b.First, b.Lost = lost.from, lost.to
	}
	if b.Before, err = o.hashAt(n - 1); err != nil || n > o.last {
		return b, err == nil, err
	}
	var run []kept
	if len(o.tail) > 0 && n >= o.tail[0].number {
		run = o.tail[n-o.tail[0].number:]
	} else if run, err = o.readFile(n, o.opt.BatchEvents, o.opt.BatchBytes); err != nil {
		return b, false, err
	}
	size := 0
	for _, k := range run {
		if len(b.Drafts) > 0 && (len(b.Drafts) >= o.opt.BatchEvents || size+len(k.draft) > o.opt.BatchBytes) {
			break
		}
		// Should this process end before the fsync, nobody would know the key any more, and whoever asks again under it had the
		// event a second time.
		if k.key != "" && k.number > o.durable && !o.opt.hooks.keysEarly {
			break
		}
		b.Drafts = append(b.Drafts, k.draft)
		size += len(k.draft)
	}
	return b, len(b.Drafts) > 0 || lost.to != 0, nil
}

// answered takes note of what became of a batch. An error ends the session.
func (o *Outbox) answered(origin event.Origin, f flight, a Answer) error {
	switch {
	case a.Err != nil:
		return fmt.Errorf("append: %w", a.Err)
	case a.Altered:
		o.mu.Lock()
		o.suspect = o.suspect || o.origin == origin
		o.mu.Unlock()
		return errAgain
	case a.Refused != "":
		return fmt.Errorf("append: refused: %s", a.Refused)
	case a.Next <= f.last:
		return errGap
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.origin != origin || a.Next-1 > o.last {
		return errAgain
	}
	h, err := o.hashAt(a.Next - 1)
	if err != nil {
		return err
	}
	if h != a.Hash && !o.opt.hooks.noCompare {
		o.suspect = true
		return errAgain
	}
	o.acked = max(o.acked, a.Next-1)
	told := 0
	for i, seq := range a.Seqs {
		if number := a.Next - uint64(len(a.Seqs)) + uint64(i); number > 0 {
			told += o.learn(place{origin, number}, seq)
		}
	}
	o.expect(told)
	return nil
}
