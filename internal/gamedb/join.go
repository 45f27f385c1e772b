package gamedb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
)

// UnfitError says that a pack's games cannot all be joined with those of the packs before it.
type UnfitError struct {
	Pack   string // as it was given to Join
	Reason string
}

func (e *UnfitError) Error() string {
	return fmt.Sprintf("pack %s cannot be joined: %s", e.Pack, e.Reason)
}

// unfit makes an error of reading a pack the pack's, unless it is this machine's.
func unfit(ctx context.Context, pack string, err error) error {
	if err != nil && ctx.Err() == nil && (Damaged(err) || ofOneGame(err) || errors.Is(err, ErrNewerSchema)) {
		return &UnfitError{Pack: pack, Reason: err.Error()}
	}
	return err
}

// Join writes at dst one pack with every finished game of all packs, files nobody writes to. A game that several have with the
// same contents is in it once. All of each pack is taken or nothing is written: one that is damaged, has no finished game, one that
// cannot be used, one whose id an earlier pack has with other contents, or rows of which it is not clear whose they are, is an
// UnfitError; Unfit lists all that were found. The same packs make the same bytes in any order: where they differ in what was noted of a game later, the copy
// with more notes is kept. The file appears under its name only when it is complete, read back and on disk; an existing dst is
// replaced. Beside dst it needs the room of two such files.
func Join(ctx context.Context, dst string, packs []string) (PackInfo, error) {
	info, err := join(ctx, dst, packs)
	if err != nil {
		return PackInfo{}, fmt.Errorf("join packs into %s: %w", dst, err)
	}
	return info, nil
}

func join(ctx context.Context, dst string, packs []string) (PackInfo, error) {
	if len(packs) == 0 {
		return PackInfo{}, ErrNoGames
	}
	scratch, err := tempName(dst)
	if err != nil {
		return PackInfo{}, err
	}
	defer func() { _ = errors.Join(Remove(scratch), os.Remove(scratch+"-journal")) }() // nobody reads it again
	j := joiner{packs: packs, games: map[string]joined{}, wide: map[string][]string{}}
	if err := j.gather(ctx, scratch); err != nil {
		return PackInfo{}, err
	}
	if err := settled(scratch); err != nil {
		return PackInfo{}, err
	}
	s, err := openSource(ctx, scratch, finished)
	if err != nil {
		return PackInfo{}, err
	}
	defer s.Close()
	for _, t := range s.tables {
		slices.Sort(t.cols[len(t.key)+len(t.columns):]) // those of packs came in the order of the packs
	}
	return s.pack(ctx, dst, slices.Collect(maps.Keys(j.games)), func(temp string, info PackInfo) error {
		return j.check(ctx, temp, info)
	})
}

// joiner gathers packs in a scratch database.
type joiner struct {
	packs []string
	games map[string]joined   // what must be in the end
	wide  map[string][]string // by table: the columns of all packs that are not of the layout
	mine  map[string]joined   // what the pack at hand brings of it
}

type joined struct {
	sum   Sum
	notes notes
	pack  int // which brought it
}

func (j *joiner) gather(ctx context.Context, scratch string) (err error) {
	to, err := openScratch(ctx, scratch)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	var all []error
	for i := range j.packs {
		err := j.take(ctx, to, i)
		var u *UnfitError
		switch {
		case err == nil:
			maps.Copy(j.games, j.mine)
		case errors.As(err, &u): // nothing is written, but whoever leaves the pack out is to hear of the others too
			all = append(all, err)
		default:
			return err
		}
	}
	return errors.Join(all...)
}

// Unfit is every UnfitError of an error of Join.
func Unfit(err error) (all []*UnfitError) {
	switch e := err.(type) { //nolint:errorlint // it goes through the tree itself
	case *UnfitError:
		return []*UnfitError{e}
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			all = append(all, Unfit(one)...)
		}
	case interface{ Unwrap() error }:
		return Unfit(e.Unwrap())
	}
	return all
}

// take takes over one pack.
func (j *joiner) take(ctx context.Context, to *target, i int) error {
	pack := j.packs[i]
	if err := Verify(ctx, pack); err != nil {
		return unfit(ctx, pack, err)
	}
	s, err := openSource(ctx, pack, finished)
	if err != nil {
		return unfit(ctx, pack, err)
	}
	defer s.Close()
	ids, err := s.finished(ctx)
	if err != nil {
		return unfit(ctx, pack, err)
	}
	if reason := unclear(ids); reason != "" {
		return &UnfitError{Pack: pack, Reason: reason}
	}
	if err := s.narrow(ctx); err != nil {
		return unfit(ctx, pack, err)
	}
	wide, err := widened(j.wide, s.tables) // the joined pack must be a good one, too
	if err != nil {
		return unfit(ctx, pack, fmt.Errorf("%w: %w", err, ErrUnsafe))
	}
	from, err := newLoader(ctx, s.tx, s.tables, "")
	if err != nil {
		return unfit(ctx, pack, err)
	}
	defer from.Close()
	err = to.transact(ctx, s.tables, func() error {
		j.mine = map[string]joined{}
		rows := make([]int, len(s.tables))
		from.expect(ids)
		for _, gameID := range ids {
			r, err := from.load(ctx, gameID)
			if err != nil {
				return unfit(ctx, pack, err)
			}
			if err := j.put(ctx, to, r, i); err != nil {
				return err
			}
			for k, p := range r.parts {
				rows[k] += len(p.rows)
			}
		}
		return unfit(ctx, pack, s.accounted(ctx, rows))
	})
	if err == nil {
		j.wide = wide
	}
	var u *UnfitError
	if errors.Is(err, ErrUnsafe) && !errors.As(err, &u) {
		return unfit(ctx, pack, err) // too many columns together
	}
	return err
}

// widened is what the files so far and one more have of columns that are not of the layout: no more than one file may have.
func widened(wide map[string][]string, tables []tableColumns) (map[string][]string, error) {
	wide = maps.Clone(wide)
	for _, t := range tables {
		all := slices.Concat(wide[t.name], t.strange())
		slices.Sort(all)
		if all = slices.Compact(all); len(all) > maxStrange {
			return nil, fmt.Errorf("with the files before it %s has %d columns that are not known, more than %d: %w", t.name, len(all), maxStrange, ErrTooWide)
		}
		wide[t.name] = all
	}
	return wide, nil
}

// unclear says why a list of a pack's finished games does not name each of them.
func unclear(ids []string) string {
	if len(ids) == 0 {
		return "it has no finished game"
	}
	seen := make(map[string]bool, len(ids))
	for _, gameID := range ids {
		if seen[gameID] {
			return fmt.Sprintf("two games have the id %.60q", gameID)
		}
		seen[gameID] = true
	}
	return ""
}

// put adds a game, or compares it with the one that is there.
func (j *joiner) put(ctx context.Context, to *target, r record, i int) error {
	refuse := func(format string, args ...any) error {
		return &UnfitError{Pack: j.packs[i], Reason: fmt.Sprintf("game %.60q: ", r.id) + fmt.Sprintf(format, args...)}
	}
	if reason := r.fault(); reason != "" {
		return refuse("%s", reason)
	}
	g := joined{sum: r.sum(), notes: r.notes(), pack: i}
	old, again := j.games[r.id]
	if newer, ok := j.mine[r.id]; ok {
		old, again = newer, true
	}
	switch {
	case again && old.sum != g.sum:
		return refuse("%s has it with other contents", j.packs[old.pack])
	case again && bytes.Compare(old.notes[:], g.notes[:]) >= 0:
		return nil
	case again:
		if _, err := to.ExecContext(ctx, "DELETE FROM games WHERE game_id = ?", r.id); err != nil { // with its children
			return fmt.Errorf("replace game %.60q: %w", r.id, err)
		}
	}
	err := to.in.insert(ctx, r)
	if ofOneGame(err) && ctx.Err() == nil {
		return refuse("%v", err)
	}
	j.mine[r.id] = g
	return err
}

// check reads a joined pack back before it gets its name.
func (j *joiner) check(ctx context.Context, temp string, info PackInfo) error {
	for _, r := range info.Rejected {
		return &UnfitError{Pack: j.packs[j.games[r.ID].pack], Reason: fmt.Sprintf("game %.60q: %s", r.ID, r.Reason)}
	}
	if info.Games != len(j.games) {
		return fmt.Errorf("%d of %d games are written, others cannot be read back: %v", info.Games, len(j.games), info.Damaged)
	}
	s, err := openSource(ctx, temp, finished)
	if err != nil {
		return err
	}
	defer s.Close()
	ids, err := s.finished(ctx)
	if err != nil {
		return err
	}
	if len(ids) != len(j.games) {
		return fmt.Errorf("%d games are finished of %d that are written", len(ids), len(j.games))
	}
	l, err := newLoader(ctx, s.tx, s.tables, "")
	if err != nil {
		return err
	}
	defer l.Close()
	l.expect(ids)
	for _, gameID := range ids {
		r, err := l.load(ctx, gameID)
		if err != nil {
			return err
		}
		if g := j.games[gameID]; g.sum != r.sum() {
			return &UnfitError{Pack: j.packs[g.pack], Reason: fmt.Sprintf("game %.60q does not come through unchanged", gameID)}
		}
	}
	return nil
}
