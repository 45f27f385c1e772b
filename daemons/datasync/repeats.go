package datasync

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// uncountedFor is how long the ring must not have counted packs of the ledger before that is made anew: after a start the receipts
// of some may not be known again yet.
const uncountedFor = time.Minute

// repeatsPerCall bounds one command.
const repeatsPerCall = 500

// count finds the games that several packs have, and states them, so that they count once. Only packs with receipts are
// looked at: a game is subtracted from one pack only while it is counted with an older one. What is not merged here is not
// entered either; another core node may have it.
func (m *merger) count(ctx context.Context, c id.Config, packs []ring.Artifact, cursor merged) error {
	path := filepath.Join(m.games, string(c)+".ledger")
	err := m.enter(ctx, c, path, packs, cursor)
	var said []ring.Repeat
	if err == nil {
		said, err = m.repeated(c, packs, cursor)
	}
	if errors.Is(err, gamedb.ErrLedger) {
		// It is made of packs, and is made again in the next steps. What was stated stays stated.
		m.log.Warn().Err(err).Str("config", string(c)).Msg("ledger of games is made anew")
		delete(m.entered, c)
		err = gamedb.Remove(path)
	}
	if err != nil {
		return fmt.Errorf("find repeated games: %w", err)
	}
	for some := range slices.Chunk(said, repeatsPerCall) {
		if err := m.effects.StateRepeats(ctx, some...); err != nil {
			return fmt.Errorf("state repeated games: %w", err)
		}
	}
	return nil
}

// enter brings up to perStep packs into the ledger. It is read once.
func (m *merger) enter(ctx context.Context, c id.Config, path string, packs []ring.Artifact, cursor merged) error {
	open := make(map[id.Digest]bool, len(cursor.Open))
	for _, d := range cursor.Open {
		open[d] = true
	}
	known, tries := m.entered[c], 0
	if known == nil && len(packs) > 0 {
		var err error
		if known, err = gamedb.Repeats(ctx, path); err != nil {
			return err
		}
		m.entered[c] = known
	}
	listed := make(map[id.Digest]bool, len(packs))
	for _, a := range packs {
		listed[a.Digest] = true
	}
	for _, a := range packs {
		if a.Seq > cursor.Seq || tries >= perStep {
			break
		}
		if _, done := known[a.Digest]; done || !a.Safe || open[a.Digest] || m.odd[a.Digest] {
			continue
		}
		file, here := m.store.Path(a.Digest) // this asks the disk
		if !here {
			continue
		}
		tries++
		if m.store.Verify(ctx, a.Digest) != nil {
			continue // it is fetched again, or was put aside
		}
		e := gamedb.Entry{Seq: a.Order(), Digest: a.Digest}
		var changed map[id.Digest]gamedb.Entered
		var gone []id.Digest
		var err error
		if a.Place == 0 {
			changed, err = gamedb.Enter(ctx, path, file, e)
		} else {
			gone = joinedBefore(known, listed, a.Order())
			changed, err = gamedb.Supersede(ctx, path, file, e, gone)
		}
		switch {
		case err == nil:
			for _, d := range gone {
				delete(known, d)
			}
			maps.Copy(known, changed)
		case gamedb.Damaged(err) && !errors.Is(err, gamedb.ErrLedger):
			m.odd[a.Digest] = true
			m.log.Warn().Err(err).Str("pack", a.Digest.Short()).Msg("games of a pack cannot be told from those of others")
		default:
			delete(m.entered, c) // it may be in there all the same
			return err
		}
	}
	return nil
}

// asCounted refuses a pack, a file to which nobody writes, that has not got the games that its record counts.
func asCounted(ctx context.Context, path string, a ring.Artifact) error {
	n, err := gamedb.CountFinished(ctx, path)
	if err == nil && int64(n.Games) != a.Counters[ring.CounterGames] {
		err = fmt.Errorf("%d games are counted in it, and %d are there: %w", a.Counters[ring.CounterGames], n.Games, gamedb.ErrUnsafe)
	}
	return err
}

// joinedBefore are the packs of the ledger up to a place in the order that are no longer listed: a view that has a joined pack has
// all that were added before, but for those that have been joined.
func joinedBefore(known map[id.Digest]gamedb.Entered, listed map[id.Digest]bool, order uint64) []id.Digest {
	var out []id.Digest
	for d, e := range known {
		if e.Seq <= order && !listed[d] {
			out = append(out, d)
		}
	}
	slices.Sort(out)
	return out
}

// repeated is what the ledger says and the state does not say yet. A state that lacks a pack of the ledger, or its receipts, does
// not count its games: then nothing is said. A joined pack that the ledger has not got yet, and may never get if all its copies are
// lost, is counted all the same, and with it what the ledger still has of the packs in it.
func (m *merger) repeated(c id.Config, packs []ring.Artifact, cursor merged) (said []ring.Repeat, err error) {
	known, counted := m.entered[c], 0
	coming := uint64(0) // up to here the ledger has packs whose games are in joined ones that it has not got
	listed := make(map[id.Digest]bool, len(packs))
	for _, a := range packs {
		listed[a.Digest] = true
		if _, ok := known[a.Digest]; !ok && a.Place != 0 && a.Safe && !m.odd[a.Digest] {
			coming = max(coming, a.Place)
		}
	}
	first := coming + 1 // from here on
	for d, e := range known {
		if e.Seq <= coming && !listed[d] {
			counted++
			first = min(first, e.Seq)
		}
	}
	for _, a := range packs {
		e, ok := known[a.Digest]
		if !ok || !a.Safe || a.Order() != e.Seq {
			continue
		}
		counted++
		if e.Seq >= first && e.Seq <= coming {
			continue // it may be older than the games that it repeats, where they are now
		}
		if n := min(e.Repeats, a.Counters[ring.CounterGames]); n > a.Counters[ring.CounterRepeats] {
			said = append(said, ring.Repeat{Digest: a.Digest, Games: n})
		}
	}
	switch {
	case counted == len(known):
		delete(m.missing, c)
		return said, nil
	case len(packs) > 0 && packs[len(packs)-1].Seq >= cursor.Seq: // the view is not older than the cursor, as after a restart
		since, seen := m.missing[c]
		if !seen {
			since = m.now()
			m.missing[c] = since
		}
		if m.now().Sub(since) < uncountedFor {
			return nil, nil
		}
		delete(m.missing, c)
		return nil, fmt.Errorf("%d of its packs are not counted by the ring: %w", len(known)-counted, gamedb.ErrLedger)
	}
	return nil, nil
}
