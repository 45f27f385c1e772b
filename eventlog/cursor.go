package eventlog

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// CursorStore keeps how far a durable subscriber has got. A node-scope one lives in state.db; that of a singleton in the
// replicated state, where it never moves back.
type CursorStore interface {
	// Load returns the seq up to which everything was delivered; ok is false for a subscriber that is not known.
	Load(ctx context.Context, consumer string) (seq uint64, ok bool, err error)
	// Save is called in order, with rising seqs, at most as often as Consumer.SaveEvery says.
	Save(ctx context.Context, consumer string, seq uint64) error
}

// ErrCursorCorrupt says that a stored cursor fails its check. Its subscriber begins with the oldest record then: twice is
// better than never.
var ErrCursorCorrupt = errors.New("stored cursor is corrupt")

var bucketCursors = []byte("eventlog cursors")

// LocalCursors keeps cursors in a bbolt file of this node.
type LocalCursors struct{ db *bolt.DB }

// NewLocalCursors makes its bucket in db, which stays the caller's.
func NewLocalCursors(db *bolt.DB) (*LocalCursors, error) {
	err := db.Update(func(tx *bolt.Tx) error { return makeBuckets(tx, [][]byte{bucketCursors}) })
	if err != nil {
		return nil, fmt.Errorf("prepare cursors: %w", err)
	}
	return &LocalCursors{db}, nil
}

// Load implements CursorStore.
func (c *LocalCursors) Load(_ context.Context, consumer string) (seq uint64, ok bool, err error) {
	err = guard(c.db.Path(), func() error {
		return c.db.View(func(tx *bolt.Tx) error {
			key := []byte(consumer)
			v := tx.Bucket(bucketCursors).Get(key)
			if v == nil {
				return nil
			}
			body, good := unseal(key, v)
			if !good || len(body) != 8 {
				return ErrCursorCorrupt
			}
			seq, ok = binary.BigEndian.Uint64(body), true
			return nil
		})
	})
	if err != nil {
		return 0, false, fmt.Errorf("load cursor of %s: %w", consumer, err)
	}
	return seq, ok, nil
}

// Save implements CursorStore. Saves of several subscribers at once share an fsync.
func (c *LocalCursors) Save(_ context.Context, consumer string, seq uint64) error {
	err := guard(c.db.Path(), func() error {
		return c.db.Batch(func(tx *bolt.Tx) error { return putSealed(tx.Bucket(bucketCursors), []byte(consumer), beKey(seq)) })
	})
	if err != nil {
		return fmt.Errorf("save cursor of %s: %w", consumer, err)
	}
	return nil
}

// Rewind takes all cursors that are behind seq back to it: the records that follow it are others now. None of the subscribers
// may be running, or it would save its own again.
func (c *LocalCursors) Rewind(seq uint64) error {
	err := guard(c.db.Path(), func() error {
		return c.db.Update(func(tx *bolt.Tx) error {
			b := tx.Bucket(bucketCursors)
			var ahead [][]byte
			err := b.ForEach(func(key, v []byte) error {
				if body, good := unseal(key, v); good && len(body) == 8 && binary.BigEndian.Uint64(body) > seq {
					ahead = append(ahead, bytes.Clone(key))
				}
				return nil
			})
			for _, key := range ahead {
				err = errors.Join(err, putSealed(b, key, beKey(seq)))
			}
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("rewind cursors: %w", err)
	}
	return nil
}

// Forget drops the cursor of a subscriber that will not come back.
func (c *LocalCursors) Forget(_ context.Context, consumer string) error {
	err := guard(c.db.Path(), func() error {
		return c.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketCursors).Delete([]byte(consumer)) })
	})
	if err != nil {
		return fmt.Errorf("forget cursor of %s: %w", consumer, err)
	}
	return nil
}
