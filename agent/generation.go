package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

const (
	generationRetry = 2 * time.Second
	// subscribersEnd is how long the subscribers of this node have to end before their cursors are taken back.
	subscribersEnd = 10 * time.Second

	keyGeneration = "generation" // the one that this node's copy of the log follows
	keyRewind     = "rewind"     // the seq to which cursors are still to be taken back
)

// followGenerations has this node's copy of the log, and what has read it, follow the ring into a new generation: what only
// the voters that were lost had of the log is not in it, and other events stand in its place.
func (a *Agent) followGenerations(ctx context.Context) {
	shelf := a.local.shelf("agent")
	failed := false
	for ctx.Err() == nil {
		more := a.leader.Changes()
		var retry <-chan time.Time
		err := a.followGeneration(ctx, shelf)
		if err != nil && ctx.Err() == nil {
			if !failed {
				a.log.Warn().Err(err).Msg("this node's copy of the log does not follow the new generation of the ring yet")
			}
			retry = time.After(generationRetry)
		}
		failed = err != nil
		if failed {
			more = nil // what changes meanwhile is no reason to hurry
		}
		select {
		case <-more:
		case <-retry:
		case <-ctx.Done():
		}
	}
}

func (a *Agent) followGeneration(ctx context.Context, shelf shelf) error {
	now := a.leader.View().Generation()
	if now == a.generation {
		return nil
	}
	known, _, err := numberAt(shelf, keyGeneration)
	if err != nil {
		return err
	}
	if now > known {
		a.outbox.AskAgain() // the ring may lack what it had acknowledged
		m, err := a.replica.Reconcile(ctx, func(after uint64) error {
			// Before the records go: what has read them could not be told afterwards.
			if to, due, err := numberAt(shelf, keyRewind); err != nil || due && to <= after {
				return err
			}
			return putNumber(shelf, keyRewind, after)
		})
		if err != nil {
			return fmt.Errorf("reconcile the copy of the log: %w", err)
		}
		if m.Path != "" {
			a.log.Warn().Uint64("after", m.After).Str("moved_to", m.Path).Msg("the end of this node's copy of the log is not the ring's any more")
		}
	}
	to, due, err := numberAt(shelf, keyRewind)
	if err != nil {
		return err
	}
	if due {
		if err := a.rewind(ctx, to); err != nil {
			return err
		}
	}
	if now > known {
		if err := putNumber(shelf, keyGeneration, now); err != nil {
			return err
		}
	}
	if due {
		if err := shelf.Delete(keyRewind); err != nil {
			return err
		}
	}
	a.generation = now
	return nil
}

// rewind takes back the cursors of all that have read beyond seq. Events that come again are dealt with twice, which whoever
// reads the log must bear.
func (a *Agent) rewind(ctx context.Context, seq uint64) error {
	return a.router.rest(func() error {
		ctx, cancel := context.WithTimeout(ctx, subscribersEnd)
		defer cancel()
		for len(a.dispatcher.Status()) > 0 {
			if !pause(ctx, 20*time.Millisecond) {
				return errors.New("a subscriber does not end")
			}
		}
		return errors.Join(a.cursors.Rewind(seq), a.external.rewind(seq))
	})
}

// rewind takes the consumers of other processes back, and ends their streams.
func (x *external) rewind(seq uint64) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	close(x.turned)
	x.turned = make(chan struct{})
	keys, err := x.cursors.Keys("cursor/")
	if err != nil {
		return err
	}
	for _, key := range keys {
		name := strings.TrimPrefix(key, "cursor/")
		at, err := x.cursor(name)
		if err != nil {
			return err
		}
		// First: without it an acknowledgement could move the cursor forward again.
		if err := putNumber(x.cursors, "turned/"+name, seq); err != nil {
			return err
		}
		if at <= seq {
			continue
		}
		if err := putNumber(x.cursors, key, seq); err != nil {
			return err
		}
	}
	return nil
}

// open begins a stream of a consumer: behind which seq, and until when. From now on it may acknowledge what it is shown.
func (x *external) open(name string) (after uint64, turned <-chan struct{}, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	after, known, err := numberAt(x.cursors, "cursor/"+name)
	if err == nil && !known { // rewind must know of it, though it has acknowledged nothing
		err = putNumber(x.cursors, "cursor/"+name, 0)
	}
	if err != nil {
		return 0, nil, err
	}
	if _, stale, err := numberAt(x.cursors, "turned/"+name); err != nil || !stale {
		return after, x.turned, err
	}
	return after, x.turned, x.cursors.Delete("turned/" + name)
}

// stale refuses what a consumer acknowledges of what it was shown before other events took its place.
func (x *external) stale(name string) error {
	seq, turned, err := numberAt(x.cursors, "turned/"+name)
	if err != nil || !turned {
		return err
	}
	return api.Errorf(api.CodeConflict, "the ring was recovered: other events than consumer %s was shown stand behind seq %d", name, seq).
		WithHint("read its stream again, it begins with them")
}

func numberAt(s shelf, key string) (n uint64, found bool, err error) {
	b, found, err := s.Get(key)
	if err != nil || !found {
		return 0, false, err
	}
	if len(b) != 8 {
		return 0, false, fmt.Errorf("%s in state.db is damaged", key)
	}
	return binary.BigEndian.Uint64(b), true, nil
}

func putNumber(s shelf, key string, n uint64) error {
	return s.Put(key, binary.BigEndian.AppendUint64(nil, n))
}

// writtenDown finds a member by its id or name. Of those that have had a name it is the one that has it now: a machine that was
// wiped has enrolled anew under its name.
func writtenDown(known []ring.Member, who string) (best ring.Member, found bool) {
	for _, m := range known {
		switch {
		case string(m.ID) == who:
			return m, true
		case m.Name != who:
		case !found, best.Revoked && !m.Revoked, best.Revoked == m.Revoked && m.Enrolled.After(best.Enrolled):
			best, found = m, true
		}
	}
	return best, found
}

// recoverRing makes this node the only voter of the ring, without the lost ones.
func (a *Agent) recoverRing(ctx context.Context, in api.Recover) (any, error) {
	near := a.near()
	known := a.roster.file().Members
	var lost []id.Node
	out := api.Recovered{Voter: near.name(a.node.ID), ShutOut: []string{}}
	for _, who := range in.Lost {
		m, err := near.find(who)
		if err != nil {
			// A node that has started since the loss knows no state yet, only what it wrote down.
			var ok bool
			if m, ok = writtenDown(known, who); !ok {
				return nil, err
			}
		}
		if slices.Contains(lost, m.ID) {
			continue
		}
		lost = append(lost, m.ID)
		out.ShutOut = append(out.ShutOut, m.Name)
	}
	var err error
	out.Generation, err = a.leader.Recover(ctx, lost)
	if err != nil {
		err = decided(err)
		if e := (*api.Error)(nil); errors.As(err, &e) && e.Code == api.CodeRefused && e.Hint == "" {
			e.Hint = "who votes and who answers: ringagent leader; what a recovery does: docs/operations.md"
		}
		return nil, err
	}
	return out, nil
}
