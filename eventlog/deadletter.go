package eventlog

import (
	"context"
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
)

// Letter is one (event, handler) pair that failed for good until somebody retries it.
type Letter struct {
	ID          string     `json:"id"`
	EventID     string     `json:"event_id"`
	Seq         uint64     `json:"seq"`
	Type        event.Type `json:"type"`
	Handler     string     `json:"handler"`
	Node        id.Node    `json:"node"` // where it failed
	Error       string     `json:"error"`
	Attempts    int        `json:"attempts"` // before it became a dead letter
	Retries     int        `json:"retries"`  // since then
	FirstFailed time.Time  `json:"first_failed"`
	LastFailed  time.Time  `json:"last_failed"`
	Abandoned   bool       `json:"abandoned,omitempty"` // retried too often; stays until it is dropped or retried by hand
	// Record is the event itself, so that it can be retried when the log no longer keeps it. A store may leave it out.
	Record []byte `json:"record,omitempty"`
}

// LetterID names the pair of an event and a handler.
func LetterID(seq uint64, handler string) string { return fmt.Sprintf("%d-%s", seq, handler) }

// ErrNoLetter says that there is no dead letter of that id.
var ErrNoLetter = errors.New("no such dead letter")

// Letters keeps dead letters. Those of node-scope handlers live in state.db, a singleton's in the replicated state.
type Letters interface {
	// Put adds a letter, or replaces the one with the same id.
	Put(ctx context.Context, l Letter) error
	// List returns all letters, oldest seq first.
	List(ctx context.Context) ([]Letter, error)
	// Get returns one, or ErrNoLetter.
	Get(ctx context.Context, id string) (Letter, error)
	// Drop removes one, or returns ErrNoLetter.
	Drop(ctx context.Context, id string) error
}

var bucketLetters = []byte("eventlog dead letters")

// LocalLetters keeps dead letters in a bbolt file of this node.
type LocalLetters struct{ db *bolt.DB }

// NewLocalLetters makes its bucket in db, which stays the caller's.
func NewLocalLetters(db *bolt.DB) (*LocalLetters, error) {
	err := db.Update(func(tx *bolt.Tx) error { return makeBuckets(tx, [][]byte{bucketLetters}) })
	if err != nil {
		return nil, fmt.Errorf("prepare dead letters: %w", err)
	}
	return &LocalLetters{db}, nil
}

// letterKey sorts by seq.
func letterKey(l Letter) []byte { return append(beKey(l.Seq), l.Handler...) }

// Put implements Letters.
func (s *LocalLetters) Put(_ context.Context, l Letter) error {
	err := guard(s.db.Path(), func() error {
		return s.db.Batch(func(tx *bolt.Tx) error { return putJSON(tx.Bucket(bucketLetters), letterKey(l), l) })
	})
	if err != nil {
		return fmt.Errorf("put dead letter %s: %w", l.ID, err)
	}
	return nil
}

// List implements Letters. A letter that fails its check is listed with that as its error.
func (s *LocalLetters) List(context.Context) ([]Letter, error) {
	var out []Letter
	err := guard(s.db.Path(), func() error {
		return s.db.View(func(tx *bolt.Tx) error {
			b := tx.Bucket(bucketLetters)
			return b.ForEach(func(key, _ []byte) error {
				var l Letter
				if !getJSON(b, key, &l) {
					l = Letter{Error: "this letter is corrupt"}
					if len(key) > 8 {
						for _, c := range key[:8] {
							l.Seq = l.Seq<<8 | uint64(c)
						}
						l.Handler = string(key[8:])
						l.ID = LetterID(l.Seq, l.Handler)
					}
				}
				out = append(out, l)
				return nil
			})
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	return out, nil
}

// Get implements Letters.
func (s *LocalLetters) Get(ctx context.Context, id string) (Letter, error) {
	all, err := s.List(ctx)
	if err != nil {
		return Letter{}, err
	}
	for _, l := range all {
		if l.ID == id {
			return l, nil
		}
	}
	return Letter{}, fmt.Errorf("%w: %s", ErrNoLetter, id)
}

// Drop implements Letters.
func (s *LocalLetters) Drop(ctx context.Context, id string) error {
	l, err := s.Get(ctx, id)
	if err != nil {
		return err
	}
	err = guard(s.db.Path(), func() error {
		return s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketLetters).Delete(letterKey(l)) })
	})
	if err != nil {
		return fmt.Errorf("drop dead letter %s: %w", id, err)
	}
	return nil
}
