package eventlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ringagent/ringagent/eventlog/event"
)

// dice are thrown by many goroutines.
type dice struct {
	mu sync.Mutex
	r  *rand.Rand
}

func (d *dice) n(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.IntN(n)
}

func (d *dice) one(in int) bool { return in > 0 && d.n(in) == 0 }

func (d *dice) upTo(most time.Duration) time.Duration { return time.Duration(d.n(int(most) + 1)) }

// lazyRing places at once and answers after a while.
type lazyRing struct {
	*modelRing
	takes func() time.Duration
}

func (l lazyRing) Append(ctx context.Context, b Batch) <-chan Answer {
	in, out, takes := l.modelRing.Append(ctx, b), make(chan Answer, 1), l.takes()
	time.AfterFunc(takes, func() { out <- <-in })
	return out
}

// randomOutbox is an outbox to which anything happens, one time in so many; 0 is never.
type randomOutbox struct {
	fails, lost, origins, restarts, cancels, keys, damages, outages int
	prompt                                                          bool // nobody waits long

	dice    dice
	ring    *modelRing
	calm    atomic.Bool // nothing fails any more
	o       atomic.Pointer[Outbox]
	stop    func()
	mu      sync.Mutex
	told    map[string]*fortune // by text
	longest time.Duration
}

// fortune is what the publisher of an event was told.
type fortune struct {
	tries, accepted int
	inOrder         bool // the first try was accepted
	id              string
	seq             uint64
}

const commitTakes, answerTakes = 3 * time.Millisecond, 4 * time.Millisecond

func (r *randomOutbox) open(t *testing.T, dir string) {
	fail := func() error {
		if r.calm.Load() || !r.dice.one(r.fails) {
			return nil
		}
		return []error{syscall.ENOSPC, syscall.EIO}[r.dice.n(2)]
	}
	var self atomic.Pointer[Outbox]
	var o *Outbox
	o, r.stop = outboxAt(t, dir, r.ring, func(p *OutboxOptions) {
		p.Sequencer = lazyRing{r.ring, func() time.Duration { return r.dice.upTo(answerTakes) }}
		p.BatchEvents = 16
		p.hooks.committed = fail
		p.hooks.commit = func() error {
			// The bubble's clock stands still while somebody waits for mu, so whoever holds it must not sleep.
			if o := self.Load(); o != nil && o.mu.TryLock() {
				o.mu.Unlock()
				time.Sleep(r.dice.upTo(commitTakes))
			}
			return fail()
		}
	})
	self.Store(o)
	r.o.Store(o)
}

func (r *randomOutbox) publish(t *testing.T, text string, keyed bool) {
	p, f := external, &fortune{}
	r.mu.Lock()
	r.told[text] = f
	r.mu.Unlock()
	if keyed {
		p.Key = text
	}
	for f.accepted == 0 || keyed && r.dice.one(4) { // a second time gives the same event
		ctx, cancel := context.WithCancel(t.Context())
		if r.dice.one(r.cancels) {
			time.AfterFunc(r.dice.upTo(2*commitTakes), cancel)
		}
		began, seq, err := time.Now(), uint64(0), error(nil)
		id, wait := "", r.dice.one(2)
		if o := r.o.Load(); wait {
			id, seq, err = o.PublishWait(ctx, note(text), p)
		} else {
			id, err = o.Publish(ctx, note(text), p)
		}
		took := time.Since(began)
		cancel()
		r.mu.Lock()
		r.longest = max(r.longest, took)
		r.mu.Unlock()
		f.tries++
		switch {
		case err == nil || id != "":
			f.accepted++
			r.isStored(t, id)
			f.inOrder = f.inOrder || f.tries == 1 && err == nil && r.damages == 0 // saved events come later
			if wait && err == nil {
				if f.seq != 0 && (f.seq != seq || f.id != id) {
					t.Errorf("%s has place %d and then %d, id %s and then %s", text, f.seq, seq, f.id, id)
				}
				f.id, f.seq = id, seq
			}
		case errors.Is(err, ErrNotStored) && r.fails+r.damages > 0, errors.Is(err, ErrClosed), errors.Is(err, context.Canceled):
			if !keyed {
				return // it may appear
			}
			time.Sleep(r.dice.upTo(100 * time.Millisecond))
		default:
			t.Errorf("%s: %v", text, err)
			return
		}
	}
}

// isStored looks whether an accepted event is fsynced, unless it had another number meanwhile.
func (r *randomOutbox) isStored(t *testing.T, id string) {
	o := r.o.Load()
	o.mu.Lock()
	defer o.mu.Unlock()
	for n := o.durable + 1; n <= o.last; n++ {
		if event.MakeID(o.origin, n) == id {
			t.Errorf("%s was accepted before its fsync", id)
		}
	}
}

// hurt flips a bit in the entry of a key whose record is still there, since others cannot be made anew.
func (r *randomOutbox) hurt(tx *bolt.Tx) error {
	b, records := tx.Bucket(bucketKeys), readRecords(tx.Bucket(bucketDrafts), true)
	var head outboxHead
	if !getJSON(tx.Bucket(bucketMeta), metaHead, &head) {
		return nil
	}
	var all [][]byte
	_ = b.ForEach(func(key, _ []byte) error {
		var k keyRecord
		if getJSON(b, key, &k) && (k.Origin == head.Origin && records.get(k.Number) != nil ||
			tx.Bucket(bucketCarry).Get(append(beKey(k.Number), k.Origin...)) != nil) {
			all = append(all, bytes.Clone(key))
		}
		return nil
	})
	if len(all) == 0 {
		return nil
	}
	return flip(b, all[r.dice.n(len(all))], 20)
}

// hurtWhole is hurt in the writer's turn, of a file that can be trusted.
func (r *randomOutbox) hurtWhole(ctx context.Context, o *Outbox) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_ = o.inWriter(ctx, func() error {
		o.mu.Lock()
		db, bad := o.db, o.degraded
		o.mu.Unlock()
		if db == nil || bad != nil {
			return nil
		}
		return db.Update(r.hurt)
	})
}

// hurtClosed damages the file of an outbox that does not run.
func (r *randomOutbox) hurtClosed(path string) error {
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		return err
	}
	do := r.hurt
	if r.dice.one(2) {
		do = func(tx *bolt.Tx) error { return flip(tx.Bucket(bucketMeta), metaHead, 9) }
	}
	return errors.Join(db.Update(do), db.Close())
}

// trouble happens until the publishers are done.
func (r *randomOutbox) trouble(t *testing.T, dir string, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-time.After(r.dice.upTo(30 * time.Millisecond)):
		}
		o := r.o.Load()
		if r.dice.one(r.origins) {
			o.mu.Lock()
			o.suspect = true
			o.mu.Unlock()
			o.AskAgain()
		}
		if r.dice.one(r.outages) {
			r.ring.set(func() { r.ring.down = !r.ring.down })
		}
		if r.dice.one(r.damages) {
			r.hurtWhole(t.Context(), o)
		}
		if r.dice.one(r.restarts) {
			r.calm.Store(true) // what was refused and not written would be forgotten
			eventually(t, "mended", func() bool { return o.Status().Degraded == nil })
			r.stop()
			if r.dice.one(r.damages) {
				if err := r.hurtClosed(o.opt.Path); err != nil {
					t.Error(err)
				}
			}
			r.open(t, dir)
			r.calm.Store(false)
		}
	}
}

func (r *randomOutbox) run(t *testing.T, seed uint64, publishers, each int) {
	r.dice.r, r.ring, r.told = rand.New(rand.NewPCG(seed, 1)), newModelRing(), map[string]*fortune{}
	r.ring.lose = func(Batch) bool { return r.dice.one(r.lost) }
	r.ring.drop = r.ring.lose
	dir := t.TempDir()
	r.open(t, dir)
	time.Sleep(time.Second) // the session has begun
	done := make(chan struct{})
	var group, others sync.WaitGroup
	others.Go(func() { r.trouble(t, dir, done) })
	for i := range publishers {
		group.Go(func() {
			for n := range each {
				r.publish(t, fmt.Sprintf("%03d %03d", i, n), r.dice.one(r.keys))
				if r.dice.one(5) {
					time.Sleep(r.dice.upTo(5 * time.Millisecond))
				}
			}
		})
	}
	group.Wait()
	close(done)
	others.Wait()
	r.ring.set(func() { r.ring.down = false })
	r.calm.Store(true)
	o := r.o.Load()
	eventually(t, "mended and placed", func() bool {
		s := o.Status()
		o.mu.Lock()
		defer o.mu.Unlock()
		return s.Degraded == nil && o.acked == o.last && o.durable == o.last && o.carryOf == "" && !o.suspect
	})
	r.check(t)
	o.mu.Lock()
	if len(o.fresh) != 0 || o.freshBytes != 0 || o.returns.awaited() {
		t.Errorf("left over: %d fresh, %d bytes, %+v", len(o.fresh), o.freshBytes, o.returns)
	}
	o.mu.Unlock()
	r.stop()
}

func (r *randomOutbox) check(t *testing.T) {
	count, newest := map[string]int{}, map[string]string{}
	for _, rec := range r.ring.records(t) {
		text := noteText(t, rec)
		count[text]++
		f := r.told[text]
		if f.seq == rec.Seq && f.id != event.MakeID(rec.Origin, rec.Number) {
			t.Errorf("%s has id %s, not %s", text, event.MakeID(rec.Origin, rec.Number), f.id)
		}
		if f.seq != 0 && f.seq != rec.Seq {
			t.Errorf("%s stands at %d, not %d", text, rec.Seq, f.seq)
		}
		if who, _, _ := strings.Cut(text, " "); f.inOrder {
			if newest[who] > text {
				t.Errorf("%s after %s", text, newest[who])
			}
			newest[who] = text
		}
	}
	for text, f := range r.told {
		if n := count[text]; n > 1 || n == 0 && f.accepted > 0 {
			t.Errorf("%s is in the log %d times: %+v", text, n, *f)
		}
	}
	if r.ring.altered != 0 {
		t.Errorf("%d batches had other bytes under a number", r.ring.altered)
	}
}

// TestRandomOutbox: whatever happens, each event that was accepted has one place, the one that its publisher was told; and while
// nothing happens nobody waits for more than two commits, the answers of two batches and a few moments.
func TestRandomOutbox(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]*randomOutbox{
		"damages":    {keys: 2, damages: 2, cancels: 4, outages: 3, restarts: 2},
		"all":        {keys: 2, damages: 3, cancels: 4, outages: 4, restarts: 5, fails: 15, lost: 12, origins: 4},
		"plain":      {prompt: true},
		"keys":       {prompt: true, keys: 3, cancels: 4},
		"fails":      {prompt: true, keys: 9, fails: 12, cancels: 9},
		"lost":       {keys: 3, lost: 6, cancels: 9},
		"origins":    {keys: 4, origins: 2, lost: 12},
		"restarts":   {keys: 3, restarts: 3, cancels: 9, lost: 12},
		"everything": {keys: 3, fails: 15, lost: 12, origins: 3, restarts: 6, cancels: 9},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r.run(t, 1, 24, 12)
				if most := 2*commitTakes + 2*answerTakes + 6*returnTime; r.prompt && r.longest > most {
					t.Errorf("somebody waited for %s", r.longest)
				}
			})
		})
	}
}
