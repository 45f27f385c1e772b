package gamedb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// PackInfo says what Pack wrote.
type PackInfo struct {
	Games    int
	Bytes    int64
	IDs      []string // sorted
	Configs  map[id.Config]int
	Last     time.Time   // completion of the newest game
	Rejected []Rejection // asked for, but no usable game; none of them is in the pack
	Damaged  []Rejection // asked for, but src is damaged where they lie: somebody may yet save them
}

// ErrNoGames says that none of the games asked for can be packed.
var ErrNoGames = errors.New("no games to pack")

// Pack writes a new SQLite file at dst that holds exactly the named finished games of src, which may be live. All are read
// from one snapshot. Games that are missing, unfinished or unusable come back as Rejected, those that lie in a damaged part
// of the file as Damaged; the others are packed. The same games always make the same bytes (of one version of this program).
// The file appears under its name only when it is complete and on disk; an existing dst is replaced.
func Pack(ctx context.Context, src, dst string, ids []string) (PackInfo, error) {
	s, err := openSource(ctx, src, live)
	if err != nil {
		return PackInfo{}, fmt.Errorf("pack games: %w", err)
	}
	defer s.Close()
	info, err := s.pack(ctx, dst, ids, nil)
	if err != nil {
		return info, fmt.Errorf("pack games of %s: %w", src, err)
	}
	return info, nil
}

// pack writes a pack and publishes it. What check, if there is one, says against the finished file keeps it from appearing.
func (s *source) pack(ctx context.Context, dst string, ids []string, check func(temp string, info PackInfo) error) (PackInfo, error) {
	temp, err := tempName(dst)
	if err != nil {
		return PackInfo{}, err
	}
	defer func() { _ = os.Remove(temp) }() // gone already when all went well
	info, err := s.packInto(ctx, temp, ids)
	if err != nil {
		return info, err
	}
	if check != nil {
		if err := check(temp, info); err != nil {
			return PackInfo{}, err
		}
	}
	if info.Bytes, err = publish(temp, dst); err != nil {
		return PackInfo{}, fmt.Errorf("publish pack %s: %w", dst, err)
	}
	return info, nil
}

// tempName reserves a name beside dst.
func tempName(dst string) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(dst), ".pack-*.tmp")
	if err != nil {
		return "", err
	}
	return f.Name(), f.Close()
}

// publish makes the finished file temp appear as dst. SQLite has let go of it, so opening it here takes nobody's locks.
func publish(temp, dst string) (int64, error) {
	f, err := os.Open(temp)
	if err != nil {
		return 0, err
	}
	info, err := f.Stat()
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return 0, err
	}
	if err := os.Rename(temp, dst); err != nil {
		return 0, err
	}
	dir, err := os.Open(filepath.Dir(dst))
	if err != nil {
		return 0, err
	}
	return info.Size(), errors.Join(dir.Sync(), dir.Close())
}

func (s *source) packInto(ctx context.Context, temp string, ids []string) (info PackInfo, err error) {
	c, err := open(ctx, temp, forPacking)
	if err != nil {
		return PackInfo{}, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	ids = slices.Clone(ids)
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if err := s.narrowFor(ctx, len(ids)); err != nil {
		return PackInfo{}, err
	}
	err = carefully(func(careful bool) error {
		info = PackInfo{Configs: make(map[id.Config]int)}
		return c.transact(ctx, func() error { return s.packGames(ctx, c, ids, careful, &info) })
	})
	if err != nil && !errors.Is(err, ErrNoGames) {
		return PackInfo{}, err
	}
	return info, err
}

func (s *source) packGames(ctx context.Context, to *conn, ids []string, careful bool, info *PackInfo) error {
	from, err := s.finder(ctx, ids)
	if err != nil {
		return err
	}
	defer from.Close()
	in, err := newInserter(ctx, to, s.tables)
	if err != nil {
		return err
	}
	defer in.Close()
	in.careful = careful
	if err := markVersion(ctx, to); err != nil {
		return err
	}
	for _, gameID := range ids {
		r, reason, err := from.find(ctx, gameID)
		switch {
		case err == nil && reason == "":
			if err = in.insert(ctx, r); err == nil {
				info.add(r)
				continue
			}
			if errors.Is(err, errTorn) || !ofOneGame(err) {
				return err
			}
			info.Rejected = append(info.Rejected, Rejection{ID: gameID, Reason: err.Error()})
		case err == nil:
			info.Rejected = append(info.Rejected, Rejection{ID: gameID, Reason: reason})
		case ofOneGame(err):
			info.Rejected = append(info.Rejected, Rejection{ID: gameID, Reason: err.Error()})
		case Damaged(err) && ctx.Err() == nil:
			info.Damaged = append(info.Damaged, Rejection{ID: gameID, Reason: err.Error()})
		default:
			return err
		}
	}
	if info.Games == 0 {
		return ErrNoGames
	}
	return nil
}

// finder makes a loader of finished games for find, which is asked for the named ones in that order.
func (s *source) finder(ctx context.Context, ids []string) (*loader, error) {
	parent, ok := s.parent()
	if !ok {
		return nil, fmt.Errorf("the file has no tables: %w", ErrNoGames)
	}
	where, err := finishedCondition(parent)
	if err != nil {
		return nil, err
	}
	l, err := newLoader(ctx, s.tx, s.tables, where)
	if err != nil {
		return nil, err
	}
	l.expect(ids)
	return l, nil
}

// find reads one finished game that can be used, or says why it is none.
func (l *loader) find(ctx context.Context, gameID string) (r record, reason string, err error) {
	if r, err = l.load(ctx, gameID); err != nil {
		return r, "", err
	}
	if !r.done {
		return r, "missing or not finished", nil
	}
	return r, r.fault(), nil
}

func (p *PackInfo) add(r record) {
	games, value := r.find("games")
	p.Games++
	p.IDs = append(p.IDs, r.id)
	p.Configs[r.config()]++
	if t, err := optionalTime(value(games[0], "completed_at")); err == nil {
		p.Last = later(p.Last, t)
	}
}
