package gamedb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"
)

// ErrNotHeld says that a pack has a game that a joined pack does not have as it is, or none at all.
var ErrNotHeld = errors.New("not held by the joined pack")

// Holds is nil only where every finished game of pack is in joined, finished and with the same contents, so that pack may be
// deleted. Both are files nobody writes to. What is missing or differs is ErrNotHeld, and so is a pack without finished games
// and one with games that do not count; a damaged file is an error for which Damaged is true. It remembers nothing of how joined
// was made, and holds few games at a time in memory.
func Holds(ctx context.Context, joined, pack string) error {
	if err := holds(ctx, joined, pack); err != nil {
		return fmt.Errorf("look for the games of %s in %s: %w", pack, joined, err)
	}
	return nil
}

func holds(ctx context.Context, joined, pack string) error {
	if err := different(joined, pack); err != nil {
		return err
	}
	// Games on a page that cannot be read would not be missed: only of a whole file is the list of its games believed.
	if err := Verify(ctx, pack); err != nil {
		return err
	}
	if err := settled(joined); err != nil {
		return err
	}
	small, err := openSource(ctx, pack, finished)
	if err != nil {
		return err
	}
	defer small.Close()
	large, err := openSource(ctx, joined, finished)
	if err != nil {
		return err
	}
	defer large.Close()
	ids, err := small.listed(ctx)
	if err != nil {
		return err
	}
	if err := small.narrow(ctx); err != nil {
		return err
	}
	h, err := newHolder(ctx, large)
	if err != nil {
		return err
	}
	defer h.close()
	from, err := newLoader(ctx, small.tx, small.tables, "")
	if err != nil {
		return err
	}
	defer from.Close()
	from.expect(ids)
	h.expect(ids)
	read := make([]int, len(small.tables))
	for _, gameID := range ids {
		r, err := from.load(ctx, gameID)
		if err != nil {
			return err
		}
		if err := h.has(ctx, r); err != nil {
			return err
		}
		for i, p := range r.parts {
			read[i] += len(p.rows)
		}
	}
	return small.accounted(ctx, read)
}

// different refuses one file under two names: it would be deleted as held by itself.
func different(joined, pack string) error {
	a, err := os.Stat(joined)
	if err != nil {
		return err
	}
	b, err := os.Stat(pack)
	if err != nil {
		return err
	}
	if os.SameFile(a, b) {
		return fmt.Errorf("they are one file: %w", ErrNotHeld)
	}
	return nil
}

// listed lists the finished games, which must be the ones that count.
func (s *source) listed(ctx context.Context) ([]string, error) {
	ids, err := s.finished(ctx)
	if err != nil {
		return nil, err
	}
	counted, err := s.counted(ctx)
	if err != nil {
		return nil, err
	}
	slices.Sort(ids)
	slices.Sort(counted)
	switch {
	case len(ids) == 0:
		return nil, fmt.Errorf("there is no finished game: %w", ErrNotHeld)
	case !slices.Equal(ids, counted):
		return nil, fmt.Errorf("%d games are finished and %d count: %w", len(ids), len(counted), ErrNotHeld)
	case len(slices.Compact(slices.Clone(ids))) != len(ids):
		return nil, fmt.Errorf("several games have one id: %w", ErrNotHeld)
	}
	return ids, nil
}

// holder looks games up in a joined pack.
type holder struct {
	*loader
	rows *sql.Stmt // with a game's id, in any storage class; and those that are the game, finished
}

func newHolder(ctx context.Context, s *source) (*holder, error) {
	games, ok := s.parent()
	if !ok {
		return nil, fmt.Errorf("it has no tables: %w", ErrNotHeld)
	}
	where, err := finishedCondition(games)
	if err != nil {
		return nil, err
	}
	rows, err := s.tx.PrepareContext(ctx, "SELECT count(*), count(*) FILTER (WHERE CAST(game_id AS TEXT) COLLATE BINARY = ? AND "+where+
		") FROM games WHERE game_id IN (?, ?, ?)")
	if err != nil {
		return nil, err
	}
	l, err := newLoader(ctx, s.tx, s.tables, "")
	if err != nil {
		return nil, errors.Join(err, rows.Close())
	}
	return &holder{loader: l, rows: rows}, nil
}

func (h *holder) close() {
	h.Close()
	_ = h.rows.Close() // read-only: nothing is lost
}

// has compares one game.
func (h *holder) has(ctx context.Context, want record) error {
	if reason := want.fault(); reason != "" {
		return fmt.Errorf("game %.60q: %s: %w", want.id, reason, ErrNotHeld)
	}
	k := keys(want.id)
	var there, done int
	if err := h.rows.QueryRowContext(ctx, want.id, k[0], k[1], k[len(k)-1]).Scan(&there, &done); err != nil {
		return fmt.Errorf("find game %.60q: %w", want.id, err)
	}
	switch {
	case there == 0:
		return fmt.Errorf("game %.60q is missing: %w", want.id, ErrNotHeld)
	case there != 1 || done != 1:
		return fmt.Errorf("game %.60q is there %d times, %d of them finished: %w", want.id, there, done, ErrNotHeld)
	}
	have, err := h.load(ctx, want.id)
	if err != nil {
		return err
	}
	if have.sum() != want.sum() {
		return fmt.Errorf("game %.60q has other contents: %w", want.id, ErrNotHeld)
	}
	return nil
}
