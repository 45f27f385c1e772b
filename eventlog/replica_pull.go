package eventlog

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ringagent/ringagent/eventlog/event"
)

// errNoSource says that nobody could hand out what is missing.
var errNoSource = errors.New("no peer could supply the missing events")

// pull gets what is missing from near replicas. What it got is held against the state of a voter, never only against the
// peer that gave it.
func (r *Replica) pull(ctx context.Context) error {
	if r.opt.Sources == nil {
		return errNoSource
	}
	head, err := r.askHead(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.target = max(r.target, head.Seq)
	r.mu.Unlock()
	if head.Seq <= r.head.Last {
		return r.checkHead(head)
	}
	peers, err := r.opt.Sources.Near(ctx)
	if err != nil {
		return fmt.Errorf("list replicas: %w", err)
	}
	var errs []error
	for _, p := range peers {
		done, err := r.pullFrom(ctx, p, head)
		if done || ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, errNoSource)...)
}

// supplyPatience is how long a copy may lack what nobody supplies before people are told: whoever has it may be starting.
const supplyPatience = 30 * time.Second

// wait is since when a copy that ends at last has asked in vain.
type wait struct {
	since time.Time
	last  uint64
}

// supply tells of a copy that lacks events which nobody who answers can supply, and of its end. err is what the last look came to.
func (r *Replica) supply(err error) {
	r.mu.Lock()
	last, target, short := r.head.Last, r.target, r.short
	r.mu.Unlock()
	tell := func(short bool) {
		r.mu.Lock()
		r.short = short
		r.mu.Unlock()
	}
	switch now := r.opt.Now(); {
	case target <= last:
		r.waits = wait{}
		if short {
			tell(false)
			r.alarms.clear(AlarmReplicaShort, "copy of the log has what it lacked")
		}
	case !errors.Is(err, errNoSource): // nobody was asked
	case r.waits.since.IsZero(), r.waits.last != last:
		r.waits = wait{now, last}
	case !short && now.Sub(r.waits.since) >= supplyPatience:
		tell(true)
		r.alarms.raise(AlarmReplicaShort, last+1, fmt.Sprintf("copy of the log lacks events %d to %d, and nobody who answers can supply them", last+1, target))
	}
}

func (r *Replica) askHead(ctx context.Context) (Head, error) {
	ctx, cancel := context.WithTimeout(ctx, r.opt.FetchTimeout)
	defer cancel()
	head, err := r.opt.Sources.Head(ctx)
	if err != nil {
		return head, fmt.Errorf("ask for the log's end: %w", err)
	}
	return head, nil
}

// checkHead compares our record at head with the voter's.
func (r *Replica) checkHead(head Head) error {
	if head.Seq <= r.head.Cut {
		return nil
	}
	return r.compare(Encoded{Seq: head.Seq, Hash: head.Hash})
}

// pullFrom pulls from one peer up to head, as far as it has it. done says that head is reached and agrees.
func (r *Replica) pullFrom(ctx context.Context, p Puller, head Head) (done bool, err error) {
	for r.head.Last < head.Seq {
		got, err := r.fetch(ctx, p, r.head.Last, fetchAtOnce)
		if gone := (*Compacted)(nil); errors.As(err, &gone) {
			if err := r.skip(gone, head); err != nil {
				return false, err
			}
			continue
		}
		if err != nil {
			return false, err
		}
		for len(got) > 0 && got[len(got)-1].Seq > head.Seq {
			got = got[:len(got)-1]
		}
		if len(got) == 0 {
			return false, nil // the peer itself lags
		}
		if got[0].Seq != r.head.Last+1 {
			return false, fmt.Errorf("pull: peer sent %d after %d", got[0].Seq, r.head.Last)
		}
		if err := r.append(got, false); err != nil {
			return false, err
		}
	}
	if r.opt.hooks.noHead {
		return true, nil
	}
	before := r.head.Last
	if err := r.checkHead(head); err != nil {
		return false, err
	}
	if r.head.Last < before {
		return false, nil // the pulled records were not the ring's, ask another peer
	}
	sure := r.head
	sure.CutUnsure = false // the chain from the cut leads to the ring's hash
	if err := r.update(func(tx *bolt.Tx) error { return writeHead(tx, sure) }); err != nil {
		return false, err
	}
	r.mu.Lock()
	r.head = sure
	r.mu.Unlock()
	return true, nil
}

func (r *Replica) fetch(ctx context.Context, p Puller, after uint64, limit int) ([]Encoded, error) {
	ctx, cancel := context.WithTimeout(ctx, r.opt.FetchTimeout)
	defer cancel()
	got, err := p.Fetch(ctx, after, limit)
	if err != nil {
		return nil, fmt.Errorf("pull events after %d: %w", after, err)
	}
	for i := 1; i < len(got); i++ {
		if got[i].Seq != got[i-1].Seq+1 {
			return nil, fmt.Errorf("pull events after %d: peer sent %d after %d", after, got[i].Seq, got[i-1].Seq)
		}
	}
	return got, nil
}

// skip lets go of everything that a peer no longer keeps, so that this copy goes on behind the gap. The peer's hash at the
// gap is checked with the rest, against head.
func (r *Replica) skip(gone *Compacted, head Head) error {
	if gone.To <= r.head.Last || gone.To > head.Seq || gone.Oldest != gone.To+1 {
		return fmt.Errorf("pull: peer speaks of a gap up to %d, we have %d of %d", gone.To, r.head.Last, head.Seq)
	}
	if r.head.Last > r.head.Cut {
		r.opt.Log.Warn().Uint64("from", r.head.Cut+1).Uint64("to", r.head.Last).Uint64("oldest", gone.Oldest).
			Msg("the ring no longer keeps what follows on our copy of the log; it is dropped too")
	}
	return r.reset(replicaHead{Cut: gone.To, CutHash: gone.Hash, CutUnsure: true, Last: gone.To, Verified: gone.To})
}

// reset empties the log and lets it begin behind next.Cut.
func (r *Replica) reset(next replicaHead) error {
	err := r.update(func(tx *bolt.Tx) error {
		if err := errors.Join(tx.DeleteBucket(bucketLog), makeBuckets(tx, [][]byte{bucketLog})); err != nil {
			return err
		}
		return writeHead(tx, next)
	})
	if err != nil {
		return fmt.Errorf("begin behind event %d: %w", next.Cut, err)
	}
	r.settle(next, next.CutHash)
	return nil
}

func (r *Replica) update(do func(tx *bolt.Tx) error) error {
	err := guard(r.opt.Path, func() error { return update(r.db, do) })
	if err != nil {
		r.fail(err)
	}
	return err
}

// moveTail puts everything after seq keep into a file in quarantine and takes it off the log.
func (r *Replica) moveTail(keep uint64) (string, error) {
	hash, err := r.hashAt(keep)
	if err != nil {
		return "", err
	}
	path := filepath.Join(r.opt.Quarantine, fmt.Sprintf("events-%d-%d.%.16s.db", keep+1, r.head.Last, r.lastHash))
	if err := makeDir(r.opt.Quarantine); err != nil {
		return "", err
	}
	head := r.head
	err = makeFile(path, func(to *bolt.Tx) error {
		if err := makeBuckets(to, replicaBuckets); err != nil {
			return err
		}
		side := replicaHead{Cut: keep, CutHash: hash, Verified: keep, Last: head.Last}
		err := guard(r.opt.Path, func() error {
			return r.db.View(func(tx *bolt.Tx) error {
				c := tx.Bucket(bucketLog).Cursor()
				key, v := blockOf(c, keep+1)
				if key == nil { // nothing stands there, but perhaps behind it
					key, v = c.First()
				}
				for ; key != nil; key, v = c.Next() {
					k, ok := readBlock(key, v, true)
					if ok && k.last() <= keep {
						continue
					}
					if ok && k.first <= keep {
						key, v = beKey(keep+1), sealedRun{k, keep + 1, k.last()}.value()
					}
					if err := to.Bucket(bucketLog).Put(key, v); err != nil { // bad ones as they are
						return err
					}
				}
				return nil
			})
		})
		if err != nil {
			return err
		}
		side.Bytes, side.BytesUnsure = countBytes(to.Bucket(bucketLog), side)
		return writeHead(to, side)
	})
	if err != nil {
		return "", fmt.Errorf("move the tail after %d to quarantine: %w", keep, err)
	}
	head.Last, head.Verified = keep, min(head.Verified, keep)
	err = r.update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketLog)
		if err := dropAfter(b, keep); err != nil {
			return err
		}
		head.Bytes, head.BytesUnsure = countBytes(b, head)
		return writeHead(tx, head)
	})
	if err != nil {
		return "", fmt.Errorf("take the tail after %d off: %w", keep, err)
	}
	r.settle(head, hash)
	return path, nil
}

// Reconcile makes a copy that differs follow the ring again: it finds the last seq at which both agree, moves what is after
// it to quarantine and pulls the rest. It is for a new generation after a recovery: nothing of this package calls it. Before
// anything is moved, moving is told up to where the copy was the ring's; its error ends it there.
func (r *Replica) Reconcile(ctx context.Context, moving func(after uint64) error) (m Moved, err error) {
	done := make(chan struct{})
	job := func(ctx context.Context) {
		defer close(done)
		m, err = r.reconcile(ctx, moving)
	}
	select {
	case r.control <- job:
		<-done
		return m, err
	case <-ctx.Done():
		return Moved{}, ctx.Err()
	case <-r.stopped:
		return Moved{}, ErrClosed
	}
}

// Moved is what Reconcile took off.
type Moved struct {
	After uint64 // the seq up to which the copy was the ring's
	Path  string // of the records behind it, or "" where there were none
}

func (r *Replica) reconcile(ctx context.Context, moving func(uint64) error) (Moved, error) {
	if r.opt.Sources == nil {
		return Moved{}, errNoSource
	}
	head, err := r.askHead(ctx)
	if err != nil {
		return Moved{}, err
	}
	peers, err := r.opt.Sources.Near(ctx)
	if err != nil {
		return Moved{}, fmt.Errorf("list replicas: %w", err)
	}
	errs := []error{errNoSource}
	for _, p := range peers {
		keep, err := r.fork(ctx, p, head)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		m := Moved{After: keep}
		if keep < r.head.Last {
			if err := moving(keep); err != nil {
				return Moved{}, err
			}
			if m.Path, err = r.moveTail(keep); err != nil {
				return Moved{}, err
			}
		}
		r.mu.Lock()
		was := r.diverged
		r.diverged, r.target = nil, head.Seq
		r.head.Verified = min(r.head.Verified, keep)
		r.mu.Unlock()
		if was != nil {
			r.alarms.clear(AlarmReplicaDiverged, fmt.Sprintf("copy of the log follows the ring again, from %d on", keep+1))
		}
		return m, nil
	}
	return Moved{}, errors.Join(errs...)
}

// fork finds the highest seq up to which p, which must itself agree with head, has the same log as we have.
func (r *Replica) fork(ctx context.Context, p Puller, head Head) (uint64, error) {
	theirs := func(seq uint64) (event.Hash, error) {
		got, err := r.fetch(ctx, p, seq-1, 1)
		if err == nil && (len(got) == 0 || got[0].Seq != seq) {
			err = fmt.Errorf("peer has no event %d", seq)
		}
		if err != nil {
			return event.Hash{}, err
		}
		return got[0].Hash, nil
	}
	if head.Seq > 0 {
		if h, err := theirs(head.Seq); err != nil || h != head.Hash {
			return 0, errors.Join(fmt.Errorf("peer does not agree with the ring at %d", head.Seq), err)
		}
	}
	low, high := r.head.Cut, min(r.head.Last, head.Seq)
	for low < high {
		mid := low + (high-low+1)/2
		have, err := r.hashAt(mid)
		if err != nil {
			return 0, err
		}
		h, err := theirs(mid)
		if err != nil {
			return 0, err
		}
		if h == have {
			low = mid
		} else {
			high = mid - 1
		}
	}
	return low, nil
}
