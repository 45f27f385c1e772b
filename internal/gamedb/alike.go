package gamedb

import (
	"context"
	"crypto/sha256"
	"fmt"
)

// Sum is the content hash of a game. Its id is not part of it.
type Sum [sha256.Size]byte

// Sums hashes the named finished games of one snapshot of the file, which may be live. Games that are missing, cannot be
// used or cannot be read are left out. Nothing is written.
func Sums(ctx context.Context, path string, ids []string) (map[string]Sum, error) {
	s, err := openSource(ctx, path, live)
	if err != nil {
		return nil, fmt.Errorf("compare games: %w", err)
	}
	defer s.Close()
	l, err := newLoader(ctx, s.tx, s.tables, "")
	if err != nil {
		return nil, fmt.Errorf("compare games of %s: %w", path, err)
	}
	defer l.Close()
	l.expect(ids)
	out := make(map[string]Sum, len(ids))
	for _, i := range ids {
		r, err := l.load(ctx, i)
		switch {
		case ofOneGame(err), err != nil && Damaged(err) && ctx.Err() == nil, err == nil && r.fault() != "":
		case err != nil:
			return nil, fmt.Errorf("compare games of %s: %w", path, err)
		default:
			out[i] = r.sum()
		}
	}
	return out, nil
}
