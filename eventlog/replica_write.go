package eventlog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ringagent/ringagent/eventlog/event"
)

const (
	appendAtOnce = 4096 // records a transaction
	fetchAtOnce  = 1024
	gatherMost   = 1 << 20 // bytes that wait for no more company
	// The writer gathers for a while after each append, but no longer than ReplicaOptions.Gather: three times as long as the disk
	// took, so that on a quick one events are seen sooner, and never less than what spares it a commit for each.
	restShare = 3
	restLeast = 3 * time.Millisecond
)

// Run writes and pulls until ctx ends, then closes the file. It is the file's only writer.
func (r *Replica) Run(ctx context.Context) error {
	pull := time.NewTicker(r.opt.PullEvery)
	defer pull.Stop()
	retain := time.NewTicker(r.opt.RetainEvery)
	defer retain.Stop()
	for ctx.Err() == nil {
		err := r.work(ctx)
		if err != nil && ctx.Err() == nil {
			r.opt.Log.Warn().Err(err).Msg("replica cannot go on yet")
		}
		r.supply(err)
		again, wake := pull.C, r.wake
		if !r.owes() {
			again = nil
		}
		if r.broken() {
			wake = nil // what comes meanwhile does not make the disk better
		}
		select {
		case <-ctx.Done():
		case <-wake:
		case f := <-r.control:
			f(ctx)
		case <-again:
		case <-retain.C:
			if err := r.retain(); err != nil {
				r.fail(err)
			}
		}
	}
	r.once.Do(func() { close(r.stopped) })
	r.mu.Lock()
	db := r.db
	r.db = nil
	r.mu.Unlock() // or a reader that is in the file, and wants to note something, and Close would wait for one another
	if db == nil {
		return nil
	}
	return guard(r.opt.Path, db.Close)
}

// owes says that something is left to be tried again. Whatever is new wakes the writer.
func (r *Replica) owes() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.degraded != nil || len(r.corrupt) > 0 || len(r.queue) > 0 || r.target > r.head.Last
}

func (r *Replica) broken() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.degraded != nil
}

// work appends what is next, and pulls what is missing before it.
func (r *Replica) work(ctx context.Context) error {
	for ctx.Err() == nil {
		r.mu.Lock()
		if r.degraded != nil {
			r.mu.Unlock()
			if err := r.mend(); err != nil {
				return err
			}
			continue // is it mended? what waits says so at once
		}
		if r.diverged != nil {
			r.queue, r.queued = nil, 0
			r.mu.Unlock()
			return nil
		}
		if wait := time.Until(r.rested); wait > 0 && len(r.queue) > 0 && r.queued < gatherMost {
			r.mu.Unlock()
			select { // more comes along meanwhile
			case <-time.After(wait):
			case <-ctx.Done():
				return nil
			}
			r.mu.Lock()
		}
		batch := r.queue
		r.queue, r.queued = nil, 0
		missing := r.target > r.head.Last
		headBad := r.headBad
		r.headBad = false
		r.mu.Unlock()
		if headBad {
			if err := r.update(func(tx *bolt.Tx) error { return writeHead(tx, r.head) }); err != nil {
				r.keep(batch)
				return fmt.Errorf("write the file's head again: %w", err)
			}
		}
		if bad := r.nextBad(); bad != 0 {
			if err := r.repair(ctx, bad); err != nil {
				r.opt.Log.Warn().Err(err).Uint64("seq", bad).Msg("corrupt event could not be repaired yet")
			}
		}
		if len(batch) == 0 {
			if !missing {
				r.written()
				return nil
			}
			if err := r.pull(ctx); err != nil {
				return err
			}
			r.mu.Lock()
			idle := len(r.queue) == 0
			r.mu.Unlock()
			if idle {
				return nil // what is still missing is tried again with the next tick
			}
			continue
		}
		gap, err := r.take(batch)
		if err != nil {
			r.keep(batch)
			return err
		}
		if len(gap) == 0 {
			continue
		}
		err = r.pull(ctx)
		r.mu.Lock()
		r.queue = append(gap, r.queue...)
		for _, e := range gap {
			r.queued += len(e.Bytes)
		}
		r.mu.Unlock()
		if err != nil {
			return err
		}
		if gap[0].Seq > r.head.Last+1 {
			return nil // the voter that was asked lags itself
		}
	}
	return nil
}

// keep puts a batch that could not be written back to the front of the queue.
func (r *Replica) keep(batch []Encoded) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.degraded == nil {
		return // it was no good
	}
	r.queue = append(batch, r.queue...)
	for i := range batch {
		r.queued += len(batch[i].Bytes)
	}
}

// take compares what is there already, appends what is next, and returns what is beyond a gap.
func (r *Replica) take(batch []Encoded) (gap []Encoded, err error) {
	if !slices.IsSortedFunc(batch, bySeq) {
		slices.SortStableFunc(batch, bySeq)
	}
	for len(batch) > 0 {
		last, cut := r.head.Last, r.head.Cut
		known := 0
		for known < len(batch) && batch[known].Seq <= last {
			known++
		}
		if known > 0 {
			// The chain makes one comparison do for all before it.
			if e := batch[known-1]; e.Seq > cut {
				if err := r.compare(e); err != nil {
					return nil, err
				}
				if r.head.Last < last {
					continue // our own end was wrong and is gone
				}
			}
			batch = batch[known:]
			continue
		}
		if batch[0].Seq > last+1 {
			return batch, nil
		}
		run := 1
		for run < len(batch) && run < appendAtOnce && batch[run].Seq == batch[run-1].Seq+1 {
			run++
		}
		if first := batch[0]; !r.opt.hooks.noChain && r.lastHash.Next(first.Bytes) != first.Hash {
			// The state's hash does not follow from ours: what we have before it is not the ring's.
			if err := r.differs(last, r.lastHash, event.Hash{}); err != nil {
				return nil, err
			}
			return batch, nil
		}
		if err := r.append(batch[:run], true); err != nil {
			return nil, err
		}
		batch = batch[run:]
	}
	return nil, nil
}

func bySeq(a, b Encoded) int { return cmp.Compare(a.Seq, b.Seq) }

// compare holds e, as the state has it, against what is stored under its seq.
func (r *Replica) compare(e Encoded) error {
	if r.opt.hooks.noCompare {
		return nil
	}
	have, err := r.hashAt(e.Seq)
	if err != nil {
		return err
	}
	if have != e.Hash {
		return r.differs(e.Seq, have, e.Hash)
	}
	if e.Seq > r.head.Verified {
		r.mu.Lock()
		r.head.Verified = e.Seq // written with the next append
		r.mu.Unlock()
	}
	return nil
}

// differs deals with a copy that is not the ring's at seq. What was pulled from a peer and not yet checked is thrown into
// quarantine and pulled again; anything else is an alarm, and nothing is changed until Reconcile is called.
func (r *Replica) differs(seq uint64, have, want event.Hash) error {
	if r.head.CutUnsure {
		r.alarms.raise(AlarmPeerDiffers, seq, "the cut of the log, taken from a peer, is not the ring's")
		r.mu.Lock()
		target := r.target
		r.mu.Unlock()
		if _, err := r.moveTail(r.head.Cut); err != nil {
			return err
		}
		defer r.Expect(target)
		return r.reset(replicaHead{})
	}
	if seq > r.head.Verified {
		r.alarms.raise(AlarmPeerDiffers, seq, fmt.Sprintf("records after %d, pulled from a peer, are not the ring's", r.head.Verified))
		_, err := r.moveTail(r.head.Verified)
		return err
	}
	d := &DivergedError{Seq: seq, Have: have, Want: want}
	r.mu.Lock()
	r.diverged, r.queue, r.queued = d, nil, 0
	r.mu.Unlock()
	r.alarms.raise(AlarmReplicaDiverged, seq, d.Error())
	return d
}

// append stores records that follow the last one, with one fsync. sure says that they come from a voter's state.
func (r *Replica) append(run []Encoded, sure bool) error {
	head, hash := r.head, r.lastHash
	records := make([]event.Record, 0, len(run))
	for i := range run {
		e := &run[i]
		chained := i > 0 && e.placed && run[i-1].placed
		if !chained && hash.Next(e.Bytes) != e.Hash && !r.opt.hooks.noChain {
			return &CorruptError{Seq: e.Seq, Detail: "its running hash does not follow"}
		}
		hash = e.Hash
		rec, err := r.decoder.Record(e.Bytes)
		if err != nil || rec.Seq != e.Seq {
			return &CorruptError{Seq: e.Seq, Detail: "it is no record of that seq"}
		}
		records = append(records, rec)
	}
	began := time.Now()
	err := guard(r.opt.Path, func() error {
		if f := r.opt.hooks.commit; f != nil {
			if err := f(); err != nil {
				return err
			}
		}
		if err := update(r.db, func(tx *bolt.Tx) error {
			size, err := putRecords(&r.blocks, tx.Bucket(bucketLog), run[0].Seq, run)
			if err != nil {
				return err
			}
			head.Bytes += size
			head.Last = run[len(run)-1].Seq
			if sure {
				head.Verified = head.Last
			}
			return writeHead(tx, head)
		}); err != nil {
			return err
		}
		if f := r.opt.hooks.committed; f != nil {
			return f()
		}
		return nil
	})
	if err != nil {
		r.fail(err)
		return fmt.Errorf("append events %d to %d: %w", run[0].Seq, run[len(run)-1].Seq, err)
	}
	now := time.Now()
	r.rested = now.Add(min(r.opt.Gather, max(restLeast, restShare*now.Sub(began))))
	r.written()
	r.settle(head, hash)
	if r.opt.OnAppend != nil {
		r.opt.OnAppend(records)
	}
	return nil
}

// settle makes a new end visible.
func (r *Replica) settle(head replicaHead, hash event.Hash) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.head, r.lastHash = head, hash
	r.target = max(r.target, head.Last)
	r.durable.Store(head.Last)
	close(r.changed)
	r.changed = make(chan struct{})
}

// hashAt is the running hash after seq, which must be kept or be the cut.
func (r *Replica) hashAt(seq uint64) (event.Hash, error) {
	r.mu.Lock()
	head, last, db := r.head, r.lastHash, r.db
	r.mu.Unlock()
	switch {
	case seq == head.Last:
		return last, nil
	case seq == head.Cut:
		return head.CutHash, nil
	}
	e, err := r.stored(db, seq)
	return e.Hash, err
}

func (r *Replica) stored(db *bolt.DB, seq uint64) (Encoded, error) {
	var e Encoded
	if db == nil {
		return e, r.away()
	}
	err := r.view(db, func(tx *bolt.Tx) error {
		crc := !r.opt.hooks.noCRC
		got, ok := decodeStored(seq, readRecords(tx.Bucket(bucketLog), crc).get(seq), crc)
		if !ok {
			return &CorruptError{Seq: seq, Detail: "it fails the check"}
		}
		e = got
		e.Bytes = slices.Clone(got.Bytes)
		return nil
	})
	if bad := (*CorruptError)(nil); errors.As(err, &bad) {
		r.noteCorrupt(bad)
	}
	return e, err
}
