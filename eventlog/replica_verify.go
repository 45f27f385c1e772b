package eventlog

import (
	"context"
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ringagent/ringagent/eventlog/event"
)

var errHeadBad = errors.New("the file's head fails the check")

// VerifyResult is what a check of a whole replica found.
type VerifyResult struct {
	OK       bool
	FirstBad uint64 // the first seq that is wrong, 0 if none is
	Detail   string // what is wrong with it
	Oldest   uint64 // the first seq that was looked at
	LastSeq  uint64 // the last one
	Hash     event.Hash
}

// Verify reads every kept record from the disk and recomputes checksums and hash chain, up to the end that the log had when
// it began. The error is only for what kept it from looking; damage is a result.
func (r *Replica) Verify(ctx context.Context) (VerifyResult, error) {
	r.mu.Lock()
	head, want, db := r.head, r.lastHash, r.db
	r.mu.Unlock()
	if db == nil {
		return VerifyResult{}, r.away()
	}
	res := VerifyResult{Oldest: head.Cut + 1, LastSeq: head.Last, Hash: head.CutHash}
	next := head.Cut + 1
	bad := func(seq uint64, format string, args ...any) VerifyResult {
		res.FirstBad, res.Detail = seq, fmt.Sprintf(format, args...)
		return res
	}
	for next <= head.Last {
		if err := ctx.Err(); err != nil {
			return res, fmt.Errorf("verify the log: %w", err)
		}
		wrong := ""
		var now replicaHead // as the file has it where something is wrong
		err := r.view(db, func(tx *bolt.Tx) error {
			if next, wrong = r.verifyPart(tx, next, head.Last, &res.Hash); wrong != "" {
				now, _ = readHead(tx)
			}
			return nil
		})
		if unseen(err) {
			return res, fmt.Errorf("verify the log: %w", err)
		}
		if err != nil {
			return bad(next, "the file's pages are damaged: %v", err), nil
		}
		if wrong == "" {
			continue
		}
		if next <= now.Cut { // it was dropped meanwhile, in good order
			next, res.Hash, res.Oldest = now.Cut+1, now.CutHash, now.Cut+1
			continue
		}
		if now.Last > 0 && next > now.Last { // its tail was moved to quarantine meanwhile
			select {
			case <-time.After(findAgain):
			case <-ctx.Done():
			}
			return r.Verify(ctx)
		}
		r.noteCorrupt(&CorruptError{Seq: next, Detail: wrong})
		return bad(next, "%s", wrong), nil
	}
	if res.Hash != want && head.Last > head.Cut {
		return bad(head.Last, "the running hash is %s, but %s was written", res.Hash, want), nil
	}
	err := r.view(db, func(tx *bolt.Tx) error {
		if !headWhole(tx) {
			return errHeadBad
		}
		return nil
	})
	if errors.Is(err, errHeadBad) {
		r.mu.Lock()
		r.headBad = true
		r.mu.Unlock()
		r.nudge()
	}
	if unseen(err) {
		return res, fmt.Errorf("verify the log: %w", err)
	}
	if err != nil {
		return bad(res.Oldest, "%v", err), nil
	}
	res.OK = true
	return res, nil
}

// unseen says that nobody could look.
func unseen(err error) bool { return errors.Is(err, errReopening) || errors.Is(err, ErrClosed) }

// verifyPart checks up to readMost records from next to last and moves hash on. wrong says what is bad about the returned
// seq, if anything.
func (r *Replica) verifyPart(tx *bolt.Tx, next, last uint64, hash *event.Hash) (at uint64, wrong string) {
	records := readRecords(tx.Bucket(bucketLog), !r.opt.hooks.noCRC)
	var decoder event.Decoder
	for n := 0; n < readMost && next <= last; n++ {
		v := records.get(next)
		e, ok := decodeStored(next, v, !r.opt.hooks.noCRC)
		switch {
		case v == nil:
			return next, "it is missing, or its block's checksum is wrong"
		case !ok:
			return next, "its checksum is wrong"
		}
		if h := hash.Next(e.Bytes); h != e.Hash && !r.opt.hooks.noChain {
			return next, "its running hash does not follow from the one before"
		}
		rec, err := decoder.Record(e.Bytes)
		if err != nil || rec.Seq != next {
			return next, "it is no record of that seq"
		}
		*hash = e.Hash
		next++
	}
	return next, ""
}
